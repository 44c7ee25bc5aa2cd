#include "kernels/packed_matrix.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels/dispatch.h"
#include "kernels/gemm_pack.h"

namespace grouper::kernels {
namespace {

constexpr size_t kHuge = size_t{2} << 20;

// Rows [first, first + rows) of one expert's matrix out of `from`, whose rows are row_stride elements apart.
template <typename S>
void WritePanels(const S* from, int64_t row_stride, int64_t first, int64_t rows, int64_t k, S* panels) {
  constexpr int64_t kN = kPanel<Compute<S>>;
  for (int64_t row = first; row < first + rows;) {
    const int64_t column = row % kN, count = std::min(kN - column, first + rows - row);
    S* const to = panels + row / kN * kN * k + column;
    if (count == kN) {
      PackPanelB<S, S, kN>(from, 1, row_stride, nullptr, k, kN, to);
    } else {
      for (int64_t kk = 0; kk < k; ++kk) {
        for (int64_t j = 0; j < count; ++j) to[kk * kN + j] = from[j * row_stride + kk];
      }
    }
    from += count * row_stride;
    row += count;
  }
}

template <typename S>
void ReadPanels(const S* panels, int64_t first, int64_t rows, int64_t k, S* to, int64_t row_stride) {
  constexpr int64_t kN = kPanel<Compute<S>>;
  for (int64_t row = first; row < first + rows;) {
    const int64_t column = row % kN, count = std::min(kN - column, first + rows - row);
    const S* const from = panels + row / kN * kN * k + column;
    // Columns of k in pieces, so that a piece of the panel stays in L1 while its rows are written.
    constexpr int64_t kPiece = 64;
    for (int64_t begin = 0; begin < k; begin += kPiece) {
      const int64_t end = std::min(k, begin + kPiece);
      for (int64_t j = 0; j < count; ++j) {
        for (int64_t kk = begin; kk < end; ++kk) to[j * row_stride + kk] = from[kk * kN + j];
      }
    }
    to += count * row_stride;
    row += count;
  }
}

void CheckRows(const PackedMatrix::Layout* layout, int64_t expert, int64_t first, const Tensor& rows) {
  CHECK(layout != nullptr) << "no memory was reserved";
  CHECK(rows.rank() == 2 && rows.dtype() == layout->dtype && rows.dim(1) == layout->k && 0 <= expert && expert < layout->experts && 0 <= first &&
        first <= layout->n && rows.dim(0) <= layout->n - first)
      << rows.ShapeString() << " at row " << first << " of expert " << expert << " of " << layout->experts << " x " << layout->n << " x " << layout->k;
}

}  // namespace

PackedMatrix::Layout::~Layout() {
  if (owned) std::free(data);
}

PackedMatrix::PackedMatrix() = default;
PackedMatrix::~PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;

bool PackedMatrix::empty() const { return layout_ == nullptr; }
size_t PackedMatrix::bytes() const { return layout_ == nullptr ? 0 : layout_->bytes; }

size_t PackedMatrix::BytesFor(const Tensor& weight) {
  const int64_t experts = weight.rank() == 3 ? weight.dim(0) : 1;
  size_t bytes = 0;
  ByStorage(weight, [&](auto storage) {
    using S = decltype(storage);
    constexpr int64_t kN = kPanel<Compute<S>>;
    bytes = sizeof(S) * static_cast<size_t>(experts * ((weight.dim(-2) + kN - 1) / kN) * kN * weight.dim(-1));
  });
  return bytes;
}

void PackedMatrix::Reserve(const Tensor& weight, Arena* memory) {
  CHECK(weight.rank() == 2 || weight.rank() == 3) << weight.ShapeString();
  const int64_t experts = weight.rank() == 3 ? weight.dim(0) : 1, n = weight.dim(-2), k = weight.dim(-1);
  if (layout_ != nullptr && layout_->dtype == weight.dtype() && layout_->experts == experts && layout_->n == n && layout_->k == k) return;
  auto layout = std::make_unique<Layout>();
  layout->dtype = weight.dtype();
  layout->experts = experts;
  layout->n = n;
  layout->k = k;
  ByStorage(weight, [&](auto storage) {
    using S = decltype(storage);
    constexpr int64_t kN = kPanel<Compute<S>>;
    const int64_t panels = (n + kN - 1) / kN;
    layout->expert_stride = panels * kN * k;
    const size_t used = BytesFor(weight);
    if (memory != nullptr) {
      layout->bytes = used;
      layout->data = memory->Allocate(used);
    } else {
      const size_t align = used >= kHuge ? kHuge : 64;
      layout->bytes = std::max(align, (used + align - 1) / align * align);
      layout->data = std::aligned_alloc(align, layout->bytes);
      CHECK(layout->data != nullptr) << "out of memory: " << layout->bytes << " bytes";
      layout->owned = true;
      if (align == kHuge) madvise(layout->data, layout->bytes, MADV_HUGEPAGE);
    }
    // The columns that fill a last panel are never written.
    if (n % kN == 0) return;
    for (int64_t e = 0; e < experts; ++e) {
      S* const last = static_cast<S*>(layout->data) + e * layout->expert_stride + (panels - 1) * kN * k;
      std::memset(static_cast<void*>(last), 0, sizeof(S) * static_cast<size_t>(kN * k));
    }
  });
  layout_ = std::move(layout);
}

void PackedMatrix::Pack(Stream& stream, const Tensor& weight) {
  if (weight.device().is_cuda()) return;
  Reserve(weight, nullptr);
  const int64_t n = weight.dim(-2), k = weight.dim(-1), row_stride = weight.stride(-2);
  const int64_t expert_stride = weight.rank() == 3 ? weight.stride(0) : 0;
  ByStorage(weight, [&](auto storage) {
    using S = decltype(storage);
    constexpr int64_t kN = kPanel<Compute<S>>;
    const int64_t panels = (n + kN - 1) / kN, experts = layout_->experts;
    S* const to = static_cast<S*>(layout_->data);
    const S* const from = weight.data<S>();
    const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, kN * k));
    stream.threads.ParallelFor(experts * panels, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t expert = i / panels, first = i % panels * kN;
        WritePanels(from + expert * expert_stride + first * row_stride, row_stride, first, std::min(kN, n - first), k,
                    to + expert * layout_->expert_stride);
      }
    });
  });
}

void PackedMatrix::WriteRows(int64_t expert, int64_t first, const Tensor& rows) {
  CheckRows(layout_.get(), expert, first, rows);
  ByStorage(rows, [&](auto storage) {
    using S = decltype(storage);
    WritePanels(rows.data<S>(), rows.stride(0), first, rows.dim(0), layout_->k, static_cast<S*>(layout_->data) + expert * layout_->expert_stride);
  });
}

void PackedMatrix::ReadRows(int64_t expert, int64_t first, const Tensor& rows) const {
  CheckRows(layout_.get(), expert, first, rows);
  ByStorage(rows, [&](auto storage) {
    using S = decltype(storage);
    ReadPanels(static_cast<const S*>(layout_->data) + expert * layout_->expert_stride, first, rows.dim(0), layout_->k, rows.data<S>(),
               rows.stride(0));
  });
}

}  // namespace grouper::kernels
