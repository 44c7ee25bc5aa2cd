// Graph: ops of a stream recorded once and run many times, with one call a run. StreamEvent: a point in a stream that the host waits for.
//
//   Graph step(stream, [&] { model.Forward(stream, batch, kv, hidden); ... });
//   write the batch's device memory;  step.Launch(stream);
//
// On CUDA a recorded op keeps its arguments: the addresses of what it reads and writes, grid sizes, and whatever the host decided while
// recording. Contents are read when it runs. So `ops` may only decide by what stays the same, must not wait for the stream, and must have run
// once before (kernels are loaded, scratch memory has grown). On the CPU a graph keeps `ops` itself and calls it.
#pragma once

#include <functional>

#include "common/tensor/stream.h"

namespace grouper {

class Graph {
 public:
  Graph(Stream& stream, std::function<void()> ops);  // records; nothing runs on CUDA
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // Enqueues the ops. REQUIRES: the stream that they were recorded on.
  void Launch(Stream& stream);

 private:
  Device device_;
  std::function<void()> ops_;   // CPU
  void* executable_ = nullptr;  // CUDA
};

class StreamEvent {
 public:
  explicit StreamEvent(Device device);
  ~StreamEvent();
  StreamEvent(const StreamEvent&) = delete;
  StreamEvent& operator=(const StreamEvent&) = delete;

  void Record(Stream& stream);
  // Returns when everything before the last Record has run.
  void Wait();

 private:
  Device device_;
  void* event_ = nullptr;
};

}  // namespace grouper
