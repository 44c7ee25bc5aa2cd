#include "kernels/gemm_cpu.h"

#include <algorithm>
#include <atomic>

#include "kernels/gemm_pack.h"

namespace grouper::kernels {
namespace {

// Block sizes, in elements of T = float: a panel of B [kBlockK][16] stays in L1 (32 KB) beside a tile's rows of A, a block of A
// [kBlockM][kBlockK] in L2 (from 256 KB), a packed block of B [kBlockK][kBlockN] in L2 or L3.
constexpr int64_t kBlockK = 384;
constexpr int64_t kBlockM = 192;
constexpr int64_t kBlockN = 1024;
// With few rows the panels of B come from memory once and are not worth cutting.
constexpr int64_t kFewRows = 48;
constexpr int64_t kBlockKFewRows = 4096;
// Up to this k the tiles go along the rows of C.
constexpr int64_t kShortK = 64;
// B whose rows are consecutive is read in place by up to this many rows of A.
constexpr int64_t kDirectRows = 24;
// ... and by up to kSmallRows where all of it is small.
constexpr int64_t kSmallRows = 96;
constexpr int64_t kSmallB = 32768;
// Elements between copied rows of A, against rows that fall on the same cache sets.
constexpr int64_t kRowPad = 16;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

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

template <typename S, typename T>
int64_t BlockK(const Product<S, T>& p, int64_t rows) {
  const int64_t limit = p.b_packed != nullptr && rows <= kFewRows ? kBlockKFewRows : kBlockK;
  const int64_t blocks = std::max<int64_t>(1, CeilDiv(p.k, limit));
  return std::max<int64_t>(1, CeilDiv(p.k, blocks));
}

// Panels of B to pack together: blocks of equal size.
template <typename T>
int64_t PanelsAtOnce(int64_t panels) {
  const int64_t blocks = std::max<int64_t>(1, CeilDiv(panels, kBlockN / kPanel<T>));
  return std::max<int64_t>(1, CeilDiv(panels, blocks));
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

// A is read in place unless it is gathered, needs widening, or lies badly: rows that fall on the same cache sets, or (where a
// tile's rows are consecutive) a long chain that would touch a cache line for each step.
template <typename S, typename T>
bool ReadsADirectly(const Product<S, T>& p, int64_t rows) {
  if (!std::is_same_v<S, T> || p.a_gather != nullptr) return false;
  if (p.a_col == 1) return rows <= kTileRows || !Aliases<T>(p.a_row);
  return p.k <= kShortK && !(p.k > 8 && Aliases<T>(p.a_col));
}

template <typename T>
using TileFunction = void (*)(const TileArgs<T>&);
template <typename T>
using EdgeFunction = void (*)(TileArgs<T>, int64_t columns);

// [rows - 1]. Rows of A consecutive in k, or packed panels.
template <typename T, bool kRowsA>
constexpr TileFunction<T> kTiles[kTileRows] = {Tile<T, 1, 1, kRowsA>, Tile<T, 2, 1, kRowsA>, Tile<T, 3, 1, kRowsA>,
                                               Tile<T, 4, 1, kRowsA>, Tile<T, 5, 1, kRowsA>, Tile<T, 6, 1, kRowsA>};
// The same, fetching a later panel of B from memory on the way.
template <typename T, bool kRowsA>
constexpr TileFunction<T> kFetchingTiles[kTileRows] = {Tile<T, 1, 1, kRowsA, true>, Tile<T, 2, 1, kRowsA, true>,
                                                       Tile<T, 3, 1, kRowsA, true>, Tile<T, 4, 1, kRowsA, true>,
                                                       Tile<T, 5, 1, kRowsA, true>, Tile<T, 6, 1, kRowsA, true>};
template <typename T, bool kRowsA>
constexpr EdgeFunction<T> kEdges[kTileRows] = {EdgeTile<T, 1, 1, kRowsA>, EdgeTile<T, 2, 1, kRowsA>, EdgeTile<T, 3, 1, kRowsA>,
                                               EdgeTile<T, 4, 1, kRowsA>, EdgeTile<T, 5, 1, kRowsA>, EdgeTile<T, 6, 1, kRowsA>};
// Few rows take several panels at once: up to kWidePanels[rows - 1]. [rows - 1][panels - 1].
constexpr int kWidePanels[3] = {4, 3, 2};
template <typename T, bool kRowsA>
constexpr TileFunction<T> kWideTiles[3][4] = {
    {Tile<T, 1, 1, kRowsA>, Tile<T, 1, 2, kRowsA>, Tile<T, 1, 3, kRowsA>, Tile<T, 1, 4, kRowsA>},
    {Tile<T, 2, 1, kRowsA>, Tile<T, 2, 2, kRowsA>, Tile<T, 2, 3, kRowsA>, nullptr},
    {Tile<T, 3, 1, kRowsA>, Tile<T, 3, 2, kRowsA>, nullptr, nullptr}};
template <typename T, bool kRowsA>
constexpr EdgeFunction<T> kWideEdges[3][4] = {
    {EdgeTile<T, 1, 1, kRowsA>, EdgeTile<T, 1, 2, kRowsA>, EdgeTile<T, 1, 3, kRowsA>, EdgeTile<T, 1, 4, kRowsA>},
    {EdgeTile<T, 2, 1, kRowsA>, EdgeTile<T, 2, 2, kRowsA>, EdgeTile<T, 2, 3, kRowsA>, nullptr},
    {EdgeTile<T, 3, 1, kRowsA>, EdgeTile<T, 3, 2, kRowsA>, nullptr, nullptr}};

// The part's rows [m_begin, m_end) and panels, on one thread.
template <typename S, typename T>
class Block {
 public:
  Block(const Product<S, T>& p, const Part& part, T* a_buffer, T* b_buffer)
      : p_(p), part_(part), a_buffer_(a_buffer), b_buffer_(b_buffer) {}

  void Run() {
    const int64_t rows = part_.m_end - part_.m_begin;
    const int64_t block_k = BlockK(p_, rows);
    const bool direct_b = p_.b_packed == nullptr && ReadsBDirectly(p_, rows);
    const int64_t panels = part_.panel_end - part_.panel_begin;
    const int64_t panels_at_once = p_.b_packed != nullptr || direct_b ? panels : PanelsAtOnce<T>(panels);
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
  // Where panel i (counted from `panel`) of this block of B lies.
  void SetB(int64_t panel, int64_t panel_end, int64_t k, int64_t k_size, bool direct) {
    constexpr int kN = kPanel<T>;
    if (p_.b_packed != nullptr) {
      b_ = p_.b_packed + panel * p_.k * kN + k * kN;
      ldb_ = kN;
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
    const int64_t blocks = std::max<int64_t>(1, CeilDiv(rows, kBlockM));
    const int64_t block_m = CeilDiv(CeilDiv(rows, blocks), kTileRows) * kTileRows;
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
        RunTiles<true>(a, lda, m, m_size, panel, panel_end, k, k_size);
      } else {
        if constexpr (std::is_same_v<S, T>) {
          if (direct_a) {
            RunTiles<false>(p_.a + m + k * p_.a_col, p_.a_col, m, m_size, panel, panel_end, k, k_size);
            continue;
          }
        }
        PackPanelsA(p_.a + m + k * p_.a_col, p_.a_col, m_size, k_size, a_buffer_);
        RunTiles<false>(a_buffer_, 0, m, m_size, panel, panel_end, k, k_size);
      }
    }
  }

  // lda == 0: A is packed in panels.
  template <bool kRowsA>
  void RunTiles(const T* a, int64_t lda, int64_t m, int64_t m_size, int64_t panel, int64_t panel_end, int64_t k, int64_t k_size) {
    constexpr int kN = kPanel<T>;
    const RowTiles tiles(m_size);
    const bool last = k + k_size >= p_.k;
    TileArgs<T> args;
    args.k = k_size;
    args.lda = lda;
    args.ldb = ldb_;
    args.panel_stride = panel_stride_;
    args.ldc = p_.c_row;
    args.accumulate = p_.accumulate || k > 0;
    const int64_t full_end = std::min(panel_end, p_.n / kN);
    int64_t i = panel;
    if (m_size <= 3 && lda != 0) {
      const int64_t wide_end = edge_b_ != nullptr ? full_end : panel_end;
      for (int64_t count; i < wide_end; i += count) {
        count = std::min<int64_t>(kWidePanels[m_size - 1], wide_end - i);
        args.a = a;
        args.b = b_ + (i - panel) * panel_stride_;
        args.c = p_.c + m * p_.c_row + i * kN;
        args.bias = last && p_.bias != nullptr ? p_.bias + i * kN : nullptr;
        if (i + count <= full_end) {
          kWideTiles<T, kRowsA>[m_size - 1][count - 1](args);
        } else {
          kWideEdges<T, kRowsA>[m_size - 1][count - 1](args, p_.n - i * kN);
        }
      }
    }
    // A panel of B stays in L1 while the tiles of A pass by; where the chain is short, C is most of the traffic, and its rows are
    // written from left to right instead.
    const int64_t panels = panel_end - i;
    const bool rows_outside = k_size <= kShortK;
    // A prepacked B may come from memory: while the tiles use one panel they ask for the next, each for its share.
    const bool fetches = p_.b_packed != nullptr && !rows_outside;
    const int64_t fetch_step = CeilDiv(static_cast<int64_t>(kN * sizeof(T)), tiles.count);
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
        if (edge && edge_b_ != nullptr) {
          args.b = edge_b_;
          args.ldb = kN;
        } else {
          args.b = b_ + (column_panel - panel) * panel_stride_;
          args.ldb = ldb_;
        }
        if (edge) {
          kEdges<T, kRowsA>[size - 1](args, p_.n - column_panel * kN);
          continue;
        }
        if (tile + 1 < tiles.count) {  // the next tile's C, which would stall its first loads
          const T* next = args.c + size * p_.c_row;
          for (int64_t r = 0; r < size; ++r) __builtin_prefetch(next + r * p_.c_row, 1);
        }
        if (fetches && column_panel + 1 < panel_end) {
          args.prefetch = reinterpret_cast<const char*>(args.b + panel_stride_) + tile * (fetch_step * k_size);
          args.prefetch_step = fetch_step;
          kFetchingTiles<T, kRowsA>[size - 1](args);
        } else {
          kTiles<T, kRowsA>[size - 1](args);
        }
      }
    }
  }

