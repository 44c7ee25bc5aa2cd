#include "common/base/failpoint.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "common/base/status.h"

namespace grouper::failpoint {
namespace {

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
  return spec == nullptr ? absl::OkStatus() : Annotate(Arm(spec), "GROUPER_FAIL");
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
