// A progress line in the terminal: bar, rate, a few numbers, time left. On something that is no terminal it prints a plain line now and then.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/clock.h"

namespace grouper {

class Progress {
 public:
  // `label` stands in front ("sft", "rl step"), total in units (steps). Writes to stderr. At most one Progress at a time draws; log lines
  // step around it.
  Progress(std::string label, int64_t total, Clock& clock = RealClock());
  ~Progress();  // leaves the last line standing

  // `note`: what follows the bar ("48.1k tok/s  reward 0.82"). Redraws at most ten times a second.
  void Update(int64_t done, const std::string& note);
  // Takes the bar off the screen until the next Update, so that something else can be printed.
  void Hide();

 struct State;  // opaque

 private:
  std::unique_ptr<State> state_;
};

// "1m23s", "47s", "2h05m".
std::string HumanDuration(absl::Duration duration);
// "950", "48.1k", "1.2M".
std::string HumanCount(double count);

// A curve of y over x as text of `width` x `height` characters with axes, for the end of a run.
std::string DrawCurve(const std::string& title, const std::vector<double>& x, const std::vector<double>& y, int width, int height);

}  // namespace grouper
