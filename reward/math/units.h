// Units of measurement after a number: dropped where only one side has one, different where both have and they differ.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace grouper::math {

// True for a word that is a unit even without \text{} around it: cm, inches, degrees, dollars.
bool IsUnitWord(absl::string_view word);

// True for a single letter that is a unit in upright type: m, s, g, l, h, N, J, W, V, A, K, L, C, F.
bool IsUnitLetter(absl::string_view letter);

// One name a unit: "inches", "in." and "inch" are "inch"; other words lower-case, without a plural s, after '?': only
// known units contradict each other.
std::string CanonicalUnit(absl::string_view words);

// Whether a number with unit `a` may equal one with unit `b`; both canonical.
bool UnitsAgree(absl::string_view a, absl::string_view b);

}  // namespace grouper::math
