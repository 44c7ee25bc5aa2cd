#include "kernels/adamw.h"

#include "kernels/dispatch.h"
#include "kernels/row_ops_cuda.h"

namespace grouper::kernels {

namespace cpu {  // adamw_cpu.cc
template <typename T, typename W>
void AdamW(Stream& stream, const AdamWParams& params, const Tensor& gradient, const Tensor& m, const Tensor& v,
           const Tensor& master, const Tensor& weight);
template <typename T>
double SumOfSquares(Stream& stream, const Tensor& gradient);
}  // namespace cpu

namespace {

void CheckTensors(const Tensor& gradient, const Tensor& m, const Tensor& v, const Tensor& master, const Tensor& weight) {
  for (const Tensor* t : {&gradient, &m, &v, &master}) {
    const bool narrow = t == &gradient && t->dtype() == DType::kBF16 && t->device().is_cuda();
    CHECK((narrow || t->dtype() == AccumulatorOf(weight.dtype())) && t->contiguous() && t->size() == weight.size())
        << t->ShapeString() << " for weight " << weight.ShapeString();
  }
  CHECK(weight.contiguous()) << weight.ShapeString();
}

}  // namespace

void AdamW(Stream& stream, const AdamWParams& params, const Tensor& gradient, const Tensor& m, const Tensor& v,
           const Tensor& master, const Tensor& weight) {
  CHECK_GE(params.step, 1);
  CheckTensors(gradient, m, v, master, weight);
  ByStorage(
      weight,
      [&](auto w) {
        using W = decltype(w);
        using T = std::conditional_t<std::is_same_v<W, double>, double, float>;
        cpu::AdamW<T, W>(stream, params, gradient, m, v, master, weight);
      },
      [&](auto) { cuda::AdamW(stream, params, {{gradient, m, v, master, weight, params.weight_decay}}); });
}

void AdamW(Stream& stream, const AdamWParams& params, const std::vector<AdamWTensors>& tensors) {
  CHECK_GE(params.step, 1);
  for (const AdamWTensors& t : tensors) CheckTensors(t.gradient, t.m, t.v, t.master, t.weight);
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda()) return cuda::AdamW(stream, params, tensors);
  }
  for (const AdamWTensors& t : tensors) {
    AdamWParams own = params;
    own.weight_decay = t.weight_decay;
    AdamW(stream, own, t.gradient, t.m, t.v, t.master, t.weight);
  }
}

double SumOfSquares(Stream& stream, const Tensor& gradient) {
  CHECK(gradient.contiguous()) << gradient.ShapeString();
  double sum = 0;
  ByStorage(gradient, [&](auto t) { sum = cpu::SumOfSquares<decltype(t)>(stream, gradient); },
            [&](auto) { sum = cuda::SumOfSquares(stream, {gradient}); });
  return sum;
}

double SumOfSquares(Stream& stream, const std::vector<Tensor>& gradients) {
  for (const Tensor& gradient : gradients) CHECK(gradient.contiguous()) << gradient.ShapeString();
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda()) return cuda::SumOfSquares(stream, gradients);
  }
  double sum = 0;
  for (const Tensor& gradient : gradients) sum += SumOfSquares(stream, gradient);
  return sum;
}

}  // namespace grouper::kernels
