#include "common/text/vocabulary.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace grouper::text {

absl::Status Vocabulary::Add(absl::string_view token, int64_t id) {
  if (ids_.contains(token)) return absl::InvalidArgumentError(absl::StrCat("token \"", token, "\" is there twice"));
  return AddAgain(token, id);
}

absl::Status Vocabulary::AddAgain(absl::string_view token, int64_t id) {
  constexpr uint64_t kMaxId = (1 << 24) - 1;
  const uint64_t limit = std::min(max_id_, kMaxId);
  if (id < 0 || static_cast<uint64_t>(id) > limit) {
    return absl::InvalidArgumentError(absl::StrCat("id ", id, " of token \"", token, "\" is far beyond the vocabulary (at most ", limit, ")"));
  }
  if (Has(id)) {
    return absl::InvalidArgumentError(absl::StrCat("tokens \"", tokens_[id], "\" and \"", token, "\" have the same id ", id));
  }
  ids_[token] = static_cast<int32_t>(id);
  if (static_cast<size_t>(id) >= tokens_.size()) {
    tokens_.resize(id + 1);
    present_.resize(id + 1, false);
  }
  tokens_[id] = std::string(token);
  present_[id] = true;
  return absl::OkStatus();
}

std::optional<int32_t> Vocabulary::Find(absl::string_view token) const {
  const auto it = ids_.find(token);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

const std::string& Vocabulary::TokenOf(int32_t id) const {
  static const std::string* const empty = new std::string();
  return id >= 0 && static_cast<size_t>(id) < tokens_.size() ? tokens_[id] : *empty;
}

}  // namespace grouper::text
