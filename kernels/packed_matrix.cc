#include "kernels/packed_matrix.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "kernels/dispatch.h"
#include "kernels/gemm_pack.h"

namespace grouper::kernels {

PackedMatrix::Layout::~Layout() { std::free(data); }

PackedMatrix::PackedMatrix() = default;
PackedMatrix::~PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;

bool PackedMatrix::empty() const { return layout_ == nullptr; }
size_t PackedMatrix::bytes() const { return layout_ == nullptr ? 0 : layout_->bytes; }

void PackedMatrix::Pack(Stream& stream, const Tensor& weight) {
  if (weight.device().kind == Device::Kind::kCuda) return;
  CHECK(weight.rank() == 2 || weight.rank() == 3) << weight.ShapeString();
  const int64_t experts = weight.rank() == 3 ? weight.dim(0) : 1;
  const int64_t n = weight.dim(-2), k = weight.dim(-1), row_stride = weight.stride(-2);
  const int64_t expert_stride = weight.rank() == 3 ? weight.stride(0) : 0;
  ByStorage(weight, [&](auto storage) {
    using S = decltype(storage);
    using T = Compute<S>;
    constexpr int64_t kN = kPanel<T>;
    const int64_t panels = (n + kN - 1) / kN;
    if (layout_ == nullptr || layout_->dtype != weight.dtype() || layout_->experts != experts || layout_->n != n ||
        layout_->k != k) {
      constexpr size_t kHuge = size_t{2} << 20;
      auto layout = std::make_unique<Layout>();
      layout->dtype = weight.dtype();
      layout->experts = experts;
      layout->n = n;
      layout->k = k;
      layout->expert_stride = panels * kN * k;
      const size_t used = sizeof(T) * static_cast<size_t>(experts * layout->expert_stride);
      const size_t align = used >= kHuge ? kHuge : 64;
      layout->bytes = std::max(align, (used + align - 1) / align * align);
      layout->data = std::aligned_alloc(align, layout->bytes);
      CHECK(layout->data != nullptr) << "out of memory: " << layout->bytes << " bytes";
      if (align == kHuge) madvise(layout->data, layout->bytes, MADV_HUGEPAGE);
      layout_ = std::move(layout);
    }
    T* const to = static_cast<T*>(layout_->data);
    const S* const from = weight.data<S>();
    const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, kN * k));
    stream.threads.ParallelFor(experts * panels, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t expert = i / panels, panel = i % panels;
        PackPanelB<T, S>(from + expert * expert_stride + panel * kN * row_stride, 1, row_stride, nullptr, k,
                         std::min(kN, n - panel * kN), to + expert * layout_->expert_stride + panel * kN * k);
      }
    });
  });
}

}  // namespace grouper::kernels
