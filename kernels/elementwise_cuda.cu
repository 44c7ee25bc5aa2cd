#include <cmath>

#include "kernels/row_ops_cuda.h"
#include "kernels/rows.cuh"

namespace grouper::kernels::cuda {
namespace {

template <typename S>
__global__ void __launch_bounds__(kBlockThreads) AddRows(DeviceRows<S> x, DeviceRows<S> y, int64_t width, int64_t size) {
  KernelBegin();
  for (int64_t k = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x; k < size; k += int64_t{gridDim.x} * kBlockThreads) {
    S* const to = y[k / width] + k % width;
    StoreFloat(to, LoadFloat(to) + LoadFloat(x[k / width] + k % width));
  }
}

template <typename From, typename To>
__global__ void __launch_bounds__(kBlockThreads) CopyRows(DeviceRows<From> x, DeviceRows<To> y, int64_t width, int64_t size) {
  KernelBegin();
  for (int64_t k = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x; k < size; k += int64_t{gridDim.x} * kBlockThreads) {
    if constexpr (std::is_same_v<From, To>) {
      y[k / width][k % width] = x[k / width][k % width];
    } else {
      StoreFloat(y[k / width] + k % width, LoadFloat(x[k / width] + k % width));
    }
  }
}

template <typename S>
__global__ void __launch_bounds__(kBlockThreads) FillRows(DeviceRows<S> y, float value, int64_t width, int64_t size) {
  KernelBegin();
  for (int64_t k = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x; k < size; k += int64_t{gridDim.x} * kBlockThreads)
    StoreFloat(y[k / width] + k % width, value);
}

// A thread an element of y, so that those of a row lie side by side.
template <typename S>
__global__ void __launch_bounds__(kBlockThreads)
    SumOfHeads(DeviceRows<S> x, DeviceRows<S> y, int64_t heads, int64_t width, int64_t size) {
  KernelBegin();
  for (int64_t k = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x; k < size; k += int64_t{gridDim.x} * kBlockThreads) {
    const S* const from = x.data + k / width * x.stride + k % width;
    float sum = LoadFloat(from);
    for (int64_t h = 1; h < heads; ++h) sum = __fadd_rn(sum, LoadFloat(from + h * x.inner_stride));
    StoreFloat(y[k / width] + k % width, sum);
  }
}

// Block x: row x of `some`. Words of W.
template <typename W>
__global__ void __launch_bounds__(kBlockThreads)
    MoveRows(const W* from, W* to, const int32_t* rows, int64_t words, bool gather) {
  KernelBegin();
  const int64_t row = rows[blockIdx.x], from_row = gather ? row : blockIdx.x, to_row = gather ? blockIdx.x : row;
  for (int64_t i = threadIdx.x; i < words; i += kBlockThreads) to[to_row * words + i] = from[from_row * words + i];
}

void Move(Stream& stream, const Tensor& from, const Tensor& to, const Tensor& rows, bool gather) {
  const int64_t bytes = from.dim(1) * static_cast<int64_t>(SizeOf(from.dtype()));
  if (rows.dim(0) == 0 || bytes == 0) return;
  const auto launch = [&](auto word) {
    using W = decltype(word);
    LaunchKernel(stream, static_cast<unsigned>(rows.dim(0)), kBlockThreads, 0, MoveRows<W>, static_cast<const W*>(from.raw()),
                 static_cast<W*>(to.raw()), rows.data<int32_t>(), bytes / static_cast<int64_t>(sizeof(W)), gather);
  };
  const auto aligned = [&](uintptr_t to_bytes) {
    return bytes % static_cast<int64_t>(to_bytes) == 0 && reinterpret_cast<uintptr_t>(from.raw()) % to_bytes == 0 &&
           reinterpret_cast<uintptr_t>(to.raw()) % to_bytes == 0;
  };
  aligned(16) ? launch(uint4{}) : aligned(4) ? launch(uint32_t{}) : launch(uint16_t{});
}

}  // namespace

void GatherRows(Stream& stream, const Tensor& all, const Tensor& rows, const Tensor& some) { Move(stream, all, some, rows, true); }
void ScatterRows(Stream& stream, const Tensor& some, const Tensor& rows, const Tensor& all) { Move(stream, some, all, rows, false); }

void Add(Stream& stream, const Tensor& x, const Tensor& y) {
  if (y.size() == 0) return;
  ByDeviceStorage(y.dtype(), [&](auto s) {
    using S = decltype(s);
    LaunchKernel(stream, FillingBlocks(y.size()), kBlockThreads, 0, AddRows<S>, RowsOnDevice<S>(x), RowsOnDevice<S>(y), y.dim(-1),
                 y.size());
  });
}

void Copy(Stream& stream, const Tensor& x, const Tensor& y) {
  CHECK(x.device() == y.device()) << "Copy stays on its device; Upload and Download do not";
  if (y.size() == 0) return;
  if (x.dtype() == y.dtype() && RowsOfEights(x) && RowsOfEights(y)) {
    const int64_t word = 16 / static_cast<int64_t>(SizeOf(x.dtype()));  // elements
    const auto words = [&](const Tensor& t) {
      const DeviceRows<uint16_t> rows = RowsOnDevice<uint16_t>(t);
      return DeviceRows<uint4>{static_cast<uint4*>(t.raw()), rows.stride / word, rows.inner, rows.inner_stride / word};
    };
    const int64_t size = y.size() / word;
    LaunchKernel(stream, FillingBlocks(size), kBlockThreads, 0, CopyRows<uint4, uint4>, words(x), words(y), y.dim(-1) / word, size);
    return;
  }
  ByDeviceStorage(x.dtype(), [&](auto from) {
    ByDeviceStorage(y.dtype(), [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      LaunchKernel(stream, FillingBlocks(y.size()), kBlockThreads, 0, CopyRows<From, To>, RowsOnDevice<From>(x), RowsOnDevice<To>(y),
                   y.dim(-1), y.size());
    });
  });
}

void Fill(Stream& stream, const Tensor& y, double value) {
  if (y.size() == 0) return;
  if (value == 0 && !std::signbit(value) && y.contiguous()) {
    GROUPER_CUDA_CHECK(cudaMemsetAsync(y.raw(), 0, static_cast<size_t>(y.size()) * SizeOf(y.dtype()), HandleOf(stream)));
    return;
  }
  ByDeviceStorage(y.dtype(), [&](auto s) {
    using S = decltype(s);
    LaunchKernel(stream, FillingBlocks(y.size()), kBlockThreads, 0, FillRows<S>, RowsOnDevice<S>(y), static_cast<float>(value), y.dim(-1),
                 y.size());
  });
}

void SumHeads(Stream& stream, const Tensor& x, const Tensor& y) {
  if (y.size() == 0) return;
  ByDeviceStorage(y.dtype(), [&](auto s) {
    using S = decltype(s);
    LaunchKernel(stream, FillingBlocks(y.size()), kBlockThreads, 0, SumOfHeads<S>, RowsOnDevice<S>(x), RowsOnDevice<S>(y), x.dim(1),
                 y.dim(1), y.size());
  });
}

}  // namespace grouper::kernels::cuda
