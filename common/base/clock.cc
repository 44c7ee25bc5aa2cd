#include "common/base/clock.h"

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"

namespace grouper {
namespace {

class SystemClock : public Clock {
 public:
  absl::Time Now() override { return absl::Now(); }
  void Sleep(absl::Duration duration) override { absl::SleepFor(duration); }
};

}  // namespace

Clock& RealClock() {
  static SystemClock clock;
  return clock;
}

struct FakeClock::State {
  absl::Mutex mutex;
  absl::Time now ABSL_GUARDED_BY(mutex);
};

FakeClock::FakeClock(absl::Time start) : state_(new State) {
  absl::MutexLock lock(&state_->mutex);
  state_->now = start;
}
FakeClock::~FakeClock() { delete state_; }

absl::Time FakeClock::Now() {
  absl::MutexLock lock(&state_->mutex);
  return state_->now;
}
void FakeClock::Sleep(absl::Duration duration) { Advance(duration); }
void FakeClock::Advance(absl::Duration duration) {
  absl::MutexLock lock(&state_->mutex);
  state_->now += duration;
}

}  // namespace grouper
