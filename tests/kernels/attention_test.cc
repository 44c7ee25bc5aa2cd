#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "tests/testing/op_harness.h"

namespace grouper::kernels {
namespace {

using grouper::testing::Get;
using grouper::testing::GradientMatches;
using grouper::testing::Memory;
using grouper::testing::Near;
using grouper::testing::Same;
using grouper::testing::Set;
using grouper::testing::TestStream;

struct Heads {
  int query, kv, key_dim, value_dim;
  bool values_in_keys = false;
};

KvLayout LayoutOf(const Heads& h, DType dtype) { return {h.kv, h.key_dim, h.value_dim, h.values_in_keys, dtype}; }
double ScaleOf(const Heads& h) { return 1 / std::sqrt(static_cast<double>(h.key_dim)); }

// Ratios 1, 3 and 8 of query to kv heads, widths that fill no vector, the quickstart's MLA and a value as wide as its
// key.
const Heads kShapes[] = {{1, 1, 16, 16},       {2, 2, 7, 5},         {9, 3, 64, 64},       {8, 1, 24, 44},
                         {4, 1, 40, 32, true}, {3, 1, 13, 11, true}, {2, 2, 24, 24, true}, {4, 4, 80, 96}};
// Those whose gradients there are; the last is the quickstart's MLA as it reads unabsorbed.
const Heads kGradientShapes[] = {{1, 1, 16, 16}, {2, 2, 7, 5}, {9, 3, 64, 64}, {8, 1, 24, 44}, {4, 4, 80, 96}, {4, 4, 24, 24}};

// Whole sequences, one after another: q [T, Hq, key_dim], k, v.
struct Batch {
  Heads heads;
  std::vector<int32_t> lengths, begin;
  Tensor q, k, v;
  int64_t tokens() const { return q.dim(0); }
};

Batch MakeBatch(Memory& memory, const Heads& h, DType dtype, const std::vector<int32_t>& lengths, double scale = 1) {
  Batch batch = {h, lengths, {}, {}, {}, {}};
  int32_t total = 0;
  for (int32_t n : lengths) {
    batch.begin.push_back(total);
    total += n;
  }
  batch.q = memory.RandomStrided(dtype, {total, h.query, h.key_dim}, 3, "q", scale);
  batch.k = memory.RandomStrided(dtype, {total, h.kv, h.key_dim}, 5, "k", scale);
  if (!h.values_in_keys) batch.v = memory.RandomStrided(dtype, {total, h.kv, h.value_dim}, 1, "v");
  return batch;
}

// The sequences [first, last) of a batch as a batch of their own.
Batch Part(const Batch& whole, size_t first, size_t last) {
  Batch part = {whole.heads, {whole.lengths.begin() + first, whole.lengths.begin() + last}, {}, {}, {}, {}};
  const int64_t from = whole.begin[first], to = whole.begin[last - 1] + whole.lengths[last - 1];
  for (size_t i = first; i < last; ++i) part.begin.push_back(whole.begin[i] - whole.begin[first]);
  part.q = whole.q.Rows(from, to);
  part.k = whole.k.Rows(from, to);
  if (!whole.v.empty()) part.v = whole.v.Rows(from, to);
  return part;
}

// A pool of pages that hold NaN, handed out so that no sequence's pages are neighbours.
struct Pages {
  Pages(Memory& memory, const KvLayout& layout, int64_t count) : free(count) {
    pool = memory.New(layout.dtype, {count, static_cast<int64_t>(layout.PageBytes() / SizeOf(layout.dtype)) + 64});
    kv = {pool.raw(), static_cast<size_t>(pool.dim(1)) * SizeOf(layout.dtype), layout};
  }
  std::vector<int32_t> Take(int32_t tokens) {
    std::vector<int32_t> table;
    for (int32_t i = 0; i < (tokens + kPageTokens - 1) / kPageTokens; ++i) table.push_back(--free);
    return table;
  }
  int64_t free;
  Tensor pool;
  PagedKv kv;
};

struct Result {
  Tensor out, lse;
};

int64_t PagesOf(const Batch& batch) {
  int64_t pages = 1;
  for (int32_t n : batch.lengths) pages += n / kPageTokens + 1;
  return pages;
}

// Feeds `chunk` tokens of every sequence a call (0: all at once); sequence i starts i % 3 calls late, so that calls are
// ragged.
Result Feed(Memory& memory, const Batch& batch, int32_t chunk, int threads) {
  TestStream test(threads);
  const Heads& h = batch.heads;
  const DType dtype = batch.q.dtype(), wide = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  Pages pages(memory, LayoutOf(h, dtype), PagesOf(batch));
  const Result result = {memory.New(dtype, {batch.tokens(), h.query, h.value_dim}),
                         memory.New(wide, {batch.tokens(), h.query})};
  std::vector<std::vector<int32_t>> tables;
  for (int32_t n : batch.lengths) tables.push_back(pages.Take(n));
  std::vector<int32_t> done(batch.lengths.size(), 0);
  int64_t left = batch.tokens();
  for (int32_t call = 0; left > 0; ++call) {
    std::vector<AttentionSequence> sequences;
    std::vector<int64_t> rows;
    for (size_t i = 0; i < batch.lengths.size(); ++i) {
      if (chunk > 0 && call < static_cast<int32_t>(i % 3)) continue;
      const int32_t n = chunk == 0 ? batch.lengths[i] : std::min(chunk, batch.lengths[i] - done[i]);
      sequences.push_back({static_cast<int32_t>(rows.size()), n, done[i], tables[i].data()});
      for (int32_t t = 0; t < n; ++t) rows.push_back(batch.begin[i] + done[i] + t);
      done[i] += n;
    }
    const int64_t count = static_cast<int64_t>(rows.size());
    const auto gather = [&](const Tensor& from) {
      const Tensor to = memory.New(dtype, {count, from.dim(1), from.dim(2)});
      const int64_t width = from.dim(1) * from.dim(2);
      for (int64_t i = 0; i < to.size(); ++i) Set(to, i, Get(from, rows[i / width] * width + i % width));
      return to;
    };
    WriteKv(test.stream, pages.kv, sequences, gather(batch.k), h.values_in_keys ? Tensor() : gather(batch.v));
    const Tensor out = memory.New(dtype, {count, h.query, h.value_dim}), lse = memory.New(wide, {count, h.query});
    Attention(test.stream, pages.kv, sequences, gather(batch.q), ScaleOf(h), out, lse);
    const int64_t width = h.query * h.value_dim;
    for (int64_t i = 0; i < out.size(); ++i) Set(result.out, rows[i / width] * width + i % width, Get(out, i));
    for (int64_t i = 0; i < lse.size(); ++i) Set(result.lse, rows[i / h.query] * h.query + i % h.query, Get(lse, i));
    left -= count;
  }
  return result;
}

// The header's formula, in double, all scores of a query at once.
Result Formula(Memory& memory, const Batch& batch) {
  const Heads& h = batch.heads;
  const Result want = {memory.New(DType::kF64, {batch.tokens(), h.query, h.value_dim}),
                       memory.New(DType::kF64, {batch.tokens(), h.query})};
  const auto value = [&](int64_t token, int64_t head, int64_t d) {
    return h.values_in_keys ? Get(batch.k, (token * h.kv + head) * h.key_dim + d)
                            : Get(batch.v, (token * h.kv + head) * h.value_dim + d);
  };
  for (size_t s = 0; s < batch.lengths.size(); ++s) {
    for (int32_t t = 0; t < batch.lengths[s]; ++t) {
      for (int head = 0; head < h.query; ++head) {
        const int64_t row = (batch.begin[s] + t) * h.query + head, kv_head = head / (h.query / h.kv);
        std::vector<double> p(static_cast<size_t>(t) + 1);
        for (int32_t j = 0; j <= t; ++j) {
          double dot = 0;
          for (int d = 0; d < h.key_dim; ++d) {
            dot += Get(batch.q, row * h.key_dim + d) *
                   Get(batch.k, ((batch.begin[s] + j) * h.kv + kv_head) * h.key_dim + d);
          }
          p[j] = ScaleOf(h) * dot;
        }
        const double most = *std::max_element(p.begin(), p.end());
        double sum = 0;
        for (double& x : p) sum += x = std::exp(x - most);
        for (int d = 0; d < h.value_dim; ++d) {
          double o = 0;
          for (int32_t j = 0; j <= t; ++j) o += p[j] / sum * value(batch.begin[s] + j, kv_head, d);
          Set(want.out, row * h.value_dim + d, o);
        }
        Set(want.lse, row, most + std::log(sum));
      }
    }
  }
  return want;
}

TEST(AttentionTest, MatchesTheFormulaForContextsAroundPageEnds) {
  for (const Heads& h : kShapes) {
    Memory memory;
    const Batch batch = MakeBatch(memory, h, DType::kF32, {1, 63, 64, 65, 200});
    const Result got = Feed(memory, batch, 0, 2), want = Formula(memory, batch);
    EXPECT_TRUE(Near(got.out, want.out, 2e-6, 2e-5)) << h.query << " heads of " << h.key_dim;
    EXPECT_TRUE(Near(got.lse, want.lse, 2e-6, 2e-6)) << h.query << " heads of " << h.key_dim;
    const Batch wide = MakeBatch(memory, h, DType::kF64, {1, 63, 64, 65, 200});
    EXPECT_TRUE(Near(Feed(memory, wide, 0, 2).out, want.out, 1e-13, 1e-12)) << h.query << " heads of " << h.key_dim;
  }
}

TEST(AttentionTest, MatchesTheFormulaForDeepSeekV3Heads) {
  Memory memory;
  const Batch batch = MakeBatch(memory, {16, 1, 576, 512, true}, DType::kF32, {70}, 0.5);
  const Result got = Feed(memory, batch, 0, 2), want = Formula(memory, batch), decoded = Feed(memory, batch, 1, 2);
  EXPECT_TRUE(Near(got.out, want.out, 5e-6, 5e-5));
  EXPECT_TRUE(Same(decoded.out, got.out));
  EXPECT_TRUE(Same(decoded.lse, got.lse));
}

TEST(AttentionTest, DecodeChunkedPrefillAndTrainingAgreeBitForBit) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Heads& h : kShapes) {
      Memory memory;
      const Batch batch = MakeBatch(memory, h, dtype, {1, 63, 64, 65, 200});
      const Result whole = Feed(memory, batch, 0, 1);
      for (const int32_t chunk : {1, 7, 64, 65}) {
        const Result chunked = Feed(memory, batch, chunk, 2);
        EXPECT_TRUE(Same(chunked.out, whole.out)) << h.query << " heads of " << h.key_dim << ", chunks of " << chunk;
        EXPECT_TRUE(Same(chunked.lse, whole.lse)) << h.query << " heads of " << h.key_dim << ", chunks of " << chunk;
      }
    }
  }
}

