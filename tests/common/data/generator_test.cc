#include "common/data/generator.h"

#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/check.h"
#include "common/data/dataset.h"
#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

v1::Generator Config(const std::string& text) {
  v1::Generator config;
  CHECK(google::protobuf::TextFormat::ParseFromString(text, &config));
  return config;
}

std::unique_ptr<Dataset> Generated(const std::string& text, uint64_t seed) {
  v1::Data config;
  *config.mutable_generator() = Config(text);
  auto data = Dataset::Open(config, seed, 1, "");
  CHECK(data.ok()) << data.status();
  return std::move(*data);
}

int64_t Answer(const DataRow& row) {
  int64_t value = 0;
  CHECK(absl::SimpleAtoi(row.columns["answer"].get<std::string>(), &value));
  return value;
}

std::pair<int64_t, int64_t> Operands(const DataRow& row) {
  std::string prompt = row.columns["prompt"];
  prompt.pop_back();
  const std::pair<std::string, std::string> parts = absl::StrSplit(prompt, '+');
  int64_t a = 0, b = 0;
  CHECK(absl::SimpleAtoi(parts.first, &a) && absl::SimpleAtoi(parts.second, &b));
  return std::minmax(a, b);
}

TEST(AdditionTest, PerfectDemonstrationsCarryAndEndInTheSum) {
  auto data = Generated("addition { digits: 3 } eval_problems: 10", 1);
  for (int i = 0; i < 500; ++i) {
    const DataRow row = data->TrainRow(i);
    const auto [a, b] = Operands(row);
    EXPECT_EQ(a + b, Answer(row));
    EXPECT_TRUE(absl::EndsWith(row.columns["completion"].get<std::string>(), absl::StrCat("<answer>", a + b, "</answer>")));
  }
}

TEST(AdditionTest, ShareOfRightDemonstrationsIsWhatTheDefectsImply) {
  // Two inner carries at risk: P(right) = P(lazy) + (1 - P(lazy)) * P(no carry is forgotten).
  auto data = Generated("addition { digits: 3 lazy: 0.15 forget_carry: 0.6 } eval_problems: 10", 1);
  int right = 0, lazy = 0;
  constexpr int kRows = 4000;
  for (int i = 0; i < kRows; ++i) {
    const DataRow row = data->TrainRow(i);
    const std::string text = row.columns["completion"];
    lazy += absl::StartsWith(text, "<think></think>");
    right += absl::EndsWith(text, absl::StrCat("<answer>", row.columns["answer"].get<std::string>(), "</answer>"));
  }
  EXPECT_NEAR(lazy / static_cast<double>(kRows), 0.15, 0.02);
  EXPECT_NEAR(right / static_cast<double>(kRows), 0.15 + 0.85 * 0.54, 0.04);
}

TEST(AdditionTest, HeldOutProblemsAreDistinctAndNeverDrawnNorTheirMirror) {
  auto data = Generated("addition { digits: 2 } eval_problems: 30", 3);
  std::set<std::pair<int64_t, int64_t>> held_out;
  for (const DataRow& row : data->eval_rows()) EXPECT_TRUE(held_out.insert(Operands(row)).second);
  EXPECT_EQ(held_out.size(), 30u);
  for (int i = 0; i < 20000; ++i) EXPECT_EQ(held_out.count(Operands(data->TrainRow(i))), 0u);
}

TEST(AdditionTest, RowsAreAFunctionOfSeedAndIndex) {
  auto a = Generated("addition {}", 1), b = Generated("addition {}", 1), c = Generated("addition {}", 2);
  EXPECT_EQ(a->TrainRow(17).columns, b->TrainRow(17).columns);
  EXPECT_NE(a->TrainRow(17).columns, c->TrainRow(17).columns);
  EXPECT_EQ(a->eval_rows()[5].columns, c->eval_rows()[5].columns) << "the held-out set is the same for every seed";
}

