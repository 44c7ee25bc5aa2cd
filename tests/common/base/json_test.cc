#include "common/base/json.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace grouper::json {
namespace {

using ::testing::HasSubstr;

std::string Nested(int depth) { return absl::StrCat(std::string(depth, '['), std::string(depth, ']')); }

TEST(Json, RefusesWhatIsNotJsonOrPassesItsLimits) {
  const std::pair<std::string, const char*> cases[] = {
      {"", "not JSON"},
      {" ", "not JSON"},
      {"{", "not JSON at byte"},
      {"{}}", "not JSON at byte 3"},
      {"{} 1", "not JSON at byte"},
      {std::string("{}\0", 3), "NUL"},
      {std::string("{}\0garbage", 10), "NUL"},
      {std::string("{\"a\":\"x\0y\"}", 11), "NUL"},
      {"{'a':1}", "not JSON at byte 2"},
      {"{\"a\":1,}", "not JSON at byte"},
      {"[1,]", "not JSON at byte"},
      {"// comment\n1", "not JSON at byte 1"},
      {"NaN", "not JSON"},
      {"[Infinity]", "not JSON"},
      {"-Infinity", "not JSON"},
      {"01", "not JSON"},
      {"+1", "not JSON"},
      {"1e999", "number overflow"},
      {"\"\xff\"", "not JSON"},
      {"\"\xc0\xaf\"", "not JSON"},
      {R"("\ud800")", "not JSON"},
      {"{\"a\":\"<th\xff\"}", "ill-formed UTF-8 byte; last read: '\"<th\\xff'"},
      {R"({"\u001b[31m":1,"\u001b[31m":1})", "duplicate key \"\\x1b[31m\""},
      {R"({"a":1,"a":1})", "duplicate key \"a\""},
      {R"({"b":{"a":1,"c":2,"a":3}})", "duplicate key \"a\""},
      {R"({"a":1,"\u0061":2})", "duplicate key \"a\""},
      {Nested(kMaxDepth + 1), "nested deeper than 64"},
      {Nested(100000), "nested deeper than 64"},
      {std::string(5000000, '['), "nested deeper than 64"},
  };
  for (const auto& [text, error] : cases) {
    EXPECT_EQ(Parse(text).status().code(), absl::StatusCode::kInvalidArgument) << text.substr(0, 50);
    EXPECT_THAT(std::string(Parse(text).status().message()), HasSubstr(error)) << text.substr(0, 50);
    EXPECT_FALSE(ParseOrdered(text).ok()) << text.substr(0, 50);
  }
}

TEST(Json, AcceptsWhatIsJson) {
  for (const std::string& text :
       {std::string("null"), std::string(" {} \n"), Nested(kMaxDepth), std::string(R"({"a":{"a":[{"a":1},{"a":2}]}})"),
        std::string("1e308"), std::string(R"("\u0000")"), std::string("123456789012345678901234567890")}) {
    EXPECT_TRUE(Parse(text).ok()) << text << Parse(text).status();
  }
}

TEST(Json, OrderedKeepsTheOrderOfTheText) {
  EXPECT_EQ(Dump(*ParseOrdered(R"({"b":1,"a":2})")), R"({"b":1,"a":2})");
  EXPECT_EQ(Dump(*Parse(R"({"b":1,"a":2})")), R"({"a":2,"b":1})");
}

TEST(Json, ARowsNumbersKeepTheirText) {
  const std::string text =
      R"({"a":12345678901234567890123,"b":0.1000000000000000055511,"c":1.50,"d":0.1,"e":[1.50],"f":{"a":2.50},"g":-7,"h":1E5,"\"":2.0e0})";
  Json row = *ParseRow(text);
  EXPECT_EQ(row.type(), Json::value_t::object);
  EXPECT_EQ(NumberText(row, "a"), "12345678901234567890123");
  EXPECT_EQ(NumberText(row, "b"), "0.1000000000000000055511");
  EXPECT_EQ(NumberText(row, "c"), "1.50");
  EXPECT_EQ(NumberText(row, "d"), "0.1");
  EXPECT_EQ(NumberText(row, "g"), "-7");
  EXPECT_EQ(NumberText(row, "h"), "1E5");
  EXPECT_EQ(*GetNumber(row, "c"), 1.5);
  EXPECT_EQ(
      Dump(row),
      R"({"\"":2.0e0,"a":12345678901234567890123,"b":0.1000000000000000055511,"c":1.50,"d":0.1,"e":[1.5],"f":{"a":2.5},"g":-7,"h":1E5})");
  EXPECT_EQ(Dump(*ParseRow(Dump(row))), Dump(row));
  CopyColumn(row, "a", "z");
  EXPECT_EQ(NumberText(row, "z"), "12345678901234567890123");
  CopyColumn(row, "g", "z");  // and the text of what was there is gone
  EXPECT_EQ(NumberText(row, "z"), "-7");
  CopyColumn(row, "a", "a");
  EXPECT_EQ(NumberText(row, "a"), "12345678901234567890123");
  EXPECT_EQ(Dump(*ParseRow("{}")), "{}");
  EXPECT_EQ(Dump(*ParseRow("[1.50]")), "[1.5]");
  EXPECT_EQ(Dump(*Parse(R"({"c":1.50})")), R"({"c":1.5})");
}

