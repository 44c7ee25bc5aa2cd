#include "common/text/utf8.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace grouper::text {
namespace {

TEST(Utf8Test, EveryCodePointIsWrittenAndRead) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendCodePoint(c, &text);
    int length;
    ASSERT_EQ(CodePointAt(text, 0, &length), c);
    ASSERT_EQ(static_cast<size_t>(length), text.size());
    ASSERT_TRUE(IsValidUtf8(text));
    ASSERT_TRUE(IsOneCodePoint(text));
    ASSERT_EQ(PreviousPosition(text, text.size()), 0u);
  }
}

TEST(Utf8Test, MaximalIllFormedPartsBecomeOneReplacementEach) {
  const std::pair<std::string, int> rows[] = {  // text of ill-formed bytes, number of U+FFFD (Unicode 15, table 3-8 and its neighbours)
      {"\x80", 1}, {"\xC2", 1}, {"\xC0\xAF", 2}, {"\xE0\x80\x80", 3}, {"\xE1\x80", 1}, {"\xE1\x80\xE2", 2}, {"\xF0\x90\x80", 1},
      {"\xF0\x80\x80\x80", 4}, {"\xF5\x80", 2}, {"\xED\xA0\x80", 3}, {"\xF4\x8F\xBF", 1}, {"\xF4\x90", 2}, {"\xFE\xFF", 2}};
  for (const auto& [bad, count] : rows) {
    std::string out;
    EXPECT_EQ(AppendLossy("a" + bad + "b", false, &out), bad.size() + 2);
    std::string expected = "a";
    for (int i = 0; i < count; ++i) expected += kReplacement;
    EXPECT_EQ(out, expected + "b");
    EXPECT_FALSE(IsValidUtf8(bad));
  }
}

TEST(Utf8Test, AnUnfinishedEndCanBeKept) {
  for (const std::string end : {"\xC3", "\xE4", "\xE4\xBD", "\xF0", "\xF0\x9F", "\xF0\x9F\x91"}) {
    std::string out;
    EXPECT_EQ(AppendLossy("ab" + end, true, &out), 2u);
    EXPECT_EQ(out, "ab");
  }
}

}  // namespace
}  // namespace grouper::text
