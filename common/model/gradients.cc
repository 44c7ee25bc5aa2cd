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

}  // namespace

Gradients::Gradients(const Model& model, DType matrices) : memory_(std::make_unique<Arena>(model.device())) {
  const Model::State& s = *model.state_;
  CHECK(s.use == WeightUse::kTrain) << "a model for forward passes has no gradients";
  CHECK(matrices != DType::kBF16 || (s.dtype == DType::kBF16 && s.device.is_cuda()));
  for (const auto& weight : s.store.weights) {
    const Tensor& w = weight->value;
    const DType type = GradientType(s, *weight, matrices);
    switch (w.rank()) {
      case 1:
        fused_.push_back(memory_->NewZero(type, {w.dim(0)}));
        break;
      case 2:
        fused_.push_back(memory_->NewZero(type, {w.dim(0), w.dim(1)}));
        break;
      default:
        fused_.push_back(memory_->NewZero(type, {w.dim(0), w.dim(1), w.dim(2)}));
    }
  }
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
  for (const auto& weight : s.store.weights) {
    memory.New(GradientType(s, *weight, matrices), weight->value.size());
  }
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
  for (const Tensor& tensor : fused_) kernels::Fill(stream, tensor.Reshape({1, tensor.size()}), 0);
  if (head_pending_) kernels::Fill(stream, head_, 0);
  head_pending_ = false;
}

}  // namespace grouper