  const Product<S, T>& p_;
  const Part& part_;
  T* const a_buffer_;
  T* const b_buffer_;
  const T* b_ = nullptr;
  int64_t ldb_ = 0, panel_stride_ = 0;
  const T* edge_b_ = nullptr;  // the last, partial panel where the others are read in place
};

template <typename S, typename T>
BufferSizes BuffersFor(const Product<S, T>& p, int64_t rows, int64_t panels) {
  BufferSizes sizes;
  const int64_t block_k = BlockK(p, rows);
  if (!ReadsADirectly(p, rows)) sizes.a = std::min(rows, kBlockM) * (block_k + kRowPad);
  if (p.b_packed == nullptr) {
    sizes.b = PanelsAtOnce<T>(panels) * kPanel<T> * block_k;
  }
  return sizes;
}

// How to cut one product for `threads`: the grid with the smallest estimated time, in steps of one row x one panel x one k (about one
// cycle for a full tile). Packing counts for each thread that does it.
struct Grid {
  int64_t m = 1, n = 1;
};

template <typename S, typename T>
Grid ChooseGrid(const Product<S, T>& p, int64_t threads) {
  const int64_t panels = CeilDiv(p.n, kPanel<T>);
  Grid best;
  double best_cost = 0;
  for (int64_t grid_n = 1; grid_n <= std::min(threads, panels); ++grid_n) {
    const int64_t grid_m = std::max<int64_t>(1, std::min(threads / grid_n, CeilDiv(p.m, kTileRows)));
    const double rows = static_cast<double>(CeilDiv(p.m, grid_m)), columns = static_cast<double>(CeilDiv(panels, grid_n));
    double cost = rows * columns;
    if (p.b_packed == nullptr) cost += columns * kPanel<T> * (p.b_col == 1 ? 0.15 : 0.4);
    cost += rows * (p.a_col == 1 ? 0.1 : 0.4);
    if (grid_n == 1 || cost < best_cost) best = {grid_m, grid_n}, best_cost = cost;
  }
  return best;
}

// Below this many multiply-adds a second thread costs more than it brings.
constexpr double kThreadWork = 100e3;
// Smaller parts of a product than this are not worth their start.
constexpr double kPartWork = 1e6;

}  // namespace

