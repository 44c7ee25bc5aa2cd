#include "common/text/byte_alphabet.h"

#include "absl/strings/ascii.h"
#include "common/text/utf8.h"

namespace grouper::text {
namespace {

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int, 512> bytes;  // code point -> byte, -1 outside
  Alphabet() {
    bytes.fill(-1);
    uint32_t next = 256;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
      const uint32_t code_point = printable ? b : next++;
      AppendCodePoint(code_point, &characters[b]);
      bytes[code_point] = static_cast<int>(b);
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet* const alphabet = new Alphabet();
  return *alphabet;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = absl::ascii_tolower(static_cast<unsigned char>(c));
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

}  // namespace

const std::string& CharacterOfByte(uint8_t byte) { return TheAlphabet().characters[byte]; }

std::string ToByteAlphabet(absl::string_view bytes) {
  std::string out;
  for (const char c : bytes) out += CharacterOfByte(static_cast<uint8_t>(c));
  return out;
}

std::optional<std::string> FromByteAlphabet(absl::string_view token) {
  std::string out;
  for (size_t pos = 0; pos < token.size();) {
    int length;
    const uint32_t c = CodePointAt(token, pos, &length);
    if (c >= TheAlphabet().bytes.size() || TheAlphabet().bytes[c] < 0) return std::nullopt;
    out.push_back(static_cast<char>(TheAlphabet().bytes[c]));
    pos += length;
  }
  return out;
}

std::optional<uint8_t> ByteOfFallbackToken(absl::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return std::nullopt;
  // Rust's from_str_radix also reads "+A" as 10; no vocabulary has such a token.
  const int high = HexDigit(token[3]);
  const int low = HexDigit(token[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<uint8_t>(high * 16 + low);
}

}  // namespace grouper::text
