// GPT-2's alphabet: one printable character for each byte, so that byte-level tokens can be written in a JSON file ("Ġ" is a space).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace grouper::text {

// The character (UTF-8) that stands for a byte.
const std::string& CharacterOfByte(uint8_t byte);
std::string ToByteAlphabet(absl::string_view bytes);
// The bytes that a token stands for; nothing when it has a character outside the alphabet.
std::optional<std::string> FromByteAlphabet(absl::string_view token);
// The byte of "<0x0A>", in either case; nothing for another token.
std::optional<uint8_t> ByteOfFallbackToken(absl::string_view token);

}  // namespace grouper::text
