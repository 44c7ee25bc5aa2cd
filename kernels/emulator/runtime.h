// What the CUDA runtime is to an emulated build: devices that do what a stream is given at once.
#pragma once

#include <cuda_runtime.h>

#include <functional>

namespace grouper::emulator {

// Runs `work`, or records it in the graph that the stream captures.
void Submit(cudaStream_t stream, std::function<void()> work);
// A kernel is launched on a stream of the thread's current device, as CUDA asks.
void CheckCurrentDevice(cudaStream_t stream);

}  // namespace grouper::emulator