template <typename S, typename T>
void RunProducts(Stream& stream, absl::Span<const Product<S, T>> products) {
  double work = 0;
  for (const Product<S, T>& p : products) work += static_cast<double>(p.m) * p.n * std::max<int64_t>(p.k, 1);
  const int64_t threads =
      std::clamp<int64_t>(static_cast<int64_t>(work / kThreadWork), 1, std::max(1, stream.threads.num_threads()));
  const Arena::Mark mark = stream.scratch.mark();

  // Parts: one a thread where cutting has a price; for several products, none much longer than the others.
  const int64_t max_parts = static_cast<int64_t>(products.size()) * 4 * threads;
  Part* parts = static_cast<Part*>(stream.scratch.Allocate(sizeof(Part) * static_cast<size_t>(max_parts)));
  int64_t num_parts = 0;
  BufferSizes sizes;
  for (size_t i = 0; i < products.size(); ++i) {
    const Product<S, T>& p = products[i];
    const int64_t panels = CeilDiv(p.n, kPanel<T>);
    if (p.m == 0 || p.n == 0) continue;
    int64_t cuts = threads;
    if (threads > 1 && products.size() == 1 && p.b_packed != nullptr) {
      // Nothing is packed twice, so smaller parts are free, and a thread that wakes late or is disturbed does fewer of them.
      cuts = std::clamp<int64_t>(static_cast<int64_t>(work / kPartWork), threads, 3 * threads);
    } else if (products.size() > 1 && threads > 1) {
      const double share = static_cast<double>(p.m) * p.n * std::max<int64_t>(p.k, 1) / work;
      cuts = std::clamp<int64_t>(static_cast<int64_t>(share * 4 * threads), 1, 4 * threads);
    }
    const Grid grid = ChooseGrid(p, cuts);
    for (int64_t gm = 0; gm < grid.m; ++gm) {
      for (int64_t gn = 0; gn < grid.n; ++gn) {
        const Part part = {static_cast<int64_t>(i), p.m * gm / grid.m, p.m * (gm + 1) / grid.m, panels * gn / grid.n,
                           panels * (gn + 1) / grid.n};
        if (part.m_begin == part.m_end || part.panel_begin == part.panel_end) continue;
        const BufferSizes need = BuffersFor(p, part.m_end - part.m_begin, part.panel_end - part.panel_begin);
        sizes.a = std::max(sizes.a, need.a);
        sizes.b = std::max(sizes.b, need.b);
        parts[num_parts++] = part;
      }
    }
  }

  const int64_t workers = std::min(threads, num_parts);
  const int64_t a_size = CeilDiv(sizes.a, 16) * 16, b_size = CeilDiv(sizes.b, 16) * 16;
  T* buffers = static_cast<T*>(
      stream.scratch.Allocate(sizeof(T) * static_cast<size_t>(std::max<int64_t>(1, workers) * (a_size + b_size))));
  auto run = [&](int64_t part, int64_t worker) {
    T* a_buffer = buffers + worker * (a_size + b_size);
    Block<S, T>(products[static_cast<size_t>(parts[part].product)], parts[part], a_buffer, a_buffer + a_size).Run();
  };
  if (workers <= 1) {
    for (int64_t i = 0; i < num_parts; ++i) run(i, 0);
  } else {
    std::atomic<int64_t> next{0};
    stream.threads.ParallelFor(workers, 1, [&](int64_t begin, int64_t) {
      for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < num_parts;
           i = next.fetch_add(1, std::memory_order_relaxed)) {
        run(i, begin);
      }
    });
  }
  stream.scratch.Release(mark);
}

template void RunProducts<float, float>(Stream&, absl::Span<const Product<float, float>>);
template void RunProducts<double, double>(Stream&, absl::Span<const Product<double, double>>);
template void RunProducts<bf16, float>(Stream&, absl::Span<const Product<bf16, float>>);

}  // namespace grouper::kernels
