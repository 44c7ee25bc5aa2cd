// Paged attention on the CPU, backward. One work item: a sequence and a kv head; its outputs are its own, so nothing is
// shared and nothing depends on the neighbours. Order of sums: dq over pages ascending (inside a page the lane order of
// LaneDots); dk and dv of a token over query tokens ascending, then heads, in blocks of 8 such rows counted from the
// sequence's start.
//
//   p_j = exp(scale <q, k_j> - lse),  dp_j = <dout, v_j>,  ds_j = p_j (dp_j - <dout, out>) scale
//   dq += sum_j ds_j k_j,  dk_j += ds_j q,  dv_j += p_j dout
#include <algorithm>
#include <vector>

#include "kernels/attention_tile.h"
#include "kernels/transpose.h"

namespace grouper::kernels::cpu {
namespace {

constexpr int64_t kBlockRows = 8;

template <typename T>
struct Workspace {
  std::vector<T> q, dout, out, dq, row_dot, dkeys, dvalues, values_transposed, p, dp;
  std::vector<const T*> q_rows, dout_rows;
};

template <typename T>
T Dot(const T* a, const T* b, int64_t n) {
  Vec<T> acc = Vec<T>::Zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) acc = Fma(Load(a + i), Load(b + i), acc);
  if (i < n) acc = Fma(LoadPartial(a + i, n - i), LoadPartial(b + i, n - i), acc);
  return ReduceAdd(acc);
}

// sums [width][64], of the tokens from `token` on: rows of a head of `to`.
template <typename S, typename T>
void WriteRows(const std::vector<T>& sums, int64_t width, int64_t token, int64_t tokens, int64_t head, const Tensor& to) {
  S* const rows = to.row<S>(token) + head * to.stride(1);
  if constexpr (std::is_same_v<S, T>) {
    Transpose(sums.data(), kPageTokens, width, tokens, rows, to.stride(0));
  } else {
    for (int64_t j = 0; j < tokens; ++j) {
      for (int64_t d = 0; d < width; ++d) rows[j * to.stride(0) + d] = static_cast<S>(sums[static_cast<size_t>(d * kPageTokens + j)]);
    }
  }
}

template <typename S>
void RunItem(const PagedKv& kv, const AttentionSequence& sequence, int64_t head, const Tensor& q, double scale_in,
             const Tensor& out, const Tensor& lse, const Tensor& dout, const Tensor& dq, const Tensor& dk,
             const Tensor& dv) {
  using T = Compute<S>;
  static thread_local Workspace<T> w;
  const KvLayout& layout = kv.layout;
  const int64_t group = q.dim(1) / layout.num_kv_heads, tokens = sequence.q_len, rows = tokens * group;
  const int64_t key_dim = layout.key_dim, value_dim = layout.value_dim;
  const T scale = static_cast<T>(scale_in);
  w.q.resize(static_cast<size_t>(rows * key_dim));
  w.dout.resize(static_cast<size_t>(rows * value_dim));
  w.out.resize(static_cast<size_t>(value_dim));
  w.row_dot.resize(static_cast<size_t>(rows));
  w.dq.assign(static_cast<size_t>(rows * key_dim), 0);
  w.q_rows.resize(static_cast<size_t>(rows));
  w.dout_rows.resize(static_cast<size_t>(rows));
  w.p.resize(kBlockRows * kPageTokens);
  w.dp.resize(kBlockRows * kPageTokens);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = sequence.q_begin + r / group, h = head * group + r % group;
    w.q_rows[r] = Widen<T>(q.row<S>(token) + h * q.stride(1), key_dim, w.q.data() + r * key_dim);
    w.dout_rows[r] = Widen<T>(dout.row<S>(token) + h * dout.stride(1), value_dim, w.dout.data() + r * value_dim);
    const T* out_row = Widen<T>(out.row<S>(token) + h * out.stride(1), value_dim, w.out.data());
    w.row_dot[r] = Dot(w.dout_rows[r], out_row, value_dim);
  }
  T* p_rows[kBlockRows];
  T* dp_rows[kBlockRows];
  for (int64_t i = 0; i < kBlockRows; ++i) {
    p_rows[i] = w.p.data() + i * kPageTokens;
    dp_rows[i] = w.dp.data() + i * kPageTokens;
  }
  for (int64_t page = 0; page * kPageTokens < tokens; ++page) {
    const int64_t start = page * kPageTokens, page_tokens = std::min<int64_t>(kPageTokens, tokens - start);
    const PageView<S> view = ViewPage<S>(kv, sequence.pages[page], head);
    w.dkeys.assign(static_cast<size_t>(key_dim * kPageTokens), 0);
    w.dvalues.assign(static_cast<size_t>(value_dim * kPageTokens), 0);
    w.values_transposed.assign(static_cast<size_t>(value_dim * kPageTokens), 0);
    Transpose(view.values, value_dim, page_tokens, value_dim, w.values_transposed.data(), kPageTokens);
    // Rows of earlier tokens do not see this page; blocks count from the sequence's first row that does.
    for (int64_t block = start * group; block < rows; block += kBlockRows) {
      const int64_t count = std::min(kBlockRows, rows - block);
      const int64_t most = std::min<int64_t>(page_tokens, (block + count - 1) / group + 1 - start);
      const int64_t vectors = (most + kLanes - 1) / kLanes;
      Scores<T, S>(w.q_rows.data() + block, view.keys, key_dim, count, vectors, p_rows);
      Scores<T, T>(w.dout_rows.data() + block, w.values_transposed.data(), value_dim, count, vectors, dp_rows);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t r = block + i, n = std::min<int64_t>(page_tokens, r / group + 1 - start);
        const int64_t token = sequence.q_begin + r / group, h = head * group + r % group;
        const Vec<T> factor = Vec<T>::Broadcast(scale), shift = Vec<T>::Broadcast(lse.row<T>(token)[h]);
        const Vec<T> dot = Vec<T>::Broadcast(w.row_dot[r]);
        for (int64_t j = 0; j < vectors * kLanes; j += kLanes) {
          const int64_t valid = std::clamp<int64_t>(n - j, 0, kLanes);
          const Vec<T> p = FillTail(Exp(Load(p_rows[i] + j) * factor - shift), valid, 0);
          const Vec<T> ds = FillTail(p * (Load(dp_rows[i] + j) - dot) * factor, valid, 0);
          Store(p_rows[i] + j, p);
          Store(dp_rows[i] + j, ds);
        }
        LaneDots<T, S>(dp_rows[i], view.keys, key_dim, n, true, w.dq.data() + r * key_dim);
      }
      OuterProducts<T>(dp_rows, w.q_rows.data() + block, count, key_dim, vectors, w.dkeys.data());
      OuterProducts<T>(p_rows, w.dout_rows.data() + block, count, value_dim, vectors, w.dvalues.data());
    }
    WriteRows<S>(w.dkeys, key_dim, sequence.q_begin + start, page_tokens, head, dk);
    WriteRows<S>(w.dvalues, value_dim, sequence.q_begin + start, page_tokens, head, dv);
  }
  for (int64_t r = 0; r < rows; ++r) {
    S* row = dq.row<S>(sequence.q_begin + r / group) + (head * group + r % group) * dq.stride(1);
    for (int64_t d = 0; d < key_dim; ++d) row[d] = static_cast<S>(w.dq[r * key_dim + d]);
  }
}

}  // namespace

template <typename S>
void AttentionBackward(Stream& stream, const PagedKv& kv, const std::vector<AttentionSequence>& sequences,
                       const Tensor& q, double scale, const Tensor& out, const Tensor& lse, const Tensor& dout,
                       const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  const int64_t heads = kv.layout.num_kv_heads;
  stream.threads.ParallelForDynamic(static_cast<int64_t>(sequences.size()) * heads, [&](int64_t i) {
    RunItem<S>(kv, sequences[static_cast<size_t>(i / heads)], i % heads, q, scale, out, lse, dout, dq, dk, dv);
  });
}

#define GROUPER_INSTANTIATE(S)                                                                                      \
  template void AttentionBackward<S>(Stream&, const PagedKv&, const std::vector<AttentionSequence>&, const Tensor&, \
                                     double, const Tensor&, const Tensor&, const Tensor&, const Tensor&,            \
                                     const Tensor&, const Tensor&);
GROUPER_INSTANTIATE(float)
GROUPER_INSTANTIATE(double)
GROUPER_INSTANTIATE(bf16)
#undef GROUPER_INSTANTIATE

}  // namespace grouper::kernels::cpu
