#include "common/text/scanners.h"

#include <random>

#include "common/text/pattern.h"
#include "common/text/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace grouper::text {
namespace {

// Characters that the regexes tell apart, few enough that their combinations come often.
std::string RandomText(std::mt19937* random) {
  static const char* const kCharacters[] = {" ", " ", "  ", "\n", "\r", "\r\n", "\t", "\u00a0", "\u2028", "\u3000", "a", "B", "s", "t", "ll", "re", "ve", "'", "'s", "'S",
                                            "'LL", "'Re", "'\u017f", "\u017f", "\u00e9", "\u4e2d", "\u3042", "\u30fc", "0", "12", "\u0663", "\u00bd", "\u2167", "\u0301", "\u0300", ".", "!", "(", "_",
                                            "\u2014", "\u20ac", "+", "\u200b", "\u200d", "\x01", "\x7f", "\U0001F44D", "\u0378", "\uE000", "\u0085", "\x0b", "\x1c", "\u180e", "/", "\u01c5", "AB", "\u02b0", "\u3005", "\u2e80", "\u3007"};
  std::string text;
  const int length = 1 + (*random)() % 24;
  for (int i = 0; i < length; ++i) text += kCharacters[(*random)() % std::size(kCharacters)];
  return text;
}

class ScannerTest : public testing::TestWithParam<const char*> {};

TEST_P(ScannerTest, MatchesWhereTheRegexMatches) {
  const auto scanner = Pattern::Regex(GetParam());
  const auto regex = Pattern::Pcre2(GetParam());
  ASSERT_NE(FindScanner(GetParam()), nullptr);
  ASSERT_TRUE(scanner.ok() && regex.ok()) << regex.status();
  std::mt19937 random(7);
  std::vector<Match> ours, theirs;
  for (int i = 0; i < 20000; ++i) {
    const std::string text = RandomText(&random);
    ASSERT_TRUE((*scanner)->FindAll(text, &ours));
    ASSERT_TRUE((*regex)->FindAll(text, &theirs));
    ASSERT_EQ(ours.size(), theirs.size()) << text;
    for (size_t m = 0; m < ours.size(); ++m) {
      ASSERT_EQ(ours[m].begin, theirs[m].begin) << text;
      ASSERT_EQ(ours[m].end, theirs[m].end) << text;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Known, ScannerTest,
                         testing::Values(kGpt2Regex, kLlama3Regex, kQwen2Regex, kQwen35Regex, kDeepSeek3Regex, kDeepSeek3Cjk, kO200kRegex, kKimiRegex, R"(\p{N}{1,3})",
                                         R"(\p{N})", "."));

TEST(PatternTest, LiteralNewlinesInARegexAreTheEscapes) {
  EXPECT_NE(FindScanner("[^\r\n\\p{L}\\p{N}]"), FindScanner(kLlama3Regex));
  std::string literal = kQwen2Regex;
  for (size_t at; (at = literal.find("\\r\\n")) != std::string::npos;) literal.replace(at, 4, "\r\n");
  EXPECT_EQ(FindScanner(literal), FindScanner(kQwen2Regex));
}

TEST(PatternTest, WhatPcre2WouldReadDifferentlyIsRefused) {
  for (const char* regex : {"(", "[a", "a{2,1}", "\\h+", "[a&&]", "[a[b]", "(?m:.)", "(?x) a", "a(?i)b|c", "\\K", "(*UTF)a", "[[:graph:]]", "(?<=a+)b",
                            "\\C", "\\Qa", "\\u12", "\\pL", "[a\\"}) {
    EXPECT_EQ(Pattern::Regex(regex).status().code(), absl::StatusCode::kInvalidArgument) << regex;
  }
  EXPECT_EQ(Pattern::Regex(std::string(100'000, 'a')).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Pattern::Regex(std::string(5000, '(') + std::string(5000, ')')).status().code(), absl::StatusCode::kInvalidArgument);
}

// Each row: a regex, a text, its matches joined by '/', as Hugging Face `tokenizers` 0.23 finds them.
TEST(PatternTest, ARegexMeansWhatOnigurumaSays) {
  const struct {
    const char* regex;
    const char* text;
    const char* matches;
  } kRows[] = {
      {"[a-z&&[^aeiou]]+", "hello world", "h/ll/w/rld"},
      {"[^a-z&&[^aeiou]]+", "Xhello", "X/e/o"},
      {"[\\p{L}&&[^\\p{Han}]]+", "ab\u4e2d\u6587cd", "ab/cd"},
      {"[a-c[x-z]]+", "abmxyz", "ab/xyz"},
      {"[a-z&&[b-y]&&[^m]]+", "abmyz", "b/y"},
      {"[\\S]+", "a b", "a/b"},
      {"[^\\S]+", "a b", " "},
      {"[\\W\\d]+", "ab1 c", "1 "},
      {"\\d+", "1\u0663\U00010D40x", "1\u0663\U00010D40"},
      {"\\D+", "1ab2", "ab"},
      {"\\P{L}+", "ab12", "12"},
      {"\\p{^L}+", "ab12", "12"},
      {"\\p{Lu}+", "aBC\U00010D50", "BC\U00010D50"},
      {"\\p{han}+", "a\u4e2d\U0002EBF0", "\u4e2d\U0002EBF0"},
      {"\\p{Han}+", "\u3400\u32C0\u3005", "\u3400/\u3005"},
      {"\\p{Old_Italic}+", "a\U00010300", "\U00010300"},
      {"\\w+", "a_b c\u0301-d", "a_b/c\u0301/d"},
      {"\\b.", "ab cd", "a/ /c"},
      {"\\B.", "ab cd", "b/d"},
      {"[[:alpha:]_]+", "a_1b", "a_/b"},
      {"[[:^alpha:]]+", "a_1b", "_1"},
      {"[[:punct:]]+", "a+!b", "+!"},
      {"a{,2}b", "aaab", "aab"},
      {"(?:a{2}+)b", "aaaab", "aaaab"},
      {"xa{2}?y", "xy xaay", "xy/xaay"},
      {"a{,b", "a{,b", "a{,b"},
      {"\\u0041\\v", "A\v", "A\v"},
      {"[]a]+", "]a[", "]a"},
      {"[a^&-]+", "^&-b", "^&-"},
      {"(?i)ab", "aBAb", "aB/Ab"},
      {"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+(?i:'s|'t)?|[\\p{Han}]+",
       "Ab'S\u4e2d\u3042 cD", "Ab'S/\u4e2d/\u3042/ c"},
  };
  for (const auto& row : kRows) {
    const auto pattern = Pattern::Pcre2(row.regex);
    ASSERT_TRUE(pattern.ok()) << row.regex << ": " << pattern.status();
    std::vector<Match> matches;
    ASSERT_TRUE((*pattern)->FindAll(row.text, &matches)) << row.regex;
    std::string found;
    for (const Match& match : matches) {
      if (!found.empty()) found += '/';
      found += std::string(row.text).substr(match.begin, match.end - match.begin);
    }
    EXPECT_EQ(found, row.matches) << row.regex;
  }
  std::string nested = "a";
  for (int i = 0; i < 100; ++i) nested = "[" + nested + "]";
  EXPECT_FALSE(Pattern::Pcre2(nested).ok());
}

TEST(PatternTest, ACatastrophicRegexEndsAtItsLimits) {
  const auto pattern = Pattern::Regex("(a+)+$b");
  ASSERT_TRUE(pattern.ok());
  std::vector<Match> matches;
  EXPECT_FALSE((*pattern)->FindAll(std::string(5000, 'a') + "xb", &matches));
}

TEST(PatternTest, ReplaceAllReplacesEveryMatch) {
  EXPECT_EQ(ReplaceAll(*Pattern::Literal("ab"), "ababcab", "x"), "xxcx");
  EXPECT_EQ(ReplaceAll(*Pattern::Literal(""), "abc", "x"), "abc");
  EXPECT_EQ(ReplaceAll(**Pattern::Regex(" {2,}"), "a  b c   ", "_"), "a_b c_");
}

}  // namespace
}  // namespace grouper::text
