#include "absl/types/span.h"
#include "kernels/linear.h"

#include "kernels/dispatch.h"
#include "kernels/elementwise.h"
#include "kernels/linear_cuda.h"
#include "kernels/packed_matrix.h"

namespace grouper::kernels {

namespace cpu {  // linear_cpu.cc
template <typename S>
void Linear(Stream& stream, const Tensor& x, const Tensor& weight, const PackedMatrix* packed, const Tensor& bias,
            const Tensor& y);
template <typename S>
void LinearBackwardInput(Stream& stream, const Tensor& dy, const Tensor& weight, const Tensor& dx, bool accumulate);
template <typename S>
void LinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& dweight, const Tensor& dbias, bool accumulate);
template <typename S>
void GroupedLinear(Stream& stream, const Tensor& x, absl::Span<const int32_t> offsets, absl::Span<const int32_t> gather,
                   const Tensor& weight, const PackedMatrix* packed, const Tensor& y);
template <typename S>
void GroupedLinearBackwardInput(Stream& stream, const Tensor& dy, absl::Span<const int32_t> offsets, const Tensor& weight,
                                const Tensor& dx);
template <typename S>
void GroupedLinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, absl::Span<const int32_t> offsets,
                                 absl::Span<const int32_t> gather, const Tensor& dweight, bool accumulate);
}  // namespace cpu

namespace {

void CheckMatrix(const Tensor& t, DType dtype, int64_t rows, int64_t columns, const char* name) {
  CHECK(t.rank() == 2 && t.dtype() == dtype && t.dim(0) == rows && t.dim(1) == columns)
      << name << " is " << t.ShapeString() << ", expected " << Name(dtype) << "[" << rows << ", " << columns << "]";
}

void CheckVector(const Tensor& t, DType dtype, int64_t n, const char* name) {
  CHECK(t.rank() == 1 && t.dtype() == dtype && t.dim(0) == n)
      << name << " is " << t.ShapeString() << ", expected " << Name(dtype) << "[" << n << "]";
}

void CheckPacked(const PackedMatrix* packed, const Tensor& weight) {
  if (packed == nullptr || weight.device().is_cuda()) return;  // CUDA reads the canonical weight
  const PackedMatrix::Layout* layout = packed->layout();
  CHECK(layout != nullptr) << "the packed weight was never packed";
  CHECK(layout->dtype == weight.dtype() && layout->n == weight.dim(-2) && layout->k == weight.dim(-1) &&
        layout->experts == (weight.rank() == 3 ? weight.dim(0) : 1))
      << "packed for " << layout->experts << " x " << layout->n << " x " << layout->k << ", weight " << weight.ShapeString();
}

void CheckGroups(const Tensor& weight, absl::Span<const int32_t> offsets, absl::Span<const int32_t> gather) {
  CHECK(weight.rank() == 3) << weight.ShapeString();
  CHECK_EQ(static_cast<int64_t>(offsets.size()), weight.dim(0) + 1);
  CHECK_EQ(offsets[0], 0);
  for (size_t e = 1; e < offsets.size(); ++e) CHECK_LE(offsets[e - 1], offsets[e]);
  CHECK(gather.empty() || gather.size() == static_cast<size_t>(offsets.back())) << gather.size();
}

// A bf16 tensor beside float ones.
bool IsNarrow(const Tensor& t, const Tensor& other) { return t.dtype() == DType::kBF16 && other.dtype() == DType::kF32; }

// On the CPU, for one product: a float tensor like `t`, in scratch memory.
class Widened {
 public:
  Widened(Stream& stream, const Tensor& t) : arena_(stream.scratch), mark_(arena_.mark()), tensor_(arena_.New(DType::kF32, {t.dim(0), t.dim(1)})) {}
  ~Widened() { arena_.Release(mark_); }
  const Tensor& tensor() const { return tensor_; }

 private:
  Arena& arena_;
  const Arena::Mark mark_;
  const Tensor tensor_;
};

}  // namespace

