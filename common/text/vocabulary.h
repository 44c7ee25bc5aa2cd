// Token strings and their ids, as in tokenizer.json.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/text/string_pool.h"

namespace grouper::text {

// Two-way map. Ids may have holes, but not large ones (ids < 2 * tokens + 1024), so that a small file stays small in memory.
class Vocabulary {
 public:
  // `tokens`: how many will be added in all; it bounds the ids.
  explicit Vocabulary(uint64_t tokens = 0) : max_id_(2 * tokens + 1023) {}
  void Expect(uint64_t more) { max_id_ += 2 * more; }  // that many more will be added

  // InvalidArgument when the token or the id is there already, or the id is too large.
  absl::Status Add(absl::string_view token, int64_t id);
  // The same, but a token that is there already is found under its new id from now on (Unigram files have such).
  absl::Status AddAgain(absl::string_view token, int64_t id);

  std::optional<int32_t> Find(absl::string_view token) const;
  absl::string_view TokenOf(int32_t id) const;  // empty without a token
  bool Has(int64_t id) const { return id >= 0 && static_cast<size_t>(id) < present_.size() && present_[id]; }
  int32_t size() const { return static_cast<int32_t>(size_); }             // number of different tokens
  int32_t limit() const { return static_cast<int32_t>(tokens_.size()); }   // largest id + 1

 private:
  // Open addressing: where a token's id stands, beside bits of its hash that spare most looks at other tokens.
  struct Slot {
    uint32_t hash = 0;
    int32_t id = -1;
  };
  size_t IndexOf(absl::string_view token, size_t hash) const;
  void Grow();

  uint64_t max_id_;
  size_t size_ = 0;
  std::vector<Slot> slots_ = std::vector<Slot>(16);  // a power of two, at most three quarters full
  StringPool tokens_;
  std::vector<bool> present_;
};

}  // namespace grouper::text
