#include "common/data/generator.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace grouper {
namespace {

absl::Status CheckRange(const char* field, double value, double min, double max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("data.generator.", field, ": ", value, ", expected ", min, "..", max));
}

}  // namespace

bool IsHeldOut(uint64_t problem_hash) {
  // SplitMix64's finaliser, so that neighbouring problems fall into unrelated classes.
  problem_hash = (problem_hash ^ (problem_hash >> 30)) * 0xbf58476d1ce4e5b9ull;
  problem_hash = (problem_hash ^ (problem_hash >> 27)) * 0x94d049bb133111ebull;
  return (problem_hash ^ (problem_hash >> 31)) % 97 == 0;
}

absl::StatusOr<std::unique_ptr<ProblemGenerator>> ProblemGenerator::Create(const v1::Generator& config) {
  switch (config.task_case()) {
    case v1::Generator::kAddition: {
      v1::Addition addition = config.addition();
      if (addition.digits() == 0) addition.set_digits(3);
      RETURN_IF_ERROR(CheckRange("addition.digits", addition.digits(), 1, 9));
      RETURN_IF_ERROR(CheckRange("addition.lazy", addition.lazy(), 0, 1));
      RETURN_IF_ERROR(CheckRange("addition.forget_carry", addition.forget_carry(), 0, 1));
      return MakeAddition(addition);
    }
    case v1::Generator::kCountdown: {
      v1::Countdown countdown = config.countdown();
      if (countdown.min_numbers() == 0) countdown.set_min_numbers(3);
      if (countdown.max_numbers() == 0) countdown.set_max_numbers(4);
      if (countdown.max_number() == 0) countdown.set_max_number(99);
      if (countdown.max_target() == 0) countdown.set_max_target(999);
      RETURN_IF_ERROR(CheckRange("countdown.min_numbers", countdown.min_numbers(), 2, 6));
      RETURN_IF_ERROR(CheckRange("countdown.max_numbers", countdown.max_numbers(), countdown.min_numbers(), 6));
      RETURN_IF_ERROR(CheckRange("countdown.max_number", countdown.max_number(), 9, 999));
      RETURN_IF_ERROR(CheckRange("countdown.max_target", countdown.max_target(), 10, 99999));
      return MakeCountdown(countdown);
    }
    case v1::Generator::TASK_NOT_SET: break;
  }
  return absl::InvalidArgumentError("data.generator: expected a task: addition {...} or countdown {...}");
}

}  // namespace grouper
