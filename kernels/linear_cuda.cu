#include "absl/types/span.h"
#include "kernels/linear_cuda.h"

#include <cuda_bf16.h>

#include <algorithm>

#include "kernels/cuda_launch.h"
#include "kernels/gemm_cuda.h"

namespace grouper::kernels::cuda {
namespace {

// The matrix [rows, columns] with k along its columns, or (AlongRows) along its rows.
GemmOperand Along(const Tensor& t) { return {t.raw(), t.dim(-2), t.stride(-2), 1, t.rank() == 3 ? t.stride(0) : 0}; }
GemmOperand AlongRows(const Tensor& t) {
  return {t.raw(), t.dim(-1), 1, t.stride(-2), t.rank() == 3 ? t.stride(0) : 0};
}

void CheckStorage(const Tensor& t) {
  CHECK(t.dtype() == DType::kBF16 || t.dtype() == DType::kF32) << "CUDA has no kernel for " << Name(t.dtype());
}

// dbias[n] += dy[t, n], t ascending: one chain a thread, neighbours on neighbouring columns.
template <typename S>
__global__ void ColumnSumKernel(const S* dy, int64_t stride, int64_t tokens, int64_t columns, float* dbias) {
  KernelBegin();
  const int64_t n = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (n >= columns) return;
  float sum = dbias[n];
  constexpr int kAhead = 16;
  int64_t t = 0;
  for (; t + kAhead <= tokens; t += kAhead) {
    S value[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) value[i] = dy[(t + i) * stride + n];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) sum = __fadd_rn(sum, static_cast<float>(value[i]));
  }
  for (; t < tokens; ++t) sum = __fadd_rn(sum, static_cast<float>(dy[t * stride + n]));
  dbias[n] = sum;
}

void AddColumnSums(Stream& stream, const Tensor& dy, const Tensor& dbias) {
  if (dbias.empty()) return;
  const unsigned blocks = static_cast<unsigned>((dy.dim(1) + 31) / 32);
  if (dy.dtype() == DType::kF32) {
    LaunchKernel(stream, blocks, 32, 0, ColumnSumKernel<float>, dy.data<float>(), dy.stride(0), dy.dim(0), dy.dim(1), dbias.data<float>());
  } else {
    LaunchKernel(stream, blocks, 32, 0, ColumnSumKernel<__nv_bfloat16>, static_cast<const __nv_bfloat16*>(dy.raw()), dy.stride(0),
                 dy.dim(0), dy.dim(1), dbias.data<float>());
  }
}

// A weight of few tiles keeps few multiprocessors busy with its sum over tokens. Then pieces of so many tokens are
// summed side by side and added in order: the same bits for batches cut at multiples of this.
constexpr int64_t kTokensOfPiece = 2048;

// dweight += (or =) pieces[0] + ... , one after another.
template <typename Out>
__global__ void AddPiecesKernel(const float* pieces, int64_t count, int64_t rows, int64_t columns, Out* dweight,
                                int64_t stride, bool accumulate) {
  KernelBegin();
  const int64_t size = rows * columns, step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += step) {
    Out* place = dweight + i / columns * stride + i % columns;
    float sum = accumulate ? static_cast<float>(*place) : 0.0f;
    for (int64_t p = 0; p < count; ++p) sum = __fadd_rn(sum, pieces[p * size + i]);
    *place = static_cast<Out>(sum);
  }
}

// By the weight alone: another rule would give other bits to a batch that is cut.
bool SumInPieces(int64_t rows, int64_t columns) { return ((rows + 127) / 128) * ((columns + 191) / 192) <= 66; }

// to[r] = from[gather[r]], rows of `units` units.
template <typename Unit>
__global__ void GatherKernel(const Unit* from, int64_t stride, const int32_t* gather, int64_t rows, int64_t units,
                             Unit* to) {
  KernelBegin();
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const Unit* source = from + gather[r] * stride;
    for (int64_t i = threadIdx.x; i < units; i += blockDim.x) to[r * units + i] = source[i];
  }
}

