#include "common/base/quote.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace grouper {
namespace {

// Bytes of the well-formed UTF-8 character that `text` begins with; 0 when it begins with none (Unicode 15, table 3-7).
size_t Utf8Length(absl::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : 0; };
  const uint8_t first = byte(0), second = byte(1);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xC2 && first < 0xE0 ? 2 : first >= 0xE0 && first < 0xF0 ? 3 : first >= 0xF0 && first < 0xF5 ? 4 : 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const bool overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
  const bool beyond = (first == 0xED && second >= 0xA0) || (first == 0xF4 && second >= 0x90);
  return overlong || beyond ? 0 : length;
}

// U+0000..U+001F, U+007F, and U+0080..U+009F, of which U+009B begins a terminal's commands as well as ESC [ does.
bool IsControl(absl::string_view character) {
  const uint8_t first = static_cast<uint8_t>(character[0]);
  if (character.size() == 2) return first == 0xC2 && static_cast<uint8_t>(character[1]) < 0xA0;
  return character.size() == 1 && (first < 0x20 || first == 0x7F);
}

}  // namespace

bool IsUtf8(absl::string_view text) {
  while (!text.empty()) {
    const size_t length = Utf8Length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string Printable(absl::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t length = Utf8Length(text);
    const absl::string_view character = text.substr(0, std::max<size_t>(length, 1));
    const bool fine = length > 0 && !IsControl(character);
    absl::StrAppend(&out, fine ? std::string(character) : absl::CHexEscape(character));
    text.remove_prefix(character.size());
  }
  return out;
}

bool HasControlCharacter(absl::string_view text) {
  while (!text.empty()) {
    const absl::string_view character = text.substr(0, std::max<size_t>(Utf8Length(text), 1));
    if (IsControl(character)) return true;
    text.remove_prefix(character.size());
  }
  return false;
}

std::string QuoteName(absl::string_view name) {
  constexpr size_t kShown = 120;
  std::string shown = "\"";
  size_t pos = 0;
  while (pos < name.size() && pos < kShown) {
    const absl::string_view character = name.substr(pos, std::max<size_t>(Utf8Length(name.substr(pos)), 1));
    const bool fine = character.size() > 1 && !IsControl(character);
    absl::StrAppend(&shown, fine ? std::string(character) : absl::CHexEscape(character));
    pos += character.size();
  }
  absl::StrAppend(&shown, pos < name.size() ? "...\" (" : "\"");
  if (pos < name.size()) absl::StrAppend(&shown, name.size(), " bytes)");
  return shown;
}

}  // namespace grouper
