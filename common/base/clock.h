// Time that tests can move. Everything that waits or measures takes a Clock&.
#pragma once

#include "absl/time/time.h"

namespace grouper {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() = 0;
  virtual void Sleep(absl::Duration duration) = 0;
};

Clock& RealClock();

// Starts at a given time; Sleep advances it at once. Thread-safe.
class FakeClock : public Clock {
 public:
  explicit FakeClock(absl::Time start);
  ~FakeClock() override;
  absl::Time Now() override;
  void Sleep(absl::Duration duration) override;
  void Advance(absl::Duration duration);

 private:
  struct State;
  State* state_;
};

}  // namespace grouper
