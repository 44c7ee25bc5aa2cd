#include "kernels/cuda_bench.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/bf16.h"
#include "common/base/status.h"
#include "common/tensor/graph.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"

namespace grouper::kernels {
namespace {

constexpr int64_t kRotation = int64_t{256} << 20;

void Require(cudaError_t error) { CHECK(error == cudaSuccess) << cudaGetErrorString(error); }

size_t BytesOf(const Tensor& t) { return static_cast<size_t>(t.size()) * SizeOf(t.dtype()); }

Tensor NewLike(Arena& arena, const Tensor& t, int64_t rows) {
  switch (t.rank()) {
    case 1: return arena.New(t.dtype(), {rows});
    case 2: return arena.New(t.dtype(), {rows, t.dim(1)});
    case 3: return arena.New(t.dtype(), {rows, t.dim(1), t.dim(2)});
  }
  CHECK_EQ(t.rank(), 4);
  return arena.New(t.dtype(), {rows, t.dim(1), t.dim(2), t.dim(3)});
}

double Element(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kF32: return static_cast<double>(static_cast<const float*>(data)[i]);
    case DType::kF64: return static_cast<const double*>(data)[i];
    case DType::kBF16: return static_cast<double>(static_cast<float>(static_cast<const bf16*>(data)[i]));
    case DType::kI32: return static_cast<double>(static_cast<const int32_t*>(data)[i]);
  }
  return 0;
}

}  // namespace

// Twice what one term's rounding may do, were there one, and five times what that of many does on the average.
RoundedSum::operator Expected() const { return {value_, std::sqrt(squares_) / 128}; }

FloatSum Dot(const RandomTensor& x, int64_t xi, int64_t xs, const RandomTensor& w, int64_t wi, int64_t ws, int64_t count) {
  FloatSum sum;
  for (int64_t i = 0; i < count; ++i) sum.Add(x.Number(xi + i * xs) * w.Number(wi + i * ws));
  return sum;
}

CudaBench::CudaBench(const BenchOptions& options)
    : options_(options),
      few_(options.few_cases),
      pool_(options.threads),
      stream_(pool_, AutoDevice()),
      cpu_(pool_),
      storage_(stream_.device, stream_.handle),
      table_(RandomTensor::kPeriod),
      events_(few_ ? 3 : 21),
      copy_bytes_(int64_t{1} << (few_ ? 20 : 30)),
      product_size_(few_ ? 256 : 8192),
      copy_name_(few_ ? "cuda copy of 1 MiB, device to device" : "cuda copy of 1 GiB, device to device"),
      product_name_(absl::StrCat("cuda forward ", product_size_, " x ", product_size_, " x ", product_size_)) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (double& x : table_) x = static_cast<double>(static_cast<float>(bf16(normal(random))));
  for (cudaEvent_t& e : events_) Require(cudaEventCreate(&e));
}

CudaBench::~CudaBench() {
  stream_.Synchronize();
  for (cudaEvent_t e : events_) cudaEventDestroy(e);
}

bool CudaBench::Wants(std::initializer_list<std::string> names) const {
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return Matches(name) && printed_.count(name) == 0; });
}

int64_t CudaBench::lines() const {
  return std::count_if(printed_.begin(), printed_.end(), [&](const std::string& name) { return Matches(name); });
}

int64_t CudaBench::Sets(int64_t bytes, int64_t most) const { return std::clamp<int64_t>((few_ ? 2 * bytes : kRotation) / bytes, 1, most); }

RandomTensor CudaBench::Random(std::initializer_list<int64_t> shape, double scale) {
  constexpr int64_t period = RandomTensor::kPeriod;
  const RandomTensor t(storage_.New(DType::kBF16, shape), table_, next_, scale);
  std::vector<bf16> numbers(static_cast<size_t>(std::min(period, t.size())));
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = bf16(static_cast<float>(t.Number(static_cast<int64_t>(i))));
  for (int64_t i = 0; i < t.size(); i += period) {
    grouper::cuda::CopyToDevice(stream_.device.index, t.data<bf16>() + i, numbers.data(), static_cast<size_t>(std::min(period, t.size() - i)) * 2, stream_.handle);
  }
  next_ = (next_ + 104729) % period;
  return t;
}

RandomTensor CudaBench::RandomFloat(std::initializer_list<int64_t> shape) {
  const Tensor t = storage_.New(DType::kF32, shape);
  const Arena::Mark mark = storage_.mark();
  const int64_t first = next_;
  const Tensor numbers = Random({t.size() / t.dim(-1), t.dim(-1)});
  Copy(stream_, numbers, t.Reshape({numbers.dim(0), numbers.dim(1)}));
  storage_.Release(mark);
  return RandomTensor(t, table_, first, 1);
}

