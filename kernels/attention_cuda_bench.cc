// Attention on CUDA: decode (each sequence its own pages, and groups with a prompt in common), training's forward and its gradients.
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "kernels/attention_cuda.h"
#include "kernels/cuda_bench.h"

namespace grouper::kernels {
namespace {

struct Heads {
  const char* name;
  int64_t query, kv, key_dim, value_dim;
  bool mla;  // values in keys
};

// A batch's numbers as the host knows them, and attention.h's formulas in double. Sequences of `tokens` keys and `queries` queries, the last
// ones; the first `shared` keys are those of the first of `members` sequences.
struct Reference {
  const Heads& h;
  const RandomTensor &q, &k, &v;
  int64_t queries, tokens, members, shared;
  double scale;

  int64_t KvHead(int64_t head) const { return head / (h.query / h.kv); }
  int64_t Sequence(int64_t row) const { return row / queries; }
  int64_t Position(int64_t row) const { return tokens - queries + row % queries; }
  // Where key and value `position` of a sequence begin.
  int64_t Key(int64_t sequence, int64_t position, int64_t kv_head) const {
    const int64_t holder = position < shared ? sequence / members * members : sequence;
    return ((holder * tokens + position) * h.kv + kv_head) * h.key_dim;
  }
  double Value(int64_t key, int64_t d) const { return h.mla ? k.Number(key + d) : v.Number(key / h.key_dim * h.value_dim + d); }
  double Score(int64_t row, int64_t head, int64_t key) const {
    return scale * Expected(Dot(q, (row * h.query + head) * h.key_dim, 1, k, key, 1, h.key_dim)).value;
  }

  // The scores of a query, made its weights, and their log-sum-exp.
  std::vector<double> Weights(int64_t row, int64_t head, double* lse) const {
    std::vector<double> p(static_cast<size_t>(Position(row)) + 1);
    for (size_t j = 0; j < p.size(); ++j) p[j] = Score(row, head, Key(Sequence(row), static_cast<int64_t>(j), KvHead(head)));
    const double high = *std::max_element(p.begin(), p.end());
    double total = 0;
    for (double& x : p) total += x = std::exp(x - high);
    for (double& x : p) x /= total;
    *lse = high + std::log(total);
    return p;
  }
};

// What some elements of a result and some log-sum-exps should be.
struct Samples {
  std::vector<std::pair<int64_t, Expected>> out, lse;

  explicit Samples(const Reference& r, int64_t rows) {
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t row = CudaBench::Place(i, rows), head = i * 31 % r.h.query, query = row * r.h.query + head;
      double log_sum;
      const std::vector<double> p = r.Weights(row, head, &log_sum);
      lse.emplace_back(query, Expected{log_sum, 1e-4});
      for (int64_t d = i; d < r.h.value_dim; d += r.h.value_dim / 4) {
        RoundedSum sum;
        for (size_t j = 0; j < p.size(); ++j) {
          sum.Add(p[j] * r.Value(r.Key(r.Sequence(row), static_cast<int64_t>(j), r.KvHead(head)), d));
        }
        out.emplace_back(query * r.h.value_dim + d, sum);
      }
    }
  }

