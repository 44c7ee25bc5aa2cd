// The fuzz targets over a small corpus and mutations of it: the short run that every build makes. GROUPER_FUZZ_ROUNDS sets how many.
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "gtest/gtest.h"
#include "tests/reward/fuzz_targets.h"

namespace grouper {
namespace {

const std::vector<std::string>& Corpus() {
  static const auto& corpus = *new std::vector<std::string>{
      "\\frac{14}{3}\n4 \\frac{2}{3}", "1,-2\n\\{1, -2\\}", "(-\\infty, 2] \\cup [3, 5)\nx \\le 2 \\text{ or } 3 \\le x < 5", "x=5\n5",
      "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}\n\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", "2\\sqrt{3}\n\\sqrt{12}", "28\\%\n0.28", "101_2\n5",
      "1{,}000,000\n10^6", "x^2-1\n(x-1)(x+1)", "3\\pm\\sqrt{2}\n3+\\sqrt2, 3-\\sqrt2", "90^\\circ\n\\pi/2", "9**9**9**9\n9^9^9^9", "\\text{(B)}\nB",
      "7\n<think>a</think>\n<answer>\\boxed{7}</answer>", "<think>\n</think><answer>\n</answer>", "<plan>p</plan><think>t</think><answer>a</answer>",
      "4\nThe answer is **4**.\n#### 4", "18\nA: $18.00", "(1 + 2) * 3", "3 * 2 * 1", "((((1", "{\"a\": 1}", "```json\n{\"a\": [1, 2, {\"b\": null}]}\n```",
      "```python\nprint(1)\n```", "{\"tests\": [{\"input\": \"1\", \"output\": \"2\"}]}", "assert(f(\"a==b\") == 1);", "1\n2\n3", "Step 1: we go. \xE6\x88\x91\xE4\xBB\xAC step 2",
      std::string("\0\xff\xfe\x80", 4), "-1/2e-5\n1.5e3", "\\boxed{\\boxed{1}\n\\fbox 7$", "0.\\overline{3}\n1/3", "\\sin^2 x + \\cos^2 x\n1"};
  return corpus;
}

std::string Mutated(std::mt19937_64& random) {
  static const char* const kPieces[] = {"\\frac", "{", "}", "(", ")", "\\boxed{", "<answer>", "</answer>", "<think>", "</think>", "^", "_", "9999999999", "\\sqrt", "\n",
                                        ",", "$", "\\text{", "\\cup", "####", "answer is", "```", "\\begin{matrix}", "&", "\\\\", "!", "\xFF", "==", "\"", "1e9", "\\pm"};
  const auto pick = [&](size_t n) { return static_cast<size_t>(random() % n); };
  std::string text = Corpus()[pick(Corpus().size())];
  for (size_t edits = 1 + pick(6); edits > 0; --edits) {
    const size_t at = pick(text.size() + 1);
    switch (pick(6)) {
      case 0: text.insert(at, kPieces[pick(std::size(kPieces))]); break;
      case 1: text.erase(at, 1 + pick(8)); break;
      case 2: text.insert(at, 1, static_cast<char>(pick(256))); break;
      case 3: text.insert(at, text.substr(pick(text.size() + 1), 1 + pick(20))); break;
      case 4: {
        const std::string& other = Corpus()[pick(Corpus().size())];
        text = text.substr(0, at) + other.substr(pick(other.size() + 1));
        break;
      }
      default: {
        const std::string piece = kPieces[pick(std::size(kPieces))];
        for (size_t n = pick(64); n > 0; --n) text.insert(at, piece);
      }
    }
  }
  return text;
}

TEST(Fuzz, TheTargetsHoldOnTheCorpusAndMutationsOfIt) {
  int rounds = 20000;
  const char* const more = std::getenv("GROUPER_FUZZ_ROUNDS");
  ASSERT_TRUE(more == nullptr || absl::SimpleAtoi(more, &rounds));
  for (const fuzz::Target& target : fuzz::Targets()) {
    for (const std::string& text : Corpus()) target.run(text);
    std::mt19937_64 random(7);
    for (int i = 0; i < rounds; ++i) target.run(Mutated(random));
    SUCCEED() << target.name;
  }
  EXPECT_EQ(fuzz::Targets().size(), 8u);
}

}  // namespace
}  // namespace grouper