TEST(AttentionTest, NeitherNeighboursNorThreadsChangeABit) {
  for (const Heads& h : kShapes) {
    Memory memory;
    const Batch batch = MakeBatch(memory, h, DType::kF32, {5, 130, 1, 64, 33, 40, 2, 70});
    const Result together = Feed(memory, batch, 0, 1);
    for (const int threads : {2, 3}) {
      const Result got = Feed(memory, batch, 0, threads);
      EXPECT_TRUE(Same(got.out, together.out)) << threads;
      EXPECT_TRUE(Same(got.lse, together.lse)) << threads;
    }
    for (size_t i = 0; i < batch.lengths.size(); ++i) {
      const Result alone = Feed(memory, Part(batch, i, i + 1), 0, 2);
      EXPECT_TRUE(Same(alone.out, together.out.Rows(batch.begin[i], batch.begin[i] + batch.lengths[i]))) << i;
    }
  }
}

TEST(AttentionTest, OneSequenceOfManyHeadsIsTheSameOnAnyNumberOfThreads) {
  for (const Heads& h : {Heads{16, 1, 40, 32, true}, Heads{18, 2, 24, 16}}) {
    Memory memory;
    const Batch batch = MakeBatch(memory, h, DType::kF32, {70});
    const Result want = Feed(memory, batch, 1, 1);
    for (const int threads : {2, 3, 5}) {
      const Result got = Feed(memory, batch, 1, threads);
      EXPECT_TRUE(Same(got.out, want.out)) << threads;
      EXPECT_TRUE(Same(got.lse, want.lse)) << threads;
    }
  }
}

