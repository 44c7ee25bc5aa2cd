// Addition by columns. Units first: `u+v=t` without an incoming carry, `u+v+1=t` with one; t is the column's sum, its last digit goes into
// the result, t / 10 is the carry. A demonstration is wrong on purpose in two ways: it may be lazy (no steps, right answer), and it may
// forget a carry into an inner column; its answer then follows from its wrong steps.
#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/data/generator.h"

namespace grouper {
namespace {

class AdditionGenerator : public ProblemGenerator {
 public:
  explicit AdditionGenerator(const v1::Addition& config) : config_(config) {
    for (int i = 1; i < config.digits(); ++i) low_ *= 10;
    high_ = low_ * 10;
    if (config.digits() == 1) low_ = 0;
  }

  DataRow TrainRow(PhiloxStream& random) const override {
    while (true) {
      const auto [a, b] = Draw(random);
      if (HeldOut(a, b)) continue;
      return MakeRow(a, b, Demonstration(a, b, random));
    }
  }

  absl::StatusOr<std::vector<DataRow>> HeldOutRows(int64_t count) const override {
    // Unordered pairs, since A+B and B+A are held out together; a small task is counted before drawing from it.
    const int64_t operands = high_ - low_;
    if (operands <= 2000) {
      int64_t available = 0;
      for (int64_t a = low_; a < high_; ++a) {
        for (int64_t b = a; b < high_; ++b) available += HeldOut(a, b);
      }
      if (available < count) {
        return absl::InvalidArgumentError(absl::StrCat("data.generator.eval_problems: ", count, ", expected at most ", available,
                                                       " (the task's held-out problems)"));
      }
    }
    PhiloxStream random(MakePhiloxKey(12345, "addition held out"));
    std::set<std::pair<int64_t, int64_t>> seen;
    std::vector<DataRow> rows;
    while (static_cast<int64_t>(rows.size()) < count) {
      const auto [a, b] = Draw(random);
      if (!HeldOut(a, b) || !seen.insert(std::minmax({a, b})).second) continue;
      rows.push_back(MakeRow(a, b, ""));
      rows.back().source = absl::StrCat("addition:held_out:", rows.size() - 1);
    }
    return rows;
  }

 private:
  std::pair<int64_t, int64_t> Draw(PhiloxStream& random) const {
    const int64_t a = low_ + static_cast<int64_t>(random.NextBelow(high_ - low_));
    const int64_t b = low_ + static_cast<int64_t>(random.NextBelow(high_ - low_));
    return {a, b};
  }

  // A+B and B+A fall into one class.
  static bool HeldOut(int64_t a, int64_t b) {
    return IsHeldOut(static_cast<uint64_t>(std::min(a, b)) * 1000000007ull + static_cast<uint64_t>(std::max(a, b)));
  }

  std::string Demonstration(int64_t a, int64_t b, PhiloxStream& random) const {
    if (random.NextDouble() < config_.lazy()) return absl::StrCat("<think></think><answer>", a + b, "</answer>");
    std::string steps;
    int64_t result = 0, place = 1, carry = 0;
    for (int column = 0; column < config_.digits(); ++column, place *= 10, a /= 10, b /= 10) {
      if (carry && random.NextDouble() < config_.forget_carry()) carry = 0;
      const int64_t sum = a % 10 + b % 10 + carry;
      absl::StrAppend(&steps, column ? ";" : "", a % 10, "+", b % 10, carry ? "+1" : "", "=", sum);
      result += sum % 10 * place;
      carry = sum / 10;
    }
    return absl::StrCat("<think>", steps, "</think><answer>", result + carry * place, "</answer>");
  }

  static DataRow MakeRow(int64_t a, int64_t b, std::string completion) {
    DataRow row;
    row.columns = {{"prompt", absl::StrCat(a, "+", b, "=")}, {"answer", absl::StrCat(a + b)}};
    if (!completion.empty()) row.columns["completion"] = std::move(completion);
    return row;
  }

  v1::Addition config_;
  int64_t low_ = 1, high_ = 10;  // operands lie in [low_, high_)
};

}  // namespace

std::unique_ptr<ProblemGenerator> MakeAddition(const v1::Addition& config) { return std::make_unique<AdditionGenerator>(config); }

}  // namespace grouper
