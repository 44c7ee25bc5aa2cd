// Attention, routing and sampling at the shapes of the two models that the README's tables show: the quickstart's (MLA,
// 4 heads, key 40, value 32, unabsorbed 24 and 24; sequences of some 40 tokens) and SmolLM2's (9 query and 3 kv heads of 64), decode with
// long contexts, prefill and training.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/base/philox.h"
#include "common/base/status.h"
#include "kernels/attention.h"
#include "kernels/bench.h"
#include "kernels/sampling.h"

namespace grouper::kernels {
namespace {

void FillRandom(const Tensor& t, const char* label, double scale = 1) {
  PhiloxStream numbers(MakePhiloxKey(1, label));
  float* data = t.data<float>();
  for (int64_t i = 0; i < t.size(); ++i) data[i] = static_cast<float>(scale * (2 * numbers.NextDouble() - 1));
}

struct Shape {
  const char* name;
  int query_heads, kv_heads, key_dim, value_dim;
  bool values_in_keys;
  int sequences, context, q_len;  // q_len tokens after `context` cached ones, in each of the sequences
  bool backward;
};

constexpr Shape kShapes[] = {
    {"quickstart decode", 4, 1, 40, 32, true, 256, 39, 1, false},
    {"quickstart train", 4, 1, 40, 32, true, 60, 0, 40, false},
    {"quickstart train, unabsorbed", 4, 4, 24, 24, false, 60, 0, 40, true},
    {"SmolLM2 decode", 9, 3, 64, 64, false, 1, 1999, 1, false},
    {"SmolLM2 decode", 9, 3, 64, 64, false, 32, 499, 1, false},
    {"SmolLM2 prefill", 9, 3, 64, 64, false, 1, 0, 2000, false},
    {"SmolLM2 train", 9, 3, 64, 64, false, 8, 0, 256, true},
    {"DeepSeek-V3 decode, 16 heads", 16, 1, 576, 512, true, 8, 499, 1, false},
};

absl::Status BenchShape(Bench& bench, const Shape& s) {
  const std::string name = absl::StrFormat("%s, %d x %d + %d", s.name, s.sequences, s.context, s.q_len);
  if (!bench.Wants(name) && !(s.backward && bench.Wants(name + ", backward"))) return absl::OkStatus();
  Arena arena;
  const KvLayout layout = {s.kv_heads, s.key_dim, s.value_dim, s.values_in_keys, DType::kF32};
  const int length = s.context + s.q_len, pages_each = (length + kPageTokens - 1) / kPageTokens;
  const int64_t tokens = static_cast<int64_t>(s.sequences) * s.q_len,
                stored = static_cast<int64_t>(s.sequences) * length;
  const Tensor pool =
      arena.NewZero(DType::kF32, {s.sequences * pages_each, static_cast<int64_t>(layout.PageBytes() / sizeof(float))});
  const PagedKv kv = {pool.raw(), layout.PageBytes(), layout};
  std::vector<int32_t> tables(static_cast<size_t>(s.sequences * pages_each));
  for (size_t i = 0; i < tables.size(); ++i) tables[i] = static_cast<int32_t>(i);
  std::vector<AttentionSequence> whole, sequences;
  for (int i = 0; i < s.sequences; ++i) {
    whole.push_back({i * length, length, 0, tables.data() + i * pages_each});
    sequences.push_back({i * s.q_len, s.q_len, s.context, tables.data() + i * pages_each});
  }
  const Tensor k = arena.New(DType::kF32, {stored, s.kv_heads, s.key_dim});
  const Tensor v = s.values_in_keys ? Tensor() : arena.New(DType::kF32, {stored, s.kv_heads, s.value_dim});
  const Tensor q = arena.New(DType::kF32, {tokens, s.query_heads, s.key_dim}),
               out = arena.New(DType::kF32, {tokens, s.query_heads, s.value_dim});
  const Tensor lse = arena.New(DType::kF32, {tokens, s.query_heads});
  FillRandom(k, "k");
  FillRandom(q, "q");
  if (!v.empty()) FillRandom(v, "v");
  WriteKv(bench.stream(), kv, whole, k, v);
  const double scale = 1 / std::sqrt(static_cast<double>(s.key_dim));
  const auto run = [&](Stream& stream) { Attention(stream, kv, sequences, q, scale, out, lse); };

  // The last sequence's last query against the formulas, in its last heads.
  run(bench.stream());
  const auto at = [](const Tensor& t, int64_t token, int64_t head) { return t.row<float>(token) + head * t.stride(1); };
  const int kv_head = s.kv_heads - 1, group = s.query_heads / s.kv_heads;
  const auto key = [&](int64_t token) { return at(k, stored - length + token, kv_head); };
  const auto of_value = [&](int64_t token) { return s.values_in_keys ? key(token) : at(v, stored - length + token, kv_head); };
  const auto dot = [](const float* x, const float* y, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
    return sum;
  };
  const auto weights = [&](int head) {
    std::vector<double> p(static_cast<size_t>(length));
    double sum = 0;
    for (int j = 0; j < length; ++j) sum += p[j] = std::exp(scale * dot(at(q, tokens - 1, head), key(j), s.key_dim));
    for (double& x : p) x /= sum;
    return p;
  };
  const auto check = [](const std::string& what, float got, double want) {
    if (std::abs(static_cast<double>(got) - want) < 1e-5) return absl::OkStatus();
    return absl::InternalError(absl::StrFormat("%s: %g, expected %g", what, got, want));
  };
  const int head = s.query_heads - 1;
  const std::vector<double> p = weights(head);
  double value = 0;
  for (int j = 0; j < length; ++j) value += p[j] * static_cast<double>(of_value(j)[0]);
  RETURN_IF_ERROR(check(name, at(out, tokens - 1, head)[0], value));

  // Multiplications and additions of visible scores only.
  const double pairs = static_cast<double>(s.sequences) * s.query_heads *
                       (static_cast<double>(s.q_len) * s.context + 0.5 * s.q_len * (s.q_len + 1.0));
  bench.Line(name, 2 * pairs * (s.key_dim + s.value_dim), "GFLOP/s", [&] { run(bench.stream()); });
  if (!s.backward) return absl::OkStatus();
  const Tensor dout = arena.New(DType::kF32, {tokens, s.query_heads, s.value_dim}),
               dq = arena.New(DType::kF32, {tokens, s.query_heads, s.key_dim});
  const Tensor dk = arena.New(DType::kF32, {tokens, s.kv_heads, s.key_dim});
  const Tensor dv = arena.New(DType::kF32, {tokens, s.kv_heads, s.value_dim});
  FillRandom(dout, "dout");
  const std::string backward = name + ", backward";
  const auto run_backward = [&] { AttentionBackward(bench.stream(), kv, sequences, q, scale, out, lse, dout, dq, dk, dv); };
  run_backward();
  // dL/ds of the last query and a key: p (<dout, v> - <dout, out>).
  const auto slope = [&](int h, double weight, int64_t j) {
    const float* const d = at(dout, tokens - 1, h);
    return weight * (dot(d, of_value(j), s.value_dim) - dot(d, at(out, tokens - 1, h), s.value_dim));
  };
  double want_dq = 0, want_dk = 0, want_dv = 0;
  for (int j = 0; j < length; ++j) want_dq += scale * slope(head, p[j], j) * static_cast<double>(key(j)[0]);
  for (int h = kv_head * group; h < s.query_heads; ++h) {  // nobody but the last query sees the last key
    const double weight = weights(h).back();
    want_dk += scale * slope(h, weight, length - 1) * static_cast<double>(at(q, tokens - 1, h)[0]);
    want_dv += weight * static_cast<double>(at(dout, tokens - 1, h)[0]);
  }
  RETURN_IF_ERROR(check(backward + ", dq", at(dq, tokens - 1, head)[0], want_dq));
  RETURN_IF_ERROR(check(backward + ", dk", at(dk, tokens - 1, kv_head)[0], want_dk));
  RETURN_IF_ERROR(check(backward + ", dv", at(dv, tokens - 1, kv_head)[0], want_dv));
  bench.Line(backward, 2 * pairs * (3 * s.key_dim + 2 * s.value_dim), "GFLOP/s", run_backward);
  return absl::OkStatus();
}

// Logits of a language model's spread: most ids far below the best.
Tensor Logits(Arena& arena, int64_t rows, int64_t vocabulary) {
  const Tensor logits = arena.New(DType::kF32, {rows, vocabulary});
  PhiloxStream numbers(MakePhiloxKey(1, "logits"));
  for (int64_t i = 0; i < logits.size(); ++i) logits.data<float>()[i] = static_cast<float>(2.5 * numbers.NextNormal());
  return logits;
}

}  // namespace

absl::Status BenchAttention(Bench& bench) {
  for (const Shape& shape : kShapes) RETURN_IF_ERROR(BenchShape(bench, shape));
  return absl::OkStatus();
}

absl::Status BenchSampling(Bench& bench) {
  struct Size {
    int64_t rows, vocabulary;
  };
  for (const Size& size : {Size{256, 31}, Size{16, 49152}, Size{16, 151936}}) {
    Arena arena;
    const Tensor logits = Logits(arena, size.rows, size.vocabulary), logprobs = arena.New(DType::kF32, {size.rows});
    const Tensor slopes = arena.New(DType::kF32, {size.rows}), statistics = arena.New(DType::kF32, {size.rows, 2}),
                 dlogits = arena.New(DType::kF32, {size.rows, size.vocabulary});
    FillRandom(slopes, "slopes");
    const double bytes = 4.0 * static_cast<double>(logits.size());
    for (const SamplingFilter& filter :
         {SamplingFilter{1, 0, 1}, SamplingFilter{1, 20, 1}, SamplingFilter{1, 0, 0.95f}}) {
      std::vector<SampleRequest> requests;
      for (int64_t r = 0; r < size.rows; ++r)
        requests.push_back({filter, SamplingKey(1, 0, 0), static_cast<uint32_t>(r), 0});
      std::vector<SampledToken> sampled;
      const std::vector<SamplingFilter> filters(static_cast<size_t>(size.rows), filter);
      const std::string what =
          absl::StrFormat("%d x %d, top_k %d, top_p %g", size.rows, size.vocabulary, filter.top_k, filter.top_p);
      if (!bench.Wants("sample " + what) && !bench.Wants("logprobs " + what) && !bench.Wants("logprobs backward " + what)) continue;
      Sample(bench.stream(), logits, requests, sampled);
      std::vector<int32_t> tokens;
      for (const SampledToken& t : sampled) tokens.push_back(t.token);
      TokenLogprobs(bench.stream(), logits, filters, tokens.data(), logprobs, Tensor(), statistics);
      for (int64_t r = 0; r < size.rows; ++r) {
        if (logprobs.data<float>()[r] != sampled[static_cast<size_t>(r)].logprob) {
          return absl::InternalError("sample " + what + ": the recorded log-probability is not TokenLogprobs'");
        }
      }
      bench.Line("sample " + what, bytes, "GB/s", [&] { Sample(bench.stream(), logits, requests, sampled); });
      bench.Line("logprobs " + what, bytes, "GB/s",
                 [&] { TokenLogprobs(bench.stream(), logits, filters, tokens.data(), logprobs, Tensor(), statistics); });
      const auto run_backward = [&] { TokenLogprobsBackward(bench.stream(), logits, filters, tokens.data(), slopes, dlogits, statistics); };
      run_backward();
      for (int64_t r = 0; r < size.rows; ++r) {  // slope (1 - p) at the token; all of a row add up to 0
        const float* const d = dlogits.row<float>(r);
        const double slope = static_cast<double>(slopes.data<float>()[r]), p = std::exp(static_cast<double>(logprobs.data<float>()[r]));
        double sum = 0;
        for (int64_t i = 0; i < size.vocabulary; ++i) sum += static_cast<double>(d[i]);
        if (!(std::abs(static_cast<double>(d[tokens[static_cast<size_t>(r)]]) - slope * (1 - p)) < 1e-5 && std::abs(sum) < 1e-4)) {
          return absl::InternalError(absl::StrFormat("logprobs backward %s: row %d is not the gradient", what, r));
        }
      }
      bench.Line("logprobs backward " + what, 2 * bytes, "GB/s", run_backward);
    }
  }
  return absl::OkStatus();
}

}  // namespace grouper::kernels
