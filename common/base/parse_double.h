// Numbers that people write in flags and overrides.
#pragma once

#include "absl/strings/string_view.h"

namespace grouper {

// False where `text` is no number, not finite, or so small that it would become a 0 ("1e-400"), which means something else.
bool ParseDouble(absl::string_view text, double* value);

}  // namespace grouper