TEST(AttentionTest, SharedPromptPagesGiveTheBitsOfOwnPages) {
  constexpr int32_t kPrompt = 100, kTotal = 170;
  for (const Heads& h : {Heads{9, 3, 64, 64}, Heads{4, 1, 40, 32, true}}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      Memory memory;
      TestStream test(2);
      const Batch batch = MakeBatch(memory, h, dtype, {kTotal});
      const Result want = Feed(memory, batch, 0, 1);
      const auto rows = [&](const Tensor& t, int32_t from, int32_t to) { return t.empty() ? t : t.Rows(from, to); };
      // One sample writes the prompt; two continue it, one of them on a copy of the half-filled second page.
      Pages pages(memory, LayoutOf(h, dtype), 8);
      const std::vector<int32_t> first = pages.Take(kTotal);
      const std::vector<int32_t> second = {first[0], pages.Take(1)[0], pages.Take(1)[0]};
      WriteKv(test.stream, pages.kv, {{0, kPrompt, 0, first.data()}}, rows(batch.k, 0, kPrompt),
              rows(batch.v, 0, kPrompt));
      CopyPage(test.stream, pages.kv, 1, 0, first[1], second[1], kPrompt - kPageTokens);
      for (const std::vector<int32_t>* table : {&first, &second}) {
        const std::vector<AttentionSequence> rest = {{0, kTotal - kPrompt, kPrompt, table->data()}};
        WriteKv(test.stream, pages.kv, rest, rows(batch.k, kPrompt, kTotal), rows(batch.v, kPrompt, kTotal));
        const Tensor out = memory.New(dtype, {kTotal - kPrompt, h.query, h.value_dim});
        Attention(test.stream, pages.kv, rest, rows(batch.q, kPrompt, kTotal), ScaleOf(h), out, Tensor());
        EXPECT_TRUE(Same(out, want.out.Rows(kPrompt, kTotal)));
      }
    }
  }
}

