#include "common/text/vocabulary.h"

#include <algorithm>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"

namespace grouper::text {
namespace {

size_t HashOf(absl::string_view token) { return absl::Hash<absl::string_view>()(token); }

}  // namespace

absl::Status Vocabulary::Add(absl::string_view token, int64_t id) {
  if (Find(token)) return absl::InvalidArgumentError(absl::StrCat("token \"", token, "\" is there twice"));
  return AddAgain(token, id);
}

absl::Status Vocabulary::AddAgain(absl::string_view token, int64_t id) {
  constexpr uint64_t kMaxId = (1 << 24) - 1;
  const uint64_t limit = std::min(max_id_, kMaxId);
  if (id < 0 || static_cast<uint64_t>(id) > limit) {
    return absl::InvalidArgumentError(absl::StrCat("id ", id, " of token \"", token, "\" is far beyond the vocabulary (at most ", limit, ")"));
  }
  if (Has(id)) {
    return absl::InvalidArgumentError(absl::StrCat("tokens \"", tokens_[static_cast<size_t>(id)], "\" and \"", token, "\" have the same id ", id));
  }
  if (static_cast<size_t>(id) >= tokens_.size()) {
    tokens_.Resize(static_cast<size_t>(id) + 1);
    present_.resize(static_cast<size_t>(id) + 1, false);
  }
  tokens_.Set(static_cast<size_t>(id), token);
  present_[static_cast<size_t>(id)] = true;
  if (4 * (size_ + 1) > 3 * slots_.size()) Grow();
  const size_t hash = HashOf(token);
  Slot& slot = slots_[IndexOf(token, hash)];
  size_ += slot.id < 0;
  slot = {static_cast<uint32_t>(hash), static_cast<int32_t>(id)};
  return absl::OkStatus();
}

// Where the token stands, or the free place where it would.
size_t Vocabulary::IndexOf(absl::string_view token, size_t hash) const {
  const size_t mask = slots_.size() - 1;
  for (size_t i = hash >> 32 & mask;; i = (i + 1) & mask) {
    const Slot& slot = slots_[i];
    if (slot.id < 0 || (slot.hash == static_cast<uint32_t>(hash) && tokens_[static_cast<size_t>(slot.id)] == token)) return i;
  }
}

void Vocabulary::Grow() {
  std::vector<Slot> old(2 * slots_.size());
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (slot.id < 0) continue;
    const absl::string_view token = tokens_[static_cast<size_t>(slot.id)];
    slots_[IndexOf(token, HashOf(token))] = slot;
  }
}

std::optional<int32_t> Vocabulary::Find(absl::string_view token) const {
  const Slot& slot = slots_[IndexOf(token, HashOf(token))];
  if (slot.id < 0) return std::nullopt;
  return slot.id;
}

absl::string_view Vocabulary::TokenOf(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < tokens_.size() ? tokens_[static_cast<size_t>(id)] : absl::string_view();
}

}  // namespace grouper::text
