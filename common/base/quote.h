// Text of strangers (a file's names, a user's bytes) in messages: always valid UTF-8, and nothing in it that a terminal would obey.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace grouper {

bool IsUtf8(absl::string_view text);

// Control characters and ill-formed bytes as \n, \x1b, \xff; the rest as it is.
std::string Printable(absl::string_view text);
bool HasControlCharacter(absl::string_view text);

// A name out of a file: in quotes, with quotes, backslashes, control characters and ill-formed bytes escaped, cut after 120 bytes.
std::string QuoteName(absl::string_view name);

}  // namespace grouper