TEST(AttentionTest, HugeScoresDoNotOverflow) {
  Memory memory;
  TestStream test(1);
  const Heads h = {1, 1, 8, 8};
  Batch batch = MakeBatch(memory, h, DType::kF32, {130});
  for (int64_t i = 0; i < batch.q.size(); ++i) Set(batch.q, i, 1e4);
  for (int64_t i = 0; i < batch.k.size(); ++i) Set(batch.k, i, i / 8 == 3 ? 1e4 : -1e4);
  const Result got = Feed(memory, batch, 0, 1);
  for (int64_t t = 3; t < 130; ++t) {
    for (int64_t d = 0; d < 8; ++d) ASSERT_EQ(Get(got.out, t * 8 + d), Get(batch.v, 3 * 8 + d)) << t;
  }
}

TEST(AttentionTest, ANanTokenSpoilsLaterQueriesOfItsSequenceOnly) {
  Memory memory;
  Batch batch = MakeBatch(memory, {2, 1, 16, 16}, DType::kF32, {70, 70});
  Set(batch.k, 66 * 16 + 2, std::numeric_limits<double>::quiet_NaN());
  const Result got = Feed(memory, batch, 0, 2);
  for (int64_t i = 0; i < got.out.size(); ++i) {
    const int64_t token = i / 32;
    ASSERT_EQ(std::isnan(Get(got.out, i)), token >= 66 && token < 70) << token;
  }
}

TEST(AttentionTest, EmptyBatchesAndSequencesWithoutTokensDoNothing) {
  Memory memory;
  TestStream test(2);
  const Heads h = {4, 2, 8, 8};
  Pages pages(memory, LayoutOf(h, DType::kF32), 2);
  const Tensor q = memory.New(DType::kF32, {0, 4, 8}), k = memory.New(DType::kF32, {0, 2, 8}),
               lse = memory.New(DType::kF32, {0, 4});
  const std::vector<int32_t> table = pages.Take(64);
  for (const std::vector<AttentionSequence>& sequences :
       {std::vector<AttentionSequence>{}, {{0, 0, 0, table.data()}}}) {
    WriteKv(test.stream, pages.kv, sequences, k, k);
    Attention(test.stream, pages.kv, sequences, q, 1, q, lse);
    AttentionBackward(test.stream, pages.kv, sequences, q, 1, q, lse, q, q, k, k);
  }
  for (int64_t i = 0; i < pages.pool.size(); ++i) ASSERT_TRUE(std::isnan(Get(pages.pool, i)));
}

