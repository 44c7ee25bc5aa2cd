// The one-way include order of DESIGN 2, and rules that a text search can check.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"

namespace {

namespace fs = std::filesystem;

struct Source {
  std::string path;  // relative to the tree
  std::string text;
};

std::vector<Source> Sources() {
  std::vector<Source> sources;
  const fs::path root = GROUPER_SOURCE_DIR;
  for (const char* folder : {"common", "kernels", "reward", "rollout", "trainer", "cli"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc" && extension != ".cu" && extension != ".cuh") continue;
      std::ifstream in(entry.path());
      std::ostringstream text;
      text << in.rdbuf();
      sources.push_back({fs::relative(entry.path(), root), text.str()});
    }
  }
  return sources;
}

// "common/text" for common/text/tokenizer.h, "kernels" for kernels/gemm.h.
std::string LayerOf(const std::string& path) {
  const std::vector<std::string> parts = absl::StrSplit(path, '/');
  return parts[0] == "common" && parts.size() > 2 ? parts[0] + "/" + parts[1] : parts[0];
}

TEST(LayeringTest, IncludesGoOneWay) {
  // A layer may include itself and what stands beside it here.
  const std::set<std::string> common = {"proto",       "common/base",  "common/tensor", "kernels",       "common/text", "common/checkpoint",
                                        "common/data", "common/model", "common/rpc",    "common/recipe", "common/metrics"};
  std::map<std::string, std::set<std::string>> allowed = {
      {"common/base", {}},
      {"common/tensor", {"common/base"}},
      {"kernels", {"common/base", "common/tensor"}},
      {"reward", common},
      {"rollout", common},
      {"trainer", common},
      {"cli", {"proto", "common/base", "common/tensor", "kernels", "common/text", "common/checkpoint", "common/data", "common/model", "common/rpc",
               "common/recipe", "common/metrics", "reward", "rollout", "trainer"}},
  };
  for (const std::string& layer : common) {
    if (absl::StartsWith(layer, "common/") && !allowed.count(layer)) allowed[layer] = common;
  }
  const std::regex include("#include \"([^\"]+)\"");
  int checked = 0;
  for (const Source& source : Sources()) {
    const std::string layer = LayerOf(source.path);
    ASSERT_TRUE(allowed.count(layer)) << source.path << " is in no known layer";
    for (auto it = std::sregex_iterator(source.text.begin(), source.text.end(), include); it != std::sregex_iterator(); ++it) {
      const std::string target = LayerOf((*it)[1]);
      const bool ours = target == "proto" || target == "kernels" || target == "reward" || target == "rollout" || target == "trainer" || target == "cli" ||
                        target == "tests" || absl::StartsWith(target, "common/");
      if (!ours || target == layer) continue;
      ++checked;
      EXPECT_TRUE(allowed[layer].count(target)) << source.path << " includes " << (*it)[1];
    }
  }
  EXPECT_GT(checked, 200);
}

TEST(LayeringTest, NoFileOfOursIsHalfDone) {
  const std::regex unfinished("TODO|FIXME|XXX|HACK");
  for (const Source& source : Sources()) {
    EXPECT_FALSE(std::regex_search(source.text, unfinished)) << source.path;
  }
}

TEST(RulesTest, DangerousCallsAreAbsent) {
  const struct {
    const char* pattern;
    const char* why;
    std::set<std::string> except;
  } rules[] = {
      {"std::regex", "unbounded time and stack on hostile text", {}},
      {"std::system\\(|[^_a-zA-Z]system\\(\"|\\bpopen\\(", "runs a shell", {}},
      {"std::stoi|std::stol|std::stod|\\batoi\\(|\\batof\\(", "throws or guesses on bad text", {}},
      {"grpc::ClientContext [a-z_]+;|make_unique<grpc::ClientContext>", "a context without a deadline", {"common/rpc/context.h"}},
      {"TextFormat::Parser", "needs a recursion limit", {"common/recipe/text_proto.cc"}},
      {"TextFormat::ParseFromString", "needs a recursion limit", {}},
  };
  for (const Source& source : Sources()) {
    for (const auto& rule : rules) {
      if (rule.except.count(source.path)) continue;
      EXPECT_FALSE(std::regex_search(source.text, std::regex(rule.pattern))) << source.path << ": " << rule.pattern << " (" << rule.why << ")";
    }
  }
}

TEST(RulesTest, EveryFailpointIsInTheListAndInTheManual) {
  const std::regex hit("failpoint::Hit(Nan)?\\(([^)]*)\\)"), quoted("\"([a-z_]+\\.[a-z_]+)\"");
  std::set<std::string> places, list;
  for (const Source& source : Sources()) {
    const bool is_list = source.path == "common/base/failpoint.cc";
    for (auto it = std::sregex_iterator(source.text.begin(), source.text.end(), is_list ? quoted : hit); it != std::sregex_iterator(); ++it) {
      const std::string text = is_list ? it->str() : (*it)[2].str();
      for (auto name = std::sregex_iterator(text.begin(), text.end(), quoted); name != std::sregex_iterator(); ++name) {
        (is_list ? list : places).insert((*name)[1]);
      }
    }
  }
  EXPECT_GT(places.size(), 30u);
  EXPECT_EQ(places, list);
  std::ifstream in(fs::path(GROUPER_SOURCE_DIR) / "docs/reliability.md");
  std::ostringstream manual;
  manual << in.rdbuf();
  for (const std::string& name : list) EXPECT_TRUE(absl::StrContains(manual.str(), "`" + name + "`")) << name;
}

TEST(RulesTest, FilesStayReadable) {
  for (const Source& source : Sources()) {
    if (absl::EndsWith(source.path, ".inc")) continue;
    const int64_t lines = std::count(source.text.begin(), source.text.end(), '\n');
    EXPECT_LE(lines, 1000) << source.path;
  }
}

}  // namespace
