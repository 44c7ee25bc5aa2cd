#include "common/tensor/stream.h"

#include "common/tensor/cuda.h"

namespace grouper {
namespace {

size_t CheckedBytes(const Tensor& a, const Tensor& b) {
  CHECK(a.ShapeString() == b.ShapeString() && a.contiguous() && b.contiguous())
      << a.ShapeString() << " " << b.ShapeString();
  return static_cast<size_t>(a.size()) * SizeOf(a.dtype());
}

}  // namespace

Stream::Stream(ThreadPool& threads, Device device)
    : device(device),
      threads(threads),
      handle(device.is_cuda() ? cuda::NewStream(device.index) : nullptr),
      scratch(device, handle) {}

Stream::~Stream() {
  if (handle == nullptr) return;
  cuda::Synchronize(device.index, handle);
  cuda::DeleteStream(device.index, handle);
}

void Stream::Synchronize() {
  if (handle != nullptr) cuda::Synchronize(device.index, handle);
}

void UploadAsync(Stream& stream, const Tensor& host, const Tensor& device) {
  CHECK(stream.device.is_cuda() && device.device() == stream.device && !host.device().is_cuda());
  cuda::CopyToDevice(stream.device.index, device.raw(), host.raw(), CheckedBytes(host, device), stream.handle);
}

void Upload(Stream& stream, const Tensor& host, const Tensor& device) {
  UploadAsync(stream, host, device);
  stream.Synchronize();
}

void Download(Stream& stream, const Tensor& device, const Tensor& host) {
  CHECK(stream.device.is_cuda() && device.device() == stream.device && !host.device().is_cuda());
  cuda::CopyToHost(stream.device.index, host.raw(), device.raw(), CheckedBytes(device, host), stream.handle);
  stream.Synchronize();
}

}  // namespace grouper