TEST(AttentionTest, Bf16RoundsTheFloatResultOnce) {
  for (const Heads& h : kShapes) {
    Memory memory;
    const Batch narrow = MakeBatch(memory, h, DType::kBF16, {65, 3}), wide = MakeBatch(memory, h, DType::kF32, {65, 3});
    const Result got = Feed(memory, narrow, 0, 1), want = Feed(memory, wide, 0, 1);
    EXPECT_TRUE(Same(got.out, memory.Convert(want.out, DType::kBF16)));
    EXPECT_TRUE(Same(got.lse, want.lse));
  }
}

struct Gradients {
  Tensor dq, dk, dv;
};

// Forward into fresh pages, then backward.
Gradients Backward(Memory& memory, const Batch& batch, const Tensor& dout, int threads, const Result* given = nullptr) {
  TestStream test(threads);
  const Heads& h = batch.heads;
  const DType dtype = batch.q.dtype(), wide = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  Pages pages(memory, LayoutOf(h, dtype), PagesOf(batch));
  std::vector<std::vector<int32_t>> tables;
  std::vector<AttentionSequence> sequences;
  for (size_t i = 0; i < batch.lengths.size(); ++i) {
    tables.push_back(pages.Take(batch.lengths[i]));
    sequences.push_back({batch.begin[i], batch.lengths[i], 0, tables.back().data()});
  }
  WriteKv(test.stream, pages.kv, sequences, batch.k, batch.v);
  Result forward = {memory.New(dtype, {batch.tokens(), h.query, h.value_dim}),
                    memory.New(wide, {batch.tokens(), h.query})};
  if (given != nullptr) {
    forward = *given;
  } else {
    Attention(test.stream, pages.kv, sequences, batch.q, ScaleOf(h), forward.out, forward.lse);
  }
  const Gradients g = {memory.New(dtype, {batch.tokens(), h.query, h.key_dim}),
                       memory.New(dtype, {batch.tokens(), h.kv, h.key_dim}),
                       memory.New(dtype, {batch.tokens(), h.kv, h.value_dim})};
  AttentionBackward(test.stream, pages.kv, sequences, batch.q, ScaleOf(h), forward.out, forward.lse, dout, g.dq, g.dk,
                    g.dv);
  return g;
}

TEST(AttentionBackwardTest, MatchesCentralDifferences) {
  for (const Heads& h : {Heads{2, 2, 7, 5}, Heads{6, 2, 8, 12}, Heads{8, 1, 6, 4}, Heads{3, 3, 13, 11}}) {
    Memory memory;
    const Batch batch = MakeBatch(memory, h, DType::kF64, {1, 3, 70});
    const Tensor dout = memory.RandomStrided(DType::kF64, {batch.tokens(), h.query, h.value_dim}, 2, "dout");
    const auto loss = [&] {
      Memory scratch;
      const Result forward = Feed(scratch, batch, 0, 1);
      double sum = 0;
      for (int64_t i = 0; i < dout.size(); ++i) sum += Get(forward.out, i) * Get(dout, i);
      return sum;
    };
    const Gradients g = Backward(memory, batch, dout, 2);
    EXPECT_TRUE(GradientMatches(loss, batch.q, g.dq, 32)) << h.query << " heads of " << h.key_dim;
    EXPECT_TRUE(GradientMatches(loss, batch.k, g.dk, 32)) << h.query << " heads of " << h.key_dim;
    EXPECT_TRUE(GradientMatches(loss, batch.v, g.dv, 32)) << h.query << " heads of " << h.key_dim;
  }
}