Tensor GatherRows(Stream& stream, const Tensor& x, const DeviceGroups& groups) {
  const Tensor rows(stream.scratch.Allocate(static_cast<size_t>(groups.rows * x.dim(1)) * 2), DType::kBF16,
                    {groups.rows, x.dim(1)}, x.device());
  const unsigned blocks = static_cast<unsigned>(std::clamp<int64_t>(groups.rows, 1, 4096));
  if (x.dim(1) % 8 == 0 && x.stride(0) % 8 == 0 && reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0) {
    LaunchKernel(stream, blocks, 128, 0, GatherKernel<uint4>, static_cast<const uint4*>(x.raw()), x.stride(0) / 8, groups.gather,
                 groups.rows, x.dim(1) / 8, static_cast<uint4*>(rows.raw()));
  } else {
    LaunchKernel(stream, blocks, 128, 0, GatherKernel<uint16_t>, static_cast<const uint16_t*>(x.raw()), x.stride(0), groups.gather,
                 groups.rows, x.dim(1), static_cast<uint16_t*>(rows.raw()));
  }
  return rows;
}

// The copy is over when the call returns: pageable memory is staged by the driver.
const int32_t* Upload(Stream& stream, absl::Span<const int32_t> values) {
  if (values.empty()) return nullptr;
  void* copy = stream.scratch.Allocate(values.size() * 4);
  GROUPER_CUDA_CHECK(cudaMemcpyAsync(copy, values.data(), values.size() * 4, cudaMemcpyHostToDevice, HandleOf(stream)));
  return static_cast<const int32_t*>(copy);
}

DeviceGroups Upload(Stream& stream, absl::Span<const int32_t> offsets, absl::Span<const int32_t> gather) {
  return {Upload(stream, offsets), Upload(stream, gather), offsets.back()};
}

}  // namespace

void Linear(Stream& stream, const Tensor& x, const Tensor& weight, const PackedMatrix*, const Tensor& bias,
            const Tensor& y) {
  CheckStorage(x);
  if (weight.dtype() == DType::kF32) {
    return GemmF32(stream, {.m = x.dim(0),
                            .n = weight.dim(0),
                            .k = x.dim(1),
                            .a = x.raw(),
                            .b = weight.raw(),
                            .a_bf16 = x.dtype() == DType::kBF16,
                            .a_m = x.stride(0),
                            .b_n = weight.stride(0),
                            .c = y.raw(),
                            .c_m = y.stride(0),
                            .bias = bias.empty() ? nullptr : bias.data<float>()});
  }
  GemmBF16(
      stream,
      {.k = x.dim(1), .x = Along(x), .w = Along(weight), .y = y.raw(), .y_stride = y.stride(0), .bias = bias.raw()});
}

namespace {

// dx in bf16; of experts, whose tokens begin at `offsets`, or of one layer.
GemmProblem InputProblem(const Tensor& dy, const Tensor& weight, const int32_t* offsets, const Tensor& dx) {
  GemmProblem p = {.k = weight.dim(-2), .x = Along(dy), .w = AlongRows(weight), .y = dx.raw(), .y_stride = dx.stride(0)};
  if (offsets == nullptr) return p;
  p.batch = weight.dim(0);
  p.groups = GemmGroups::kRows;
  p.offsets = offsets;
  return p;
}

}  // namespace

void LinearBackwardInput(Stream& stream, const Tensor& dy, const Tensor& weight, const Tensor& dx, bool accumulate) {
  CheckStorage(dy);
  if (dy.dtype() == DType::kF32) {
    return GemmF32(stream, {.m = dy.dim(0),
                            .n = weight.dim(1),
                            .k = dy.dim(1),
                            .a = dy.raw(),
                            .b = weight.raw(),
                            .c_bf16 = dx.dtype() == DType::kBF16,
                            .a_m = dy.stride(0),
                            .b_n = 1,
                            .b_k = weight.stride(0),
                            .c = dx.raw(),
                            .c_m = dx.stride(0),
                            .accumulate = accumulate});
  }
  GemmProblem p = InputProblem(dy, weight, nullptr, dx);
  p.accumulate = accumulate;
  GemmBF16(stream, p);
}

void LinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& dweight,
                          const Tensor& dbias, bool accumulate) {
  CheckStorage(dy);
  AddColumnSums(stream, dy, dbias);
  if (dy.dtype() == DType::kF32) {
    return GemmF32(stream, {.m = dy.dim(1),
                            .n = x.dim(1),
                            .k = dy.dim(0),
                            .a = dy.raw(),
                            .b = x.raw(),
                            .b_bf16 = x.dtype() == DType::kBF16,
                            .a_m = 1,
                            .a_k = dy.stride(0),
                            .b_n = 1,
                            .b_k = x.stride(0),
                            .c = dweight.data<float>(),
                            .c_m = dweight.stride(0),
                            .accumulate = accumulate});
  }
  if (dy.dim(0) == 0) return;
  const int64_t rows = dy.dim(1), columns = x.dim(1);
  if (SumInPieces(rows, columns)) {
    const Arena::Mark mark = stream.scratch.mark();
    const int64_t count = (dy.dim(0) + kTokensOfPiece - 1) / kTokensOfPiece;
    auto* pieces = static_cast<float*>(stream.scratch.Allocate(static_cast<size_t>(count * rows * columns) * 4));
    GemmBF16(stream, {.k = dy.dim(0),
                      .batch = count,
                      .x = AlongRows(dy),
                      .w = AlongRows(x),
                      .y = pieces,
                      .y_stride = columns,
                      .y_batch_stride = rows * columns,
                      .y_float = true,
                      .groups = GemmGroups::kReduction,
                      .chunk = kTokensOfPiece});
    const unsigned blocks = static_cast<unsigned>(std::clamp<int64_t>((rows * columns + 255) / 256, 1, 2048));
    if (dweight.dtype() == DType::kF32) {
      LaunchKernel(stream, blocks, 256, 0, AddPiecesKernel<float>, pieces, count, rows, columns, dweight.data<float>(), dweight.stride(0),
                   accumulate);
    } else {
      LaunchKernel(stream, blocks, 256, 0, AddPiecesKernel<__nv_bfloat16>, pieces, count, rows, columns,
                   static_cast<__nv_bfloat16*>(dweight.raw()), dweight.stride(0), accumulate);
    }
    stream.scratch.Release(mark);
    return;
  }
  GemmBF16(stream, {.k = dy.dim(0),
                    .x = AlongRows(dy),
                    .w = AlongRows(x),
                    .y = dweight.raw(),
                    .y_stride = dweight.stride(0),
                    .y_float = dweight.dtype() == DType::kF32,
                    .accumulate = accumulate,
                    .groups = GemmGroups::kReduction,
                    .chunk = (dy.dim(0) + 63) / 64 * 64});  // one group: all tokens
}

void GroupedLinear(Stream& stream, const Tensor& x, const DeviceGroups& groups, const Tensor& weight, const Tensor& y) {
  CheckStorage(x);
  if (x.dtype() == DType::kF32) {
    return GemmF32(stream, {.batch = weight.dim(0),
                            .m = groups.rows,
                            .n = weight.dim(1),
                            .k = weight.dim(2),
                            .a = x.data<float>(),
                            .b = weight.data<float>(),
                            .a_m = x.stride(0),
                            .b_n = weight.stride(1),
                            .b_batch = weight.stride(0),
                            .c = y.data<float>(),
                            .c_m = y.stride(0),
                            .groups = GemmGroups::kRows,
                            .offsets = groups.offsets,
                            .gather = groups.gather});
  }
  const Arena::Mark mark = stream.scratch.mark();
  const Tensor rows = groups.gather == nullptr ? x.Rows(0, groups.rows) : GatherRows(stream, x, groups);
  GemmBF16(stream, {.k = weight.dim(2),
                    .batch = weight.dim(0),
                    .x = Along(rows),
                    .w = Along(weight),
                    .y = y.raw(),
                    .y_stride = y.stride(0),
                    .groups = GemmGroups::kRows,
                    .offsets = groups.offsets});
  stream.scratch.Release(mark);
}

