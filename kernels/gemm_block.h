// One thread's part of a matrix product (gemm_cpu.h): blocks for the caches, packing where it pays, and the loop over tiles.
#pragma once

#include <algorithm>

#include "kernels/gemm_cpu.h"
#include "kernels/gemm_pack.h"

namespace grouper::kernels {

// Block sizes, in elements of T = float: a panel of B [kBlockK][16] stays in L1 (32 KB) beside a tile's rows of A, a block of A
// [kBlockM][kBlockK] in L2 (from 256 KB), a packed block of B [kBlockK][kBlockN] in L2 or L3.
inline constexpr int64_t kBlockK = 384;
inline constexpr int64_t kBlockM = 192;
inline constexpr int64_t kBlockN = 1024;
// With few rows the panels of B come from memory once and are not worth cutting.
inline constexpr int64_t kFewRows = 48;
inline constexpr int64_t kBlockKFewRows = 4096;
// Up to this k the tiles go along the rows of C.
inline constexpr int64_t kShortK = 64;
// From this size (8 MB of floats) C comes from memory, and tiles with short chains ask for the next rows of it.
inline constexpr int64_t kFarC = 2 << 20;
// B whose rows are consecutive is read in place by up to this many rows of A.
inline constexpr int64_t kDirectRows = 24;
// ... and by up to kSmallRows where all of it is small.
inline constexpr int64_t kSmallRows = 96;
inline constexpr int64_t kSmallB = 32768;
// Elements between copied rows of A, against rows that fall on the same cache sets.
inline constexpr int64_t kRowPad = 16;

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A thread's part of one product.
struct Part {
  int64_t product = 0;
  int64_t m_begin = 0, m_end = 0;
  int64_t panel_begin = 0, panel_end = 0;
};

// Sizes of a thread's packing buffers.
struct BufferSizes {
  int64_t a = 0, b = 0;
};

// The size of `n`'s blocks when it is cut into as few as possible of at most `limit`, all as long as the first but perhaps the last.
inline int64_t EvenBlock(int64_t n, int64_t limit) { return n <= limit ? std::max<int64_t>(n, 1) : CeilDiv(n, CeilDiv(n, limit)); }

template <typename S, typename T>
int64_t BlockK(const Product<S, T>& p, int64_t rows) {
  return EvenBlock(p.k, p.b_packed != nullptr && rows <= kFewRows ? kBlockKFewRows : kBlockK);
}

// Panels of B to pack together.
template <typename T>
int64_t PanelsAtOnce(int64_t panels) {
  return EvenBlock(panels, kBlockN / kPanel<T>);
}

// Rows at this distance (in elements) fall on a few cache sets only.
template <typename T>
bool Aliases(int64_t stride) {
  return stride * static_cast<int64_t>(sizeof(T)) % 2048 == 0;
}

template <typename S, typename T>
bool ReadsBDirectly(const Product<S, T>& p, int64_t rows) {
  if (!std::is_same_v<S, T> || p.b_col != 1 || p.b_gather != nullptr) return false;
  return rows <= kDirectRows || (rows <= kSmallRows && p.k * p.n <= kSmallB && !Aliases<T>(p.b_row));
}

// bf16 panels are widened in the registers by few rows of A; many would do it again and again, so that a block of them is widened first.
template <typename S, typename T>
bool WidensPanels(const Product<S, T>& p, int64_t rows) {
  return !std::is_same_v<S, T> && p.b_packed != nullptr && rows > kFewRows;
}

// A is read in place unless it is gathered, needs widening, or lies badly: rows that fall on the same cache sets, or (where a
// tile's rows are consecutive) a long chain that would touch a cache line for each step.
template <typename S, typename T>
bool ReadsADirectly(const Product<S, T>& p, int64_t rows) {
  if (!std::is_same_v<S, T> || p.a_gather != nullptr) return false;
  if (p.a_col == 1) return rows <= kTileRows || !Aliases<T>(p.a_row);
  return p.k <= kShortK && !(p.k > 8 && Aliases<T>(p.a_col));
}

// A weight gradient of one or two tokens.
template <typename S, typename T>
bool IsRankUpdate(const Product<S, T>& p) {
  return p.accumulate && (p.k == 1 || p.k == 2) && p.b_col == 1 && p.b_packed == nullptr && p.a_gather == nullptr && p.b_gather == nullptr && p.bias == nullptr;
}

template <typename T, typename B>
using TileFunction = void (*)(const TileArgs<T, B>&);

// [rows - 1]. Rows of A consecutive in k, or packed panels.
template <typename T, typename B, bool kRowsA, bool kPrefetch = false, bool kEdge = false>
inline constexpr TileFunction<T, B> kTiles[kTileRows] = {
    Tile<T, B, 1, 1, kRowsA, kPrefetch, kEdge>, Tile<T, B, 2, 1, kRowsA, kPrefetch, kEdge>, Tile<T, B, 3, 1, kRowsA, kPrefetch, kEdge>,
    Tile<T, B, 4, 1, kRowsA, kPrefetch, kEdge>, Tile<T, B, 5, 1, kRowsA, kPrefetch, kEdge>, Tile<T, B, 6, 1, kRowsA, kPrefetch, kEdge>};
// Few rows take several panels at once: up to kWidePanels[rows - 1]. [rows - 1][panels - 1].
inline constexpr int kWidePanels[3] = {4, 3, 2};
template <typename T, typename B, bool kRowsA, bool kEdge>
inline constexpr TileFunction<T, B> kWideTiles[3][4] = {
    {Tile<T, B, 1, 1, kRowsA, false, kEdge>, Tile<T, B, 1, 2, kRowsA, false, kEdge>, Tile<T, B, 1, 3, kRowsA, false, kEdge>,
     Tile<T, B, 1, 4, kRowsA, false, kEdge>},
    {Tile<T, B, 2, 1, kRowsA, false, kEdge>, Tile<T, B, 2, 2, kRowsA, false, kEdge>, Tile<T, B, 2, 3, kRowsA, false, kEdge>, nullptr},
    {Tile<T, B, 3, 1, kRowsA, false, kEdge>, Tile<T, B, 3, 2, kRowsA, false, kEdge>, nullptr, nullptr}};

// The part's rows [m_begin, m_end) and panels, on one thread.
template <typename S, typename T>
class Block {
 public:
  Block(const Product<S, T>& p, const Part& part, T* a_buffer, T* b_buffer)
      : p_(p), part_(part), a_buffer_(a_buffer), b_buffer_(b_buffer) {}

