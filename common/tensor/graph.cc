#include "common/tensor/graph.h"

#include <utility>

#include "common/tensor/cuda.h"

namespace grouper {

Graph::Graph(Stream& stream, std::function<void()> ops) : device_(stream.device) {
  if (!device_.is_cuda()) {
    ops_ = std::move(ops);
    return;
  }
  cuda::BeginCapture(device_.index, stream.handle);
  ops();
  executable_ = cuda::EndCapture(device_.index, stream.handle);
}

Graph::~Graph() {
  if (executable_ != nullptr) cuda::DeleteGraph(device_.index, executable_);
}

void Graph::Launch(Stream& stream) {
  CHECK(stream.device == device_);
  device_.is_cuda() ? cuda::LaunchGraph(device_.index, executable_, stream.handle) : ops_();
}

StreamEvent::StreamEvent(Device device) : device_(device), event_(device.is_cuda() ? cuda::NewEvent(device.index) : nullptr) {}

StreamEvent::~StreamEvent() {
  if (event_ != nullptr) cuda::DeleteEvent(device_.index, event_);
}

void StreamEvent::Record(Stream& stream) {
  if (event_ != nullptr) cuda::RecordEvent(device_.index, event_, stream.handle);
}

void StreamEvent::Wait() {
  if (event_ != nullptr) cuda::WaitForEvent(device_.index, event_);
}

}  // namespace grouper
