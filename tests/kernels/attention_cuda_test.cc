// Paged attention on the GPU: the CPU's bits where it keeps the CPU's order, near float where the tensor cores compute,
// and decode equal to prefill. Pages begin full of NaN, and lie in random order.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>

#include "kernels/attention.h"
#include "kernels/attention_cuda.h"
#include "kernels/rope_write_kv.h"
#include "tests/testing/cuda_world.h"

namespace grouper::kernels {
namespace {

using grouper::testing::CudaWorld;
using grouper::testing::Get;
using grouper::testing::Near;
using grouper::testing::Same;

struct Heads {
  int query, kv, key_dim, value_dim;
  bool mla;
};

std::string Text(const Heads& h) {
  return std::to_string(h.query) + "/" + std::to_string(h.kv) + " heads of " + std::to_string(h.key_dim) + "/" +
         std::to_string(h.value_dim);
}

// Whole sequences, one after another in the batch.
struct Batch {
  explicit Batch(const std::vector<int32_t>& lengths) {
    std::mt19937 random(11);
    for (int32_t n : lengths) num_pages += (n + kPageTokens - 1) / kPageTokens;
    std::vector<int32_t> ids(static_cast<size_t>(num_pages));
    for (int32_t i = 0; i < num_pages; ++i) ids[static_cast<size_t>(i)] = i;
    std::shuffle(ids.begin(), ids.end(), random);
    pages = ids;
    int32_t used = 0;
    for (int32_t n : lengths) {
      sequences.push_back({static_cast<int32_t>(tokens), n, 0, pages.data() + used});
      used += (n + kPageTokens - 1) / kPageTokens;
      tokens += n;
    }
  }
  int64_t tokens = 0;
  int32_t num_pages = 0;
  std::vector<int32_t> pages;
  std::vector<AttentionSequence> sequences;
};

struct Result {
  Tensor q, k, v, dout, out, lse, dq, dk, dv;
  PagedKv kv;
};

// Everything on one device, from tensors of the host. MLA's heads have no gradient here.
Result Everything(Stream& stream, const Heads& h, const Batch& batch, const std::function<Tensor(const Tensor&)>& place,
                  testing::Memory& m, DType dtype, bool backward) {
  Result r;
  const int64_t t = batch.tokens;
  const KvLayout layout = {h.kv, h.key_dim, h.value_dim, h.mla, dtype};
  const auto make = [&](int64_t heads, int64_t width, const char* label) {
    return place(m.Convert(m.Random(DType::kBF16, {t, heads, width}, label), dtype));
  };
  r.q = make(h.query, h.key_dim, "q");
  r.k = make(h.kv, h.key_dim, "k");
  if (!h.mla) r.v = make(h.kv, h.value_dim, "v");
  r.dout = make(h.query, h.value_dim, "dout");
  r.out = place(m.New(dtype, {t, h.query, h.value_dim}));
  r.lse = place(m.New(DType::kF32, {t, h.query}));
  if (backward) {
    r.dq = place(m.New(dtype, {t, h.query, h.key_dim}));
    r.dk = place(m.New(dtype, {t, h.kv, h.key_dim}));
    r.dv = place(m.New(dtype, {t, h.kv, h.value_dim}));
  }
  const int64_t page_numbers = static_cast<int64_t>(layout.PageBytes()) / 4;
  r.kv = {place(m.New(DType::kF32, {batch.num_pages, page_numbers})).raw(), layout.PageBytes(), layout};
  const double scale = 1 / std::sqrt(static_cast<double>(h.key_dim));
  WriteKv(stream, r.kv, batch.sequences, r.k, r.v);
  Attention(stream, r.kv, batch.sequences, r.q, scale, r.out, r.lse);
  if (backward) AttentionBackward(stream, r.kv, batch.sequences, r.q, scale, r.out, r.lse, r.dout, r.dq, r.dk, r.dv);
  return r;
}

TEST(AttentionCudaTest, EveryWidthInFloatAndUnusualOnesInBf16HaveTheCpusBits) {
  GROUPER_NEEDS_CUDA();
  for (const auto& [h, dtype] : {std::pair<Heads, DType>{{4, 2, 16, 16, false}, DType::kF32},
                                 {{9, 3, 64, 64, false}, DType::kF32},
                                 {{4, 4, 24, 40, false}, DType::kF32},
                                 {{2, 2, 192, 128, false}, DType::kF32},
                                 {{3, 1, 13, 9, true}, DType::kF32},
                                 {{2, 1, 576, 512, true}, DType::kF32},
                                 {{8, 2, 32, 32, false}, DType::kBF16},
                                 {{4, 4, 24, 24, false}, DType::kBF16},
                                 {{4, 1, 40, 32, true}, DType::kBF16}}) {
    SCOPED_TRACE(Text(h));
    CudaWorld world;
    const Batch batch(testing::FewCases() ? std::vector<int32_t>{1, 70, 129} : std::vector<int32_t>{1, 70, 200, 64, 129});
    const Result want = Everything(
        world.cpu, h, batch, [](const Tensor& t) { return t; }, world.memory, dtype, !h.mla);
    const Result got = Everything(
        world.gpu, h, batch, [&](const Tensor& t) { return world.Put(t); }, world.memory, dtype, !h.mla);
    EXPECT_TRUE(Same(world.Get(got.out), want.out));
    EXPECT_TRUE(Same(world.Get(got.lse), want.lse));
    if (h.mla) continue;
    EXPECT_TRUE(Same(world.Get(got.dq), want.dq));
    EXPECT_TRUE(Same(world.Get(got.dk), want.dk));
    EXPECT_TRUE(Same(world.Get(got.dv), want.dv));
  }
}

const Heads kTensorCoreHeads[] = {{9, 3, 64, 64, false},
                                  {2, 2, 64, 64, false},
                                  {7, 1, 128, 128, false},
                                  {3, 3, 128, 64, false},
                                  {8, 2, 128, 64, false},
                                  {4, 4, 192, 128, false},
                                  {6, 2, 192, 128, false},
                                  {5, 1, 576, 512, true},
                                  {128, 1, 576, 512, true}};

// |got - want| of all elements over |want| of all elements, as Euclidean norms.
double RelativeError(const Tensor& got, const Tensor& want) {
  double error = 0, norm = 0;
  for (int64_t i = 0; i < want.size(); ++i) {
    const double d = Get(got, i) - Get(want, i);
    error += d * d;
    norm += Get(want, i) * Get(want, i);
  }
  return std::sqrt(error / norm);
}

TEST(AttentionCudaTest, TensorCoresAreNearFloat) {
  GROUPER_NEEDS_CUDA();
  for (const Heads& h : kTensorCoreHeads) {
    SCOPED_TRACE(Text(h));
    CudaWorld world;
    std::vector<int32_t> lengths = h.query > 100 ? std::vector<int32_t>{70} : std::vector<int32_t>{1, 150, 64, 17};
    // Many pages, two splits; float's kernels take a second for them.
    if (!testing::kEmulated && !testing::FewCases() && h.query <= 16) lengths.push_back(h.mla ? 1100 : 2100);
    const Batch batch(lengths);
    const auto place = [&](const Tensor& t) { return world.Put(t); };
    const Result want = Everything(world.gpu, h, batch, place, world.memory, DType::kF32, !h.mla);
    const Result got = Everything(world.gpu, h, batch, place, world.memory, DType::kBF16, !h.mla);
    EXPECT_LT(RelativeError(world.Get(got.out), world.Get(want.out)), 4e-3);
    EXPECT_TRUE(Near(world.Get(got.lse), world.Get(want.lse), 1e-4, 1e-5));
    if (h.mla) continue;
    EXPECT_LT(RelativeError(world.Get(got.dq), world.Get(want.dq)), 6e-3);
    EXPECT_LT(RelativeError(world.Get(got.dk), world.Get(want.dk)), 6e-3);
    EXPECT_LT(RelativeError(world.Get(got.dv), world.Get(want.dv)), 6e-3);
  }
}

TEST(AttentionCudaTest, DecodeAndAnyChunkHavePrefillsBits) {
  GROUPER_NEEDS_CUDA();
  std::mt19937 random(3);
  for (const Heads& h : kTensorCoreHeads) {
    SCOPED_TRACE(Text(h));
    CudaWorld world;
    const std::vector<int32_t> lengths =
        h.query > 100 ? std::vector<int32_t>{70, 3} : std::vector<int32_t>{1, 300, 64, 2150};
    const Batch batch(lengths);
    const Result whole = Everything(
        world.gpu, h, batch, [&](const Tensor& t) { return world.Put(t); }, world.memory, DType::kBF16, false);
    const Tensor out = world.Get(whole.out), lse = world.Get(whole.lse), q = world.Get(whole.q);
    const double scale = 1 / std::sqrt(static_cast<double>(h.key_dim));
    for (int round = 0; round < 8; ++round) {
      // Tokens of any sequences at any positions, alone (even rounds) or in runs; around the pages' and the splits'
      // edges too.
      std::vector<AttentionSequence> pieces;
      std::vector<int64_t> rows;
      for (int i = 0; i < 1 + 3 * round; ++i) {
        const AttentionSequence& s = batch.sequences[random() % batch.sequences.size()];
        const int32_t edges[] = {0, 63, 64, 2047, 2048, s.q_len - 1, static_cast<int32_t>(random() % 4096)};
        const int32_t position = std::min(edges[random() % 7], s.q_len - 1);
        const int32_t length = round % 2 == 0 ? 1 : std::min<int32_t>(s.q_len - position, 1 + random() % 150);
        pieces.push_back({static_cast<int32_t>(rows.size()), length, position, s.pages});
        for (int32_t t = 0; t < length; ++t) rows.push_back(s.q_begin + position + t);
      }
      if (const AttentionSequence& s = batch.sequences.back(); round % 2 == 1 && s.q_len > 2060) {
        // Two blocks of rows, of which the first has nothing in the second split.
        pieces.push_back({static_cast<int32_t>(rows.size()), 25, 2030, s.pages});
        for (int32_t t = 0; t < 25; ++t) rows.push_back(s.q_begin + 2030 + t);
      }
      const int64_t n = static_cast<int64_t>(rows.size());
      const Tensor part_q = world.memory.New(DType::kBF16, {n, h.query, h.key_dim});
      const Tensor want_out = world.memory.New(DType::kBF16, {n, h.query, h.value_dim});
      const Tensor want_lse = world.memory.New(DType::kF32, {n, h.query});
      const auto copy_row = [](const Tensor& from, int64_t i, const Tensor& to, int64_t j) {
        const size_t bytes = static_cast<size_t>(from.stride(0)) * SizeOf(from.dtype());
        std::memcpy(static_cast<char*>(to.raw()) + static_cast<size_t>(j) * bytes,
                    static_cast<const char*>(from.raw()) + static_cast<size_t>(i) * bytes, bytes);
      };
      for (int64_t i = 0; i < n; ++i) {
        copy_row(q, rows[static_cast<size_t>(i)], part_q, i);
        copy_row(out, rows[static_cast<size_t>(i)], want_out, i);
        copy_row(lse, rows[static_cast<size_t>(i)], want_lse, i);
      }
      const Tensor got = world.New(DType::kBF16, {n, h.query, h.value_dim}),
                   got_lse = world.New(DType::kF32, {n, h.query});
      Attention(world.gpu, whole.kv, pieces, world.Put(part_q), scale, got, got_lse);
      EXPECT_TRUE(Same(world.Get(got), want_out)) << "round " << round;
      EXPECT_TRUE(Same(world.Get(got_lse), want_lse)) << "round " << round;
    }
  }
}

// Groups of samples, each a prompt's first pages and then pages of its own, that begin and end anywhere. How many share a tile, and whether
// splits run side by side, depends on how many there are.
// Every `each`-th sample is computed alone too.
void CompareWithEachAlone(const std::vector<size_t>& counts, bool expect_shared, size_t each = 1) {
  std::mt19937 random(7);
  for (const Heads& h :
       {Heads{9, 3, 64, 64, false}, {2, 2, 64, 64, false}, {7, 1, 128, 128, false}, {5, 1, 576, 512, true}, {16, 1, 576, 512, true}}) {
    SCOPED_TRACE(Text(h));
    CudaWorld world;
    const Batch batch({2600, 900, 130, 200, 190, 64, 180, 150, 70});
    const Result whole = Everything(
        world.gpu, h, batch, [&](const Tensor& t) { return world.Put(t); }, world.memory, DType::kBF16, false);
    const double scale = 1 / std::sqrt(static_cast<double>(h.key_dim));
    bool shared_a_tile = false;
    for (const size_t count : counts) {
      SCOPED_TRACE(count);
      std::vector<std::vector<int32_t>> tables;
      std::vector<AttentionSequence> samples;
      int32_t n = 0;  // tokens
      while (samples.size() < count) {
        if (count == 2100 && n > 500 && n < 600) {  // amid them a piece of a prompt, and a sequence without a token
          for (const int32_t length : {100, 0}) {
            tables.emplace_back(batch.sequences[0].pages, batch.sequences[0].pages + 30);
            samples.push_back({n, length, 1000, nullptr});
            n += length;
          }
        }
        const AttentionSequence& prompt = batch.sequences[random() % 3];
        const int32_t shared = 1 + static_cast<int32_t>(random() % static_cast<uint32_t>(prompt.q_len / kPageTokens));
        for (int members = 1 + static_cast<int>(random() % 12); members > 0; --members) {
          const AttentionSequence& tail = batch.sequences[3 + random() % 6];
          std::vector<int32_t> table(prompt.pages, prompt.pages + shared);
          table.insert(table.end(), tail.pages, tail.pages + (tail.q_len + kPageTokens - 1) / kPageTokens);
          tables.push_back(std::move(table));
          const int32_t context = shared * kPageTokens + static_cast<int32_t>(random() % static_cast<uint32_t>(tail.q_len));
          samples.push_back({n++, 1, context, nullptr});
        }
      }
      for (size_t i = 0; i < samples.size(); ++i) samples[i].pages = tables[i].data();
      const Tensor q = world.Put(world.memory.Random(DType::kBF16, {n, h.query, h.key_dim}, "queries"));
      const Tensor out = world.New(DType::kBF16, {n, h.query, h.value_dim}), lse = world.New(DType::kF32, {n, h.query});
      const Tensor want = world.New(DType::kBF16, {n, h.query, h.value_dim}), want_lse = world.New(DType::kF32, {n, h.query});
      const AttentionBatch together(world.gpu, samples, whole.kv.layout, h.query, world.gpu.scratch);
      Attention(world.gpu, whole.kv, together, q, scale, out, lse);
      const Tensor items = world.Get(Tensor(together.prepared()->num_items, DType::kI32, {1}, out.device()));
      int64_t apart = 0;  // items if each sample had its own, and its splits ran side by side
      for (const AttentionSequence& sample : samples) apart += h.kv * ((sample.context / kPageTokens + 1 + 31) / 32);
      if (count < 2100) shared_a_tile |= items.data<int32_t>()[0] < (h.mla ? n : apart);
      for (size_t i = 0; i < samples.size(); i += each) {
        AttentionSequence alone = samples[i];
        const int64_t begin = alone.q_begin, end = begin + alone.q_len;
        if (begin == end) continue;
        alone.q_begin = 0;
        Attention(world.gpu, whole.kv, {alone}, q.Rows(begin, end), scale, want.Rows(begin, end), want_lse.Rows(begin, end));
        EXPECT_TRUE(Same(world.Get(out.Rows(begin, end)), world.Get(want.Rows(begin, end)))) << "sample " << i;
        EXPECT_TRUE(Same(world.Get(lse.Rows(begin, end)), world.Get(want_lse.Rows(begin, end)))) << "sample " << i;
      }
    }
    if (expect_shared) {
      EXPECT_TRUE(shared_a_tile);
    }
  }
}

TEST(AttentionCudaTest, SamplesThatSharePagesHaveTheBitsOfEachAlone) {
  GROUPER_NEEDS_CUDA();
  CompareWithEachAlone(testing::kEmulated || testing::FewCases() ? std::vector<size_t>{40} : std::vector<size_t>{250, 120, 60}, false);
}

TEST(AttentionCudaTest, ManySamplesThatShareTilesHaveTheBitsOfEachAlone) {
  GROUPER_NEEDS_CUDA();
  if (testing::kEmulated) return CompareWithEachAlone({130}, true);  // of fewer multiprocessors
  testing::FewCases() ? CompareWithEachAlone({900}, true, 30) : CompareWithEachAlone({2100, 900}, true);
}

TEST(AttentionCudaTest, GradientsRepeatAndDoNotDependOnOtherSequences) {
  GROUPER_NEEDS_CUDA();
  for (const Heads& h : kTensorCoreHeads) {
    if (h.mla) continue;
    SCOPED_TRACE(Text(h));
    CudaWorld world;
    const Batch batch({70, 190, 5});
    const auto place = [&](const Tensor& t) { return world.Put(t); };
    const Result all = Everything(world.gpu, h, batch, place, world.memory, DType::kBF16, true);
    const Tensor dq = world.Get(all.dq), dk = world.Get(all.dk);
    const double scale = 1 / std::sqrt(static_cast<double>(h.key_dim));
    AttentionSequence second = batch.sequences[1];
    const int64_t begin = second.q_begin, end = begin + second.q_len;
    second.q_begin = 0;
    const auto rows = [&](const Tensor& t) { return t.Rows(begin, end); };
    const Tensor dq1 = world.New(DType::kBF16, {end - begin, h.query, h.key_dim});
    const Tensor dk1 = world.New(DType::kBF16, {end - begin, h.kv, h.key_dim});
    const Tensor dv1 = world.New(DType::kBF16, {end - begin, h.kv, h.value_dim});
    AttentionBackward(world.gpu, all.kv, {second}, rows(all.q), scale, rows(all.out), rows(all.lse), rows(all.dout),
                      dq1, dk1, dv1);
    EXPECT_TRUE(Same(world.Get(dq1), dq.Rows(begin, end)));
    EXPECT_TRUE(Same(world.Get(dk1), dk.Rows(begin, end)));
    EXPECT_TRUE(Same(world.Get(dv1), world.Get(all.dv).Rows(begin, end)));
  }
}

// Rows of splits' results are counted where the host knows the sequences: a long prompt from its beginning on has none.
TEST(AttentionCudaTest, OnlySplitsSideBySideTakeMemory) {
  GROUPER_NEEDS_CUDA();
  CudaWorld world;
  Arena memory(world.gpu.device, world.gpu.handle);
  const KvLayout layout = {8, 128, 128, false, DType::kBF16};  // 32 query heads
  std::vector<int32_t> pages(8000 / kPageTokens + 1);
  const auto rows = [&](const std::vector<AttentionSequence>& sequences) {
    return cuda::PrepareAttention(world.gpu, sequences, layout, 32, memory).max_partial_rows;
  };
  EXPECT_EQ(rows({{0, 8000, 0, pages.data()}}), 0);
  EXPECT_EQ(rows({{0, 1, 2047, pages.data()}, {1, 700, 4000, pages.data()}}), 0) << "one split; many rows";
  // A token of a context of three splits, and 32 tokens, the most that run apart, of four.
  EXPECT_EQ(rows({{0, 1, 4096, pages.data()}, {1, 32, 7000, pages.data()}, {33, 33, 7000, pages.data()}}), 8 * (3 * 4 + 4 * 128));
  world.gpu.Synchronize();
}

// q, k and v are parts of one projection, as the model has them.
TEST(AttentionCudaTest, RopeWriteKvIsRopeTwiceAndWriteKv) {
  GROUPER_NEEDS_CUDA();
  const struct {
    int query, kv, width;
    RopePairing pairing;
    DType dtype;
  } cases[] = {{9, 3, 64, RopePairing::kHalfSplit, DType::kBF16},   {4, 1, 128, RopePairing::kHalfSplit, DType::kBF16},
               {9, 3, 64, RopePairing::kInterleaved, DType::kBF16}, {3, 3, 40, RopePairing::kHalfSplit, DType::kBF16},
               {2, 1, 64, RopePairing::kHalfSplit, DType::kF32}};
  for (const auto& c : cases) {
    for (const std::vector<int32_t>& lengths : {std::vector<int32_t>{1}, {70, 5, 64, 1}}) {
      CudaWorld world;
      testing::Memory& m = world.memory;
      const Batch batch(lengths);
      const int64_t t = batch.tokens, d = c.width, rows = (c.query + 2 * c.kv) * d;
      RopeTable table;
      table.cos = world.Put(m.Random(DType::kF32, {128, d / 2}, "cos"));
      table.sin = world.Put(m.Random(DType::kF32, {128, d / 2}, "sin"));
      table.pairing = c.pairing;
      std::vector<int32_t> positions;
      for (int32_t n : lengths) {
        for (int32_t p = 0; p < n; ++p) positions.push_back(p);
      }
      const Tensor at = world.Put(Tensor(positions.data(), DType::kI32, {t}));
      const KvLayout layout = {c.kv, c.width, c.width, false, c.dtype};
      const Tensor qkv = m.Convert(m.Random(DType::kBF16, {t, rows}, "qkv"), c.dtype);
      Tensor queries[2], pages[2];
      for (const bool together : {false, true}) {
        const Tensor all = world.Put(qkv);
        const Tensor q = all.Columns(0, c.query * d).Reshape({t, c.query, d}), k = all.Columns(c.query * d, (c.query + c.kv) * d).Reshape({t, c.kv, d});
        const Tensor v = all.Columns((c.query + c.kv) * d, rows).Reshape({t, c.kv, d});
        const Tensor memory = world.New(DType::kF32, {batch.num_pages, static_cast<int64_t>(layout.PageBytes()) / 4});
        const PagedKv kv = {memory.raw(), layout.PageBytes(), layout};
        const AttentionBatch prepared(world.gpu, batch.sequences, layout, c.query, world.gpu.scratch);
        if (together) {
          RopeWriteKv(world.gpu, kv, prepared, q, k, v, at, table);
        } else {
          Rope(world.gpu, q, at, table, false);
          Rope(world.gpu, k, at, table, false);
          WriteKv(world.gpu, kv, prepared, k, v);
        }
        queries[together] = m.Clone(world.Get(all).Columns(0, c.query * d));
        pages[together] = world.Get(memory);
      }
      EXPECT_TRUE(Same(queries[1], queries[0])) << c.width;
      EXPECT_EQ(std::memcmp(pages[1].raw(), pages[0].raw(), static_cast<size_t>(pages[0].size()) * 4), 0) << c.width;
    }
  }
}

}  // namespace
}  // namespace grouper::kernels