  void Run() {
    if (IsRankUpdate(p_)) return p_.k == 1 ? RankUpdate<1>() : RankUpdate<2>();
    const int64_t rows = part_.m_end - part_.m_begin;
    const int64_t block_k = BlockK(p_, rows);
    const bool direct_b = p_.b_packed == nullptr && ReadsBDirectly(p_, rows);
    const int64_t panels = part_.panel_end - part_.panel_begin;
    widens_ = WidensPanels(p_, rows);
    const int64_t panels_at_once = (p_.b_packed != nullptr && !widens_) || direct_b ? panels : PanelsAtOnce<T>(panels);
    for (int64_t panel = part_.panel_begin; panel < part_.panel_end; panel += panels_at_once) {
      const int64_t panel_end = std::min(panel + panels_at_once, part_.panel_end);
      for (int64_t k = 0; k == 0 || k < p_.k; k += block_k) {
        const int64_t k_size = std::min(block_k, p_.k - k);
        SetB(panel, panel_end, k, k_size, direct_b);
        RunRows(panel, panel_end, k, k_size);
      }
    }
  }

 private:
  // C += A B for a chain of K steps: C's rows are all of the traffic, read and written once from left to right.
  template <int K>
  void RankUpdate() {
    const int64_t begin = part_.panel_begin * kPanel<T>, columns = std::min(p_.n, part_.panel_end * kPanel<T>) - begin;
    const int64_t rest = columns % kLanes, full = columns - rest;
    const S* const b0 = p_.b + begin;
    const S* const b1 = b0 + (K - 1) * p_.b_row;
    const int64_t c_row = p_.c_row, a_row = p_.a_row, m_end = part_.m_end;
    const S* a = p_.a + part_.m_begin * a_row;
    const int64_t a_last = (K - 1) * p_.a_col;
    T* c = p_.c + part_.m_begin * c_row + begin;
    for (int64_t i = part_.m_begin; i < m_end; ++i, a += a_row, c += c_row) {
      const Vec<T> a0 = Vec<T>::Broadcast(static_cast<T>(a[0])), a1 = Vec<T>::Broadcast(static_cast<T>(a[a_last]));
#pragma GCC unroll 4
      for (int64_t j = 0; j < full; j += kLanes) {
        Vec<T> sum = Fma(a0, Load(b0 + j), Load(c + j));
        if (K == 2) sum = Fma(a1, Load(b1 + j), sum);
        Store(c + j, sum);
      }
      if (rest > 0) {
        Vec<T> sum = Fma(a0, LoadPartial(b0 + full, rest), LoadPartial(c + full, rest));
        if (K == 2) sum = Fma(a1, LoadPartial(b1 + full, rest), sum);
        StorePartial(c + full, sum, rest);
      }
    }
  }

