// Countdown: make a target from given numbers with + - * /, each number exactly once. Problems are made backwards: numbers are drawn and
// combined at random with exact integer operations, so that every problem has a solution. The demonstration thinks aloud: it tries a few
// wrong combinations first, then the right one.
#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/data/generator.h"

namespace grouper {
namespace {

// A partial result: its value and how it was written.
struct Term {
  int64_t value = 0;
  std::string text;
  char outer = 0;  // outermost operator, 0 for a number
};

std::string Bracket(const Term& term, bool needed) { return needed ? absl::StrCat("(", term.text, ")") : term.text; }

// a op b in exact integers; false when the result is not a non-negative integer or grows beyond `limit`.
bool Apply(char op, const Term& a, const Term& b, int64_t limit, Term& out) {
  switch (op) {
    case '+':
      out.value = a.value + b.value;
      out.text = absl::StrCat(a.text, "+", b.text);
      break;
    case '-':
      out.value = a.value - b.value;
      out.text = absl::StrCat(a.text, "-", Bracket(b, b.outer == '+' || b.outer == '-'));
      break;
    case '*':
      out.value = a.value * b.value;
      out.text = absl::StrCat(Bracket(a, a.outer == '+' || a.outer == '-'), "*", Bracket(b, b.outer == '+' || b.outer == '-'));
      break;
    default:
      if (b.value == 0 || a.value % b.value != 0) return false;
      out.value = a.value / b.value;
      out.text = absl::StrCat(Bracket(a, a.outer == '+' || a.outer == '-'), "/", Bracket(b, b.outer != 0));
  }
  out.outer = op;
  return out.value >= 0 && out.value <= limit;
}

class CountdownGenerator : public ProblemGenerator {
 public:
  explicit CountdownGenerator(const v1::Countdown& config) : config_(config) {}

  DataRow TrainRow(PhiloxStream& random) const override {
    while (true) {
      Problem problem = Draw(random);
      if (!HeldOut(problem)) return MakeRow(problem, Demonstration(problem, random));
    }
  }

  absl::StatusOr<std::vector<DataRow>> HeldOutRows(int64_t count) const override {
    PhiloxStream random(MakePhiloxKey(12345, "countdown held out"));
    std::set<std::pair<std::vector<int64_t>, int64_t>> seen;
    std::vector<DataRow> rows;
    for (int64_t draws = 0; static_cast<int64_t>(rows.size()) < count; ++draws) {
      if (draws > 20000 + 2000 * count) {
        return absl::InvalidArgumentError(absl::StrCat("data.generator.eval_problems: ", count, ", but the task has only about ",
                                                       rows.size(), " held-out problems; raise countdown.max_number or ask for fewer"));
      }
      const Problem problem = Draw(random);
      std::vector<int64_t> sorted = problem.numbers;
      std::sort(sorted.begin(), sorted.end());
      if (!HeldOut(problem) || !seen.insert({sorted, problem.target}).second) continue;
      rows.push_back(MakeRow(problem, ""));
      rows.back().source = absl::StrCat("countdown:held_out:", rows.size() - 1);
    }
    return rows;
  }

 private:
  struct Problem {
    std::vector<int64_t> numbers;
    int64_t target = 0;
    std::string solution;
  };

  // Combines the numbers in random order with random operators; empty text when a step was not allowed.
  Term Combine(std::vector<Term> terms, PhiloxStream& random) const {
    const int64_t limit = int64_t{1} << 30;
    while (terms.size() > 1) {
      const size_t i = random.NextBelow(terms.size());
      Term a = std::move(terms[i]);
      terms.erase(terms.begin() + static_cast<int64_t>(i));
      const size_t j = random.NextBelow(terms.size());
      Term combined;
      if (!Apply("+-*/"[random.NextBelow(4)], a, terms[j], limit, combined)) return {};
      terms[j] = std::move(combined);
    }
    return terms[0];
  }

  static std::vector<Term> Terms(const std::vector<int64_t>& numbers) {
    std::vector<Term> terms;
    for (int64_t number : numbers) terms.push_back({number, absl::StrCat(number), 0});
    return terms;
  }

  Problem Draw(PhiloxStream& random) const {
    while (true) {
      Problem problem;
      const int64_t count = config_.min_numbers() +
                            static_cast<int64_t>(random.NextBelow(config_.max_numbers() - config_.min_numbers() + 1));
      for (int64_t i = 0; i < count; ++i) {
        problem.numbers.push_back(1 + static_cast<int64_t>(random.NextBelow(config_.max_number())));
      }
      const Term term = Combine(Terms(problem.numbers), random);
      if (term.text.empty() || term.value < 1 || term.value > config_.max_target()) continue;
      problem.target = term.value;
      problem.solution = term.text;
      return problem;
    }
  }

  static bool HeldOut(const Problem& problem) {
    std::vector<int64_t> sorted = problem.numbers;
    std::sort(sorted.begin(), sorted.end());
    uint64_t hash = static_cast<uint64_t>(problem.target);
    for (int64_t number : sorted) hash = hash * 1000003ull + static_cast<uint64_t>(number);
    return IsHeldOut(hash);
  }

  std::string Demonstration(const Problem& problem, PhiloxStream& random) const {
    std::string think;
    const uint64_t attempts = random.NextBelow(3);
    for (uint64_t i = 0; i < attempts; ++i) {
      const Term wrong = Combine(Terms(problem.numbers), random);
      if (wrong.text.empty() || wrong.value == problem.target) continue;
      absl::StrAppend(&think, wrong.text, "=", wrong.value, ", no. ");
    }
    absl::StrAppend(&think, problem.solution, "=", problem.target, ", yes.");
    return absl::StrCat("<think>", think, "</think><answer>", problem.solution, "</answer>");
  }

  static DataRow MakeRow(const Problem& problem, std::string completion) {
    DataRow row;
    row.columns = {{"prompt", absl::StrCat("Using the numbers [", absl::StrJoin(problem.numbers, ", "), "], make ", problem.target, ".")},
                   {"numbers", problem.numbers},
                   {"target", problem.target}};
    if (!completion.empty()) {
      row.columns["completion"] = std::move(completion);
      row.columns["answer"] = problem.solution;
    }
    return row;
  }

  v1::Countdown config_;
};

}  // namespace

std::unique_ptr<ProblemGenerator> MakeCountdown(const v1::Countdown& config) { return std::make_unique<CountdownGenerator>(config); }

}  // namespace grouper