TEST(AttentionBackwardTest, FloatFollowsDouble) {
  for (const Heads& h : kGradientShapes) {
    Memory memory;
    const Batch narrow = MakeBatch(memory, h, DType::kF32, {65, 1, 130}),
                wide = MakeBatch(memory, h, DType::kF64, {65, 1, 130});
    const Tensor dout = memory.Random(DType::kF32, {196, h.query, h.value_dim}, "dout");
    const Gradients got = Backward(memory, narrow, dout, 2),
                    want = Backward(memory, wide, memory.Convert(dout, DType::kF64), 2);
    EXPECT_TRUE(Near(got.dq, want.dq, 3e-5, 1e-4));
    EXPECT_TRUE(Near(got.dk, want.dk, 3e-5, 1e-4));
    EXPECT_TRUE(Near(got.dv, want.dv, 3e-5, 1e-4));
  }
}

TEST(AttentionBackwardTest, NeitherNeighboursNorThreadsChangeABit) {
  for (const Heads& h : kGradientShapes) {
    Memory memory;
    const Batch batch = MakeBatch(memory, h, DType::kF32, {5, 130, 1, 64, 33});
    const Tensor dout = memory.Random(DType::kF32, {batch.tokens(), h.query, h.value_dim}, "dout");
    const Gradients together = Backward(memory, batch, dout, 1);
    const auto same = [&](const Gradients& got, int64_t from, int64_t to) {
      EXPECT_TRUE(Same(got.dq, together.dq.Rows(from, to)));
      EXPECT_TRUE(Same(got.dk, together.dk.Rows(from, to)));
      EXPECT_TRUE(Same(got.dv, together.dv.Rows(from, to)));
    };
    for (const int threads : {2, 3}) same(Backward(memory, batch, dout, threads), 0, batch.tokens());
    for (size_t i = 0; i < batch.lengths.size(); ++i) {
      const int64_t from = batch.begin[i], to = from + batch.lengths[i];
      same(Backward(memory, Part(batch, i, i + 1), dout.Rows(from, to), 2), from, to);
    }
  }
}

TEST(AttentionBackwardTest, Bf16RoundsTheFloatResultOnce) {
  for (const Heads& h : kGradientShapes) {
    Memory memory;
    const Batch narrow = MakeBatch(memory, h, DType::kBF16, {65, 3}), wide = MakeBatch(memory, h, DType::kF32, {65, 3});
    const Tensor dout = memory.Random(DType::kBF16, {68, h.query, h.value_dim}, "dout");
    const Result forward = Feed(memory, narrow, 0, 1);
    const Result widened = {memory.Convert(forward.out, DType::kF32), forward.lse};
    const Gradients got = Backward(memory, narrow, dout, 1, &forward);
    const Gradients want = Backward(memory, wide, memory.Convert(dout, DType::kF32), 1, &widened);
    EXPECT_TRUE(Same(got.dq, memory.Convert(want.dq, DType::kBF16)));
    EXPECT_TRUE(Same(got.dk, memory.Convert(want.dk, DType::kBF16)));
    EXPECT_TRUE(Same(got.dv, memory.Convert(want.dv, DType::kBF16)));
  }
}

TEST(AttentionBackwardDeathTest, ValuesInKeysAreRefused) {
  Memory memory;
  const Batch batch = MakeBatch(memory, {4, 1, 10, 8, true}, DType::kF32, {3});
  const Tensor dout = memory.Random(DType::kF32, {3, 4, 8}, "dout");
  EXPECT_DEATH(Backward(memory, batch, dout, 1), "values_in_keys");
}

TEST(KvLayoutTest, PageBytesAreAMultipleOf64) {
  EXPECT_EQ((KvLayout{3, 64, 64, false, DType::kF32}.PageBytes()), 3u * 128 * 64 * 4);
  EXPECT_EQ((KvLayout{1, 576, 512, true, DType::kBF16}.PageBytes()), 576u * 64 * 2);
  for (int dim = 1; dim < 9; ++dim) EXPECT_EQ((KvLayout{1, dim, dim, false, DType::kBF16}.PageBytes() % 64), 0u);
}

}  // namespace
}  // namespace grouper::kernels