  // Where panel i (counted from `panel`) of this block of B lies.
  void SetB(int64_t panel, int64_t panel_end, int64_t k, int64_t k_size, bool direct) {
    constexpr int kN = kPanel<T>;
    if (p_.b_packed != nullptr) {
      b_packed_ = p_.b_packed + panel * p_.k * kN + k * kN;
      ldb_ = kN;
      if (widens_) {
        for (int64_t i = panel; i < panel_end; ++i) {
          CopyRow(b_packed_ + (i - panel) * p_.k * kN, b_buffer_ + (i - panel) * k_size * kN, k_size * kN);
        }
        b_ = b_buffer_;
        panel_stride_ = k_size * kN;
        edge_b_ = nullptr;
        return;
      }
      panel_stride_ = p_.k * kN;
      edge_b_ = nullptr;
      return;
    }
    const int64_t full_end = direct ? std::min(panel_end, p_.n / kN) : panel;
    for (int64_t i = full_end; i < panel_end; ++i) {
      const int64_t columns = std::min<int64_t>(kN, p_.n - i * kN);
      const S* b = p_.b + (p_.b_gather != nullptr ? 0 : k * p_.b_row) + i * kN * p_.b_col;
      const int32_t* gather = p_.b_gather != nullptr ? p_.b_gather + k : nullptr;
      PackPanelB<T, S>(b, p_.b_row, p_.b_col, gather, k_size, columns, b_buffer_ + (i - full_end) * k_size * kN);
    }
    if constexpr (std::is_same_v<S, T>) {
      if (direct) {
        b_ = p_.b + k * p_.b_row + panel * kN;
        ldb_ = p_.b_row;
        panel_stride_ = kN;
        edge_b_ = b_buffer_;
        return;
      }
    }
    b_ = b_buffer_;
    ldb_ = kN;
    panel_stride_ = k_size * kN;
    edge_b_ = nullptr;
  }

  void RunRows(int64_t panel, int64_t panel_end, int64_t k, int64_t k_size) {
    const bool direct_a = ReadsADirectly(p_, part_.m_end - part_.m_begin);
    const int64_t rows = part_.m_end - part_.m_begin;
    const int64_t block_m = CeilDiv(EvenBlock(rows, kBlockM), kTileRows) * kTileRows;
    for (int64_t m = part_.m_begin; m < part_.m_end; m += block_m) {
      const int64_t m_size = std::min(block_m, part_.m_end - m);
      if (p_.a_col == 1) {
        const T* a = a_buffer_;
        int64_t lda = k_size + kRowPad;
        if (direct_a) {
          if constexpr (std::is_same_v<S, T>) a = p_.a + m * p_.a_row + k;
          lda = p_.a_row;
        } else {
          for (int64_t i = 0; i < m_size; ++i) {
            const int64_t row = p_.a_gather != nullptr ? p_.a_gather[m + i] : m + i;
            CopyRow(p_.a + row * p_.a_row + k, a_buffer_ + i * lda, k_size);
          }
        }
        RunTilesOverB<true>(a, lda, m, m_size, panel, panel_end, k, k_size);
      } else {
        if constexpr (std::is_same_v<S, T>) {
          if (direct_a) {
            RunTilesOverB<false>(p_.a + m + k * p_.a_col, p_.a_col, m, m_size, panel, panel_end, k, k_size);
            continue;
          }
        }
        PackPanelsA(p_.a + m + k * p_.a_col, p_.a_col, m_size, k_size, a_buffer_);
        RunTilesOverB<false>(a_buffer_, 0, m, m_size, panel, panel_end, k, k_size);
      }
    }
  }

  // lda == 0: A is packed in panels.
  template <bool kRowsA>
  void RunTilesOverB(const T* a, int64_t lda, int64_t m, int64_t m_size, int64_t panel, int64_t panel_end, int64_t k, int64_t k_size) {
    if (p_.b_packed != nullptr && !widens_) {
      RunTiles<kRowsA, S>(b_packed_, a, lda, m, m_size, panel, panel_end, k, k_size);
    } else {
      RunTiles<kRowsA, T>(b_, a, lda, m, m_size, panel, panel_end, k, k_size);
    }
  }

