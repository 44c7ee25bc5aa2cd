// Row-wise ops, the embedding and the optimizer on CUDA: SmolLM2's widths and DeepSeek-V2-Lite's. Bytes are what must be read and written once.
// Forward ops of few rows (a decode step's) are recorded; what they read is in L2 then, as in a step.
#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "kernels/adamw.h"
#include "kernels/cuda_bench.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/rms_norm.h"
#include "kernels/rope_write_kv.h"
#include "kernels/swiglu.h"

namespace grouper::kernels {
namespace {

constexpr int64_t kMostDecoded = 1024;
constexpr double kEps = 1e-5;

absl::Status NormLines(CudaBench& bench, int64_t tokens, int64_t width, bool gradient) {
  const bool decode = tokens <= kMostDecoded;
  const int64_t t = bench.FewTokens(tokens), d = bench.FewColumns(width);
  const std::string shape = absl::StrCat(t, " x ", d), forward = "cuda rms_norm of a sum " + shape, backward = "cuda rms_norm gradient " + shape;
  if (!bench.Wants({forward}) && !(gradient && bench.Wants({backward}))) return absl::OkStatus();
  Stream& stream = bench.stream();
  const std::vector<int64_t> some = CudaBench::SomeRows(t);
  Arena arena;
  const RandomTensor delta = bench.Random({t, d}), residual = bench.Random({t, d}), w = bench.Random({d});
  const Tensor sum = bench.New(DType::kBF16, {t, d}), y = bench.New(DType::kBF16, {t, d}), rstd = bench.New(DType::kF32, {t});
  const int64_t n = static_cast<int64_t>(some.size());
  const Tensor host_sum = arena.New(DType::kBF16, {n, d}), host_y = arena.New(DType::kBF16, {n, d}), host_rstd = arena.New(DType::kF32, {n});
  // As between blocks: two tensors read, two written. Training keeps rstd.
  RETURN_IF_ERROR(bench.Line(
      forward, {.bytes = 8 * AsDouble(t * d), .recorded = decode},
      [&](int) { AddRmsNorm(stream, delta, residual, sum, w, kEps, y, decode ? Tensor() : rstd); }, [&]() -> absl::Status {
        AddRmsNorm(bench.cpu(), bench.Host(delta, some), bench.Host(residual, some), host_sum, bench.Host(w), kEps, host_y, host_rstd);
        RETURN_IF_ERROR(bench.CheckSameRows(sum, some, host_sum));
        if (!decode) RETURN_IF_ERROR(bench.CheckSameRows(rstd, some, host_rstd));
        return bench.CheckSameRows(y, some, host_y);
      }));
  if (gradient) {
    const RandomTensor x = bench.Random({t, d}), dy = bench.Random({t, d}), dx = bench.Random({t, d}), dw = bench.RandomFloat({d});
    RmsNorm(stream, x, w, kEps, y, rstd);
    const Tensor host_dx = bench.Host(dx, some), unused = arena.NewZero(DType::kF32, {d});
    // dy, x and dx are read, dx is written.
    RETURN_IF_ERROR(bench.Line(
        backward, {.bytes = 8 * AsDouble(t * d)}, [&](int) { RmsNormBackward(stream, dy, x, w, rstd, dx, true, dw); }, [&]() -> absl::Status {
          RmsNormBackward(bench.cpu(), bench.Host(dy, some), bench.Host(x, some), bench.Host(w), bench.Host(rstd, some), host_dx, true, unused);
          RETURN_IF_ERROR(bench.CheckSameRows(dx, some, host_dx));
          const std::vector<double> rstds = bench.Read(rstd, 0, t);
          return bench.CheckSome(dw, 8, [&](int64_t, int64_t column) {
            FloatSum sum(dw.Number(column));
            for (int64_t r = 0; r < t; ++r) sum.Add(dy.Number(r * d + column) * x.Number(r * d + column) * rstds[static_cast<size_t>(r)]);
            return sum;
          });
        }));
  }
  bench.Reset();
  return absl::OkStatus();
}

absl::Status SwiGluLines(CudaBench& bench, int64_t tokens, int64_t width, bool gradient) {
  const bool decode = tokens <= kMostDecoded;
  const int64_t t = bench.FewTokens(tokens), d = bench.FewColumns(width);
  const std::string shape = absl::StrCat(t, " x ", d), forward = "cuda swiglu " + shape, backward = "cuda swiglu gradient " + shape;
  if (!bench.Wants({forward}) && !(gradient && bench.Wants({backward}))) return absl::OkStatus();
  Stream& stream = bench.stream();
  const std::vector<int64_t> some = CudaBench::SomeRows(t);
  const int64_t n = static_cast<int64_t>(some.size());
  Arena arena;
  const RandomTensor both = bench.Random({t, 2 * d});
  const Tensor out = bench.New(DType::kBF16, {t, d}), host_both = bench.Host(both, some), host_out = arena.New(DType::kBF16, {n, d});
  RETURN_IF_ERROR(bench.Line(forward, {.bytes = 6 * AsDouble(t * d), .recorded = decode}, [&](int) { SwiGlu(stream, both, out); }, [&] {
    SwiGlu(bench.cpu(), host_both, host_out);
    return bench.CheckSameRows(out, some, host_out);
  }));
  if (gradient) {
    const RandomTensor dout = bench.Random({t, d});
    const Tensor d_both = bench.New(DType::kBF16, {t, 2 * d}), host_d_both = arena.New(DType::kBF16, {n, 2 * d});
    RETURN_IF_ERROR(bench.Line(backward, {.bytes = 10 * AsDouble(t * d)}, [&](int) { SwiGluBackward(stream, dout, both, d_both); }, [&] {
      SwiGluBackward(bench.cpu(), bench.Host(dout, some), host_both, host_d_both);
      return bench.CheckSameRows(d_both, some, host_d_both);
    }));
  }
  bench.Reset();
  return absl::OkStatus();
}

// Tables of cosines and sines on the host, and a device's copy of them.
struct Tables {
  RopeTable host, device;
};
Tables RopeTables(CudaBench& bench, Arena& arena, int64_t positions, int64_t width, RopePairing pairing) {
  const int64_t half = width / 2;
  const auto make = [&](double (*f)(double)) {
    const Tensor t = arena.New(DType::kF32, {positions, half});
    for (int64_t i = 0; i < t.size(); ++i) {
      const double angle = AsDouble(i / half) * std::pow(10000.0, -AsDouble(i % half) / AsDouble(half));
      t.data<float>()[i] = static_cast<float>(f(angle));
    }
    const Tensor device = bench.New(DType::kF32, {positions, half});
    Upload(bench.stream(), t, device);
    return std::pair(t, device);
  };
  const auto [cos, device_cos] = make(std::cos);
  const auto [sin, device_sin] = make(std::sin);
  return {{cos, sin, pairing}, {device_cos, device_sin, pairing}};
}

// Rotation of the last `turned` elements of each head of x [t, heads, width], as in `name`.
absl::Status RopeLine(CudaBench& bench, const std::string& name, const RandomTensor& x, int64_t turned, const std::vector<int32_t>& positions,
                      const Tables& tables, bool inverse) {
  const std::vector<int64_t> some = CudaBench::SomeRows(x.dim(0));
  std::vector<int32_t> host_positions;
  for (const int64_t r : some) host_positions.push_back(positions[static_cast<size_t>(r)]);
  const Tensor device_positions = bench.PutInts(positions), host = bench.Host(x, some);
  const auto part = [&](const Tensor& t) { return t.Columns(t.dim(2) - turned, t.dim(2)); };
  return bench.Line(name, {.bytes = 4 * AsDouble(x.dim(0) * x.dim(1) * turned)},
                    [&](int) { Rope(bench.stream(), part(x), device_positions, tables.device, inverse); }, [&] {
                      Rope(bench.cpu(), part(host), host_positions.data(), tables.host, inverse);
                      return bench.CheckSameRows(x, some, host);
                    });
}

absl::Status RopeGradientLines(CudaBench& bench, int64_t t) {
  t = bench.FewTokens(t);
  std::vector<int32_t> positions(static_cast<size_t>(t));
  for (int64_t i = 0; i < t; ++i) positions[static_cast<size_t>(i)] = static_cast<int32_t>(i % 512);
  Arena arena;
  const std::string smollm2 = absl::StrCat("cuda rope gradient ", t, " x 9 x 64"), v2_lite = absl::StrCat("cuda rope ", t, " x 16 x 64 of 192, interleaved");
  if (bench.Wants({smollm2})) {
    const Tables tables = RopeTables(bench, arena, 512, 64, RopePairing::kHalfSplit);
    RETURN_IF_ERROR(RopeLine(bench, smollm2, bench.Random({t, 9, 64}), 64, positions, tables, true));
  }
  if (bench.Wants({v2_lite})) {
    const Tables tables = RopeTables(bench, arena, 512, 64, RopePairing::kInterleaved);
    RETURN_IF_ERROR(RopeLine(bench, v2_lite, bench.Random({t, 16, 192}), 64, positions, tables, false));
  }
  bench.Reset();
  return absl::OkStatus();
}

// SmolLM2's 9 + 3 heads of 64 out of the fused projection, into pages: the last `queries` of `tokens` of each sequence.
absl::Status RopeWriteKvLine(CudaBench& bench, int64_t sequences, int64_t tokens, int64_t queries) {
  constexpr int64_t kQuery = 9, kKv = 3, kWidth = 64, kRow = (kQuery + 2 * kKv) * kWidth;
  if (bench.few()) sequences = 2, tokens = 70, queries = std::min<int64_t>(queries, 70);
  const int64_t t = sequences * queries, pages = (tokens + kPageTokens - 1) / kPageTokens;
  const std::string name = absl::StrCat("cuda rope and write_kv 9/3 x 64, ", sequences, " x ", queries);
  if (!bench.Wants({name})) return absl::OkStatus();
  Stream& stream = bench.stream();
  const KvLayout layout = {kKv, kWidth, kWidth, false, DType::kBF16};
  std::vector<int32_t> table(static_cast<size_t>(sequences * pages)), positions;
  std::vector<AttentionSequence> batch;
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(table.size() - 1 - i);
  for (int64_t s = 0; s < sequences; ++s) {
    batch.push_back({static_cast<int32_t>(s * queries), static_cast<int32_t>(queries), static_cast<int32_t>(tokens - queries), table.data() + s * pages});
    for (int64_t i = tokens - queries; i < tokens; ++i) positions.push_back(static_cast<int32_t>(i));
  }
  Arena arena;
  const Tables tables = RopeTables(bench, arena, tokens, kWidth, RopePairing::kHalfSplit);
  const Tensor device_positions = bench.PutInts(positions);
  const AttentionBatch prepared(stream, batch, layout, kQuery, bench.memory());
  const auto pool = [&] {
    const Tensor memory = bench.New(DType::kBF16, {sequences * pages, static_cast<int64_t>(layout.PageBytes()) / 2});
    Fill(stream, memory, 0);
    return memory;
  };
  const Tensor qkv = bench.Random({t, kRow}), twin = bench.New(DType::kBF16, {t, kRow}), kv_pool = pool(), twin_pool = pool();
  Copy(stream, qkv, twin);
  const auto heads = [&](const Tensor& rows, int64_t first, int64_t count) {
    return rows.Columns(first * kWidth, (first + count) * kWidth).Reshape({rows.dim(0), count, kWidth});
  };
  const auto q = [&](const Tensor& rows) { return heads(rows, 0, kQuery); };
  const auto k = [&](const Tensor& rows) { return heads(rows, kQuery, kKv); };
  const auto v = [&](const Tensor& rows) { return heads(rows, kQuery + kKv, kKv); };
  const std::vector<int64_t> some = CudaBench::SomeRows(t);
  const Tensor host = bench.Host(qkv, some);
  std::vector<int32_t> host_positions;
  for (const int64_t r : some) host_positions.push_back(positions[static_cast<size_t>(r)]);
  // q is read and written, k and v are read and go to their pages.
  RETURN_IF_ERROR(bench.Line(
      name, {.bytes = 4 * AsDouble(t * kRow), .recorded = queries == 1},
      [&](int) {
        RopeWriteKv(stream, {kv_pool.raw(), layout.PageBytes(), layout}, prepared, q(qkv), k(qkv), v(qkv), device_positions, tables.device);
      },
      [&]() -> absl::Status {
        // The two ops: the turned rows are the CPU's; what WriteKv does is seen by attention's lines.
        Rope(stream, q(twin), device_positions, tables.device, false);
        Rope(stream, k(twin), device_positions, tables.device, false);
        WriteKv(stream, {twin_pool.raw(), layout.PageBytes(), layout}, prepared, k(twin), v(twin));
        Rope(bench.cpu(), q(host), host_positions.data(), tables.host, false);
        Rope(bench.cpu(), k(host), host_positions.data(), tables.host, false);
        RETURN_IF_ERROR(bench.CheckSameRows(twin, some, host));
        Copy(stream, k(twin), k(qkv));  // left turned or as it was
        RETURN_IF_ERROR(bench.CheckSameRows(qkv, some, host));
        return bench.CheckSame(kv_pool, bench.Host(twin_pool));
      }));
  bench.Reset();
  return absl::OkStatus();
}

absl::Status EmbeddingLines(CudaBench& bench, int64_t t, int64_t ids, int64_t d) {
  t = bench.FewTokens(t), ids = bench.FewColumns(ids), d = bench.FewColumns(d);
  const std::string shape = absl::StrCat(t, " x ", d, " of ", ids, " ids"), forward = "cuda embedding " + shape, backward = "cuda embedding gradient " + shape;
  if (!bench.Wants({forward, backward})) return absl::OkStatus();
  Stream& stream = bench.stream();
  std::mt19937 random(3);
  std::vector<int32_t> tokens(static_cast<size_t>(t));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<uint32_t>(ids));
  tokens.back() = tokens.front();  // one at least is there twice
  const RandomTensor table = bench.Random({ids, d}), dout = bench.Random({t, d}), dtable = bench.RandomFloat({ids, d});
  const Tensor out = bench.New(DType::kBF16, {t, d}), device_tokens = bench.PutInts(tokens);
  RETURN_IF_ERROR(bench.Line(forward, {.bytes = 4 * AsDouble(t * d)}, [&](int) { Embedding(stream, table, device_tokens, out); }, [&] {
    return bench.CheckSome(out, 32, [&](int64_t row, int64_t column) { return Expected{table.Number(tokens[static_cast<size_t>(row)] * d + column)}; });
  }));
  std::vector<int32_t> distinct = tokens;
  std::sort(distinct.begin(), distinct.end());
  const int64_t rows = std::unique(distinct.begin(), distinct.end()) - distinct.begin();
  // Rows of float are read and written, and the host sorts the ids first.
  RETURN_IF_ERROR(bench.Line(
      backward, {.bytes = AsDouble(2 * t * d + 8 * rows * d)}, [&](int) { EmbeddingBackward(stream, dout, tokens.data(), dtable); },
      [&]() -> absl::Status {
        for (const int64_t i : {int64_t{0}, t / 2, t / 3}) {
          const int64_t id = tokens[static_cast<size_t>(i)], column = i % d;
          FloatSum sum(dtable.Number(id * d + column));
          for (int64_t r = 0; r < t; ++r) {
            if (tokens[static_cast<size_t>(r)] == id) sum.Add(dout.Number(r * d + column));
          }
          RETURN_IF_ERROR(bench.Check(dtable, id * d + column, sum));
        }
        return absl::OkStatus();
      }));
  bench.Reset();
  return absl::OkStatus();
}

// The sizes of SmolLM2-135M's 272 tensors.
std::vector<int64_t> SmolLm2Tensors(CudaBench& bench) {
  const int64_t d = bench.FewColumns(576), kv = d / 3, wide = bench.FewColumns(1536), layers = bench.Fewer(30, 8);
  std::vector<int64_t> sizes = {bench.FewColumns(49152) * d};
  for (int64_t i = 0; i < layers; ++i) {
    for (const int64_t size : {d * d, kv * d, kv * d, d * d, wide * d, wide * d, d * wide, d, d}) sizes.push_back(size);
  }
  sizes.push_back(d);
  return sizes;
}

absl::Status OptimizerLines(CudaBench& bench) {
  const std::vector<int64_t> sizes = SmolLm2Tensors(bench);
  const std::string what = absl::StrCat("of SmolLM2's ", sizes.size(), " tensors"), norm = "cuda gradient norm " + what, adamw = "cuda adamw " + what;
  if (!bench.Wants({norm, adamw})) return absl::OkStatus();
  Stream& stream = bench.stream();
  int64_t total = 0;
  for (const int64_t size : sizes) total += size;
  const RandomTensor gradient = bench.RandomFloat({total}), m = bench.RandomFloat({total}), master = bench.RandomFloat({total});
  const Tensor v = bench.New(DType::kF32, {total}), weight = bench.New(DType::kBF16, {total});
  Fill(stream, v.Reshape({1, total}), 0.5);
  std::vector<AdamWTensors> tensors;
  std::vector<Tensor> gradients;
  std::vector<int64_t> begins;
  int64_t at = 0;
  for (const int64_t size : sizes) {
    const auto part = [&](const Tensor& t) { return t.Rows(at, at + size); };
    tensors.push_back({part(gradient), part(m), part(v), part(master), part(weight), size > 10000 ? 0.1 : 0});
    gradients.push_back(tensors.back().gradient);
    begins.push_back(at);
    at += size;
  }
  double squares = 0;
  // One number of each tensor comes back, and is waited for.
  RETURN_IF_ERROR(bench.Line(norm, {.bytes = 4 * AsDouble(total)}, [&](int) { squares = SumOfSquares(stream, gradients); }, [&]() -> absl::Status {
    double want = 0;
    for (int64_t i = 0; i < total; ++i) want += gradient.Number(i) * gradient.Number(i);
    if (std::fabs(squares / want - 1) < 1e-9) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(squares, ", expected ", want));
  }));
  AdamWParams params;
  params.lr = 1e-3, params.step = 3, params.gradient_scale = 0.5;
  // The beginnings of some tensors, and their ends, on the CPU.
  struct Piece {
    size_t tensor;
    int64_t begin, end;
    AdamWTensors host;
  };
  std::vector<Piece> pieces;
  Arena arena;
  for (const size_t i : {size_t{0}, size_t{3}, tensors.size() / 2, tensors.size() - 2, tensors.size() - 1}) {
    const int64_t count = std::min<int64_t>(sizes[i], 100);
    for (const int64_t begin : {int64_t{0}, sizes[i] - count}) {
      const auto part = [&](const Tensor& t) { return bench.Host(t.Rows(begin, begin + count)); };
      const AdamWTensors& t = tensors[i];
      pieces.push_back({i, begin, begin + count,
                        {part(t.gradient), part(t.m), part(t.v), part(t.master), arena.New(DType::kBF16, {count}), t.weight_decay}});
    }
  }
  // gradient, m, v and master are read, the last three and the weight are written.
  RETURN_IF_ERROR(bench.Line(adamw, {.bytes = 30 * AsDouble(total)}, [&](int) { AdamW(stream, params, tensors); }, [&]() -> absl::Status {
    for (const Piece& p : pieces) {
      AdamW(bench.cpu(), params, {p.host});
      const AdamWTensors& t = tensors[p.tensor];
      for (const auto& [got, want] : {std::pair(t.m, p.host.m), {t.v, p.host.v}, {t.master, p.host.master}, {t.weight, p.host.weight}}) {
        RETURN_IF_ERROR(Annotate(bench.CheckSame(got.Rows(p.begin, p.end), want), absl::StrCat("tensor ", p.tensor)));
      }
    }
    return absl::OkStatus();
  }));
  bench.Reset();
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchRowOpsCuda(CudaBench& bench) {
  const int64_t norms[][2] = {{16384, 576}, {1536, 576}, {4096, 2048}, {16384, 2048}};
  for (const auto& s : norms) RETURN_IF_ERROR(NormLines(bench, s[0], s[1], true));
  const int64_t decoded_norms[][2] = {{64, 576}, {1024, 576}, {64, 2048}, {1024, 2048}};
  for (const auto& s : decoded_norms) RETURN_IF_ERROR(NormLines(bench, s[0], s[1], false));
  // V2-Lite: 16384 tokens of two shared experts, and their rows of six experts each.
  const int64_t gates[][2] = {{16384, 1536}, {16384, 2816}, {98304, 1408}};
  for (const auto& s : gates) RETURN_IF_ERROR(SwiGluLines(bench, s[0], s[1], true));
  for (const int64_t tokens : {64, 1024}) RETURN_IF_ERROR(SwiGluLines(bench, tokens, 1536, false));
  RETURN_IF_ERROR(RopeWriteKvLine(bench, 32, 512, 512));
  for (const int64_t sequences : {64, 1024}) RETURN_IF_ERROR(RopeWriteKvLine(bench, sequences, 257, 1));
  RETURN_IF_ERROR(RopeGradientLines(bench, 16384));
  RETURN_IF_ERROR(EmbeddingLines(bench, 16384, 49152, 576));
  RETURN_IF_ERROR(OptimizerLines(bench));
  return absl::OkStatus();
}

}  // namespace grouper::kernels
