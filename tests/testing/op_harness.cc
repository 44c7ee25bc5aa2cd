#include "tests/testing/op_harness.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/base/philox.h"

namespace grouper::testing {
namespace {

using ::testing::AssertionFailure;
using ::testing::AssertionResult;
using ::testing::AssertionSuccess;

void* Address(const Tensor& t, int64_t i) {
  int64_t offset = 0;
  for (int d = t.rank() - 1; d >= 0; --d) {
    offset += i % t.dim(d) * t.stride(d);
    i /= t.dim(d);
  }
  return static_cast<char*>(t.raw()) + offset * static_cast<int64_t>(SizeOf(t.dtype()));
}

std::string Index(const Tensor& t, int64_t i) {
  std::string text;
  for (int d = t.rank() - 1; d >= 0; --d) {
    text = std::to_string(i % t.dim(d)) + (text.empty() ? "" : ", ") + text;
    i /= t.dim(d);
  }
  return "[" + text + "]";
}

bool SameShape(const Tensor& a, const Tensor& b) {
  bool same = a.rank() == b.rank();
  for (int d = 0; same && d < a.rank(); ++d) same = a.dim(d) == b.dim(d);
  return same;
}

// Where NaN and Inf stand must agree before any value is compared.
AssertionResult SameSpecials(const Tensor& got, const Tensor& want) {
  if (!SameShape(got, want)) return AssertionFailure() << got.ShapeString() << " and " << want.ShapeString();
  for (int64_t i = 0; i < want.size(); ++i) {
    const double g = Get(got, i), w = Get(want, i);
    const bool special = !std::isfinite(g) || !std::isfinite(w);
    if (special && !(g == w || (std::isnan(g) && std::isnan(w)))) {
      return AssertionFailure() << Index(want, i) << " is " << g << ", expected " << w;
    }
  }
  return AssertionSuccess();
}

// Ways to cut [0, rows): all, one by one, ragged.
std::vector<std::vector<int64_t>> Cuts(int64_t rows) {
  std::vector<int64_t> singles, ragged = {0};
  for (int64_t i = 0; i <= rows; ++i) singles.push_back(i);
  for (int64_t step = 1; ragged.back() < rows; step = step * 2 + 1) ragged.push_back(std::min(rows, ragged.back() + step));
  return {{0, rows}, singles, ragged};
}

}  // namespace

void* Memory::Allocate(size_t bytes) {
  constexpr size_t kAlign = 64;
  std::vector<char>& block = blocks_.emplace_back(bytes + kAlign);
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(block.data()) + kAlign - 1) / kAlign * kAlign);
}

Tensor Memory::New(DType dtype, std::initializer_list<int64_t> shape) {
  Tensor t(nullptr, dtype, shape);
  const size_t bytes = static_cast<size_t>(t.size()) * SizeOf(dtype);
  void* data = Allocate(bytes);
  std::memset(data, dtype == DType::kI32 ? 0x7f : 0xff, bytes);
  return Tensor(data, dtype, shape);
}

Tensor Memory::Zero(DType dtype, std::initializer_list<int64_t> shape) {
  Tensor t = New(dtype, shape);
  std::memset(t.raw(), 0, static_cast<size_t>(t.size()) * SizeOf(dtype));
  return t;
}

Tensor Memory::Random(DType dtype, std::initializer_list<int64_t> shape, const std::string& label, double scale) {
  Tensor t = New(dtype, shape);
  PhiloxStream numbers(MakePhiloxKey(1, label.c_str()));
  // Through float and bf16, so that the tensor of any type holds numbers that all types hold.
  for (int64_t i = 0; i < t.size(); ++i) {
    Set(t, i, static_cast<double>(static_cast<float>(bf16(static_cast<float>(scale * numbers.NextNormal())))));
  }
  return t;
}

Tensor Memory::RandomStrided(DType dtype, std::initializer_list<int64_t> shape, int64_t gap, const std::string& label, double scale) {
  const Tensor plain = Random(dtype, shape, label, scale);
  const int64_t width = plain.dim(-1);
  Tensor t;
  if (plain.rank() == 2) {
    t = New(dtype, {plain.dim(0), width + gap}).Columns(0, width);
  } else {
    CHECK_EQ(plain.rank(), 3);
    t = New(dtype, {plain.dim(0), plain.dim(1), width + gap}).Columns(0, width);
  }
  for (int64_t i = 0; i < plain.size(); ++i) Set(t, i, Get(plain, i));
  return t;
}

Tensor Memory::Clone(const Tensor& t) { return Convert(t, t.dtype()); }

Tensor Memory::Convert(const Tensor& t, DType dtype) {
  Tensor copy;
  switch (t.rank()) {
    case 1: copy = New(dtype, {t.dim(0)}); break;
    case 2: copy = New(dtype, {t.dim(0), t.dim(1)}); break;
    case 3: copy = New(dtype, {t.dim(0), t.dim(1), t.dim(2)}); break;
    default: CHECK(false) << t.ShapeString();
  }
  for (int64_t i = 0; i < t.size(); ++i) Set(copy, i, Get(t, i));
  return copy;
}

double Get(const Tensor& t, int64_t i) {
  const void* p = Address(t, i);
  switch (t.dtype()) {
    case DType::kF32: return static_cast<double>(*static_cast<const float*>(p));
    case DType::kF64: return *static_cast<const double*>(p);
    case DType::kBF16: return static_cast<double>(static_cast<float>(*static_cast<const bf16*>(p)));
    case DType::kI32: return *static_cast<const int32_t*>(p);
  }
  return 0;
}

