#include "trainer/optimizer.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "common/model/pass_memory.h"
#include "kernels/adamw.h"
#include "kernels/elementwise.h"

namespace grouper {
namespace {

Tensor Flat(const Tensor& tensor) { return tensor.Reshape({tensor.size()}); }

}  // namespace

OptimizerState::OptimizerState(Model& model, Stream& stream) : model_(model), memory_(model.device()) {
  const DType type = model.dtype() == DType::kF64 ? DType::kF64 : DType::kF32;
  for (const LogicalTensor& tensor : model.tensors()) {
    if (!tensor.trainable) {
      m_.emplace_back();
      v_.emplace_back();
      master_.emplace_back();
      continue;
    }
    const int64_t n = tensor.value.size();
    m_.push_back(memory_.NewZero(type, {n}));
    v_.push_back(memory_.NewZero(type, {n}));
    named_.push_back({absl::StrCat("m.", tensor.name), m_.back()});
    named_.push_back({absl::StrCat("v.", tensor.name), v_.back()});
    if (tensor.value.dtype() == type) {
      master_.push_back(Flat(tensor.value));
    } else {
      master_.push_back(memory_.New(type, {n}));
      kernels::Copy(stream, tensor.value.Reshape({1, n}), master_.back().Reshape({1, n}));
      named_.push_back({absl::StrCat("master.", tensor.name), master_.back()});
    }
  }
}

size_t OptimizerState::Bytes(const Model& model, Device device) {
  const DType type = model.dtype() == DType::kF64 ? DType::kF64 : DType::kF32;
  ArenaSizer memory(device);
  for (const LogicalTensor& tensor : model.tensors()) {
    if (!tensor.trainable) continue;
    for (int i = 0; i < (tensor.value.dtype() == type ? 2 : 3); ++i) memory.New(type, tensor.value.size());
  }
  return memory.held();
}

OptimizerState::Outcome OptimizerState::Step(Stream& stream, const v1::Optimizer& config, double lr, const Gradients& gradients) {
  Outcome outcome;
  std::vector<Tensor> trained;
  for (size_t i = 0; i < master_.size(); ++i) {
    if (!master_[i].empty()) trained.push_back(Flat(gradients.tensor(i)));
  }
  outcome.grad_norm = std::sqrt(kernels::SumOfSquares(stream, trained));
  if (!std::isfinite(outcome.grad_norm)) {
    const auto finite = [&](size_t i) { return master_[i].empty() || std::isfinite(kernels::SumOfSquares(stream, Flat(gradients.tensor(i)))); };
    size_t first = 0;
    while (first + 1 < master_.size() && finite(first)) ++first;
    outcome.not_finite = absl::StrCat("the gradient of ", model_.tensors()[first].name);
    return outcome;
  }
  kernels::AdamWParams params;
  params.lr = lr;
  params.beta1 = config.beta1();
  params.beta2 = config.beta2();
  params.eps = config.eps();
  params.step = ++step_;
  if (config.max_grad_norm() > 0 && outcome.grad_norm > config.max_grad_norm()) {
    params.gradient_scale = config.max_grad_norm() / outcome.grad_norm;
  }
  std::vector<kernels::AdamWTensors> tensors;
  for (size_t i = 0; i < master_.size(); ++i) {
    if (master_[i].empty()) continue;
    const Tensor& weight = model_.tensors()[i].value;
    const double decay = weight.rank() >= 2 ? config.weight_decay() : 0;
    tensors.push_back({Flat(gradients.tensor(i)), m_[i], v_[i], master_[i], Flat(weight), decay});
  }
  kernels::AdamW(stream, params, tensors);
  outcome.applied = true;
  return outcome;
}

}  // namespace grouper
