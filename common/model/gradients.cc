#include <algorithm>

#include "common/model/model_state.h"
#include "common/model/pass_memory.h"
#include "kernels/elementwise.h"

namespace grouper {
namespace {

template <typename State>
DType GradientType(const State& s, const Weight& weight, DType matrices) {
  const bool narrow = matrices == DType::kBF16 && weight.value.rank() >= 2 && weight.value.dtype() == DType::kBF16 &&
                      &weight != s.embedding && &weight != s.head;
  return narrow ? DType::kBF16 : AccumulatorType(s.dtype);
}

// Where the weights' gradients lie in one piece of memory, so that they are zeroed at once; calls f(weight, type, offset) for each. Its bytes.
template <typename State, typename F>
size_t PlaceAll(const State& s, DType matrices, F f) {
  constexpr size_t kAlignment = 256;
  size_t bytes = 0;
  for (const auto& weight : s.store.weights) {
    const DType type = GradientType(s, *weight, matrices);
    f(*weight, type, bytes);
    bytes += (static_cast<size_t>(weight->value.size()) * SizeOf(type) + kAlignment - 1) / kAlignment * kAlignment;
  }
  return bytes;
}

int64_t Words(size_t bytes) { return static_cast<int64_t>(bytes / sizeof(float)); }

}  // namespace

Gradients::Gradients(const Model& model, DType matrices) : memory_(std::make_unique<Arena>(model.device())) {
  const Model::State& s = *model.state_;
  CHECK(s.use == WeightUse::kTrain) << "a model for forward passes has no gradients";
  CHECK(matrices != DType::kBF16 || (s.dtype == DType::kBF16 && s.device.is_cuda()));
  all_ = memory_->NewZero(DType::kF32, {1, Words(PlaceAll(s, matrices, [](const Weight&, DType, size_t) {}))});
  PlaceAll(s, matrices, [&](const Weight& weight, DType type, size_t offset) {
    const Tensor& w = weight.value;
    char* const data = static_cast<char*>(all_.raw()) + offset;
    fused_.push_back(w.rank() == 1   ? Tensor(data, type, {w.dim(0)}, s.device)
                     : w.rank() == 2 ? Tensor(data, type, {w.dim(0), w.dim(1)}, s.device)
                                     : Tensor(data, type, {w.dim(0), w.dim(1), w.dim(2)}, s.device));
  });
  if (s.head == s.embedding) {
    head_ = memory_->NewZero(AccumulatorType(s.dtype), {s.embedding->value.dim(0), s.embedding->value.dim(1)});
    tied_ = static_cast<size_t>(model.FindTensor("model.embed_tokens.weight"));
  } else {
    head_ = fused_[s.head->index];
  }
  for (int index : s.logical_of) {
    const WeightStore::Logical& logical = s.store.logical[index];
    const Tensor& fused = fused_[logical.weight];
    const DType type = fused.dtype();
    char* data = static_cast<char*>(fused.raw()) + static_cast<size_t>(logical.offset) * SizeOf(type);
    const Tensor& shape = logical.tensor.value;
    tensors_.push_back(shape.rank() == 1 ? Tensor(data, type, {shape.dim(0)}, s.device)
                                         : Tensor(data, type, {shape.dim(0), shape.dim(1)}, s.device));
  }
}

Gradients::~Gradients() = default;

size_t Gradients::Bytes(const Model& model, Device device, DType matrices) {
  const Model::State& s = *model.state_;
  ArenaSizer memory(device);
  memory.New(DType::kF32, Words(PlaceAll(s, matrices, [](const Weight&, DType, size_t) {})));
  if (s.head == s.embedding) memory.New(AccumulatorType(s.dtype), s.embedding->value.size());
  return memory.held();
}

const Tensor& Gradients::tensor(size_t i) const {
  CHECK(!(head_pending_ && i == tied_)) << "Finish comes first";
  return tensors_[i];
}

void Gradients::Finish(Stream& stream) {
  if (!head_pending_) return;
  kernels::Add(stream, head_, tensors_[tied_]);
  kernels::Fill(stream, head_, 0);
  head_pending_ = false;
}

void Gradients::Zero(Stream& stream) {
  kernels::Fill(stream, all_, 0);
  if (head_pending_) kernels::Fill(stream, head_, 0);
  head_pending_ = false;
}

}  // namespace grouper
