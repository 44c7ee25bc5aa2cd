#include "kernels/row_ops_cuda.h"
#include "kernels/rows.cuh"

namespace grouper::kernels::cuda {
namespace {

template <typename S>
__global__ void __launch_bounds__(kBlockThreads) AddRows(DeviceRows<S> x, DeviceRows<S> y, int64_t width, int64_t size) {
  for (int64_t k = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x; k < size; k += int64_t{gridDim.x} * kBlockThreads) {
    S* const to = y[k / width] + k % width;
    StoreFloat(to, LoadFloat(to) + LoadFloat(x[k / width] + k % width));
  }
}

template <typename From, typename To>
__global__ void __launch_bounds__(kBlockThreads) CopyRows(DeviceRows<From> x, DeviceRows<To> y, int64_t width, int64_t size) {
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
  for (int64_t k = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x; k < size; k += int64_t{gridDim.x} * kBlockThreads)
    StoreFloat(y[k / width] + k % width, value);
}

}  // namespace

void Add(Stream& stream, const Tensor& x, const Tensor& y) {
  if (y.size() == 0) return;
  ByDeviceStorage(y.dtype(), [&](auto s) {
    using S = decltype(s);
    AddRows<S><<<FillingBlocks(y.size()), kBlockThreads, 0, HandleOf(stream)>>>(RowsOnDevice<S>(x), RowsOnDevice<S>(y),
                                                                             y.dim(-1), y.size());
  });
  GROUPER_CUDA_LAUNCHED();
}

void Copy(Stream& stream, const Tensor& x, const Tensor& y) {
  CHECK(x.device() == y.device()) << "Copy stays on its device; Upload and Download do not";
  if (y.size() == 0) return;
  ByDeviceStorage(x.dtype(), [&](auto from) {
    ByDeviceStorage(y.dtype(), [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      CopyRows<From, To><<<FillingBlocks(y.size()), kBlockThreads, 0, HandleOf(stream)>>>(
          RowsOnDevice<From>(x), RowsOnDevice<To>(y), y.dim(-1), y.size());
    });
  });
  GROUPER_CUDA_LAUNCHED();
}

void Fill(Stream& stream, const Tensor& y, double value) {
  if (y.size() == 0) return;
  ByDeviceStorage(y.dtype(), [&](auto s) {
    using S = decltype(s);
    FillRows<S><<<FillingBlocks(y.size()), kBlockThreads, 0, HandleOf(stream)>>>(RowsOnDevice<S>(y), static_cast<float>(value),
                                                                              y.dim(-1), y.size());
  });
  GROUPER_CUDA_LAUNCHED();
}

}  // namespace grouper::kernels::cuda
