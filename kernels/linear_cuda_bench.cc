// Matrix products on CUDA: SmolLM2's layers, DeepSeek-V2-Lite's, a square; V2-Lite's experts.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "kernels/cuda_bench.h"
#include "kernels/elementwise.h"
#include "kernels/gemm_cuda.h"
#include "kernels/linear.h"
#include "kernels/swiglu.h"

namespace grouper::kernels {
namespace {

absl::Status DecodeLine(CudaBench& bench, int64_t t, int64_t n, int64_t k) {
  t = bench.FewTokens(t), n = bench.FewColumns(n), k = bench.FewColumns(k);
  const std::string name = absl::StrCat("cuda decode ", t, " x ", n, " x ", k);
  if (!bench.Wants({name})) return absl::OkStatus();
  const int64_t sets = bench.Sets(n * k * 2, 64);
  const RandomTensor weights = bench.Random({sets, n, k}), x = bench.Random({t, k});
  const Tensor y = bench.New(DType::kBF16, {t, n});
  RETURN_IF_ERROR(bench.Line(
      name, {.bytes = 2 * AsDouble(n * k + t * (n + k)), .recorded = true},
      [&](int i) { Linear(bench.stream(), x, weights[i % sets], nullptr, {}, y); },
      [&] { return bench.CheckSome(y, 32, [&](int64_t row, int64_t column) { return Dot(x, row * k, 1, weights, column * k, 1, k); }); }));
  bench.Reset();
  return absl::OkStatus();
}

absl::Status TrainingLines(CudaBench& bench, int64_t t, int64_t n, int64_t k) {
  t = bench.FewTokens(t), n = bench.FewColumns(n), k = bench.FewColumns(k);
  const std::string shape = absl::StrCat(t, " x ", n, " x ", k), forward = "cuda forward " + shape, input = "cuda dx " + shape,
                    weight = "cuda dw " + shape;
  if (!bench.Wants({forward, input, weight})) return absl::OkStatus();
  const RandomTensor w = bench.Random({n, k}), x = bench.Random({t, k});
  RETURN_IF_ERROR(ProductLines(bench, {forward, input, weight}, {.flops = 2 * AsDouble(t * n * k)}, x, w));
  bench.Reset();
  return absl::OkStatus();
}

// Rows spread over experts at random; on the device, where a router leaves them.
struct Groups {
  std::vector<int32_t> offsets;
  int64_t ExpertOf(int64_t row) const { return std::upper_bound(offsets.begin(), offsets.end(), row) - offsets.begin() - 1; }
  int64_t begin(int64_t expert) const { return offsets[static_cast<size_t>(expert)]; }
  int64_t size(int64_t expert) const { return begin(expert + 1) - begin(expert); }
};
Groups RandomGroups(int64_t experts, int64_t rows) {
  std::mt19937 random(3);
  Groups groups{std::vector<int32_t>(static_cast<size_t>(experts) + 1)};
  for (int64_t r = 0; r < rows; ++r) ++groups.offsets[random() % static_cast<uint32_t>(experts) + 1];
  std::partial_sum(groups.offsets.begin(), groups.offsets.end(), groups.offsets.begin());
  return groups;
}

absl::Status GroupedLines(CudaBench& bench, int64_t experts, int64_t rows, int64_t n, int64_t k, bool training) {
  experts = bench.Fewer(experts, 8), rows = bench.FewTokens(rows), n = bench.FewColumns(n), k = bench.FewColumns(k);
  const std::string shape = absl::StrCat(experts, " experts, ", rows, " rows, ", n, " x ", k);
  const std::string forward = absl::StrCat("cuda grouped ", training ? "forward " : "decode ", shape), input = "cuda grouped dx " + shape;
  // A step's first micro-batch writes the gradients of weights (=), the others add to them.
  const auto weight = [&](bool narrow, bool accumulate) {
    return absl::StrCat("cuda grouped dw ", narrow ? "in bf16 " : "", accumulate ? "" : "= ", shape);
  };
  const bool gradients =
      training && bench.Wants({input, weight(false, true), weight(true, true), weight(false, false), weight(true, false)});
  if (!bench.Wants({forward}) && !gradients) return absl::OkStatus();
  Stream& stream = bench.stream();
  const Groups groups = RandomGroups(experts, rows);
  const Tensor offsets = bench.PutInts(groups.offsets);
  const RandomTensor w = bench.Random({experts, n, k}), x = bench.Random({rows, k});
  const Tensor y = bench.New(DType::kBF16, {rows, n});
  const double flops = 2 * AsDouble(rows * n * k), bytes = 2 * AsDouble(experts * n * k + rows * (n + k));
  RETURN_IF_ERROR(bench.Line(forward, {.flops = training ? flops : 0, .bytes = training ? 0 : bytes},
                             [&](int) { GroupedLinear(stream, x, offsets, {}, w, nullptr, y); }, [&] {
                               return bench.CheckSome(y, 32, [&](int64_t row, int64_t column) {
                                 return Dot(x, row * k, 1, w, (groups.ExpertOf(row) * n + column) * k, 1, k);
                               });
                             }));
  if (gradients) {
    const RandomTensor dy = bench.Random({rows, n});
    const Tensor dx = bench.New(DType::kBF16, {rows, k});
    RETURN_IF_ERROR(bench.Line(input, {.flops = flops}, [&](int) { GroupedLinearBackwardInput(stream, dy, offsets, w, dx); }, [&] {
      return bench.CheckSome(dx, 32, [&](int64_t row, int64_t column) {
        return Dot(dy, row * n, 1, w, groups.ExpertOf(row) * n * k + column, k, n);
      });
    }));
    for (const bool narrow : {false, true}) {
      const RandomTensor dw = narrow ? bench.Random({experts, n, k}) : bench.RandomFloat({experts, n, k});
      for (const bool accumulate : {true, false}) {
        // Of the bytes only the sums: they bound it.
        const double sums = (accumulate ? 2 : 1) * (narrow ? 2 : 4) * AsDouble(experts * n * k);
        RETURN_IF_ERROR(bench.Line(
            weight(narrow, accumulate), {.flops = flops, .bytes = sums},
            [&](int) { GroupedLinearBackwardWeight(stream, dy, x, offsets, {}, dw, accumulate); }, [&] {
              return bench.CheckSome(dw, 16, [&](int64_t row, int64_t column) {  // `row`: of all experts' matrices
                const int64_t expert = row / n, begin = groups.begin(expert);
                FloatSum sum = Dot(dy, begin * n + row % n, n, x, begin * k + column, k, groups.size(expert));
                if (accumulate) sum.Add(dw.Number(row * k + column));  // it began as
                return sum;
              });
            }));
      }
    }
  }
  bench.Reset();
  return absl::OkStatus();
}

// silu(gate) * up where gate and up were rounded to bf16 first.
Expected Gated(double gate, double up) {
  const double sigmoid = 1 / (1 + std::exp(-gate)), silu = gate * sigmoid;
  const double slope = sigmoid * (1 + gate * (1 - sigmoid));
  return {silu * up, (std::fabs(slope * gate * up) + std::fabs(silu * up)) / 256 + 1e-5 * (std::fabs(up) + std::fabs(slope))};
}

// The feed-forward's first layer and its gate in one (few tokens), `n` of gate and up together. With experts each token goes to six of them.
absl::Status GatedLine(CudaBench& bench, int64_t experts, int64_t rows, int64_t n, int64_t k) {
  const bool grouped = experts > 1;
  experts = grouped ? bench.Fewer(experts, 8) : 1, rows = bench.FewTokens(rows), n = bench.FewColumns(n), k = bench.FewColumns(k);
  const std::string name = grouped ? absl::StrCat("cuda gated grouped ", experts, " experts, ", rows, " rows, ", n, " x ", k)
                                   : absl::StrCat("cuda gated decode ", rows, " x ", n, " x ", k);
  if (!bench.Wants({name})) return absl::OkStatus();
  Stream& stream = bench.stream();
  const int64_t sets = bench.Sets(experts * n * k * 2, 64), tokens = grouped ? (rows + 5) / 6 : rows;
  const Groups groups = RandomGroups(experts, rows);
  std::vector<int32_t> token(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) token[static_cast<size_t>(r)] = static_cast<int32_t>(grouped ? r * 7919 % tokens : r);
  const Tensor offsets = bench.PutInts(groups.offsets), gather = bench.PutInts(token);
  // Gates near 1, where silu is bent.
  const RandomTensor w = bench.Random({sets, experts * n, k}, std::exp2(-std::round(std::log2(AsDouble(k)) / 2))), x = bench.Random({tokens, k});
  const Tensor out = bench.New(DType::kBF16, {rows, n / 2});
  RETURN_IF_ERROR(bench.Line(
      name, {.bytes = 2 * AsDouble(experts * n * k + tokens * k + rows * n / 2), .recorded = true},
      [&](int i) {
        const Tensor weight = w[i % sets];
        if (grouped) {
          GroupedLinearSwiGlu(stream, x, offsets, gather, weight.Reshape({experts, n, k}), nullptr, {}, out);
        } else {
          LinearSwiGlu(stream, x, weight, nullptr, {}, {}, out);
        }
      },
      [&] {
        return bench.CheckSome(out, 32, [&](int64_t row, int64_t column) {
          const int64_t first = groups.ExpertOf(row) * n + column, from = token[static_cast<size_t>(row)] * k;
          const Expected gate = Dot(x, from, 1, w, first * k, 1, k), up = Dot(x, from, 1, w, (first + n / 2) * k, 1, k);
          return Gated(gate.value, up.value);
        });
      }));
  bench.Reset();
  return absl::OkStatus();
}

// Of the gradients of gate and up for that of silu(gate) * up, which was rounded to bf16 first.
Expected GateGradient(const Expected& dy, double gate, double up, bool of_gate) {
  const double sigmoid = 1 / (1 + std::exp(-gate));
  const double factor = of_gate ? up * sigmoid * (1 + gate * (1 - sigmoid)) : gate * sigmoid;
  return {dy.value * factor, (std::fabs(dy.value) / 256 + dy.error) * std::fabs(factor) + 1e-5 * std::fabs(dy.value * factor)};
}

// Training: the feed-forward's first layer and its gate, with gate and up kept (experts' rows are gathered first); and from the second layer back
// through the gate.
absl::Status GateTrainingLines(CudaBench& bench, int64_t experts, int64_t rows, int64_t width, int64_t hidden) {
  const bool grouped = experts > 1;
  experts = grouped ? bench.Fewer(experts, 8) : 1, rows = bench.FewTokens(rows), width = bench.FewColumns(width), hidden = bench.FewColumns(hidden);
  const std::string who = grouped ? absl::StrCat("grouped ", experts, " experts, ", rows, " rows, ") : absl::StrCat(rows, " x ");
  const std::string forward = absl::StrCat("cuda gated forward ", who, 2 * width, " x ", hidden), back = absl::StrCat("cuda gate gradient ", who, hidden, " x ", width);
  if (!bench.Wants({forward, back})) return absl::OkStatus();
  Stream& stream = bench.stream();
  const Groups groups = RandomGroups(experts, rows);
  std::vector<int32_t> in_order(static_cast<size_t>(rows));
  std::iota(in_order.begin(), in_order.end(), 0);
  const Tensor offsets = bench.PutInts(groups.offsets), gather = bench.PutInts(in_order);
  const double scale = std::exp2(-std::round(std::log2(AsDouble(hidden)) / 2));
  const RandomTensor first = bench.Random({experts, 2 * width, hidden}, scale), x = bench.Random({rows, hidden}), second = bench.Random({experts, hidden, width}, scale),
                     dy = bench.Random({rows, hidden}), given = bench.Random({rows, 2 * width});
  const Tensor gate_up = bench.New(DType::kBF16, {rows, 2 * width}), out = bench.New(DType::kBF16, {rows, width});
  const double weights = AsDouble(experts * width * hidden);
  RETURN_IF_ERROR(bench.Line(
      forward, {.flops = 4 * AsDouble(rows * width * hidden), .bytes = 4 * weights + 2 * AsDouble(rows * ((grouped ? 3 : 1) * hidden + 3 * width))},
      [&](int) {
        if (grouped) {
          GroupedLinearSwiGlu(stream, x, offsets, gather, first, nullptr, gate_up, out);
        } else {
          LinearSwiGlu(stream, x, first.Reshape({2 * width, hidden}), nullptr, {}, gate_up, out);
        }
      },
      [&] {
        RETURN_IF_ERROR(bench.CheckSome(gate_up, 16, [&](int64_t row, int64_t column) {
          return Dot(x, row * hidden, 1, first, (groups.ExpertOf(row) * 2 * width + column) * hidden, 1, hidden);
        }));
        return bench.CheckSome(out, 32, [&](int64_t row, int64_t column) {
          const int64_t at = groups.ExpertOf(row) * 2 * width + column;
          const Expected gate = Dot(x, row * hidden, 1, first, at * hidden, 1, hidden),
                         up = Dot(x, row * hidden, 1, first, (at + width) * hidden, 1, hidden);
          return Gated(gate.value, up.value);
        });
      }));
  RETURN_IF_ERROR(bench.Line(
      back, {.flops = 2 * AsDouble(rows * width * hidden), .bytes = 2 * weights + 2 * AsDouble(rows * (hidden + 4 * width))},
      [&](int) {
        if (grouped) {
          GroupedLinearBackwardSwiGlu(stream, dy, offsets, second, given, out, gate_up);
        } else {
          LinearBackwardSwiGlu(stream, dy, second.Reshape({hidden, width}), given, out, gate_up);
        }
      },
      [&] {
        return bench.CheckSome(gate_up, 32, [&](int64_t row, int64_t column) {
          const int64_t feature = column % width;
          const Expected d = Dot(dy, row * hidden, 1, second, groups.ExpertOf(row) * hidden * width + feature, width, hidden);
          return GateGradient(d, given.Number(row * 2 * width + feature), given.Number(row * 2 * width + width + feature), column < width);
        });
      }));
  bench.Reset();
  return absl::OkStatus();
}

// The price of products that never split k: the same kernel on both halves of k side by side, and their sum.
absl::Status HalvesLine(CudaBench& bench, int64_t t, int64_t n, int64_t k) {
  t = bench.FewTokens(t), n = bench.FewColumns(n), k = bench.FewColumns(k) / 16 * 16;
  const std::string name = absl::StrCat("cuda two halves of k ", t, " x ", n, " x ", k);
  if (!bench.Wants({name})) return absl::OkStatus();
  Stream& stream = bench.stream();
  const int64_t sets = bench.Sets(n * k * 2, 64), half = k / 2;
  const RandomTensor weights = bench.Random({sets, n, k}), x = bench.Random({t, k});
  const Tensor y = bench.New(DType::kBF16, {2, t, n});
  const auto products = [&](int i) {
    cuda::GemmBF16(stream, {.k = half,
                            .batch = 2,
                            .x = {x.raw(), t, k, 1, half},
                            .w = {weights[i % sets].raw(), n, k, 1, half},
                            .y = y.raw(),
                            .y_stride = n,
                            .y_batch_stride = t * n});
  };
  const auto halves = [&](int i) {
    products(i);
    Add(stream, y[1], y[0]);
  };
  RETURN_IF_ERROR(bench.Line(name, {.bytes = 2 * AsDouble(n * k + t * (n + k)), .recorded = true}, halves, [&] {
    return bench.CheckSome(y[0], 32, [&](int64_t row, int64_t column) {
      const Expected low = Dot(x, row * k, 1, weights, column * k, 1, half),
                     high = Dot(x, row * k + half, 1, weights, column * k + half, 1, half);
      return Expected{low.value + high.value, low.error + high.error + (std::fabs(low.value) + std::fabs(high.value)) / 256};
    });
  }));
  const double exact = bench.RecordedTime([&](int i) { Linear(stream, x, weights[i % sets], nullptr, {}, y[0]); }), split = bench.RecordedTime(halves),
               alone = bench.RecordedTime(products);
  bench.Note(absl::StrFormat("  exact: %.1f us; halves alone: %.1f us (exact %+.0f%%), with their sum: %.1f us (exact %+.0f%%)", exact, alone,
                             100 * (exact / alone - 1), split, 100 * (exact / split - 1)));
  bench.Reset();
  return absl::OkStatus();
}

}  // namespace

absl::Status ProductLines(CudaBench& bench, const ProductNames& names, const CudaBench::Work& work, const RandomTensor& x, const RandomTensor& w) {
  Stream& stream = bench.stream();
  const int64_t t = x.dim(0), k = x.dim(1), n = w.dim(0);
  const Tensor y = bench.New(w.dtype(), {t, n});
  RETURN_IF_ERROR(bench.Line(names.forward, work, [&](int) { Linear(stream, x, w, nullptr, {}, y); }, [&] {
    return bench.CheckSome(y, 32, [&](int64_t row, int64_t column) { return Dot(x, row * k, 1, w, column * k, 1, k); });
  }));
  if (names.input.empty()) return absl::OkStatus();
  const RandomTensor dy = w.dtype() == DType::kF32 ? bench.RandomFloat({t, n}) : bench.Random({t, n}), dw = bench.RandomFloat({n, k});
  const Tensor dx = bench.New(x.dtype(), {t, k});
  RETURN_IF_ERROR(bench.Line(names.input, work, [&](int) { LinearBackwardInput(stream, dy, w, dx, false); }, [&] {
    return bench.CheckSome(dx, 32, [&](int64_t row, int64_t column) { return Dot(dy, row * n, 1, w, column, k, n); });
  }));
  return bench.Line(names.weight, work, [&](int) { LinearBackwardWeight(stream, dy, x, dw, {}); }, [&] {
    return bench.CheckSome(dw, 16, [&](int64_t row, int64_t column) {
      FloatSum sum = Dot(dy, row, n, x, column, k, t);
      sum.Add(dw.Number(row * k + column));  // it began as
      return sum;
    });
  });
}

absl::Status BenchLinearCuda(CudaBench& bench) {
  const int64_t layers[][3] = {{16384, 960, 576},  {16384, 576, 576},   {16384, 3072, 576},
                               {16384, 576, 1536}, {16384, 49152, 576}, {32768, 2816, 2048}, {4096, 4096, 4096}};
  for (const auto& l : layers) RETURN_IF_ERROR(TrainingLines(bench, l[0], l[1], l[2]));
  const int64_t decode[][3] = {{64, 960, 576},   {64, 576, 576},    {64, 3072, 576},    {64, 576, 1536},  {64, 49152, 576},  {1024, 960, 576},
                               {1024, 3072, 576}, {1024, 576, 1536}, {1024, 49152, 576}, {8, 102400, 2048}, {256, 102400, 2048}};
  for (const auto& l : decode) RETURN_IF_ERROR(DecodeLine(bench, l[0], l[1], l[2]));
  const int64_t gated[][4] = {{1, 64, 3072, 576}, {1, 64, 5632, 2048}, {64, 384, 2816, 2048}, {64, 1536, 2816, 2048}};
  for (const auto& l : gated) RETURN_IF_ERROR(GatedLine(bench, l[0], l[1], l[2], l[3]));
  const int64_t gated_training[][4] = {{1, 16384, 1536, 576}, {1, 16384, 2816, 2048}, {64, 32768, 1408, 2048}, {64, 98304, 1408, 2048}};
  for (const auto& l : gated_training) RETURN_IF_ERROR(GateTrainingLines(bench, l[0], l[1], l[2], l[3]));
  for (const int64_t tokens : {64, 1024}) {
    const int64_t halves[][2] = {{960, 576}, {576, 576}, {3072, 576}, {576, 1536}, {49152, 576}};
    for (const auto& l : halves) RETURN_IF_ERROR(HalvesLine(bench, tokens, l[0], l[1]));
  }
  const int64_t grouped_decode[][4] = {{64, 384, 2816, 2048}, {64, 1536, 2816, 2048}, {64, 1536, 2048, 1408}};
  for (const auto& l : grouped_decode) RETURN_IF_ERROR(GroupedLines(bench, l[0], l[1], l[2], l[3], false));
  // V2-Lite's experts with 5461 and with 16384 tokens a micro-batch (a GPU's default); 16 experts with 2048 tokens each.
  const int64_t grouped[][4] = {{64, 32768, 2816, 2048}, {64, 32768, 2048, 1408}, {64, 98304, 2816, 2048}, {64, 98304, 2048, 1408}, {16, 32768, 768, 2048}};
  for (const auto& l : grouped) RETURN_IF_ERROR(GroupedLines(bench, l[0], l[1], l[2], l[3], true));
  return absl::OkStatus();
}

}  // namespace grouper::kernels