  absl::Status Check(CudaBench& bench, const Tensor& got_out, const Tensor& got_lse) const {
    for (const auto& [i, want] : out) RETURN_IF_ERROR(bench.Check(got_out, i, want));
    for (const auto& [i, want] : lse) RETURN_IF_ERROR(Annotate(bench.Check(got_lse, i, want), "lse"));
    return absl::OkStatus();
  }
};

// The gradients of some queries, keys and values, from what the forward left in `out` and `lse` (which are checked on their own).
absl::Status CheckGradients(CudaBench& bench, const Reference& r, const Tensor& out, const Tensor& lse, const RandomTensor& dout, const Tensor& dq,
                            const Tensor& dk, const Tensor& dv) {
  const Heads& h = r.h;
  const int64_t rows = out.dim(0), group = h.query / h.kv;
  for (int64_t i = 0; i < 4; ++i) {
    const int64_t sequence = CudaBench::Place(i, rows / r.queries), first = sequence * r.queries;
    // This sequence's own.
    const std::vector<double> outs = bench.Read(out, first * h.query * h.value_dim, r.queries * h.query * h.value_dim),
                              sums = bench.Read(lse, first * h.query, r.queries * h.query);
    // p and dL/ds of a query, a row of the sequence, and a key before it.
    const auto slope = [&](int64_t row, int64_t head, int64_t position, double* p) {
      const int64_t key = r.Key(sequence, position, r.KvHead(head)), query = row * h.query + head;
      double along = 0;  // <dout, v - out>
      for (int64_t d = 0; d < h.value_dim; ++d) {
        along += dout.Number((first * h.query + query) * h.value_dim + d) * (r.Value(key, d) - outs[static_cast<size_t>(query * h.value_dim + d)]);
      }
      *p = std::exp(r.Score(first + row, head, key) - sums[static_cast<size_t>(query)]);
      return *p * along;
    };
    double p;
    const int64_t row = CudaBench::Place(i, r.queries), head = i * 31 % h.query, d = i * 17 % h.key_dim;
    RoundedSum dq_sum;
    for (int64_t j = 0; j <= row; ++j) dq_sum.Add(r.scale * slope(row, head, j, &p) * r.k.Number(r.Key(sequence, j, r.KvHead(head)) + d));
    RETURN_IF_ERROR(Annotate(bench.Check(dq, ((first + row) * h.query + head) * h.key_dim + d, dq_sum), "dq"));

    const int64_t position = i * 7919 % r.queries, kv_head = i * 31 % h.kv, e = i * 17 % h.value_dim;  // the first key first
    RoundedSum dk_sum, dv_sum;
    for (int64_t later = position; later < r.queries; ++later) {
      for (int64_t of = kv_head * group; of < (kv_head + 1) * group; ++of) {
        const int64_t query = (first + later) * h.query + of;
        dk_sum.Add(r.scale * slope(later, of, position, &p) * r.q.Number(query * h.key_dim + d));
        dv_sum.Add(p * dout.Number(query * h.value_dim + e));
      }
    }
    const int64_t key = (first + position) * h.kv + kv_head;
    RETURN_IF_ERROR(Annotate(bench.Check(dk, key * h.key_dim + d, dk_sum), "dk"));
    RETURN_IF_ERROR(Annotate(bench.Check(dv, key * h.value_dim + e, dv_sum), "dv"));
  }
  return absl::OkStatus();
}

// `sequences` of `context` cached tokens and `queries` new ones each; `members` after one another begin with the same `shared` tokens, a
// multiple of a page.
absl::Status AttentionLines(CudaBench& bench, const Heads& h, int64_t sequences, int64_t context, int64_t queries, int64_t members = 1,
                            int64_t shared = 0) {
  const bool training = queries > 1;
  if (bench.few()) {
    sequences = 2 * members, context = std::min<int64_t>(context, 150), queries = std::min<int64_t>(queries, 90);
    shared = std::min<int64_t>(shared, 2 * kPageTokens);
  }
  std::string shape = absl::StrCat(h.name, ", ", sequences, " x ", training ? queries : context + 1);
  if (members > 1) absl::StrAppend(&shape, ", ", members, " share ", shared);
  const std::string name = absl::StrCat("cuda attention ", training ? "training " : "decode ", shape), preparing = name + ", preparing",
                    gradients = "cuda attention gradients " + shape;
  const bool prepares = !training && members > 1, derives = training && !h.mla;  // MLA's gradient is that of its heads unabsorbed
  const bool measures_splits = !training && members == 1 && bench.Wants({name});
  if (!bench.Wants({name}) && !(prepares && bench.Wants({preparing})) && !(derives && bench.Wants({gradients}))) return absl::OkStatus();
  Stream& stream = bench.stream();
  const KvLayout layout = {static_cast<int>(h.kv), static_cast<int>(h.key_dim), static_cast<int>(h.value_dim), h.mla, DType::kBF16};
  const int64_t tokens = context + queries, pages = (tokens + kPageTokens - 1) / kPageTokens;
  const int64_t pool_bytes = static_cast<int64_t>(layout.PageBytes()) * pages * sequences;
  const int64_t sets = training ? 1 : bench.Sets(pool_bytes, 16);
  std::vector<int32_t> table(static_cast<size_t>(pages * sequences));
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(5));
  std::vector<AttentionSequence> cached, batch;
  std::vector<int32_t> tables = table;
  for (int64_t s = 0; s < sequences; ++s) {
    const int32_t* own = tables.data() + s * pages;
    cached.push_back({static_cast<int32_t>(s * tokens), static_cast<int32_t>(tokens), 0, table.data() + s * pages});
    std::copy_n(table.data() + s / members * members * pages, shared / kPageTokens, tables.data() + s * pages);
    batch.push_back({static_cast<int32_t>(s * queries), static_cast<int32_t>(queries), static_cast<int32_t>(context), own});
  }
  const int64_t rows = sequences * queries;
  const RandomTensor k = bench.Random({sequences * tokens, h.kv, h.key_dim}), q = bench.Random({rows, h.query, h.key_dim});
  const RandomTensor v = h.mla ? k : bench.Random({sequences * tokens, h.kv, h.value_dim});
  const Tensor own_values = h.mla ? Tensor() : Tensor(v);
  std::vector<PagedKv> kvs;
  for (int64_t i = 0; i < sets; ++i) {
    kvs.push_back({bench.New(DType::kBF16, {pool_bytes / 2}).raw(), layout.PageBytes(), layout});
    WriteKv(stream, kvs.back(), cached, k, own_values);
  }
  const Tensor out = bench.New(DType::kBF16, {rows, h.query, h.value_dim}), lse = bench.New(DType::kF32, {rows, h.query});
  const double scale = 1 / std::sqrt(static_cast<double>(h.key_dim));
  const Reference reference = {h, q, k, v, queries, tokens, members, shared, scale};
  const auto kv = [&](int i) -> const PagedKv& { return kvs[static_cast<size_t>(i % sets)]; };
  const Samples samples(reference, rows);
  const auto check = [&] { return samples.Check(bench, out, lse); };
  // As in a model's pass: the batch is prepared once, for all layers.
  const AttentionBatch prepared(stream, batch, layout, h.query, bench.memory());

