#include "kernels/gemm_cpu.h"

#include <algorithm>
#include <atomic>
#include <new>

#include "kernels/gemm_block.h"

namespace grouper::kernels {
namespace {

// A thread for each of these many multiply-adds: with less the start of a loop costs more than it brings.
constexpr double kThreadWork = 200e3;
// Smaller parts of a product than this are not worth their start.
constexpr double kPartWork = 1e6;
// What it costs two threads to write the same row of C, in steps as below: each one's prefetches take lines from the other.
constexpr double kSharedRow = 300;

// How to cut one product into `parts`: the grid with the smallest estimated time, in steps of one row x one panel x one k (about one
// cycle in a full tile). Reading and packing count for each part that does it.
struct Grid {
  int64_t m = 1, n = 1;
};

template <typename S, typename T>
Grid ChooseGrid(const Product<S, T>& p, int64_t parts) {
  const int64_t panels = CeilDiv(p.n, kPanel<T>);
  const double per_panel = p.b_packed != nullptr ? 4 : p.b_col == 1 ? 5 : 10, per_row = p.a_col == 1 ? 0.1 : 0.4;
  const double per_shared_row = kSharedRow / static_cast<double>(std::max<int64_t>(p.k, 1));
  Grid best;
  double best_cost = 0;
  for (int64_t grid_n = 1; grid_n <= std::min(parts, panels); ++grid_n) {
    const int64_t grid_m = std::max<int64_t>(1, std::min(parts / grid_n, CeilDiv(p.m, kTileRows)));
    const double rows = static_cast<double>(CeilDiv(p.m, grid_m)), columns = static_cast<double>(CeilDiv(panels, grid_n));
    const double cost = rows * columns + columns * per_panel + rows * (grid_n > 1 ? per_row + per_shared_row : per_row);
    if (grid_n == 1 || cost < best_cost) best = {grid_m, grid_n}, best_cost = cost;
  }
  return best;
}

// Multiply-adds; one or two rows take the time of three.
template <typename S, typename T>
double Work(const Product<S, T>& p) {
  if (p.m == 0) return 0;
  return static_cast<double>(std::max<int64_t>(p.m, 3)) * static_cast<double>(p.n) * static_cast<double>(std::max<int64_t>(p.k, 1));
}

// All parts of a list of products, in an order in which neighbours share rows, and the buffers that any one of them needs.
template <typename S, typename T>
class Plan {
 public:
  Plan(Stream& stream, absl::Span<const Product<S, T>> products, int64_t threads) : products_(products) {
    const size_t most = products.size() * static_cast<size_t>(4 * threads);
    parts = static_cast<Part*>(stream.scratch.Allocate(sizeof(Part) * most));
    if (CutRowsOfAll(threads)) return;
    double work = 0;
    for (const Product<S, T>& p : products) work += Work(p);
    for (size_t i = 0; i < products.size(); ++i) {
      const Product<S, T>& p = products[i];
      if (p.m == 0 || p.n == 0) continue;
      int64_t cuts = threads;
      if (products.size() > 1) {  // none much longer than the others
        cuts = std::clamp<int64_t>(static_cast<int64_t>(Work(p) / std::max(work, 1.0) * static_cast<double>(4 * threads)), 1, 4 * threads);
      } else if (p.b_packed != nullptr) {
        // Nothing is packed twice, so smaller parts are free, and a thread that wakes late or is disturbed does fewer of them.
        cuts = threads * std::clamp<int64_t>(static_cast<int64_t>(work / kPartWork) / threads, 1, 3);
      }
      const int64_t panels = CeilDiv(p.n, kPanel<T>);
      const Grid grid = ChooseGrid(p, cuts);
      for (int64_t m = 0; m < grid.m; ++m) {
        for (int64_t n = 0; n < grid.n; ++n) {
          Add({static_cast<int64_t>(i), p.m * m / grid.m, p.m * (m + 1) / grid.m, panels * n / grid.n, panels * (n + 1) / grid.n});
        }
      }
    }
  }

  Part* parts = nullptr;
  int64_t count = 0;
  BufferSizes sizes;

 private:
  // A batch over heads writes into the same rows of memory: each thread takes its rows of all heads.
  bool CutRowsOfAll(int64_t threads) {
    if (products_.size() < 2) return false;
    const int64_t rows = products_[0].m;
    for (const Product<S, T>& p : products_) {
      if (p.m != rows || p.n != products_[0].n || p.k != products_[0].k) return false;
    }
    if (rows < kTileRows * threads) return false;
    for (int64_t m = 0; m < threads; ++m) {
      for (size_t i = 0; i < products_.size(); ++i) {
        Add({static_cast<int64_t>(i), rows * m / threads, rows * (m + 1) / threads, 0, CeilDiv(products_[i].n, kPanel<T>)});
      }
    }
    return true;
  }

