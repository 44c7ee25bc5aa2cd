#include "common/text/unicode_class.h"

#include <vector>

namespace grouper::text {
namespace {

struct Range {
  uint32_t first;
  uint32_t last;
  uint16_t mask;
};

constexpr Range kRanges[] = {
#include "common/text/unicode_ranges.inc"
};

}  // namespace

const uint16_t* CharClassTable() {
  static const std::vector<uint16_t>* const table = [] {
    auto* masks = new std::vector<uint16_t>(0x110000, 0);
    for (const Range& range : kRanges) {
      for (uint32_t c = range.first; c <= range.last; ++c) (*masks)[c] |= range.mask;
    }
    return masks;
  }();
  return table->data();
}

}  // namespace grouper::text
