// Paged attention on the CPU, forward. One work item: a kv head, and up to 16 consecutive query tokens of one sequence
// with all query heads of that kv head (some of them, when there are too few items for the threads). Pages are the
// outer loop, so that a page is read once for all rows of an item. Bound by the fma units for long prompts, by the
// cache's memory in decode.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/attention_tile.h"
#include "kernels/math.h"
#include "kernels/transpose.h"

namespace grouper::kernels::cpu {
namespace {

constexpr int64_t kTileTokens = 16;

inline float ScalarExp(float x) { return Exp(x); }
inline double ScalarExp(double x) { return std::exp(x); }
inline float ScalarLog(float x) { return Log(x); }
inline double ScalarLog(double x) { return std::log(x); }

struct Item {
  const AttentionSequence* sequence;
  int32_t first;  // query token within the sequence
  int32_t count;
  int32_t head;                           // kv head
  int32_t first_query_head, query_heads;  // of those that share the kv head
};

template <typename T>
struct Workspace {
  std::vector<T> scores, values, partial, widened, maximum, sum;
  std::vector<const T*> q;
  std::vector<T*> score_rows;
};

template <typename S>
void RunItem(const PagedKv& kv, const Item& item, const Tensor& q, double scale_in, const Tensor& out,
             const Tensor& lse) {
  using T = Compute<S>;
  static thread_local Workspace<T> w;
  const KvLayout& layout = kv.layout;
  const AttentionSequence& sequence = *item.sequence;
  const int64_t group = item.query_heads, rows = item.count * group;
  const int64_t first_head = item.head * (q.dim(1) / layout.num_kv_heads) + item.first_query_head;
  const int64_t key_dim = layout.key_dim, value_dim = layout.value_dim;
  const T scale = static_cast<T>(scale_in);
  w.scores.resize(static_cast<size_t>(rows * kPageTokens));
  w.values.resize(static_cast<size_t>(rows * value_dim));
  w.partial.resize(static_cast<size_t>(value_dim));
  w.maximum.assign(static_cast<size_t>(rows), -std::numeric_limits<T>::infinity());
  w.sum.assign(static_cast<size_t>(rows), 0);
  w.q.resize(static_cast<size_t>(rows));
  w.score_rows.resize(static_cast<size_t>(rows));
  if (!std::is_same_v<S, T>) w.widened.resize(static_cast<size_t>(rows * key_dim));
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = sequence.q_begin + item.first + r / group, head = first_head + r % group;
    const S* row = q.row<S>(token) + head * q.stride(1);
    w.q[r] = Widen<T>(row, key_dim, std::is_same_v<S, T> ? nullptr : w.widened.data() + r * key_dim);
    w.score_rows[r] = w.scores.data() + r * kPageTokens;
  }
  const int64_t first_position = sequence.context + item.first, last_position = first_position + item.count - 1;
  for (int64_t page = 0; page * kPageTokens <= last_position; ++page) {
    const PageView<S> view = ViewPage<S>(kv, sequence.pages[page], item.head);
    // Rows before `skip` end on an earlier page.
    const int64_t skip = std::max<int64_t>(0, page * kPageTokens - first_position) * group;
    const int64_t most = std::min<int64_t>(kPageTokens, last_position + 1 - page * kPageTokens);
    Scores<T, S>(w.q.data() + skip, view.keys, key_dim, rows - skip, (most + kLanes - 1) / kLanes,
                 w.score_rows.data() + skip);
    for (int64_t r = skip; r < rows; ++r) {
      const int64_t n = std::min<int64_t>(kPageTokens, first_position + r / group + 1 - page * kPageTokens);
      T* s = w.score_rows[r];
      const T infinity = std::numeric_limits<T>::infinity();
      Vec<T> high = Vec<T>::Broadcast(-infinity);
      const Vec<T> factor = Vec<T>::Broadcast(scale);
      for (int64_t j = 0; j < n; j += kLanes) {
        const Vec<T> x = FillTail(Load(s + j) * factor, std::min<int64_t>(kLanes, n - j), -infinity);
        Store(s + j, x);
        high = Max(x, high);
      }
      const T page_max = ReduceMax(high);
      const Vec<T> shift = Vec<T>::Broadcast(page_max);
      Vec<T> total = Vec<T>::Zero();
      for (int64_t j = 0; j < n; j += kLanes) {
        const Vec<T> p = FillTail(Exp(Load(s + j) - shift), std::min<int64_t>(kLanes, n - j), 0);
        Store(s + j, p);
        total = total + p;
      }
      const T page_sum = ReduceAdd(total);
      T* value = w.values.data() + r * value_dim;
      const bool first = page == 0;
      T* target = first ? value : w.partial.data();
      if (layout.values_in_keys) {
        LaneDots<T, S>(s, view.keys, value_dim, n, false, target);
      } else {
        WeightedValues<T, S>(s, view.values, value_dim, n, target);
      }
      if (first) {
        w.maximum[r] = page_max;
        w.sum[r] = page_sum;
        continue;
      }
      const T joint = std::max(w.maximum[r], page_max);
      const T old_scale = ScalarExp(w.maximum[r] - joint), new_scale = ScalarExp(page_max - joint);
      w.sum[r] = std::fma(w.sum[r], old_scale, page_sum * new_scale);
      for (int64_t d = 0; d < value_dim; ++d) value[d] = std::fma(value[d], old_scale, target[d] * new_scale);
      w.maximum[r] = joint;
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = sequence.q_begin + item.first + r / group, head = first_head + r % group;
    S* row = out.row<S>(token) + head * out.stride(1);
    const T* value = w.values.data() + r * value_dim;
    const T inverse = 1 / w.sum[r];
    for (int64_t d = 0; d < value_dim; ++d) row[d] = static_cast<S>(value[d] * inverse);
    if (!lse.empty()) lse.row<T>(token)[head] = w.maximum[r] + ScalarLog(w.sum[r]);
  }
}

}  // namespace

template <typename S>
void Attention(Stream& stream, const PagedKv& kv, const std::vector<AttentionSequence>& sequences, const Tensor& q,
               double scale, const Tensor& out, const Tensor& lse) {
  static thread_local std::vector<Item> items;
  items.clear();
  const int32_t kv_heads = kv.layout.num_kv_heads, group = static_cast<int32_t>(q.dim(1)) / kv_heads;
  int64_t tiles = 0;
  for (const AttentionSequence& sequence : sequences)
    tiles += (sequence.q_len + kTileTokens - 1) / kTileTokens * kv_heads;
  // At least 4 query heads read a page together.
  const int64_t parts =
      std::clamp<int64_t>(2 * stream.threads.num_threads() / std::max<int64_t>(1, tiles), 1, std::max(1, group / 4));
  const int32_t step = stream.threads.num_threads() == 1 ? group : static_cast<int32_t>((group + parts - 1) / parts);
  for (const AttentionSequence& sequence : sequences) {
    for (int32_t first = 0; first < sequence.q_len; first += kTileTokens) {
      const int32_t count = std::min<int32_t>(kTileTokens, sequence.q_len - first);
      for (int32_t head = 0; head < kv_heads; ++head) {
        for (int32_t h = 0; h < group; h += step)
          items.push_back({&sequence, first, count, head, h, std::min(step, group - h)});
      }
    }
  }
  const std::vector<Item>& work = items;
  // Several small items a turn, so that handing them out costs nothing beside the work.
  const int64_t n = static_cast<int64_t>(work.size()),
                chunk = std::max<int64_t>(1, n / (stream.threads.num_threads() * 16));
  stream.threads.ParallelForDynamic((n + chunk - 1) / chunk, [&](int64_t c) {
    for (int64_t i = c * chunk; i < std::min(n, (c + 1) * chunk); ++i)
      RunItem<S>(kv, work[static_cast<size_t>(i)], q, scale, out, lse);
  });
}

template <typename S>
void WriteKv(Stream& stream, const PagedKv& kv, const std::vector<AttentionSequence>& sequences, const Tensor& k,
             const Tensor& v) {
  const KvLayout& layout = kv.layout;
  stream.threads.ParallelFor(static_cast<int64_t>(sequences.size()), 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const AttentionSequence& sequence = sequences[static_cast<size_t>(i)];
      for (int32_t t = 0; t < sequence.q_len;) {  // a page's tokens at a time
        const int32_t position = sequence.context + t, slot = position % kPageTokens;
        const int32_t page = sequence.pages[position / kPageTokens], count = std::min(sequence.q_len - t, kPageTokens - slot);
        for (int64_t head = 0; head < layout.num_kv_heads; ++head) {
          S* const keys = KeysOf<S>(kv, page, head);
          Transpose(k.row<S>(sequence.q_begin + t) + head * k.stride(1), k.stride(0), count, layout.key_dim, keys + slot, kPageTokens);
          if (layout.values_in_keys) continue;
          S* values = keys + static_cast<int64_t>(layout.key_dim) * kPageTokens + static_cast<int64_t>(slot) * layout.value_dim;
          for (int32_t row = t; row < t + count; ++row, values += layout.value_dim)
            std::copy_n(v.row<S>(sequence.q_begin + row) + head * v.stride(1), layout.value_dim, values);
        }
        t += count;
      }
    }
  });
}

