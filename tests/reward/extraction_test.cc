#include "reward/extraction.h"

#include <string>

#include "gtest/gtest.h"
#include "tests/reward/rule_world.h"

namespace grouper {
namespace {

struct Case {
  Place place;
  const char* text;
  const char* answer;  // nullptr: not found
};

TEST(Extraction, EachPlaceFindsItsAnswer) {
  const Case cases[] = {
      {Place::kAnswerTag, "<think>a</think><answer> 4 </answer>", "4"},
      {Place::kAnswerTag, "<answer>1</answer> <answer>2</answer>", "2"},
      {Place::kAnswerTag, "<answer>1</answer> <answer>2", "1"},
      {Place::kAnswerTag, "<answer>1", nullptr},
      {Place::kAnswerTag, "no tags", nullptr},
      {Place::kAnswerTag, "<think><answer>1</answer></think> nothing", nullptr},
      {Place::kBoxed, "\\boxed{3}", "3"},
      {Place::kBoxed, "\\boxed{\\frac{1}{2}} and \\boxed{\\frac{3}{4}}", "\\frac{3}{4}"},
      {Place::kBoxed, "\\boxed{\\{1,2\\}}", "\\{1,2\\}"},
      {Place::kBoxed, "\\fbox{7}", "7"},
      {Place::kBoxed, "$\\boxed 7$", "7"},
      {Place::kBoxed, "\\boxed{1} then \\boxed{2", nullptr},
      {Place::kBoxed, "<think>\\boxed{1}</think> so 1", nullptr},
      {Place::kHash, "work\n#### 18", "18"},
      {Place::kHash, "#### 17\n#### 18\nrest", "18"},
      {Place::kHash, "####", nullptr},
      {Place::kAnswerIs, "So the answer is 42.", "42"},
      {Place::kAnswerIs, "**Final Answer:** $7$\nbye", "$7$"},
      {Place::kAnswerIs, "The answers are 1 and 2. Good.", "1 and 2"},
      {Place::kAnswerIs, "work\nA: 26", "26"},
      {Place::kAnswerIs, "Answer: 7.5.", "7.5"},
      {Place::kAnswerIs, "the answer is 3. No, the answer is 4.", "4"},
      {Place::kAnswerIs, "DNA: 5", nullptr},
      {Place::kAnswerIs, "nothing here", nullptr},
      {Place::kLastMath, "so $x=1$ and \\(y = 2\\).", "y = 2"},
      {Place::kLastMath, "it costs \\$5 and $z$", "z"},
      {Place::kLastMath, "\\[ 3 \\]", "3"},
      {Place::kLastMath, "$$ 9 $$", "9"},
      {Place::kLastMath, "5 $", nullptr},
      {Place::kLastNumber, "we have 1,234.50 left", "1,234.50"},
      {Place::kLastNumber, "it is -3.", "-3"},
      {Place::kLastNumber, "cost: $18", "18"},
      {Place::kLastNumber, "10-3", "3"},
      {Place::kLastNumber, "about .5", ".5"},
      {Place::kLastNumber, "no digits", nullptr},
      {Place::kWhole, "  x  ", "x"},
      {Place::kWhole, "<think>a</think> b ", "b"},
      {Place::kWhole, "<think>never closed 5", nullptr},
      {Place::kWhole, "   ", nullptr},
  };
  for (const Case& c : cases) {
    const Extracted found = Extract(c.text, {c.place});
    EXPECT_EQ(found.found, c.answer != nullptr) << c.text << " -> " << found.text;
    if (c.answer != nullptr) {
      EXPECT_EQ(found.text, c.answer) << c.text;
    }
  }
}

TEST(Extraction, TakesTheFirstPlaceThatIsThere) {
  EXPECT_EQ(Extract("\\boxed{1} <answer>2</answer>", {Place::kAnswerTag, Place::kBoxed}).text, "2");
  EXPECT_EQ(Extract("\\boxed{1}", {Place::kAnswerTag, Place::kBoxed}).text, "1");
}

TEST(Extraction, UnknownPlaceIsNamed) {
  v1::Extraction config;
  config.add_places("box");
  const auto places = ParsePlaces(config, {});
  ASSERT_FALSE(places.ok());
  EXPECT_NE(places.status().message().find("extraction.places[0]: \"box\""), std::string::npos) << places.status();
}

TEST(Extraction, IsLinearInHostileText) {
  const std::string units[] = {"\\boxed{", "{",          "}",       "<answer>", "</answer>", "$",      "\\(",
                               "\\[",      "answer is ", "answer:", "A:\n",     "1,",        "####",   "<think>",
                               "a",        "\\",         "-",       "\xff\xfe", "answer ",   "answer*"};
  for (const std::string& unit : units) {
    std::string text;
    while (text.size() < (1 << 20)) text += unit;
    const double seconds = LeastCpuSeconds([&] {
      for (const Place place : {Place::kAnswerTag, Place::kBoxed, Place::kHash, Place::kAnswerIs, Place::kLastMath,
                                Place::kLastNumber, Place::kWhole}) {
        Extract(text, {place});
      }
    });
    EXPECT_LT(seconds, 0.7) << unit;  // seven places; far above what is needed, far below what a quadratic scan takes
  }
}

}  // namespace
}  // namespace grouper
