#include "common/base/failpoint.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "common/base/status.h"

namespace grouper::failpoint {
namespace {

// Every place that the program has.
constexpr absl::string_view kNames[] = {
    "checkpoint.after_prune",
    "checkpoint.after_rename",
    "checkpoint.before_manifest",
    "checkpoint.before_prune",
    "checkpoint.before_rename",
    "checkpoint.begin",
    "checkpoint.file_written",
    "client.generate_sent",
    "client.sample_received",
    "client.weights_sent",
    "reward.total",
    "rollout.before_swap",
    "rollout.decode",
    "rollout.first_token",
    "rollout.generate_received",
    "rollout.logits",
    "rollout.prefill",
    "rollout.sample_finished",
    "rollout.weights_chunk",
    "rollout.weights_swapped",
    "trainer.advantage",
    "trainer.backward",
    "trainer.completions_line",
    "trainer.generate_sent",
    "trainer.gradient",
    "trainer.group_finished",
    "trainer.logits",
    "trainer.loss",
    "trainer.metrics_line",
    "trainer.optimizer",
    "trainer.prompt_taken",
    "trainer.score_received",
    "trainer.step_end",
    "trainer.weights_pushed",
};

enum class Action { kKill, kStop, kError, kDelay, kNan };

struct Point {
  uint64_t first = 1;    // ordinal of the hit that fires
  bool repeat = false;   // and every later one
  Action action = Action::kError;
  int64_t delay_ms = 0;
  uint64_t hits = 0;
};

std::atomic<bool> armed{false};
std::mutex mutex;                                  // guards `points`
std::map<std::string, std::vector<Point>> points;

absl::StatusOr<Point> ParsePoint(absl::string_view count, absl::string_view action) {
  Point point;
  point.repeat = absl::ConsumeSuffix(&count, "+");
  if (!absl::SimpleAtoi(count, &point.first) || point.first == 0) {
    return absl::InvalidArgumentError(absl::StrCat("expected a count of at least 1, got \"", count, "\""));
  }
  if (action == "kill") {
    point.action = Action::kKill;
  } else if (action == "stop") {
    point.action = Action::kStop;
  } else if (action == "error") {
    point.action = Action::kError;
  } else if (action == "nan") {
    point.action = Action::kNan;
  } else if (absl::ConsumePrefix(&action, "delay=") && absl::SimpleAtoi(action, &point.delay_ms) &&
             point.delay_ms >= 0) {
    point.action = Action::kDelay;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("expected an action kill, stop, error, nan or delay=MILLISECONDS, got \"", action, "\""));
  }
  return point;
}

// The action that fires at this hit, if any.
const Point* Fire(absl::string_view name, Point* copy) {
  std::lock_guard<std::mutex> lock(mutex);
  auto it = points.find(std::string(name));
  if (it == points.end()) return nullptr;
  const Point* fired = nullptr;
  for (Point& point : it->second) {
    ++point.hits;
    if (fired == nullptr && (point.hits == point.first || (point.repeat && point.hits > point.first))) {
      *copy = point;
      fired = copy;
    }
  }
  return fired;
}

// Kill, stop and delay act here; the caller handles the rest.
void Act(const Point& point) {
  if (point.action == Action::kKill) kill(getpid(), SIGKILL);
  if (point.action == Action::kStop) kill(getpid(), SIGSTOP);
  if (point.action == Action::kDelay) absl::SleepFor(absl::Milliseconds(point.delay_ms));
}

}  // namespace

absl::Status Arm(absl::string_view spec) {
  std::map<std::string, std::vector<Point>> parsed;
  for (absl::string_view entry : absl::StrSplit(spec, ',', absl::SkipWhitespace())) {
    const std::vector<absl::string_view> parts = absl::StrSplit(entry, ':');
    if (parts.size() != 3 || parts[0].empty()) {
      return absl::InvalidArgumentError(absl::StrCat("failpoint \"", entry, "\": expected NAME:COUNT:ACTION"));
    }
    ASSIGN_OR_RETURN(const Point point,
                     Annotate(ParsePoint(parts[1], parts[2]), absl::StrCat("failpoint \"", entry, "\"")));
    parsed[std::string(parts[0])].push_back(point);
  }
  std::lock_guard<std::mutex> lock(mutex);
  points = std::move(parsed);
  armed = !points.empty();
  return absl::OkStatus();
}

absl::Status InitFromEnvironment() {
  const char* spec = std::getenv("GROUPER_FAIL");
  if (spec == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(Annotate(Arm(spec), "GROUPER_FAIL"));
  std::lock_guard<std::mutex> lock(mutex);
  for (const auto& [name, point] : points) {
    if (std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames)) continue;
    const std::string part = name.substr(0, name.find('.')) + ".";
    std::vector<absl::string_view> near;
    std::copy_if(std::begin(kNames), std::end(kNames), std::back_inserter(near), [&](absl::string_view n) { return absl::StartsWith(n, part); });
    if (near.empty()) near.assign(std::begin(kNames), std::end(kNames));
    return absl::InvalidArgumentError(absl::StrCat("GROUPER_FAIL: no failpoint \"", name, "\", expected one of: ", absl::StrJoin(near, ", ")));
  }
  return absl::OkStatus();
}

absl::Status Hit(absl::string_view name) {
  if (!armed.load(std::memory_order_relaxed)) return absl::OkStatus();
  Point point;
  if (Fire(name, &point) == nullptr) return absl::OkStatus();
  Act(point);
  if (point.action == Action::kError) return absl::UnavailableError(absl::StrCat("injected failure at ", name));
  return absl::OkStatus();
}

bool HitNan(absl::string_view name) {
  if (!armed.load(std::memory_order_relaxed)) return false;
  Point point;
  if (Fire(name, &point) == nullptr) return false;
  Act(point);
  return point.action == Action::kNan;
}

}  // namespace grouper::failpoint