template <typename S>
void CopyPage(const PagedKv& kv, int32_t from, int32_t to, int tokens) {
  const KvLayout& layout = kv.layout;
  for (int64_t head = 0; head < layout.num_kv_heads; ++head) {
    const S* source = KeysOf<S>(kv, from, head);
    S* target = KeysOf<S>(kv, to, head);
    for (int d = 0; d < layout.key_dim; ++d) std::copy_n(source + d * kPageTokens, tokens, target + d * kPageTokens);
    if (layout.values_in_keys) continue;
    const int64_t offset = static_cast<int64_t>(layout.key_dim) * kPageTokens;
    std::copy_n(source + offset, static_cast<int64_t>(tokens) * layout.value_dim, target + offset);
  }
}

#define GROUPER_INSTANTIATE(S)                                                                                      \
  template void Attention<S>(Stream&, const PagedKv&, const std::vector<AttentionSequence>&, const Tensor&, double, \
                             const Tensor&, const Tensor&);                                                         \
  template void WriteKv<S>(Stream&, const PagedKv&, const std::vector<AttentionSequence>&, const Tensor&,           \
                           const Tensor&);                                                                          \
  template void CopyPage<S>(const PagedKv&, int32_t, int32_t, int);
GROUPER_INSTANTIATE(float)
GROUPER_INSTANTIATE(double)
GROUPER_INSTANTIATE(bf16)
#undef GROUPER_INSTANTIATE

}  // namespace grouper::kernels::cpu
