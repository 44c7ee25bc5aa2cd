#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/recipe/load_recipe.h"
#include "reward/rules/rules.h"

namespace grouper {
namespace {

constexpr int kMaxN = 64;

// Share of n-grams that repeat an earlier one. Each item is a 64-bit hash; an n-gram is a polynomial over them
// (rolling), so that the cost is one multiplication an item whatever n is.
double RepeatedShare(absl::Span<const uint64_t> items, size_t n) {
  if (items.size() < n) return 0;
  constexpr uint64_t kFactor = 0x9E3779B97F4A7C15;
  uint64_t top = 1;  // kFactor^(n-1)
  for (size_t i = 1; i < n; ++i) top *= kFactor;
  absl::flat_hash_set<uint64_t> seen;
  seen.reserve(items.size());
  uint64_t hash = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i >= n) hash -= items[i - n] * top;
    hash = hash * kFactor + items[i];
    if (i + 1 >= n) seen.insert(hash);
  }
  const size_t total = items.size() - n + 1;
  return 1 - static_cast<double>(seen.size()) / static_cast<double>(total);
}

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

class RepetitionRule : public Rule {
 public:
  RepetitionRule(size_t n, double max_penalty, bool tokens) : n_(n), max_penalty_(max_penalty), tokens_(tokens) {}

  RuleResult Score(const RuleInput& input) const override {
    std::vector<uint64_t> items;
    if (tokens_) {
      if (input.token_ids.empty() && input.num_tokens > 0)
        return RuleResult::NotApplicable("the request carries no token ids");
      for (const int32_t id : input.token_ids) items.push_back(Mix(static_cast<uint32_t>(id) + uint64_t{1}));
    } else {
      uint64_t word = 0;
      for (const char c : input.text) {
        if (!absl::ascii_isspace(static_cast<unsigned char>(c))) {
          word = Mix(word + static_cast<unsigned char>(absl::ascii_tolower(static_cast<unsigned char>(c))) + 1);
        } else if (word != 0) {
          items.push_back(word);
          word = 0;
        }
      }
      if (word != 0) items.push_back(word);
    }
    const double score = RepeatedShare(items, n_) * max_penalty_;
    return RuleResult::Scored(score == 0 ? 0.0 : score);  // no -0
  }

 private:
  const size_t n_;
  const double max_penalty_;
  const bool tokens_;
};

}  // namespace

RuleOr CreateRepetitionRule(const v1::RepetitionRule& config) {
  if (config.n() < 0 || config.n() > kMaxN)
    return absl::InvalidArgumentError(absl::StrCat("n: ", config.n(), ", expected 1 to ", kMaxN));
  const double penalty = config.has_max_penalty() ? config.max_penalty() : -1;
  if (!(penalty <= 0) || !IsScore(penalty)) {
    return absl::InvalidArgumentError(absl::StrCat("max_penalty: ", penalty, ", expected -1e30..0"));
  }
  if (!config.over().empty() && config.over() != "words" && config.over() != "tokens") {
    return absl::InvalidArgumentError(absl::StrCat("over: \"", config.over(), "\", expected words or tokens"));
  }
  return std::make_unique<RepetitionRule>(config.n() == 0 ? 3 : static_cast<size_t>(config.n()), penalty,
                                          config.over() == "tokens");
}

}  // namespace grouper