void Set(const Tensor& t, int64_t i, double value) {
  void* p = Address(t, i);
  switch (t.dtype()) {
    case DType::kF32: *static_cast<float*>(p) = static_cast<float>(value); break;
    case DType::kF64: *static_cast<double*>(p) = value; break;
    case DType::kBF16: *static_cast<bf16*>(p) = bf16(static_cast<float>(value)); break;
    case DType::kI32: *static_cast<int32_t*>(p) = static_cast<int32_t>(value); break;
  }
}

AssertionResult Same(const Tensor& got, const Tensor& want) {
  if (AssertionResult specials = SameSpecials(got, want); !specials) return specials;
  int64_t different = 0, first = -1;
  for (int64_t i = 0; i < want.size(); ++i) {
    const double g = Get(got, i), w = Get(want, i);
    if (g == w || (std::isnan(g) && std::isnan(w))) continue;
    if (different++ == 0) first = i;
  }
  if (different == 0) return AssertionSuccess();
  return AssertionFailure() << different
         << " of " << want.size() << " elements differ, first " << Index(want, first) << ": " << ::testing::PrintToString(Get(got, first))
         << ", expected " << ::testing::PrintToString(Get(want, first));
}

AssertionResult Near(const Tensor& got, const Tensor& want, double absolute, double relative) {
  if (AssertionResult specials = SameSpecials(got, want); !specials) return specials;
  double worst = 0;
  int64_t where = -1;
  for (int64_t i = 0; i < want.size(); ++i) {
    const double g = Get(got, i), w = Get(want, i);
    if (!std::isfinite(w)) continue;
    const double excess = std::fabs(g - w) / std::max(absolute + relative * std::fabs(w), std::numeric_limits<double>::min());
    if (excess > worst) worst = excess, where = i;
  }
  if (worst <= 1) return AssertionSuccess();
  return AssertionFailure() << "worst at " << Index(want, where) << ": " << Get(got, where) << ", expected " << Get(want, where)
                            << ", " << worst << " times the tolerance";
}

AssertionResult WithinOneRounding(const Tensor& got, const Tensor& want) {
  if (got.dtype() != DType::kBF16) return AssertionFailure() << got.ShapeString() << " is not BF16";
  return Near(got, want, 1e-38, 1.0 / 256);
}

AssertionResult GradientMatches(const std::function<double()>& loss, const Tensor& input, const Tensor& gradient, int samples) {
  if (!SameShape(input, gradient)) return AssertionFailure() << input.ShapeString() << " and " << gradient.ShapeString();
  if (input.dtype() != DType::kF64) return AssertionFailure() << "central differences need F64, not " << input.ShapeString();
  double largest = 0;
  for (int64_t i = 0; i < gradient.size(); ++i) largest = std::max(largest, std::fabs(Get(gradient, i)));
  const int64_t step = std::max<int64_t>(1, input.size() / samples);
  for (int64_t i = 0; i < input.size(); i += step) {
    const double x = Get(input, i), h = 1e-5 * std::max(1.0, std::fabs(x));
    Set(input, i, x + h);
    const double up = loss();
    Set(input, i, x - h);
    const double down = loss();
    Set(input, i, x);
    const double expected = (up - down) / (2 * h), got = Get(gradient, i);
    if (!(std::fabs(got - expected) <= 1e-7 + 1e-6 * std::max(std::fabs(expected), largest))) {
      return AssertionFailure() << "gradient" << Index(input, i) << " is " << got << ", differences give " << expected;
    }
  }
  return AssertionSuccess();
}

AssertionResult RowInvariant(int64_t rows, const Tensor& out_like, const RowOp& op) {
  Memory memory;
  {
    TestStream one(1);
    op(one.stream, 0, rows, out_like);
  }
  const Tensor want = memory.Clone(out_like);
  for (int threads = 1; threads <= 3; ++threads) {
    TestStream test(threads);
    for (const std::vector<int64_t>& cut : Cuts(rows)) {
      for (size_t i = 0; i + 1 < cut.size(); ++i) op(test.stream, cut[i], cut[i + 1], out_like.Rows(cut[i], cut[i + 1]));
      if (AssertionResult same = Same(out_like, want); !same) {
        return same << " with " << threads << " threads in " << cut.size() - 1 << " pieces";
      }
    }
  }
  return AssertionSuccess();
}

AssertionResult CutInvariant(int64_t rows, const Tensor& sum, const SumOp& op) {
  Memory memory;
  const Tensor start = memory.Clone(sum);
  Tensor want;
  for (int threads = 1; threads <= 3; ++threads) {
    TestStream test(threads);
    for (const std::vector<int64_t>& cut : Cuts(rows)) {
      for (int64_t i = 0; i < sum.size(); ++i) Set(sum, i, Get(start, i));
      for (size_t i = 0; i + 1 < cut.size(); ++i) op(test.stream, cut[i], cut[i + 1], sum);
      if (want.empty()) want = memory.Clone(sum);
      if (AssertionResult same = Same(sum, want); !same) {
        return same << " with " << threads << " threads in " << cut.size() - 1 << " pieces";
      }
    }
  }
  return AssertionSuccess();
}

}  // namespace grouper::testing
