// Many short strings by number, in one piece of memory: eight bytes a string beside its characters, where std::string takes 32 or more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/base/check.h"

namespace grouper::text {

class StringPool {
 public:
  size_t size() const { return spans_.size(); }
  void Resize(size_t n) { spans_.resize(n); }  // new strings are empty
  // REQUIRES: i < size(), and less than 4 GiB in all. Views are good until the next Set; what string `i` was before stays in memory.
  void Set(size_t i, absl::string_view text) {
    CHECK_LE(characters_.size() + text.size(), size_t{UINT32_MAX});
    spans_[i] = {static_cast<uint32_t>(characters_.size()), static_cast<uint32_t>(text.size())};
    characters_.append(text.data(), text.size());
  }
  absl::string_view operator[](size_t i) const { return {characters_.data() + spans_[i].begin, spans_[i].length}; }

 private:
  struct Span {
    uint32_t begin = 0, length = 0;
  };
  std::string characters_;
  std::vector<Span> spans_;
};

}  // namespace grouper::text
