#include "common/text/unicode_class.h"

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
  static uint16_t masks[0x110000];  // pages without a class are never touched
  [[maybe_unused]] static const bool filled = [] {
    for (const Range& range : kRanges) {
      for (uint32_t c = range.first; c <= range.last; ++c) masks[c] |= range.mask;
    }
    return true;
  }();
  return masks;
}

}  // namespace grouper::text