  void Add(const Part& part) {
    if (part.m_begin == part.m_end || part.panel_begin == part.panel_end) return;
    const BufferSizes need =
        BuffersFor(products_[static_cast<size_t>(part.product)], part.m_end - part.m_begin, part.panel_end - part.panel_begin);
    sizes.a = std::max(sizes.a, need.a);
    sizes.b = std::max(sizes.b, need.b);
    parts[count++] = part;
  }

  absl::Span<const Product<S, T>> products_;
};

// A worker's own range of parts, from which the others help themselves when theirs are done.
struct alignas(64) Queue {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

// One product on this thread, as one part: what a small one costs beside its arithmetic is this way, so that it is short.
template <typename S, typename T>
void RunWhole(Stream& stream, const Product<S, T>& p) {
  if (p.m == 0 || p.n == 0) return;
  const Part part = {.m_end = p.m, .panel_end = CeilDiv(p.n, kPanel<T>)};
  const BufferSizes sizes = BuffersFor(p, p.m, part.panel_end);
  if (sizes.a + sizes.b == 0) return Block<S, T>(p, part, nullptr, nullptr).Run();
  const Arena::Mark mark = stream.scratch.mark();
  const int64_t a_size = CeilDiv(sizes.a, 16) * 16;
  T* const buffer = static_cast<T*>(stream.scratch.Allocate(sizeof(T) * static_cast<size_t>(a_size + sizes.b)));
  Block<S, T>(p, part, buffer, buffer + a_size).Run();
  stream.scratch.Release(mark);
}

template <typename S, typename T>
void RunOnThreads(Stream& stream, absl::Span<const Product<S, T>> products, int64_t threads) {
  const Arena::Mark mark = stream.scratch.mark();
  const Plan<S, T> plan(stream, products, threads);
  const int64_t workers = std::min(threads, plan.count);
  const int64_t a_size = CeilDiv(plan.sizes.a, 16) * 16, b_size = CeilDiv(plan.sizes.b, 16) * 16;
  T* const buffers = static_cast<T*>(
      stream.scratch.Allocate(sizeof(T) * static_cast<size_t>(std::max<int64_t>(1, workers) * (a_size + b_size))));
  const auto run = [&](int64_t i, int64_t worker) {
    const Part& part = plan.parts[i];
    T* const a_buffer = buffers + worker * (a_size + b_size);
    Block<S, T>(products[static_cast<size_t>(part.product)], part, a_buffer, a_buffer + a_size).Run();
  };
  Queue* const queues = static_cast<Queue*>(stream.scratch.Allocate(sizeof(Queue) * static_cast<size_t>(workers)));
  for (int64_t w = 0; w < workers; ++w) {
    new (queues + w) Queue;
    queues[w].next.store(plan.count * w / workers, std::memory_order_relaxed);
    queues[w].end = plan.count * (w + 1) / workers;
  }
  stream.threads.ParallelFor(workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (int64_t turn = 0; turn < workers; ++turn) {
        Queue& queue = queues[(worker + turn) % workers];
        for (int64_t i = queue.next.fetch_add(1, std::memory_order_relaxed); i < queue.end;
             i = queue.next.fetch_add(1, std::memory_order_relaxed)) {
          run(i, worker);
        }
      }
    }
  });
  stream.scratch.Release(mark);
}

}  // namespace

template <typename S, typename T>
void RunProducts(Stream& stream, absl::Span<const Product<S, T>> products) {
  double work = 0;
  for (const Product<S, T>& p : products) work += Work(p);
  const int64_t threads = work < 2 * kThreadWork ? 1 : std::min<int64_t>(static_cast<int64_t>(work / kThreadWork), stream.threads.num_threads());
  if (threads == 1) {
    for (const Product<S, T>& p : products) RunWhole(stream, p);
  } else {
    RunOnThreads(stream, products, threads);
  }
}

template void RunProducts<float, float>(Stream&, absl::Span<const Product<float, float>>);
template void RunProducts<double, double>(Stream&, absl::Span<const Product<double, double>>);
template void RunProducts<bf16, float>(Stream&, absl::Span<const Product<bf16, float>>);

}  // namespace grouper::kernels
