// One libFuzzer program per target: compiled with GROUPER_FUZZ_TARGET=FuzzGguf and so on.
#include <cstddef>
#include <cstdint>

#include "tests/common/fuzz/fuzz_targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  grouper::fuzz::GROUPER_FUZZ_TARGET(absl::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
