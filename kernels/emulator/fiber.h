// Threads of control that change over when they say so.
#pragma once

#include <cstddef>
#include <memory>

namespace grouper::emulator {

// A stack and where it is in its code. `entry` must not return.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void Start(void (*entry)());  // from its beginning, at the next SwitchTo

  // Both are of the thread that runs: leaves it for the fiber, and leaves the fiber for whoever entered it.
  void SwitchTo();
  void SwitchBack();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace grouper::emulator
