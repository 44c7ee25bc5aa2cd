#include "common/base/quote.h"

#include <gtest/gtest.h>

namespace grouper {
namespace {

TEST(Quote, WhatATerminalWouldObeyOrIsNotUtf8IsEscaped) {
  const std::pair<std::string, std::string> cases[] = {
      {"", ""},
      {"plain \"text\" \\ 東京 é", "plain \"text\" \\ 東京 é"},
      {"a\nb\t\x7f", "a\\nb\\t\\x7f"},
      {std::string("a\0b", 3), "a\\x00b"},
      {"\x1b[31m", "\\x1b[31m"},
      {"\xc2\x9b""31m", "\\xc2\\x9b31m"},
      {"<th\xff", "<th\\xff"},
      {"\xe6\x9d", "\\xe6\\x9d"},          // cut in the middle
      {"\xed\xa0\x80", "\\xed\\xa0\\x80"},  // a surrogate
  };
  for (const auto& [text, shown] : cases) {
    EXPECT_EQ(Printable(text), shown);
    EXPECT_TRUE(IsUtf8(Printable(text)));
    EXPECT_FALSE(HasControlCharacter(Printable(text)));
  }
}

TEST(Quote, ControlCharactersAreFound) {
  for (const std::string& text : {std::string("a\nb"), std::string("\0", 1), std::string("x\x7f"), std::string("\xc2\x85")}) {
    EXPECT_TRUE(HasControlCharacter(text)) << Printable(text);
  }
  for (const char* text : {"", "a b", "東京", "\xff", "\xc2\xa0"}) EXPECT_FALSE(HasControlCharacter(text)) << Printable(text);
}

TEST(Quote, ANameIsQuotedAndCut) {
  EXPECT_EQ(QuoteName("a\"b\\\n東"), "\"a\\\"b\\\\\\n東\"");
  EXPECT_EQ(QuoteName(std::string(300, 'x')), "\"" + std::string(120, 'x') + "...\" (300 bytes)");
}

}  // namespace
}  // namespace grouper