void Linear(Stream& stream, const Tensor& x, const Tensor& weight, const PackedMatrix* packed, const Tensor& bias,
            const Tensor& y) {
  CHECK(x.rank() == 2 && weight.rank() == 2) << x.ShapeString() << " " << weight.ShapeString();
  CheckMatrix(weight, IsNarrow(x, weight) ? DType::kF32 : x.dtype(), weight.dim(0), x.dim(1), "weight");
  CheckMatrix(y, weight.dtype(), x.dim(0), weight.dim(0), "y");
  if (!bias.empty()) CheckVector(bias, weight.dtype(), weight.dim(0), "bias");
  CheckPacked(packed, weight);
  if (IsNarrow(x, weight) && !x.device().is_cuda()) {
    const Widened wide(stream, x);
    Copy(stream, x, wide.tensor());
    return Linear(stream, wide.tensor(), weight, packed, bias, y);
  }
  ByStorage(x, [&](auto s) { cpu::Linear<decltype(s)>(stream, x, weight, packed, bias, y); },
            [&](auto) { cuda::Linear(stream, x, weight, packed, bias, y); });
}

void LinearBackwardInput(Stream& stream, const Tensor& dy, const Tensor& weight, const Tensor& dx, bool accumulate) {
  CHECK(dy.rank() == 2 && weight.rank() == 2) << dy.ShapeString() << " " << weight.ShapeString();
  CheckMatrix(weight, dy.dtype(), dy.dim(1), weight.dim(1), "weight");
  CheckMatrix(dx, IsNarrow(dx, dy) ? DType::kBF16 : dy.dtype(), dy.dim(0), weight.dim(1), "dx");
  if (IsNarrow(dx, dy) && !dx.device().is_cuda()) {
    const Widened wide(stream, dx);
    LinearBackwardInput(stream, dy, weight, wide.tensor(), false);
    if (!accumulate) return Copy(stream, wide.tensor(), dx);
    const Tensor rounded = stream.scratch.New(DType::kBF16, {dx.dim(0), dx.dim(1)});  // goes with `wide`
    Copy(stream, wide.tensor(), rounded);
    return Add(stream, rounded, dx);
  }
  ByStorage(dy, [&](auto s) { cpu::LinearBackwardInput<decltype(s)>(stream, dy, weight, dx, accumulate); },
            [&](auto) { cuda::LinearBackwardInput(stream, dy, weight, dx, accumulate); });
}

namespace {

// The type that a weight's gradient must have: float (double for F64); on a device bf16 too.
DType GradientType(const Tensor& dweight, const Tensor& dy) {
  const bool narrow = dweight.dtype() == DType::kBF16 && dy.dtype() == DType::kBF16 && dy.device().is_cuda();
  return narrow ? DType::kBF16 : AccumulatorOf(dy.dtype());
}

}  // namespace

void LinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& dweight, const Tensor& dbias, bool accumulate) {
  CHECK(dy.rank() == 2 && x.rank() == 2) << dy.ShapeString() << " " << x.ShapeString();
  CheckMatrix(x, IsNarrow(x, dy) ? DType::kBF16 : dy.dtype(), dy.dim(0), x.dim(1), "x");
  CheckMatrix(dweight, GradientType(dweight, dy), dy.dim(1), x.dim(1), "dweight");
  if (!dbias.empty()) CheckVector(dbias, AccumulatorOf(dy.dtype()), dy.dim(1), "dbias");
  CHECK(accumulate || dy.dim(0) > 0) << "no tokens";
  if (IsNarrow(x, dy) && !x.device().is_cuda()) {
    const Widened wide(stream, x);
    Copy(stream, x, wide.tensor());
    return LinearBackwardWeight(stream, dy, wide.tensor(), dweight, dbias, accumulate);
  }
  ByStorage(dy, [&](auto s) { cpu::LinearBackwardWeight<decltype(s)>(stream, dy, x, dweight, dbias, accumulate); },
            [&](auto) { cuda::LinearBackwardWeight(stream, dy, x, dweight, dbias, accumulate); });
}

void GroupedLinear(Stream& stream, const Tensor& x, absl::Span<const int32_t> offsets, absl::Span<const int32_t> gather,
                   const Tensor& weight, const PackedMatrix* packed, const Tensor& y) {
  CheckGroups(weight, offsets, gather);
  CheckMatrix(x, weight.dtype(), gather.empty() ? offsets.back() : x.dim(0), weight.dim(2), "x");
  CheckMatrix(y, weight.dtype(), offsets.back(), weight.dim(1), "y");
  for (int32_t row : gather) CHECK(row >= 0 && row < x.dim(0)) << "gather " << row;
  CheckPacked(packed, weight);
  ByStorage(x, [&](auto s) { cpu::GroupedLinear<decltype(s)>(stream, x, offsets, gather, weight, packed, y); },
            [&](auto) { cuda::GroupedLinear(stream, x, offsets, gather, weight, packed, y); });
}