TEST(AdditionTest, TooFewHeldOutProblemsIsAnErrorNotALoop) {
  auto generator = ProblemGenerator::Create(Config("addition { digits: 1 }"));
  ASSERT_TRUE(generator.ok());
  EXPECT_THAT((*generator)->HeldOutRows(500).status().message(), ::testing::HasSubstr("eval_problems"));
}

// A slow exact evaluator for the demonstrations' expressions (integers only, as the generator makes them).
struct Evaluator {
  absl::string_view text;
  std::multiset<int64_t> used;
  int64_t Sum() {
    int64_t value = Product();
    while (!text.empty() && (text[0] == '+' || text[0] == '-')) {
      const char op = text[0];
      text.remove_prefix(1);
      const int64_t right = Product();
      value = op == '+' ? value + right : value - right;
    }
    return value;
  }
  int64_t Product() {
    int64_t value = Atom();
    while (!text.empty() && (text[0] == '*' || text[0] == '/')) {
      const char op = text[0];
      text.remove_prefix(1);
      const int64_t right = Atom();
      if (op == '/') {
        EXPECT_EQ(value % right, 0);
      }
      value = op == '*' ? value * right : value / right;
    }
    return value;
  }
  int64_t Atom() {
    if (text[0] == '(') {
      text.remove_prefix(1);
      const int64_t value = Sum();
      EXPECT_EQ(text[0], ')');
      text.remove_prefix(1);
      return value;
    }
    int64_t value = 0;
    while (!text.empty() && absl::ascii_isdigit(text[0])) {
      value = value * 10 + (text[0] - '0');
      text.remove_prefix(1);
    }
    used.insert(value);
    return value;
  }
};

TEST(CountdownTest, EverySolutionUsesEachNumberOnceAndReachesTheTarget) {
  auto data = Generated("countdown { min_numbers: 3 max_numbers: 4 } eval_problems: 64", 1);
  for (int i = 0; i < 1000; ++i) {
    const DataRow row = data->TrainRow(i);
    const std::string solution = row.columns["answer"];
    Evaluator evaluator{solution, {}};
    EXPECT_EQ(evaluator.Sum(), row.columns["target"].get<int64_t>()) << solution;
    const std::vector<int64_t> numbers = row.columns["numbers"];
    EXPECT_EQ(evaluator.used, std::multiset<int64_t>(numbers.begin(), numbers.end())) << solution;
    EXPECT_TRUE(absl::EndsWith(row.columns["completion"].get<std::string>(), "<answer>" + solution + "</answer>"));
  }
}

TEST(CountdownTest, HeldOutProblemsAreNotDrawn) {
  auto data = Generated("countdown { max_number: 20 max_numbers: 3 } eval_problems: 50", 1);
  auto key = [](const DataRow& row) {
    std::vector<int64_t> numbers = row.columns["numbers"];
    std::sort(numbers.begin(), numbers.end());
    return std::make_pair(numbers, row.columns["target"].get<int64_t>());
  };
  std::set<std::pair<std::vector<int64_t>, int64_t>> held_out;
  for (const DataRow& row : data->eval_rows()) held_out.insert(key(row));
  EXPECT_EQ(held_out.size(), 50u);
  for (int i = 0; i < 5000; ++i) EXPECT_EQ(held_out.count(key(data->TrainRow(i))), 0u);
}

TEST(GeneratorTest, RangesAreCheckedByField) {
  const struct {
    const char* config;
    const char* field;
  } cases[] = {
      {"addition { digits: 12 }", "addition.digits"},
      {"addition { lazy: 1.5 }", "addition.lazy"},
      {"countdown { min_numbers: 5 max_numbers: 3 }", "countdown.max_numbers"},
      {"eval_problems: 5", "expected a task"},
  };
  for (const auto& c : cases) {
    EXPECT_THAT(ProblemGenerator::Create(Config(c.config)).status().message(), ::testing::HasSubstr(c.field));
  }
}

}  // namespace
}  // namespace grouper
