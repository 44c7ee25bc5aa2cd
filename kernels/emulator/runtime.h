// What the CUDA runtime is to an emulated build: one device that does what a stream is given at once.
#pragma once

#include <cuda_runtime.h>

#include <functional>

namespace grouper::emulator {

// Runs `work`, or records it in the graph that the stream captures.
void Submit(cudaStream_t stream, std::function<void()> work);

}  // namespace grouper::emulator