void GroupedLinearBackwardInput(Stream& stream, const Tensor& dy, absl::Span<const int32_t> offsets, const Tensor& weight,
                                const Tensor& dx) {
  CheckGroups(weight, offsets, {});
  CheckMatrix(dy, weight.dtype(), offsets.back(), weight.dim(1), "dy");
  CheckMatrix(dx, weight.dtype(), offsets.back(), weight.dim(2), "dx");
  ByStorage(dy, [&](auto s) { cpu::GroupedLinearBackwardInput<decltype(s)>(stream, dy, offsets, weight, dx); },
            [&](auto) { cuda::GroupedLinearBackwardInput(stream, dy, offsets, weight, dx); });
}

void GroupedLinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, absl::Span<const int32_t> offsets,
                                 absl::Span<const int32_t> gather, const Tensor& dweight, bool accumulate) {
  CheckGroups(dweight, offsets, gather);
  CHECK(dweight.dtype() == GradientType(dweight, dy)) << dweight.ShapeString() << " for " << dy.ShapeString();
  CheckMatrix(dy, dy.dtype(), offsets.back(), dweight.dim(1), "dy");
  CheckMatrix(x, dy.dtype(), gather.empty() ? offsets.back() : x.dim(0), dweight.dim(2), "x");
  for (int32_t row : gather) CHECK(row >= 0 && row < x.dim(0)) << "gather " << row;
  CHECK(accumulate || offsets.back() > 0) << "no rows";
  ByStorage(dy, [&](auto s) { cpu::GroupedLinearBackwardWeight<decltype(s)>(stream, dy, x, offsets, gather, dweight, accumulate); },
            [&](auto) { cuda::GroupedLinearBackwardWeight(stream, dy, x, offsets, gather, dweight, accumulate); });
}

namespace {

absl::Span<const int32_t> OnHost(const Tensor& t) {
  return t.empty() ? absl::Span<const int32_t>() : absl::MakeConstSpan(t.data<int32_t>(), static_cast<size_t>(t.size()));
}

[[maybe_unused]] cuda::DeviceGroups OnDevice(const Stream& stream, const Tensor& offsets, const Tensor& gather, const Tensor& weight, int64_t rows) {
  CHECK(offsets.device() == stream.device && offsets.rank() == 1 && weight.rank() == 3 && offsets.dim(0) == weight.dim(0) + 1)
      << offsets.ShapeString() << " for " << weight.ShapeString();
  if (gather.empty()) return {offsets.data<int32_t>(), nullptr, rows};
  CHECK(gather.device() == stream.device && gather.rank() == 1 && gather.dim(0) == rows) << gather.ShapeString();
  return {offsets.data<int32_t>(), gather.data<int32_t>(), rows};
}

}  // namespace

void GroupedLinear(Stream& stream, const Tensor& x, const Tensor& offsets, const Tensor& gather, const Tensor& weight,
                   const PackedMatrix* packed, const Tensor& y) {
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda())
      return cuda::GroupedLinear(stream, x, OnDevice(stream, offsets, gather, weight, y.dim(0)), weight, y);
  }
  GroupedLinear(stream, x, OnHost(offsets), OnHost(gather), weight, packed, y);
}

void GroupedLinearBackwardInput(Stream& stream, const Tensor& dy, const Tensor& offsets, const Tensor& weight, const Tensor& dx) {
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda())
      return cuda::GroupedLinearBackwardInput(stream, dy, OnDevice(stream, offsets, {}, weight, dy.dim(0)), weight, dx);
  }
  GroupedLinearBackwardInput(stream, dy, OnHost(offsets), weight, dx);
}

void GroupedLinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& offsets, const Tensor& gather,
                                 const Tensor& dweight, bool accumulate) {
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda()) {
      CHECK(accumulate || dy.dim(0) > 0) << "no rows";
      return cuda::GroupedLinearBackwardWeight(stream, dy, x, OnDevice(stream, offsets, gather, dweight, dy.dim(0)), dweight, accumulate);
    }
  }
  GroupedLinearBackwardWeight(stream, dy, x, OnHost(offsets), OnHost(gather), dweight, accumulate);
}

}  // namespace grouper::kernels
