// What ThreadSanitizer must know to find races between a kernel's threads (-DGROUPER_CUDA=EMULATED -DGROUPER_SANITIZE=thread): it follows fibers,
// and takes two accesses to race unless one of these orders them. Nothing without it.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_THREAD__) || defined(GROUPER_RACES)
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_read16(void* p);
#define GROUPER_FINDS_RACES 1
#endif

namespace grouper::emulator {

#ifdef GROUPER_FINDS_RACES

// What was done before Release(x) is before what is done after Acquire(x).
inline void Release(const void* x) { __tsan_release(const_cast<void*>(x)); }
inline void Acquire(const void* x) { __tsan_acquire(const_cast<void*>(x)); }
inline void ReadSixteen(const void* x) { __tsan_read16(const_cast<void*>(x)); }

// A course of events of its own, for what is no thread of the kernel.
class Course {
 public:
  Course() : own_(__tsan_create_fiber(0)) {}
  ~Course() { __tsan_destroy_fiber(own_); }
  void Enter() {
    back_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(own_, __tsan_switch_to_fiber_no_sync);
  }
  void Leave() { __tsan_switch_to_fiber(back_, __tsan_switch_to_fiber_no_sync); }

 private:
  void *own_, *back_ = nullptr;
};

#else

inline void Release(const void*) {}
inline void Acquire(const void*) {}
inline void ReadSixteen(const void*) {}

class Course {
 public:
  void Enter() {}
  void Leave() {}
};

#endif

}  // namespace grouper::emulator