Tensor CudaBench::PutInts(const std::vector<int32_t>& values) {
  return Tensor(Put(values), DType::kI32, {static_cast<int64_t>(values.size())}, stream_.device);
}

void CudaBench::Reset() {
  stream_.Synchronize();
  storage_.Reset();
  host_.Reset();
  next_ = 0;
}

std::vector<double> CudaBench::Read(const Tensor& t, int64_t begin, int64_t count) {
  const size_t size = SizeOf(t.dtype());
  std::vector<char> bytes(static_cast<size_t>(count) * size);
  grouper::cuda::CopyToHost(stream_.device.index, bytes.data(), static_cast<const char*>(t.raw()) + static_cast<size_t>(begin) * size, bytes.size(), stream_.handle);
  stream_.Synchronize();
  std::vector<double> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = Element(bytes.data(), t.dtype(), i);
  return values;
}

Tensor CudaBench::Host(const Tensor& t) {
  const Tensor host = NewLike(host_, t, t.dim(0));
  Download(stream_, t, host);
  return host;
}

Tensor CudaBench::Host(const Tensor& t, const std::vector<int64_t>& rows) {
  const Tensor host = NewLike(host_, t, static_cast<int64_t>(rows.size()));
  for (size_t i = 0; i < rows.size(); ++i) {
    const Tensor to = host.Rows(static_cast<int64_t>(i), static_cast<int64_t>(i) + 1), from = t.Rows(rows[i], rows[i] + 1);
    grouper::cuda::CopyToHost(stream_.device.index, to.raw(), from.raw(), BytesOf(to), stream_.handle);
  }
  stream_.Synchronize();
  return host;
}

std::vector<int64_t> CudaBench::SomeRows(int64_t n, int64_t count) {
  std::vector<int64_t> rows = {0};
  for (int64_t i = 0; i < count; ++i) rows.push_back(Place(i, n));
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return rows;
}

absl::Status CudaBench::Check(const Tensor& t, int64_t i, const Expected& want) {
  const double got = Read(t, i), rounding = std::fabs(want.value) / (t.dtype() == DType::kBF16 ? 256 : 1 << 20);
  if (std::fabs(got - want.value) <= rounding + want.error) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("element ", i, " is ", got, ", expected ", want.value, " +- ", rounding + want.error));
}

absl::Status CudaBench::CheckSome(const Tensor& t, int samples, const std::function<Expected(int64_t row, int64_t column)>& want) {
  const int64_t columns = t.dim(-1), rows = t.size() / columns;
  for (int64_t i = 0; i < samples; ++i) {
    const int64_t row = Place(i, rows), column = i == 0 ? columns - 1 : i * 104729 % columns;
    RETURN_IF_ERROR(Check(t, row * columns + column, want(row, column)));
  }
  return absl::OkStatus();
}

absl::Status CudaBench::CheckSame(const Tensor& got, const Tensor& want) {
  std::vector<int64_t> rows(static_cast<size_t>(want.dim(0)));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
  return CheckSameRows(got.device().is_cuda() ? Host(got) : got, rows, want);
}

absl::Status CudaBench::CheckSameRows(const Tensor& got, const std::vector<int64_t>& rows, const Tensor& want) {
  const Tensor host = got.device().is_cuda() ? Host(got, rows) : got;
  CHECK(host.contiguous() && want.contiguous() && host.size() == want.size() && host.dtype() == want.dtype())
      << host.ShapeString() << " " << want.ShapeString();
  const size_t size = SizeOf(want.dtype());
  for (int64_t i = 0; i < want.size(); ++i) {
    const size_t at = static_cast<size_t>(i) * size;
    if (std::memcmp(static_cast<const char*>(host.raw()) + at, static_cast<const char*>(want.raw()) + at, size) == 0) continue;
    const int64_t width = want.size() / want.dim(0);
    return absl::InternalError(absl::StrCat("row ", rows[static_cast<size_t>(i / width)], ", element ", i % width, " is ",
                                            Element(host.raw(), host.dtype(), i), ", the CPU's is ", Element(want.raw(), want.dtype(), i)));
  }
  return absl::OkStatus();
}

