#include "kernels/emulator/fiber.h"

#include <cstdint>

#include "kernels/emulator/race.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace grouper::emulator {

#if defined(__SANITIZE_ADDRESS__) || defined(GROUPER_FINDS_RACES)
constexpr size_t kStackBytes = 512 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif

#if defined(__x86_64__)

// Saves what a function must keep, and the stack; goes on where the other stack was left. Ten times faster than swapcontext,
// which calls the kernel for the signals.
extern "C" void grouper_switch_stacks(void** from, void* to);
asm(R"(
.text
.globl grouper_switch_stacks
.type grouper_switch_stacks, @function
grouper_switch_stacks:
  endbr64
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size grouper_switch_stacks, .-grouper_switch_stacks
)");

struct Fiber::State {
  std::unique_ptr<char[]> stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
  void *own = nullptr, *back = nullptr;
  Course course;
};

void Fiber::Start(void (*entry)()) {
  const uintptr_t top = (reinterpret_cast<uintptr_t>(state_->stack.get()) + kStackBytes) & ~uintptr_t{15};
  auto* const words = reinterpret_cast<void**>(top);
  words[-1] = nullptr;  // where entry would return to
  words[-2] = reinterpret_cast<void*>(entry);
  for (int i = 3; i <= 8; ++i) words[-i] = nullptr;
  state_->own = words - 8;
}
void Fiber::SwitchTo() {
  state_->course.Enter();
  grouper_switch_stacks(&state_->back, state_->own);
}
void Fiber::SwitchBack() {
  state_->course.Leave();
  grouper_switch_stacks(&state_->own, state_->back);
}

#else

struct Fiber::State {
  std::unique_ptr<char[]> stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
  ucontext_t own, back;
  Course course;
};

void Fiber::Start(void (*entry)()) {
  getcontext(&state_->own);
  state_->own.uc_stack.ss_sp = state_->stack.get();
  state_->own.uc_stack.ss_size = kStackBytes;
  state_->own.uc_link = nullptr;
  makecontext(&state_->own, entry, 0);
}
void Fiber::SwitchTo() {
  state_->course.Enter();
  swapcontext(&state_->back, &state_->own);
}
void Fiber::SwitchBack() {
  state_->course.Leave();
  swapcontext(&state_->own, &state_->back);
}

#endif

Fiber::Fiber() : state_(std::make_unique<State>()) {}
Fiber::~Fiber() = default;

}  // namespace grouper::emulator
