#include <dlfcn.h>

#include <cmath>

#include "absl/strings/str_format.h"
#include "common/base/philox.h"
#include "common/base/status.h"
#include "kernels/bench.h"
#include "kernels/gemm.h"
#include "kernels/linear.h"

namespace grouper::kernels {
namespace {

// OpenBLAS's cblas_sgemm, row-major, when the machine has it.
struct OpenBlas {
  using Sgemm = void (*)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a, int lda, const float* b,
                         int ldb, float beta, float* c, int ldc);
  static constexpr int kRowMajor = 101, kNo = 111, kTrans = 112;

  explicit OpenBlas(int threads) {
    void* library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return;
    sgemm = reinterpret_cast<Sgemm>(dlsym(library, "cblas_sgemm"));
    auto set_threads = reinterpret_cast<void (*)(int)>(dlsym(library, "openblas_set_num_threads"));
    if (set_threads != nullptr) set_threads(threads);
  }
  Sgemm sgemm = nullptr;
};

void FillRandom(const Tensor& t, const char* label) {
  PhiloxStream numbers(MakePhiloxKey(1, label));
  float* data = t.data<float>();
  for (int64_t i = 0; i < t.size(); ++i) data[i] = static_cast<float>(numbers.NextDouble()) - 0.5f;
}

// Some 2000 elements of C, spread over it, must equal the chain of fma(a(i, j, k), b(i, j, k), ...) from 0.
template <typename A, typename B>
absl::Status CheckProduct(const std::string& name, const Tensor& c, int64_t depth, A a, B b) {
  const int64_t step = std::max<int64_t>(1, c.size() / 2000);
  for (int64_t at = 0; at < c.size(); at += step) {
    const int64_t i = at / c.dim(1), j = at % c.dim(1);
    float sum = 0;
    for (int64_t k = 0; k < depth; ++k) sum = std::fma(a(i, j, k), b(i, j, k), sum);
    if (sum != c.data<float>()[at]) {
      return absl::InternalError(absl::StrFormat("%s: element (%d, %d) is %.9g, the loop gives %.9g", name, i, j, c.data<float>()[at], sum));
    }
  }
  return absl::OkStatus();
}

absl::Status BenchLayer(Bench& bench, const OpenBlas& blas, const char* model, int64_t tokens, int64_t in, int64_t out) {
  const std::string shape = absl::StrFormat("%s %5d x %4d -> %5d", model, tokens, in, out);
  const std::string forward = "gemm forward " + shape, input = "gemm dx      " + shape, weight = "gemm dw      " + shape;
  if (!bench.Wants(forward) && !bench.Wants(input) && !bench.Wants(weight)) return absl::OkStatus();
  Stream& stream = bench.stream();
  Arena arena;
  const Tensor x = arena.New(DType::kF32, {tokens, in}), w = arena.New(DType::kF32, {out, in}), y = arena.New(DType::kF32, {tokens, out});
  const Tensor dx = arena.New(DType::kF32, {tokens, in}), dw = arena.NewZero(DType::kF32, {out, in});
  FillRandom(x, "x");
  FillRandom(w, "w");
  PackedMatrix packed;
  packed.Pack(stream, w);
  const double flops = 2.0 * static_cast<double>(tokens) * static_cast<double>(in) * static_cast<double>(out);
  const int t = static_cast<int>(tokens), i = static_cast<int>(in), o = static_cast<int>(out);
  const float* const xs = x.data<float>();
  const float* const ws = w.data<float>();
  const float* const ys = y.data<float>();
  const auto line = [&](const std::string& name, const std::function<void()>& run, const std::function<void()>& reference) {
    bench.Line(name, flops, "GFLOP/s", run, blas.sgemm == nullptr ? nullptr : reference, "OpenBLAS");
  };

  Linear(stream, x, w, &packed, Tensor(), y);
  RETURN_IF_ERROR(CheckProduct(forward, y, in, [&](int64_t r, int64_t, int64_t k) { return xs[r * in + k]; },
                               [&](int64_t, int64_t c, int64_t k) { return ws[c * in + k]; }));
  line(forward, [&] { Linear(stream, x, w, &packed, Tensor(), y); },
       [&] { blas.sgemm(OpenBlas::kRowMajor, OpenBlas::kNo, OpenBlas::kTrans, t, o, i, 1, xs, i, ws, i, 0, y.data<float>(), o); });

  FillRandom(y, "dy");
  LinearBackwardInput(stream, y, w, dx, false);
  RETURN_IF_ERROR(CheckProduct(input, dx, out, [&](int64_t r, int64_t, int64_t k) { return ys[r * out + k]; },
                               [&](int64_t, int64_t c, int64_t k) { return ws[k * in + c]; }));
  line(input, [&] { LinearBackwardInput(stream, y, w, dx, false); },
       [&] { blas.sgemm(OpenBlas::kRowMajor, OpenBlas::kNo, OpenBlas::kNo, t, i, o, 1, ys, o, ws, i, 0, dx.data<float>(), i); });

  LinearBackwardWeight(stream, y, x, dw, Tensor());
  RETURN_IF_ERROR(CheckProduct(weight, dw, tokens, [&](int64_t r, int64_t, int64_t k) { return ys[k * out + r]; },
                               [&](int64_t, int64_t c, int64_t k) { return xs[k * in + c]; }));
  line(weight, [&] { LinearBackwardWeight(stream, y, x, dw, Tensor()); },
       [&] { blas.sgemm(OpenBlas::kRowMajor, OpenBlas::kTrans, OpenBlas::kNo, o, i, t, 1, ys, o, xs, i, 1, dw.data<float>(), i); });
  return absl::OkStatus();
}

// Experts of the quickstart model: tokens * 2 rows over 8 experts, gathered.
absl::Status BenchGrouped(Bench& bench, int64_t tokens) {
  constexpr int64_t kExperts = 8, kIn = 96, kOut = 128, kTopK = 2;
  const std::string name = absl::StrFormat("grouped forward quickstart %5d x %4d -> %5d", tokens, kIn, kOut);
  if (!bench.Wants(name)) return absl::OkStatus();
  Arena arena;
  const Tensor x = arena.New(DType::kF32, {tokens, kIn}), w = arena.New(DType::kF32, {kExperts, kOut, kIn});
  const Tensor y = arena.New(DType::kF32, {tokens * kTopK, kOut});
  FillRandom(x, "x");
  FillRandom(w, "w");
  std::vector<int32_t> offsets, gather;
  for (int64_t e = 0; e <= kExperts; ++e) offsets.push_back(static_cast<int32_t>(tokens * kTopK * e / kExperts));
  for (int64_t r = 0; r < tokens * kTopK; ++r) gather.push_back(static_cast<int32_t>(r * 7 % tokens));
  PackedMatrix packed;
  packed.Pack(bench.stream(), w);
  const auto run = [&] { GroupedLinear(bench.stream(), x, offsets, gather, w, &packed, y); };
  run();
  std::vector<int64_t> expert_of;
  for (int64_t e = 0; e < kExperts; ++e) expert_of.resize(static_cast<size_t>(offsets[static_cast<size_t>(e) + 1]), e);
  RETURN_IF_ERROR(CheckProduct(
      name, y, kIn, [&](int64_t r, int64_t, int64_t k) { return x.row<float>(gather[static_cast<size_t>(r)])[k]; },
      [&](int64_t r, int64_t c, int64_t k) { return w.row<float>(expert_of[static_cast<size_t>(r)])[c * kIn + k]; }));
  bench.Line(name, 2.0 * static_cast<double>(tokens * kTopK * kIn * kOut), "GFLOP/s", run);
  return absl::OkStatus();
}

// MLA's absorption: per head, [T, 16] times [16, 32] and [T, 32] times [32, 24].
absl::Status BenchHeads(Bench& bench, int64_t tokens, int64_t k, int64_t n) {
  constexpr int64_t kHeads = 4;
  const std::string name = absl::StrFormat("gemm heads   quickstart %5d x %4d -> %5d", tokens, k, n);
  if (!bench.Wants(name)) return absl::OkStatus();
  Arena arena;
  const Tensor a = arena.New(DType::kF32, {tokens, kHeads * k}), b = arena.New(DType::kF32, {kHeads, k, n});
  const Tensor c = arena.New(DType::kF32, {tokens, kHeads * n});
  FillRandom(a, "a");
  FillRandom(b, "b");
  GemmParams params;
  params.batch = kHeads, params.m = tokens, params.n = n, params.k = k;
  params.a = {a.raw(), kHeads * k, 1, k};
  params.b = {b.raw(), n, 1, k * n};
  params.c = {c.raw(), kHeads * n, 1, n};
  const auto run = [&] { Gemm(bench.stream(), params); };
  run();
  RETURN_IF_ERROR(CheckProduct(name, c.Reshape({tokens * kHeads, n}), k,
                               [&](int64_t r, int64_t, int64_t kk) { return a.data<float>()[r * k + kk]; },
                               [&](int64_t r, int64_t j, int64_t kk) { return b.row<float>(r % kHeads)[kk * n + j]; }));
  bench.Line(name, 2.0 * static_cast<double>(kHeads * tokens * k * n), "GFLOP/s", run);
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchGemm(Bench& bench) {
  const OpenBlas blas(bench.threads());
  struct Layer {
    int64_t in, out;
  };
  for (const Layer& layer : {Layer{96, 96}, Layer{96, 40}, Layer{96, 512}, Layer{256, 96}, Layer{96, 128}, Layer{64, 96}, Layer{96, 31}}) {
    for (const int64_t tokens : {1, 16, 64, 256, 2048}) {
      RETURN_IF_ERROR(BenchLayer(bench, blas, "quickstart", tokens, layer.in, layer.out));
    }
  }
  bench.Summary("quickstart model");
  for (const Layer& layer : {Layer{576, 960}, Layer{576, 576}, Layer{576, 3072}, Layer{1536, 576}, Layer{576, 49152}}) {
    for (const int64_t tokens : {1, 16, 64, 256, 2048}) {
      if (layer.out == 49152 && tokens == 2048) continue;
      RETURN_IF_ERROR(BenchLayer(bench, blas, "SmolLM2", tokens, layer.in, layer.out));
    }
  }
  bench.Summary("SmolLM2-135M");
  for (const int64_t tokens : {16, 256, 2048}) RETURN_IF_ERROR(BenchGrouped(bench, tokens));
  for (const int64_t tokens : {16, 256, 2048}) {
    RETURN_IF_ERROR(BenchHeads(bench, tokens, 16, 32));
    RETURN_IF_ERROR(BenchHeads(bench, tokens, 32, 24));
  }
  return absl::OkStatus();
}

}  // namespace grouper::kernels