void GroupedLinearBackwardInput(Stream& stream, const Tensor& dy, const DeviceGroups& groups, const Tensor& weight,
                                const Tensor& dx) {
  CheckStorage(dy);
  if (dy.dtype() == DType::kF32) {
    return GemmF32(stream, {.batch = weight.dim(0),
                            .m = groups.rows,
                            .n = weight.dim(2),
                            .k = weight.dim(1),
                            .a = dy.data<float>(),
                            .b = weight.data<float>(),
                            .a_m = dy.stride(0),
                            .b_n = 1,
                            .b_k = weight.stride(1),
                            .b_batch = weight.stride(0),
                            .c = dx.data<float>(),
                            .c_m = dx.stride(0),
                            .groups = GemmGroups::kRows,
                            .offsets = groups.offsets});
  }
  GemmBF16(stream, InputProblem(dy.Rows(0, groups.rows), weight, groups.offsets, dx));
}

void GroupedLinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, const DeviceGroups& groups,
                                 const Tensor& dweight, bool accumulate) {
  CheckStorage(dy);
  if (dy.dtype() == DType::kF32) {
    return GemmF32(stream, {.batch = dweight.dim(0),
                            .m = dweight.dim(1),
                            .n = dweight.dim(2),
                            .k = groups.rows,
                            .a = dy.data<float>(),
                            .b = x.data<float>(),
                            .a_m = 1,
                            .a_k = dy.stride(0),
                            .b_n = 1,
                            .b_k = x.stride(0),
                            .c = dweight.data<float>(),
                            .c_m = dweight.stride(1),
                            .c_batch = dweight.stride(0),
                            .accumulate = accumulate,
                            .groups = GemmGroups::kReduction,
                            .offsets = groups.offsets,
                            .gather = groups.gather});
  }
  const Arena::Mark mark = stream.scratch.mark();
  const Tensor rows = groups.gather == nullptr ? x.Rows(0, groups.rows) : GatherRows(stream, x, groups);
  GemmBF16(stream, {.k = groups.rows,
                    .batch = dweight.dim(0),
                    .x = AlongRows(dy.Rows(0, groups.rows)),
                    .w = AlongRows(rows),
                    .y = dweight.raw(),
                    .y_stride = dweight.stride(1),
                    .y_batch_stride = dweight.stride(0),
                    .y_float = dweight.dtype() == DType::kF32,
                    .accumulate = accumulate,
                    .groups = GemmGroups::kReduction,
                    .offsets = groups.offsets});
  stream.scratch.Release(mark);
}

void GroupedLinear(Stream& stream, const Tensor& x, absl::Span<const int32_t> offsets,
                   absl::Span<const int32_t> gather, const Tensor& weight, const PackedMatrix*, const Tensor& y) {
  const Arena::Mark mark = stream.scratch.mark();
  GroupedLinear(stream, x, Upload(stream, offsets, gather), weight, y);
  stream.scratch.Release(mark);
}

void GroupedLinearBackwardInput(Stream& stream, const Tensor& dy, absl::Span<const int32_t> offsets,
                                const Tensor& weight, const Tensor& dx) {
  const Arena::Mark mark = stream.scratch.mark();
  GroupedLinearBackwardInput(stream, dy, Upload(stream, offsets, {}), weight, dx);
  stream.scratch.Release(mark);
}

void GroupedLinearBackwardWeight(Stream& stream, const Tensor& dy, const Tensor& x, absl::Span<const int32_t> offsets,
                                 absl::Span<const int32_t> gather, const Tensor& dweight, bool accumulate) {
  const Arena::Mark mark = stream.scratch.mark();
  GroupedLinearBackwardWeight(stream, dy, x, Upload(stream, offsets, gather), dweight, accumulate);
  stream.scratch.Release(mark);
}

bool LinearSwiGlu(Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& gate_up, const Tensor& out) {
  if (x.dtype() != DType::kBF16) return false;
  CHECK(weight.rank() == 2 && weight.dim(0) == 2 * out.dim(1) && weight.dim(1) == x.dim(1) && out.dim(0) == x.dim(0))
      << x.ShapeString() << " " << weight.ShapeString() << " " << out.ShapeString();
  GemmProblem p = {.k = x.dim(1), .x = Along(x), .w = Along(weight), .y = gate_up.raw(), .bias = bias.raw()};
  if (!gate_up.empty()) p.y_stride = gate_up.stride(0);
  p.gated = out.raw();
  p.gated_stride = out.stride(0);
  if (!CanGate(p)) return false;
  GemmBF16(stream, p);
  return true;
}

