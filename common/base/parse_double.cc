#include "common/base/parse_double.h"

#include <cmath>

#include "absl/strings/numbers.h"

namespace grouper {

bool ParseDouble(absl::string_view text, double* value) {
  if (!absl::SimpleAtod(text, value) || !std::isfinite(*value)) return false;
  const absl::string_view digits = text.substr(0, text.find_first_of("eE"));
  return *value != 0 || digits.find_first_of("123456789") == absl::string_view::npos;
}

}  // namespace grouper