  const double pairs = static_cast<double>(rows) * (static_cast<double>(context) + static_cast<double>(queries + 1) / 2);
  const double flops = 2 * pairs * static_cast<double>(h.query * (h.key_dim + h.value_dim));
  const double kv_width = static_cast<double>(h.kv * (h.key_dim + (h.mla ? 0 : h.value_dim)));
  const double cached_tokens = static_cast<double>(sequences * tokens - (sequences - sequences / members) * shared);
  const double bytes = 2 * (cached_tokens * kv_width + static_cast<double>(rows * h.query * (h.key_dim + h.value_dim)));
  RETURN_IF_ERROR(bench.Line(name, {.flops = training ? flops : 0, .bytes = training ? 0 : bytes, .recorded = !training},
                             [&](int i) { Attention(stream, kv(i), prepared, q, scale, out, lse); }, check));
  if (prepares) {
    const auto prepare = [&](bool used) {
      const Arena::Mark mark = bench.memory().mark();
      const AttentionBatch again(stream, batch, layout, h.query, bench.memory());
      if (used) Attention(stream, kvs[0], again, q, scale, out, lse);
      bench.memory().Release(mark);
    };
    RETURN_IF_ERROR(bench.Line(preparing, {}, [&](int) { prepare(false); }, [&] {
      prepare(true);
      return check();
    }));
  }
  if (measures_splits) {
    // What splits of one size cost: beside other sizes, whose bits are others.
    std::string text = "  splits of";
    for (const int split_pages : {4, 8, 16, 32, 64, 1 << 20}) {
      const cuda::PreparedBatch other = cuda::PrepareAttention(stream, batch, layout, static_cast<int>(h.query), bench.memory(), split_pages);
      const double us = bench.RecordedTime([&](int i) { cuda::Attention(stream, kv(i), other, q, scale, out, lse); });
      const std::string size = split_pages == 1 << 20 ? "any" : absl::StrCat(split_pages);
      RETURN_IF_ERROR(Annotate(check(), absl::StrCat(name, ", splits of ", size)));
      absl::StrAppendFormat(&text, " %s: %.1f us%s, %.0f tiles;", size, us, split_pages == cuda::kSplitPages ? " (ours)" : "",
                            bench.Read(Tensor(other.num_items, DType::kI32, {1}, stream.device), 0));
    }
    bench.Note(text + " pages");
  }
  if (derives && bench.Wants({gradients})) {
    Attention(stream, kvs[0], prepared, q, scale, out, lse);
    RETURN_IF_ERROR(Annotate(check(), gradients + ", before"));
    const RandomTensor dout = bench.Random({rows, h.query, h.value_dim});
    const Tensor dq = bench.New(DType::kBF16, {rows, h.query, h.key_dim}), dk = bench.New(DType::kBF16, {rows, h.kv, h.key_dim}),
                 dv = bench.New(DType::kBF16, {rows, h.kv, h.value_dim});
    // Five products of the forward's two: q k, dout v, dq, dk, dv.
    RETURN_IF_ERROR(bench.Line(gradients, {.flops = 2.5 * flops},
                               [&](int) { AttentionBackward(stream, kvs[0], prepared, q, scale, out, lse, dout, dq, dk, dv); },
                               [&] { return CheckGradients(bench, reference, out, lse, dout, dq, dk, dv); }));
  }
  bench.Reset();
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchAttentionCuda(CudaBench& bench) {
  const Heads smollm2 = {"9/3 x 64", 9, 3, 64, 64, false}, mha64 = {"16 x 64", 16, 16, 64, 64, false};
  const Heads mha128 = {"16 x 128", 16, 16, 128, 128, false}, gqa128 = {"32/8 x 128", 32, 8, 128, 128, false};
  const Heads unabsorbed = {"16 x 192/128", 16, 16, 192, 128, false};  // MLA's, as its gradients are taken
  const Heads mla = {"MLA 16 heads", 16, 1, 576, 512, true}, mla128 = {"MLA 128 heads", 128, 1, 576, 512, true};
  for (const auto& [h, sequences, context] : {std::tuple<Heads, int, int>{mla, 128, 4095},
                                              {mla, 256, 1023},
                                              {mla, 64, 1023},
                                              {mla, 1024, 1023},
                                              {mla, 16, 4095},
                                              {mla, 4, 8191},
                                              {mla128, 64, 4095},
                                              {smollm2, 1024, 256},
                                              {smollm2, 64, 256},
                                              {gqa128, 256, 1023},
                                              {gqa128, 8, 8191}}) {
    RETURN_IF_ERROR(AttentionLines(bench, h, sequences, context, 1));
  }
  // Groups of 8 with a prompt in common.
  RETURN_IF_ERROR(AttentionLines(bench, mla, 256, 1023, 1, 8, 960));
  RETURN_IF_ERROR(AttentionLines(bench, mla, 64, 1023, 1, 8, 960));
  RETURN_IF_ERROR(AttentionLines(bench, mla, 128, 4095, 1, 8, 1024));
  RETURN_IF_ERROR(AttentionLines(bench, smollm2, 1024, 256, 1, 8, 128));
  RETURN_IF_ERROR(AttentionLines(bench, smollm2, 64, 256, 1, 8, 128));
  RETURN_IF_ERROR(AttentionLines(bench, gqa128, 256, 1023, 1, 8, 512));
  for (const auto& [h, sequences, queries] : {std::tuple<Heads, int, int>{smollm2, 32, 512},
                                              {mha64, 16, 1024},
                                              {mha128, 16, 1024},
                                              {mha128, 4, 4096},
                                              {unabsorbed, 16, 1024},
                                              {unabsorbed, 4, 4096},
                                              {mla, 16, 1024},
                                              {mla, 4, 4096}}) {
    RETURN_IF_ERROR(AttentionLines(bench, h, sequences, 0, queries));
  }
  return absl::OkStatus();
}

}  // namespace grouper::kernels
