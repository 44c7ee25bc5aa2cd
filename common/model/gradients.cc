#include <array>

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

enum Piece { kSums, kMatrices, kHead };
struct Place {
  Piece piece;
  size_t offset;  // in bytes
};
using PieceBytes = std::array<size_t, 3>;

// Where the weights' gradients lie in three pieces of memory, so that each is zeroed at once: what is always added to (vectors, the embedding), the
// blocks' matrices, of which each has one product a pass, and the head. Calls f(weight, type, place) for each, by index.
template <typename State, typename F>
PieceBytes PlaceAll(const State& s, DType matrices, F f) {
  constexpr size_t kAlignment = 256;
  PieceBytes bytes = {};
  if (s.head == s.embedding) bytes[kHead] = static_cast<size_t>(s.head->value.size()) * SizeOf(AccumulatorType(s.dtype));
  for (const auto& weight : s.store.weights) {
    const DType type = GradientType(s, *weight, matrices);
    const Piece piece = weight.get() == s.embedding || weight->value.rank() < 2 ? kSums : weight.get() == s.head ? kHead : kMatrices;
    size_t& end = bytes[piece];
    f(*weight, type, Place{piece, end});
    end += (static_cast<size_t>(weight->value.size()) * SizeOf(type) + kAlignment - 1) / kAlignment * kAlignment;
  }
  return bytes;
}

int64_t Words(size_t bytes) { return static_cast<int64_t>(bytes / sizeof(float)); }

}  // namespace

Gradients::Gradients(const Model& model, DType matrices) : memory_(std::make_unique<Arena>(model.device())) {
  const Model::State& s = *model.state_;
  CHECK(s.use == WeightUse::kTrain) << "a model for forward passes has no gradients";
  CHECK(matrices != DType::kBF16 || (s.dtype == DType::kBF16 && s.device.is_cuda()));
  const PieceBytes bytes = PlaceAll(s, matrices, [](const Weight&, DType, Place) {});
  Tensor* const pieces[] = {&sums_, &matrices_, &head_};
  for (Piece piece : {kSums, kMatrices, kHead}) *pieces[piece] = memory_->NewZero(DType::kF32, {1, Words(bytes[piece])});
  PlaceAll(s, matrices, [&](const Weight& weight, DType type, Place place) {
    const Tensor& w = weight.value;
    char* const data = static_cast<char*>(pieces[place.piece]->raw()) + place.offset;
    fused_.push_back(w.rank() == 1   ? Tensor(data, type, {w.dim(0)}, s.device)
                     : w.rank() == 2 ? Tensor(data, type, {w.dim(0), w.dim(1)}, s.device)
                                     : Tensor(data, type, {w.dim(0), w.dim(1), w.dim(2)}, s.device));
  });
  head_ = Tensor(head_.raw(), AccumulatorType(s.dtype), {s.head->value.dim(0), s.head->value.dim(1)}, s.device);
  if (s.head == s.embedding) {
    tied_ = static_cast<size_t>(model.FindTensor("model.embed_tokens.weight"));
    head_empty_ = true;
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
  for (size_t bytes : PlaceAll(s, matrices, [](const Weight&, DType, Place) {})) memory.New(DType::kF32, Words(bytes));
  return memory.held();
}

const Tensor& Gradients::tensor(size_t i) const {
  CHECK(finished_) << "Finish comes first";
  return tensors_[i];
}

void Gradients::Finish(Stream& stream) {
  if (matrices_empty_) kernels::Fill(stream, matrices_, 0);
  matrices_empty_ = false;
  if (tied_ == SIZE_MAX) {
    if (head_empty_) kernels::Fill(stream, head_, 0);
    head_empty_ = false;
  } else if (!head_empty_) {
    kernels::Add(stream, head_, tensors_[tied_]);
    head_empty_ = true;
  }
  finished_ = true;
}

void Gradients::Zero(Stream& stream) {
  kernels::Fill(stream, sums_, 0);
  matrices_empty_ = head_empty_ = true;
  finished_ = false;
}

}  // namespace grouper