double CudaBench::Time(const std::function<void(int)>& run) {
  const int runs = static_cast<int>(events_.size()) - 1, before = few_ ? 1 : 3;
  for (int i = 0; i < before; ++i) run(i);
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_.handle);
  Require(cudaEventRecord(events_[0], stream));
  for (int i = 0; i < runs; ++i) {
    run(i + before);
    Require(cudaEventRecord(events_[static_cast<size_t>(i) + 1], stream));
  }
  stream_.Synchronize();
  std::vector<float> times(static_cast<size_t>(runs));
  for (size_t i = 0; i < times.size(); ++i) Require(cudaEventElapsedTime(&times[i], events_[i], events_[i + 1]));
  std::sort(times.begin(), times.end());
  return std::max(1e-3, static_cast<double>(times[times.size() / 2]) * 1e3);
}

double CudaBench::RecordedTime(const std::function<void(int)>& run) {
  const int recorded = few_ ? 2 : 64;
  run(0);
  Graph graph(stream_, [&] {
    for (int i = 0; i < recorded; ++i) run(i);
  });
  return Time([&](int) { graph.Launch(stream_); }) / recorded;
}

void CudaBench::Note(const std::string& text) {
  std::fprintf(options_.out, "%s\n", text.c_str());
  std::fflush(options_.out);
}

absl::Status CudaBench::Line(const std::string& name, const Work& work, const std::function<void(int)>& run, const std::function<absl::Status()>& check) {
  if (!Wants({name})) return absl::OkStatus();
  RETURN_IF_ERROR(Ceilings());
  return Print(name, work, run, check);
}

absl::Status CudaBench::Print(const std::string& name, const Work& work, const std::function<void(int)>& run, const std::function<absl::Status()>& check) {
  run(0);
  RETURN_IF_ERROR(Annotate(check(), name));
  const double us = work.recorded ? RecordedTime(run) : Time(run), tflops = work.flops / us / 1e6, gbs = work.bytes / us / 1e3;
  std::string text = absl::StrFormat("%-56s %10.1f us", name, us);
  if (work.flops > 0) absl::StrAppendFormat(&text, " %7.1f TFLOP/s", tflops);
  if (work.flops > 0 && product_ > 0) absl::StrAppendFormat(&text, " %3.0f%%", 100 * tflops / product_);
  if (work.bytes > 0) absl::StrAppendFormat(&text, " %7.0f GB/s", gbs);
  if (work.bytes > 0 && copy_ > 0) absl::StrAppendFormat(&text, " %3.0f%%", 100 * gbs / copy_);
  Note(text);
  printed_.insert(name);
  if (copy_ == 0) {
    copy_ = gbs;
  } else if (product_ == 0) {
    product_ = tflops;
  }
  return absl::OkStatus();
}

absl::Status CudaBench::CeilingLines() {
  return Wants({copy_name_, product_name_}) ? Ceilings() : absl::OkStatus();
}

absl::Status CudaBench::Ceilings() {
  if (product_ > 0) return absl::OkStatus();
  const Arena::Mark mark = storage_.mark();
  const RandomTensor a = Random({copy_bytes_ / 2});
  const Tensor b = New(DType::kBF16, {copy_bytes_ / 2});
  RETURN_IF_ERROR(Print(
      copy_name_, {.bytes = 2.0 * static_cast<double>(copy_bytes_)},
      [&](int) {
        Require(cudaMemcpyAsync(b.raw(), a.raw(), static_cast<size_t>(copy_bytes_), cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream_.handle)));
      },
      [&] { return CheckSome(b, 16, [&](int64_t, int64_t i) { return Expected{a.Number(i)}; }); }));
  storage_.Release(mark);
  const int64_t n = product_size_;
  const RandomTensor x = Random({n, n}), w = Random({n, n});
  const Tensor y = New(DType::kBF16, {n, n});
  RETURN_IF_ERROR(Print(
      product_name_, {.flops = 2.0 * static_cast<double>(n * n * n)}, [&](int) { Linear(stream_, x, w, nullptr, {}, y); },
      [&] { return CheckSome(y, 32, [&](int64_t row, int64_t column) { return Dot(x, row * n, 1, w, column * n, 1, n); }); }));
  stream_.Synchronize();
  storage_.Release(mark);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> BenchCuda(const BenchOptions& options) {
  CudaBench bench(options);
  RETURN_IF_ERROR(bench.CeilingLines());
  RETURN_IF_ERROR(BenchLinearCuda(bench));
  RETURN_IF_ERROR(BenchAttentionCuda(bench));
  RETURN_IF_ERROR(BenchSamplingCuda(bench));
  RETURN_IF_ERROR(BenchRowOpsCuda(bench));
  RETURN_IF_ERROR(BenchMoeCuda(bench));
  return bench.lines();
}

}  // namespace grouper::kernels
