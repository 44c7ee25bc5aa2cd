#include "common/data/dataset.h"

#include <unistd.h>

#include <fstream>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

using ::testing::HasSubstr;

class DatasetTest : public ::testing::Test {
 protected:
  // Writes a file of the given text and returns its path.
  std::string File(const std::string& text) {
    const std::string path = ::testing::TempDir() + "/dataset_test_" + std::to_string(getpid()) + "_" + std::to_string(files_++) + ".jsonl";
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  absl::StatusOr<std::unique_ptr<Dataset>> OpenTrain(const std::string& text, uint64_t seed = 1) {
    v1::Data config;
    config.set_train(File(text));
    return Dataset::Open(config, seed, 0, "");
  }
  int files_ = 0;
};

std::vector<std::string> Prompts(Dataset& data, int64_t begin, int64_t end) {
  std::vector<std::string> prompts;
  for (int64_t i = begin; i < end; ++i) prompts.push_back(data.TrainRow(i).columns["prompt"]);
  return prompts;
}

TEST_F(DatasetTest, EachEpochIsAPermutationAndEpochsDiffer) {
  std::string text;
  for (int i = 0; i < 50; ++i) text += "{\"prompt\": \"p" + std::to_string(i) + "\"}\n";
  auto data = OpenTrain(text);
  ASSERT_TRUE(data.ok()) << data.status();
  const std::vector<std::string> first = Prompts(**data, 0, 50), second = Prompts(**data, 50, 100);
  EXPECT_EQ(std::set<std::string>(first.begin(), first.end()).size(), 50u);
  EXPECT_EQ(std::set<std::string>(second.begin(), second.end()).size(), 50u);
  EXPECT_NE(first, second);
}

TEST_F(DatasetTest, OrderIsAFunctionOfSeedAndIndexAlone) {
  std::string text;
  for (int i = 0; i < 20; ++i) text += "{\"prompt\": \"p" + std::to_string(i) + "\"}\n";
  auto a = OpenTrain(text), b = OpenTrain(text), other = OpenTrain(text, 2);
  ASSERT_TRUE(a.ok() && b.ok() && other.ok());
  (*b)->TrainRow(35);  // jumping about changes nothing
  EXPECT_EQ(Prompts(**a, 0, 60), Prompts(**b, 0, 60));
  EXPECT_NE(Prompts(**a, 0, 20), Prompts(**other, 0, 20));
}

TEST_F(DatasetTest, AliasesBecomeOurNamesAndOtherColumnsStay) {
  auto data = OpenTrain("{\"question\": \"q\", \"label\": 7, \"numbers\": [1, 2]}\n");
  ASSERT_TRUE(data.ok()) << data.status();
  const json::Json columns = (*data)->TrainRow(0).columns;
  EXPECT_EQ(columns["prompt"], "q");
  EXPECT_EQ(columns["answer"], 7);
  EXPECT_EQ(columns["label"], 7);
  EXPECT_EQ(columns["numbers"].size(), 2u);
}

TEST_F(DatasetTest, FieldsMapOurNamesToTheFilesColumns) {
  v1::Data config;
  config.set_train(File("{\"q\": \"2+2\", \"final\": \"4\", \"answer\": \"worked\"}\n"));
  (*config.mutable_fields())["prompt"] = "q";
  (*config.mutable_fields())["answer"] = "final";
  auto data = Dataset::Open(config, 1, 0, "");
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ((*data)->TrainRow(0).columns["prompt"], "2+2");
  EXPECT_EQ((*data)->TrainRow(0).columns["answer"], "4");
}

// So that a gold compares as what it is.
TEST_F(DatasetTest, NumbersReachTheRulesAsTheFileHasThem) {
  v1::Data config;
  config.set_train(File("{\"prompt\": \"p\", \"label\": 12345678901234567890123, \"q\": 0.10}\n"));
  (*config.mutable_fields())["x"] = "q";
  auto data = Dataset::Open(config, 1, 0, "");
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(json::Dump((*data)->TrainRow(0).columns),
            R"({"answer":12345678901234567890123,"label":12345678901234567890123,"prompt":"p","q":0.10,"x":0.10})");
}

TEST_F(DatasetTest, BadRowsAreNamedByLine) {
  const struct {
    const char* text;
    const char* expected;
  } cases[] = {
      {"{\"prompt\": \"a\"}\n\n{\"prompt\": \n", ":3: not JSON"},
      {"{\"prompt\": \"a\"}\n[1]\n", ":2: expected a JSON object"},
      {"{\"prompt\": 5}\n", ":1: column \"prompt\": expected a string"},
      {"{\"prompt\": \"a\", \"prompt\": \"b\"}\n", ":1: duplicate key \"prompt\""},
      {"{\"messages\": []}\n", "expected a non-empty array"},
      {"{\"messages\": [{\"role\": \"robot\", \"content\": \"x\"}]}\n", "expected system, user or assistant"},
      {"{\"messages\": [{\"role\": \"user\"}]}\n", "messages[0]"},
      {"{\"prompt\": \"\xff\"}\n", ":1: "},
      {"", "no rows"},
      {"\n\n", "no rows"},
  };
  for (const auto& c : cases) {
    auto data = OpenTrain(c.text);
    ASSERT_FALSE(data.ok()) << c.text;
    EXPECT_THAT(data.status().message(), HasSubstr(c.expected)) << c.text;
    EXPECT_THAT(data.status().message(), HasSubstr(".jsonl")) << c.text;
  }
}

TEST_F(DatasetTest, DeepNestingIsRefused) {
  std::string line = "{\"prompt\": ";
  for (int i = 0; i < 100000; ++i) line += "[";
  auto data = OpenTrain(line + "\n");
  ASSERT_FALSE(data.ok());
  EXPECT_THAT(data.status().message(), HasSubstr("nested deeper than 64"));
}

TEST_F(DatasetTest, LineLimitHoldsAtTheLimitAndOneBeyond) {
  const std::string head = "{\"prompt\": \"", tail = "\"}";
  const size_t limit = 4 << 20;
  auto line = [&](size_t size) { return head + std::string(size - head.size() - tail.size(), 'x') + tail + "\n"; };
  EXPECT_TRUE(OpenTrain(line(limit)).ok());
  auto data = OpenTrain(line(limit + 1));
  ASSERT_FALSE(data.ok());
  EXPECT_THAT(data.status().message(), HasSubstr("expected at most 4194304"));
}

TEST_F(DatasetTest, AFileBesideAGeneratorTakesThePlaceOfItsRows) {
  v1::Data config;
  config.mutable_generator()->mutable_addition();
  config.mutable_generator()->set_eval_problems(5);
  const std::string file = File("{\"prompt\": \"p\", \"answer\": \"a\"}\n");
  {
    v1::Data trained = config;
    trained.set_train(file);
    auto data = Dataset::Open(trained, 1, 0, "");
    ASSERT_TRUE(data.ok()) << data.status();
    EXPECT_EQ((*data)->epoch_size(), 1);
    EXPECT_EQ((*data)->TrainRow(3).columns["prompt"], "p");
    EXPECT_EQ((*data)->eval_rows().size(), 5u);
  }
  {
    v1::Data evaluated = config;
    evaluated.set_eval(file);
    auto data = Dataset::Open(evaluated, 1, 0, "");
    ASSERT_TRUE(data.ok()) << data.status();
    EXPECT_EQ((*data)->epoch_size(), 0);
    EXPECT_THAT((*data)->TrainRow(3).source, HasSubstr("addition:3"));
    ASSERT_EQ((*data)->eval_rows().size(), 1u);
    EXPECT_EQ((*data)->eval_rows()[0].columns["answer"], "a");
  }
}

TEST_F(DatasetTest, MissingFileAndDirectoryAreErrors) {
  v1::Data config;
  config.set_train("/nonexistent/train.jsonl");
  EXPECT_THAT(Dataset::Open(config, 1, 0, "").status().message(), HasSubstr("/nonexistent/train.jsonl"));
  config.set_train("/tmp");
  EXPECT_THAT(Dataset::Open(config, 1, 0, "").status().message(), HasSubstr("expected a regular file"));
}

TEST(RowTest, PromptTurnsDropTheAnswerAndAllTurnsKeepIt) {
  DataRow row;
  row.source = "x:1";
  row.columns = json::Json::parse(
      R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]})");
  ASSERT_TRUE(CanonicaliseRow({}, row).ok());
  EXPECT_EQ(PromptTurns(row)->size(), 2u);
  EXPECT_EQ(AllTurns(row)->size(), 3u);
  EXPECT_TRUE(row.HasCompletion());
}

}  // namespace
}  // namespace grouper