TEST(Json, TypedAccessNamesTheKeyAndWhatWasExpected) {
  const Json object = *Parse(R"({"i":7,"big":18446744073709551615,"f":1.0,"s":"x","b":true,"n":null})");
  EXPECT_EQ(*GetInt(object, "i", 0, 7), 7);
  EXPECT_EQ(*GetNumber(object, "i"), 7.0);
  EXPECT_EQ(*GetNumber(object, "f"), 1.0);
  EXPECT_EQ(*GetString(object, "s"), "x");
  EXPECT_TRUE(*GetBool(object, "b"));
  EXPECT_TRUE(Has(object, "i"));
  EXPECT_FALSE(Has(object, "n"));
  EXPECT_FALSE(Has(object, "none"));
  EXPECT_FALSE(Has(Json::array(), "i"));
  const std::pair<absl::Status, const char*> cases[] = {
      {GetInt(object, "none", 0, 9).status(), "missing key \"none\" (expected an integer in 0..9)"},
      {GetInt(object, "i", 0, 6).status(), "key \"i\": expected an integer in 0..6, got 7"},
      {GetInt(object, "i", 8, 9).status(), "got 7"},
      {GetInt(object, "big", 0, INT64_MAX).status(), "got 18446744073709551615"},
      {GetInt(object, "f", 0, 9).status(), "got 1.0"},
      {GetInt(object, "s", 0, 9).status(), "got \"x\""},
      {GetInt(object, "b", 0, 9).status(), "got true"},
      {GetNumber(object, "s").status(), "expected a number"},
      {GetBool(object, "i").status(), "expected true or false"},
      {GetString(object, "n").status(), "expected a string, got null"},
      {GetString(Json::array(), "x").status(), "expected an object with key \"x\""},
  };
  for (const auto& [status, error] : cases) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << error;
    EXPECT_THAT(std::string(status.message()), HasSubstr(error));
  }
}

TEST(Json, DumpReplacesInvalidUtf8) { EXPECT_EQ(Dump(Json("a\xff")), "\"a\xef\xbf\xbd\""); }

// At each limit a text passes, one beyond it does not.
TEST(JsonSizesTest, TokensAndValuesAreBounded) {
  const auto string_of = [](size_t bytes) { return "\"" + std::string(bytes - 2, 'a') + "\""; };
  EXPECT_TRUE(CheckSizes(string_of(kMaxString)).ok());
  EXPECT_EQ(CheckSizes("[" + string_of(kMaxString + 1) + "]").message(), absl::StrCat("more than ", kMaxString, " bytes in a string at byte 2"));
  EXPECT_TRUE(Parse("[" + std::string(300, '1') + "e-300]").ok());
  EXPECT_TRUE(CheckSizes(std::string(kMaxNumber, '1')).ok());
  EXPECT_FALSE(CheckSizes(std::string(kMaxNumber + 1, '1')).ok());
  EXPECT_FALSE(CheckSizes("-" + std::string(kMaxNumber, '1')).ok());

  const auto commas = [](size_t count) { return std::string(count, ','); };  // two units of 16 bytes each
  EXPECT_TRUE(CheckSizes(commas(kMaxMemory / 32)).ok());
  EXPECT_FALSE(CheckSizes(commas(kMaxMemory / 32 + 1)).ok());
  // Signs inside strings are text.
  EXPECT_TRUE(CheckSizes("\"" + std::string(8 << 20, '[') + "\\\"" + std::string(4 << 20, '{') + "\"").ok());
  EXPECT_TRUE(CheckSizes("\"abc\\").ok());
  EXPECT_TRUE(CheckSizes("").ok());
  std::string arrays = "[";
  for (int i = 0; i < 4'000'000; ++i) arrays += "[],";
  EXPECT_THAT(std::string(Parse(arrays + "[]]").status().message()), testing::HasSubstr("MiB of values"));
}

}  // namespace
}  // namespace grouper::json