bool GroupedLinearSwiGlu(Stream& stream, const Tensor& x, const Tensor& offsets, const Tensor& gather, const Tensor& weight,
                         const Tensor& gate_up, const Tensor& out) {
  if (x.dtype() != DType::kBF16) return false;
  CHECK(weight.rank() == 3 && weight.dim(1) == 2 * out.dim(1) && weight.dim(2) == x.dim(1) && offsets.dim(0) == weight.dim(0) + 1)
      << x.ShapeString() << " " << weight.ShapeString() << " " << out.ShapeString();
  GemmProblem p = {.k = x.dim(1),
                   .batch = weight.dim(0),
                   .w = Along(weight),
                   .y = gate_up.raw(),
                   .groups = GemmGroups::kRows,
                   .offsets = offsets.data<int32_t>()};
  if (!gate_up.empty()) p.y_stride = gate_up.stride(0);
  p.gated = out.raw();
  p.gated_stride = out.stride(0);
  p.x.rows = out.dim(0);
  if (!CanGate(p)) return false;
  const Arena::Mark mark = stream.scratch.mark();
  const DeviceGroups groups = {offsets.data<int32_t>(), gather.empty() ? nullptr : gather.data<int32_t>(), out.dim(0)};
  p.x = Along(groups.gather == nullptr ? x.Rows(0, groups.rows) : GatherRows(stream, x, groups));
  GemmBF16(stream, p);
  stream.scratch.Release(mark);
  return true;
}

namespace {

bool BackwardSwiGlu(Stream& stream, const Tensor& dy, const int32_t* offsets, const Tensor& weight, const Tensor& gate_up, const Tensor& d_gate_up) {
  if (dy.dtype() != DType::kBF16) return false;
  GemmProblem p = InputProblem(dy, weight, offsets, d_gate_up);
  p.gate_up = gate_up.raw();
  p.gate_up_stride = gate_up.stride(0);
  if (!CanGateGradient(p)) return false;
  GemmBF16(stream, p);
  return true;
}

}  // namespace

bool LinearBackwardSwiGlu(Stream& stream, const Tensor& dy, const Tensor& weight, const Tensor& gate_up, const Tensor& d_gate_up) {
  return BackwardSwiGlu(stream, dy, nullptr, weight, gate_up, d_gate_up);
}

bool GroupedLinearBackwardSwiGlu(Stream& stream, const Tensor& dy, const Tensor& offsets, const Tensor& weight, const Tensor& gate_up,
                                 const Tensor& d_gate_up) {
  return BackwardSwiGlu(stream, dy, offsets.data<int32_t>(), weight, gate_up, d_gate_up);
}

void Gemm(Stream& stream, const GemmParams& p) {
  // b is [k, n]: its rows here are n.
  if (p.dtype == DType::kF32) {
    return GemmF32(stream, {.batch = p.batch,
                            .m = p.m,
                            .n = p.n,
                            .k = p.k,
                            .a = static_cast<const float*>(p.a.data),
                            .b = static_cast<const float*>(p.b.data),
                            .a_m = p.a.row_stride,
                            .a_k = p.a.col_stride,
                            .a_batch = p.a.batch_stride,
                            .b_n = p.b.col_stride,
                            .b_k = p.b.row_stride,
                            .b_batch = p.b.batch_stride,
                            .c = static_cast<float*>(p.c.data),
                            .c_m = p.c.row_stride,
                            .c_batch = p.c.batch_stride,
                            .accumulate = p.accumulate});
  }
  CHECK(p.dtype == DType::kBF16) << "CUDA has no kernel for " << Name(p.dtype);
  GemmBF16(stream, {.k = p.k,
                    .batch = p.batch,
                    .x = {p.a.data, p.m, p.a.row_stride, p.a.col_stride, p.a.batch_stride},
                    .w = {p.b.data, p.n, p.b.col_stride, p.b.row_stride, p.b.batch_stride},
                    .y = p.c.data,
                    .y_stride = p.c.row_stride,
                    .y_batch_stride = p.c.batch_stride,
                    .accumulate = p.accumulate});
}

}  // namespace grouper::kernels::cuda