  template <bool kRowsA, typename B>
  void RunTiles(const B* b, const T* a, int64_t lda, int64_t m, int64_t m_size, int64_t panel, int64_t panel_end, int64_t k, int64_t k_size) {
    constexpr int kN = kPanel<T>;
    const bool last = k + k_size >= p_.k;
    TileArgs<T, B> args;
    args.k = k_size;
    args.lda = lda;
    args.ldb = ldb_;
    args.ldc = p_.c_row;
    args.accumulate = p_.accumulate || k > 0;
    const int64_t full_end = std::min(panel_end, p_.n / kN);
    int64_t i = panel;
    if (m_size <= 3 && lda != 0) {
      const int64_t wide_end = edge_b_ != nullptr ? full_end : panel_end;
      args.panel_stride = panel_stride_;
      const EvenCuts groups(wide_end - panel, kWidePanels[m_size - 1]);
      for (int64_t g = 0; g < groups.count; ++g) {
        const int64_t count = groups.size(g);
        args.a = a;
        args.b = b + (i - panel) * panel_stride_;
        args.c = p_.c + m * p_.c_row + i * kN;
        args.bias = last && p_.bias != nullptr ? p_.bias + i * kN : nullptr;
        args.columns = p_.n - i * kN;
        const bool edge = i + count > full_end;
        (edge ? kWideTiles<T, B, kRowsA, true> : kWideTiles<T, B, kRowsA, false>)[m_size - 1][count - 1](args);
        i += count;
      }
      if (i == panel_end) return;
    }
    const EvenCuts tiles(m_size, kTileRows);
    // A panel of B stays in L1 while the tiles of A pass by; where the chain is short, C is most of the traffic, and its rows are
    // written from left to right instead.
    const int64_t panels = panel_end - i;
    const bool rows_outside = k_size <= kShortK;
    const bool fetches_c = rows_outside && p_.m * p_.n >= kFarC;
    // A prepacked B may come from memory: while the tiles use one panel they ask for the next, each for its share.
    const bool fetches = p_.b_packed != nullptr && !widens_ && !rows_outside;
    const int64_t fetch_step = CeilDiv(static_cast<int64_t>(kN * sizeof(B)), tiles.count);
    const int64_t outer = rows_outside ? tiles.count : panels, inner = rows_outside ? panels : tiles.count;
    for (int64_t x = 0; x < outer; ++x) {
      for (int64_t y = 0; y < inner; ++y) {
        const int64_t tile = rows_outside ? x : y, column_panel = i + (rows_outside ? y : x);
        const int64_t begin = tiles.begin(tile), size = tiles.size(tile);
        const bool edge = column_panel >= full_end;
        if (lda == 0) {
          args.a = a + begin * k_size;
          args.lda = size;
        } else {
          args.a = kRowsA ? a + begin * lda : a + begin;
        }
        args.c = p_.c + (m + begin) * p_.c_row + column_panel * kN;
        args.bias = last && p_.bias != nullptr ? p_.bias + column_panel * kN : nullptr;
        args.b = b + (column_panel - panel) * panel_stride_;
        args.ldb = ldb_;
        if constexpr (std::is_same_v<B, T>) {
          if (edge && edge_b_ != nullptr) {
            args.b = edge_b_;
            args.ldb = kN;
          }
        }
        if (edge) {
          args.columns = p_.n - column_panel * kN;
          kTiles<T, B, kRowsA, false, true>[size - 1](args);
          continue;
        }
        if (fetches_c && tile + 1 < tiles.count) {
          const T* next = args.c + size * p_.c_row;
          for (int64_t r = 0; r < size; ++r) __builtin_prefetch(next + r * p_.c_row, 1);
        }
        if (fetches && column_panel + 1 < panel_end) {
          args.prefetch = reinterpret_cast<const char*>(args.b + panel_stride_) + tile * (fetch_step * k_size);
          args.prefetch_step = fetch_step;
          kTiles<T, B, kRowsA, true>[size - 1](args);
        } else {
          kTiles<T, B, kRowsA>[size - 1](args);
        }
      }
    }
  }

  const Product<S, T>& p_;
  const Part& part_;
  T* const a_buffer_;
  T* const b_buffer_;
  const S* b_packed_ = nullptr;  // this block of p_.b_packed
  bool widens_ = false;          // ... into b_
  const T* b_ = nullptr;         // or of B as it lies, or packed here
  int64_t ldb_ = 0, panel_stride_ = 0;
  const T* edge_b_ = nullptr;  // the last, partial panel where the others are read in place
};

template <typename S, typename T>
BufferSizes BuffersFor(const Product<S, T>& p, int64_t rows, int64_t panels) {
  BufferSizes sizes;
  if (IsRankUpdate(p)) return sizes;
  const int64_t block_k = BlockK(p, rows);
  if (!ReadsADirectly(p, rows)) sizes.a = std::min(rows, kBlockM) * (block_k + kRowPad);
  if (p.b_packed == nullptr && ReadsBDirectly(p, rows)) {
    if (p.n % kPanel<T> != 0) sizes.b = kPanel<T> * block_k;
  } else if (p.b_packed == nullptr || WidensPanels(p, rows)) {
    sizes.b = PanelsAtOnce<T>(panels) * kPanel<T> * block_k;
  }
  return sizes;
}

}  // namespace grouper::kernels
