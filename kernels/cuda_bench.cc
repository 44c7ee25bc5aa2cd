// Benchmarks of the CUDA kernels, for `grouper bench kernels`: samples of every result are checked against sums in
// double first. Times are medians between events: of single launches, or, for decode, of a graph of many, as the engine's steps are. Inputs
// are random and rotate through more memory than L2 holds; percentages are of what this card did on the first two lines.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/bf16.h"
#include "common/base/status.h"
#include "common/tensor/cuda.h"
#include "common/tensor/graph.h"
#include "kernels/attention.h"
#include "kernels/attention_cuda.h"
#include "kernels/bench.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "kernels/sampling_cuda.h"

namespace grouper::kernels {
namespace {

constexpr Device kDevice = {Device::Kind::kCuda, 0};
constexpr int64_t kPeriod = (1 << 20) - 3;  // of the random numbers; a prime, so that no row repeats its neighbour
constexpr size_t kRotation = size_t{256} << 20;

void Require(cudaError_t error) { CHECK(error == cudaSuccess) << cudaGetErrorString(error); }

class CudaBench {
 public:
  explicit CudaBench(const BenchOptions& options)
      : options_(options), pool_(options.threads), stream_(pool_, kDevice), storage_(kDevice, stream_.handle) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    numbers_.resize(kPeriod);
    for (bf16& x : numbers_) x = bf16(normal(random));
    for (cudaEvent_t& e : events_) Require(cudaEventCreate(&e));
  }
  ~CudaBench() {
    stream_.Synchronize();
    for (cudaEvent_t e : events_) cudaEventDestroy(e);
  }

  Stream& stream() { return stream_; }
  Arena& memory() { return storage_; }
  bool Wants(const std::string& name) const { return name.find(options_.filter) != std::string::npos; }
  void Reset() {
    stream_.Synchronize();
    storage_.Reset();
  }

  // Element i of a random tensor is Number(i).
  Tensor Random(std::initializer_list<int64_t> shape) {
    const Tensor t = storage_.New(DType::kBF16, shape);
    for (int64_t i = 0; i < t.size(); i += kPeriod) {
      grouper::cuda::CopyToDevice(0, t.data<bf16>() + i, numbers_.data(),
                         static_cast<size_t>(std::min(kPeriod, t.size() - i)) * 2, stream_.handle);
    }
    return t;
  }
  double Number(int64_t i) const {
    return static_cast<double>(static_cast<float>(numbers_[static_cast<size_t>(i % kPeriod)]));
  }
  Tensor New(DType dtype, std::initializer_list<int64_t> shape) { return storage_.New(dtype, shape); }
  Tensor Zero(DType dtype, std::initializer_list<int64_t> shape) { return storage_.NewZero(dtype, shape); }
  // A copy of host values in memory of the benchmark's.
  template <typename T>
  T* Put(const std::vector<T>& values) {
    T* const device = static_cast<T*>(storage_.Allocate(sizeof(T) * values.size()));
    grouper::cuda::CopyToDevice(0, device, values.data(), sizeof(T) * values.size(), stream_.handle);
    return device;
  }

  double Read(const Tensor& t, int64_t i) {
    bf16 narrow;
    float wide;
    const bool half = t.dtype() == DType::kBF16;
    grouper::cuda::CopyToHost(0, half ? static_cast<void*>(&narrow) : &wide,
                     static_cast<char*>(t.raw()) + static_cast<size_t>(i) * SizeOf(t.dtype()), SizeOf(t.dtype()),
                     stream_.handle);
    stream_.Synchronize();
    return static_cast<double>(half ? static_cast<float>(narrow) : wide);
  }

  int32_t ReadInt(const Tensor& t) {
    int32_t value;
    grouper::cuda::CopyToHost(0, &value, t.raw(), sizeof value, stream_.handle);
    stream_.Synchronize();
    return value;
  }

  // `got` is a rounding of a sum whose terms' absolute values add up to `magnitude`.
  absl::Status Check(const std::string& name, double got, double want, double magnitude) {
    if (std::fabs(got - want) <= std::fabs(want) / 200 + magnitude * 3e-3) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(name, ": ", got, ", expected ", want));
  }

  // Microseconds of run(i), i counting up; the median.
  double Time(const std::function<void(int)>& run) {
    for (int i = 0; i < 3; ++i) run(i);
    const cudaStream_t stream = static_cast<cudaStream_t>(stream_.handle);
    Require(cudaEventRecord(events_[0], stream));
    for (int i = 0; i < kRuns; ++i) {
      run(i + 3);
      Require(cudaEventRecord(events_[i + 1], stream));
    }
    stream_.Synchronize();
    float times[kRuns];
    for (int i = 0; i < kRuns; ++i) Require(cudaEventElapsedTime(&times[i], events_[i], events_[i + 1]));
    std::sort(times, times + kRuns);
    return static_cast<double>(times[kRuns / 2]) * 1e3;
  }

  // The same when recorded in a graph.
  double RecordedTime(const std::function<void(int)>& run) {
    run(0);
    Graph graph(stream_, [&] {
      for (int i = 0; i < kRecorded; ++i) run(i);
    });
    return Time([&](int) { graph.Launch(stream_); }) / kRecorded;
  }

  void Note(const std::string& text) { std::fprintf(options_.out, "%s\n", text.c_str()); }
  void Line(const std::string& name, double flops, double bytes, const std::function<void(int)>& run, bool recorded = false) {
    const double us = recorded ? RecordedTime(run) : Time(run), tflops = flops / us / 1e6, gbs = bytes / us / 1e3;
    std::string text = absl::StrFormat("%-56s %10.1f us", name, us);
    if (flops > 0) absl::StrAppendFormat(&text, " %7.1f TFLOP/s", tflops);
    if (flops > 0 && product_ > 0) absl::StrAppendFormat(&text, " %3.0f%%", 100 * tflops / product_);
    if (bytes > 0) absl::StrAppendFormat(&text, " %7.0f GB/s", gbs);
    if (bytes > 0 && copy_ > 0) absl::StrAppendFormat(&text, " %3.0f%%", 100 * gbs / copy_);
    std::fprintf(options_.out, "%s\n", text.c_str());
    std::fflush(options_.out);
    if (copy_ == 0)
      copy_ = gbs;
    else if (product_ == 0)
      product_ = tflops;
  }

 private:
  static constexpr int kRuns = 20, kRecorded = 64;
  BenchOptions options_;
  ThreadPool pool_;
  Stream stream_;
  Arena storage_;
  std::vector<bf16> numbers_;
  cudaEvent_t events_[kRuns + 1];
  double copy_ = 0, product_ = 0;
};

// sum_k x[xi + k * xs] w[wi + k * ws] of random tensors, and of the absolute values.
struct Sum {
  double value = 0, magnitude = 0;
};
Sum Dot(const CudaBench& bench, int64_t xi, int64_t xs, int64_t wi, int64_t ws, int64_t count) {
  Sum sum;
  for (int64_t k = 0; k < count; ++k) {
    const double term = bench.Number(xi + k * xs) * bench.Number(wi + k * ws);
    sum.value += term;
    sum.magnitude += std::fabs(term);
  }
  sum.magnitude *= 1e-3;  // float sums err far less than their terms
  return sum;
}

absl::Status Ceilings(CudaBench& bench) {
  const size_t bytes = size_t{1} << 30;
  const Tensor a = bench.Zero(DType::kF32, {static_cast<int64_t>(bytes / 4)}),
               b = bench.Zero(DType::kF32, {static_cast<int64_t>(bytes / 4)});
  bench.Line("cuda copy of 1 GiB, device to device", 0, 2.0 * static_cast<double>(bytes), [&](int) {
    Require(cudaMemcpyAsync(b.raw(), a.raw(), bytes, cudaMemcpyDeviceToDevice,
                            static_cast<cudaStream_t>(bench.stream().handle)));
  });
  bench.Reset();
  const int64_t n = 8192;
  const Tensor x = bench.Random({n, n}), w = bench.Random({n, n}), y = bench.New(DType::kBF16, {n, n});
  bench.Line("cuda forward 8192 x 8192 x 8192", 2.0 * n * n * n, 0,
             [&](int) { Linear(bench.stream(), x, w, nullptr, {}, y); });
  bench.Reset();
  return absl::OkStatus();
}

absl::Status DenseLines(CudaBench& bench, int64_t t, int64_t n, int64_t k, bool training) {
  const std::string shape = absl::StrCat(t, " x ", n, " x ", k),
                    name = absl::StrCat("cuda ", training ? "forward " : "decode ", shape);
  if (!bench.Wants(name) && !bench.Wants("cuda dx " + shape) && !bench.Wants("cuda dw " + shape))
    return absl::OkStatus();
  const int64_t sets = training ? 1 : std::clamp<int64_t>(static_cast<int64_t>(kRotation) / (n * k * 2), 1, 64);
  const Tensor weights = bench.Random({sets, n, k}), x = bench.Random({t, k}), y = bench.New(DType::kBF16, {t, n});
  Linear(bench.stream(), x, weights[0], nullptr, {}, y);
  for (int64_t i = 0; i < 32; ++i) {
    const int64_t row = i * 7919 % t, column = i * 104729 % n;
    const Sum want = Dot(bench, row * k, 1, column * k, 1, k);
    RETURN_IF_ERROR(bench.Check(name, bench.Read(y, row * n + column), want.value, want.magnitude));
  }
  const double flops = 2.0 * static_cast<double>(t * n * k), bytes = 2.0 * static_cast<double>(n * k + t * (n + k));
  if (bench.Wants(name))
    bench.Line(name, training ? flops : 0, training ? 0 : bytes,
               [&](int i) { Linear(bench.stream(), x, weights[i % sets], nullptr, {}, y); }, !training);
  if (training && (bench.Wants("cuda dx " + shape) || bench.Wants("cuda dw " + shape))) {
    const Tensor dy = bench.Random({t, n}), dx = bench.New(DType::kBF16, {t, k}), dw = bench.Zero(DType::kF32, {n, k});
    LinearBackwardInput(bench.stream(), dy, weights[0], dx, false);
    LinearBackwardWeight(bench.stream(), dy, x, dw, {});
    for (int64_t i = 0; i < 16; ++i) {
      const int64_t row = i * 7919 % t, column = i * 104729 % k, out = i * 7919 % n;
      const Sum dx_want = Dot(bench, row * n, 1, column, k, n), dw_want = Dot(bench, out, n, column, k, t);
      RETURN_IF_ERROR(
          bench.Check("cuda dx " + shape, bench.Read(dx, row * k + column), dx_want.value, dx_want.magnitude));
      RETURN_IF_ERROR(
          bench.Check("cuda dw " + shape, bench.Read(dw, out * k + column), dw_want.value, dw_want.magnitude));
    }
    bench.Line("cuda dx " + shape, flops, 0,
               [&](int) { LinearBackwardInput(bench.stream(), dy, weights[0], dx, false); });
    bench.Line("cuda dw " + shape, flops, 0, [&](int) { LinearBackwardWeight(bench.stream(), dy, x, dw, {}); });
  }
  bench.Reset();
  return absl::OkStatus();
}

absl::Status GroupedLines(CudaBench& bench, int64_t experts, int64_t rows, int64_t n, int64_t k, bool training) {
  const std::string shape = absl::StrCat(experts, " experts, ", rows, " rows, ", n, " x ", k);
  const std::string name = absl::StrCat("cuda grouped ", training ? "forward " : "decode ", shape);
  if (!bench.Wants(name)) return absl::OkStatus();
  std::mt19937 random(3);
  std::vector<int32_t> offsets(static_cast<size_t>(experts) + 1);
  for (int64_t r = 0; r < rows; ++r) ++offsets[random() % static_cast<uint32_t>(experts) + 1];
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  // On the device, where a router leaves them.
  const Tensor device_offsets(bench.Put(offsets), DType::kI32, {experts + 1}, kDevice);
  const Tensor w = bench.Random({experts, n, k}), x = bench.Random({rows, k}), y = bench.New(DType::kBF16, {rows, n});
  GroupedLinear(bench.stream(), x, device_offsets, {}, w, nullptr, y);
  for (int64_t i = 0; i < 32; ++i) {
    const int64_t row = i * 7919 % rows, column = i * 104729 % n;
    const int64_t expert = std::upper_bound(offsets.begin(), offsets.end(), row) - offsets.begin() - 1;
    const Sum want = Dot(bench, row * k, 1, (expert * n + column) * k, 1, k);
    RETURN_IF_ERROR(bench.Check(name, bench.Read(y, row * n + column), want.value, want.magnitude));
  }
  const double flops = 2.0 * static_cast<double>(rows * n * k),
               bytes = 2.0 * static_cast<double>(experts * n * k + rows * (n + k));
  bench.Line(name, training ? flops : 0, training ? 0 : bytes,
             [&](int) { GroupedLinear(bench.stream(), x, device_offsets, {}, w, nullptr, y); });
  if (training) {
    const Tensor dx = bench.New(DType::kBF16, {rows, k}), dw = bench.Zero(DType::kF32, {experts, n, k});
    bench.Line("cuda grouped dx " + shape, flops, 0,
               [&](int) { GroupedLinearBackwardInput(bench.stream(), y, device_offsets, w, dx); });
    const Tensor dy = bench.Random({rows, n}), narrow = bench.Zero(DType::kBF16, {experts, n, k});
    // A step's first micro-batch writes the gradients (=), the others add to them.
    for (const bool accumulate : {true, false}) {
      const std::string what = accumulate ? "" : "= ";
      GroupedLinearBackwardWeight(bench.stream(), dy, x, device_offsets, {}, dw, accumulate);
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t expert = i * 31 % experts, row = i * 7919 % n, column = i * 104729 % k, begin = offsets[static_cast<size_t>(expert)];
        const Sum want = Dot(bench, begin * n + row, n, begin * k + column, k, offsets[static_cast<size_t>(expert) + 1] - begin);
        RETURN_IF_ERROR(bench.Check("cuda grouped dw " + what + shape, bench.Read(dw, (expert * n + row) * k + column), want.value, want.magnitude));
      }
      const double sums = (accumulate ? 2.0 : 1.0) * static_cast<double>(experts * n * k);
      bench.Line("cuda grouped dw " + what + shape, flops, 4 * sums,
                 [&](int) { GroupedLinearBackwardWeight(bench.stream(), dy, x, device_offsets, {}, dw, accumulate); });
      bench.Line("cuda grouped dw in bf16 " + what + shape, flops, 2 * sums,
                 [&](int) { GroupedLinearBackwardWeight(bench.stream(), dy, x, device_offsets, {}, narrow, accumulate); });
    }
  }
  bench.Reset();
  return absl::OkStatus();
}

struct Heads {
  const char* name;
  int64_t query, kv, key_dim, value_dim;
  bool mla;
};

// `sequences` of `context` cached tokens and `queries` new ones each; `members` after one another begin with the same `shared` tokens, a
// multiple of a page.
absl::Status AttentionLines(CudaBench& bench, const Heads& h, int64_t sequences, int64_t context, int64_t queries,
                            int64_t members = 1, int64_t shared = 0) {
  const bool training = queries > 1;
  std::string shape = absl::StrCat(h.name, ", ", sequences, " x ", training ? queries : context + 1);
  if (members > 1) absl::StrAppend(&shape, ", ", members, " share ", shared);
  const std::string name = absl::StrCat("cuda attention ", training ? "training " : "decode ", shape);
  if (!bench.Wants(name)) return absl::OkStatus();
  const KvLayout layout = {static_cast<int>(h.kv), static_cast<int>(h.key_dim), static_cast<int>(h.value_dim), h.mla,
                           DType::kBF16};
  const int64_t tokens = context + queries, pages = (tokens + kPageTokens - 1) / kPageTokens;
  const int64_t pool_bytes = static_cast<int64_t>(layout.PageBytes()) * pages * sequences;
  const int64_t sets = training ? 1 : std::clamp<int64_t>(static_cast<int64_t>(kRotation) / pool_bytes, 1, 16);
  std::vector<int32_t> table(static_cast<size_t>(pages * sequences));
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(5));
  std::vector<AttentionSequence> cached, batch;
  std::vector<int32_t> tables = table;
  for (int64_t s = 0; s < sequences; ++s) {
    const int32_t* own = tables.data() + s * pages;
    cached.push_back({static_cast<int32_t>(s * tokens), static_cast<int32_t>(tokens), 0, table.data() + s * pages});
    std::copy_n(table.data() + s / members * members * pages, shared / kPageTokens, tables.data() + s * pages);
    batch.push_back(
        {static_cast<int32_t>(s * queries), static_cast<int32_t>(queries), static_cast<int32_t>(context), own});
  }
  const Tensor k = bench.Random({sequences * tokens, h.kv, h.key_dim});
  const Tensor v = h.mla ? Tensor() : bench.Random({sequences * tokens, h.kv, h.value_dim});
  std::vector<PagedKv> kvs;
  for (int64_t i = 0; i < sets; ++i) {
    kvs.push_back({bench.New(DType::kBF16, {pool_bytes / 2}).raw(), layout.PageBytes(), layout});
    WriteKv(bench.stream(), kvs.back(), cached, k, v);
  }
  const int64_t rows = sequences * queries;
  const Tensor q = bench.Random({rows, h.query, h.key_dim}),
               out = bench.New(DType::kBF16, {rows, h.query, h.value_dim});
  const Tensor lse = bench.New(DType::kF32, {rows, h.query});
  const double scale = 1 / std::sqrt(static_cast<double>(h.key_dim));
  // As in a model's pass: the batch is prepared once, for all layers.
  const AttentionBatch prepared(bench.stream(), batch, layout, h.query, bench.memory());
  Attention(bench.stream(), kvs[0], prepared, q, scale, out, lse);
  for (int64_t i = 0; i < 4; ++i) {
    const int64_t row = i * 7919 % rows, head = i * 31 % h.query, sequence = row / queries,
                  position = context + row % queries;
    const int64_t kv_head = head / (h.query / h.kv);
    std::vector<double> scores(static_cast<size_t>(position) + 1);
    const auto holder = [&](int64_t j) { return j < shared ? sequence / members * members : sequence; };
    for (int64_t j = 0; j <= position; ++j) {
      const int64_t key = ((holder(j) * tokens + j) * h.kv + kv_head) * h.key_dim;
      scores[static_cast<size_t>(j)] =
          scale * Dot(bench, (row * h.query + head) * h.key_dim, 1, key, 1, h.key_dim).value;
    }
    const double high = *std::max_element(scores.begin(), scores.end());
    double total = 0, value = 0, magnitude = 0;
    const int64_t d = i * 17 % h.value_dim;
    for (int64_t j = 0; j <= position; ++j) {
      const double p = std::exp(scores[static_cast<size_t>(j)] - high);
      const double x = bench.Number(((holder(j) * tokens + j) * h.kv + kv_head) * (h.mla ? h.key_dim : h.value_dim) + d);
      total += p;
      value += p * x;
      magnitude += p * std::fabs(x);
    }
    RETURN_IF_ERROR(
        bench.Check(name, bench.Read(out, (row * h.query + head) * h.value_dim + d), value / total, magnitude / total));
  }
  const double pairs =
      static_cast<double>(rows) * (static_cast<double>(context) + static_cast<double>(queries + 1) / 2);
  const double flops = 2 * pairs * static_cast<double>(h.query * (h.key_dim + h.value_dim));
  const double kv_width = static_cast<double>(h.kv * (h.key_dim + (h.mla ? 0 : h.value_dim)));
  const double cached_tokens = static_cast<double>(sequences * tokens - (sequences - sequences / members) * shared);
  const double bytes = 2 * (cached_tokens * kv_width +
                            static_cast<double>(rows * h.query * (h.key_dim + h.value_dim)));
  bench.Line(name, training ? flops : 0, training ? 0 : bytes,
             [&](int i) { Attention(bench.stream(), kvs[static_cast<size_t>(i % sets)], prepared, q, scale, out, lse); }, !training);
  if (!training && members > 1) {
    bench.Line(name + ", preparing", 0, 0, [&](int) {
      const Arena::Mark mark = bench.memory().mark();
      const AttentionBatch again(bench.stream(), batch, layout, h.query, bench.memory());
      bench.memory().Release(mark);
    });
  }
  if (!training && members == 1) {
    // What splits of one size cost: beside other sizes, whose bits are others.
    std::string text = "  splits of";
    for (const int split_pages : {4, 8, 16, 32, 64, 1 << 20}) {
      const cuda::PreparedBatch other =
          cuda::PrepareAttention(bench.stream(), batch, layout, static_cast<int>(h.query), bench.memory(), split_pages);
      const double us = bench.RecordedTime([&](int i) { cuda::Attention(bench.stream(), kvs[static_cast<size_t>(i % sets)], other, q, scale, out, lse); });
      const std::string size = split_pages == 1 << 20 ? "any" : absl::StrCat(split_pages);
      const Tensor tiles(other.num_items, DType::kI32, {1}, kDevice);
      absl::StrAppendFormat(&text, " %s: %.1f us%s, %d tiles;", size, us, split_pages == cuda::kSplitPages ? " (ours)" : "", bench.ReadInt(tiles));
    }
    bench.Note(text + " pages");
  }
  if (training && !h.mla) {  // MLA's gradient is that of its heads unabsorbed
    const Tensor dout = bench.Random({rows, h.query, h.value_dim}),
                 dq = bench.New(DType::kBF16, {rows, h.query, h.key_dim});
    const Tensor dk = bench.New(DType::kBF16, {rows, h.kv, h.key_dim});
    const Tensor dv = bench.New(DType::kBF16, {rows, h.kv, h.value_dim});
    bench.Line("cuda attention gradients " + shape, 2.5 * flops, 0,
               [&](int) { AttentionBackward(bench.stream(), kvs[0], prepared, q, scale, out, lse, dout, dq, dk, dv); });
  }
  bench.Reset();
  return absl::OkStatus();
}

// Sampling, scoring and the gradient of [rows, ids] float logits, requests and results on the device.
absl::Status SamplingLines(CudaBench& bench, int64_t rows, int64_t ids, const SamplingFilter& filter) {
  std::string shape = absl::StrCat(rows, " x ", ids);
  if (filter.top_k > 0) absl::StrAppend(&shape, ", top_k ", filter.top_k);
  if (filter.top_p < 1) absl::StrAppend(&shape, ", top_p ", filter.top_p);
  const std::string sample = "cuda sample " + shape, score = "cuda logprobs " + shape,
                    gradient = "cuda logprobs gradient " + shape;
  if (!bench.Wants(sample) && !bench.Wants(score) && !bench.Wants(gradient)) return absl::OkStatus();
  Stream& stream = bench.stream();
  const int64_t sets = std::clamp<int64_t>(static_cast<int64_t>(kRotation) / (rows * ids * 4), 1, 16);
  const Tensor numbers = bench.Random({sets * rows, ids}), logits = bench.New(DType::kF32, {sets * rows, ids});
  Copy(stream, numbers, logits);
  std::vector<SampleRequest> requests;
  for (int64_t r = 0; r < rows; ++r) requests.push_back({filter, SamplingKey(1, 0, 0), static_cast<uint32_t>(r), 0});
  const SampleRequest* const device_requests = bench.Put(requests);
  const SamplingFilter* const filters = bench.Put(std::vector<SamplingFilter>(static_cast<size_t>(rows), filter));
  SampledToken* const sampled = bench.Put(std::vector<SampledToken>(static_cast<size_t>(rows)));
  const auto part = [&](int i) { return logits.Rows(i % sets * rows, (i % sets + 1) * rows); };
  cuda::SampleDevice(stream, part(0), device_requests, sampled);
  std::vector<SampledToken> drawn(static_cast<size_t>(rows));
  grouper::cuda::CopyToHost(0, drawn.data(), sampled, sizeof(SampledToken) * drawn.size(), stream.handle);
  stream.Synchronize();
  std::vector<int32_t> tokens;
  for (const SampledToken& t : drawn) tokens.push_back(t.token);
  const int32_t* const device_tokens = bench.Put(tokens);
  const Tensor logprobs = bench.New(DType::kF32, {rows}), entropies = bench.New(DType::kF32, {rows}), statistics = bench.New(DType::kF32, {rows, 2});
  const bool whole = filter.top_k <= 0 && filter.top_p >= 1;
  cuda::TokenLogprobsDevice(stream, part(0), filters, device_tokens, logprobs, entropies, statistics);
  for (int64_t r = 0; r < rows; r += std::max<int64_t>(1, rows / 16)) {
    const SampledToken& t = drawn[static_cast<size_t>(r)];
    if (t.token < 0 || t.token >= ids || bench.Read(logprobs, r) != static_cast<double>(t.logprob)) {
      return absl::InternalError(score + ": not what was recorded when the token was drawn");
    }
    if (filter != SamplingFilter()) continue;
    double sum = 0;
    for (int64_t i = 0; i < ids; ++i) sum += std::exp(bench.Number(r * ids + i));
    const double want = bench.Number(r * ids + t.token) - std::log(sum);
    if (std::fabs(static_cast<double>(t.logprob) - want) > 1e-5)
      return absl::InternalError(absl::StrCat(sample, ": ", t.logprob, ", expected ", want));
  }
  const double bytes = 4 * static_cast<double>(rows * ids);
  if (bench.Wants(sample))
    bench.Line(sample, 0, bytes, [&](int i) { cuda::SampleDevice(stream, part(i), device_requests, sampled); });
  if (bench.Wants(score))
    bench.Line(score, 0, bytes,
               [&](int i) { cuda::TokenLogprobsDevice(stream, part(i), filters, device_tokens, logprobs, entropies, statistics); });
  if (bench.Wants(gradient))
    bench.Line(gradient, 0, 2 * bytes, [&](int i) {
      cuda::TokenLogprobsBackwardDevice(stream, part(i), filters, device_tokens, logprobs, part(i), whole ? statistics : Tensor());
    });
  bench.Reset();
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchCuda(const BenchOptions& options) {
  if (NumCudaDevices() == 0) return absl::OkStatus();
  CudaBench bench(options);
  RETURN_IF_ERROR(Ceilings(bench));
  // SmolLM2's layers, DeepSeek-V2-Lite's, a square.
  const int64_t layers[][3] = {{16384, 960, 576},  {16384, 576, 576},   {16384, 3072, 576},
                               {16384, 576, 1536}, {32768, 2816, 2048}, {4096, 4096, 4096}};
  for (const auto& l : layers) RETURN_IF_ERROR(DenseLines(bench, l[0], l[1], l[2], true));
  const int64_t decode[][3] = {{64, 960, 576},     {64, 576, 576},     {64, 3072, 576},   {64, 576, 1536},    {64, 49152, 576}, {1024, 960, 576},
                               {1024, 3072, 576}, {1024, 576, 1536}, {1024, 49152, 576}, {8, 102400, 2048}, {256, 102400, 2048}};
  for (const auto& l : decode) RETURN_IF_ERROR(DenseLines(bench, l[0], l[1], l[2], false));
  const int64_t grouped_decode[][4] = {{64, 384, 2816, 2048}, {64, 1536, 2816, 2048}, {64, 1536, 2048, 1408}};
  for (const auto& l : grouped_decode) RETURN_IF_ERROR(GroupedLines(bench, l[0], l[1], l[2], l[3], false));
  // V2-Lite's experts with 5461 and with 16384 tokens a micro-batch (a GPU's default); 16 experts with 2048 tokens each.
  const int64_t grouped[][4] = {{64, 32768, 2816, 2048}, {64, 32768, 2048, 1408}, {64, 98304, 2816, 2048}, {64, 98304, 2048, 1408}, {16, 32768, 768, 2048}};
  for (const auto& l : grouped) RETURN_IF_ERROR(GroupedLines(bench, l[0], l[1], l[2], l[3], true));
  const Heads smollm2 = {"9/3 x 64", 9, 3, 64, 64, false}, mha64 = {"16 x 64", 16, 16, 64, 64, false};
  const Heads mha128 = {"16 x 128", 16, 16, 128, 128, false}, gqa128 = {"32/8 x 128", 32, 8, 128, 128, false};
  const Heads unabsorbed = {"16 x 192/128", 16, 16, 192, 128, false};  // MLA's, as its gradients are taken
  const Heads mla = {"MLA 16 heads", 16, 1, 576, 512, true}, mla128 = {"MLA 128 heads", 128, 1, 576, 512, true};
  for (const auto& [h, sequences, context] : {std::tuple<Heads, int, int>{mla, 128, 4095},
                                              {mla, 256, 1023},
                                              {mla, 64, 1023},
                                              {mla, 1024, 1023},
                                              {mla, 16, 4095},
                                              {mla, 4, 8191},
                                              {mla128, 64, 4095},
                                              {smollm2, 1024, 256},
                                              {smollm2, 64, 256},
                                              {gqa128, 256, 1023},
                                              {gqa128, 8, 8191}}) {
    RETURN_IF_ERROR(AttentionLines(bench, h, sequences, context, 1));
  }
  // Groups of 8 with a prompt in common.
  RETURN_IF_ERROR(AttentionLines(bench, mla, 256, 1023, 1, 8, 960));
  RETURN_IF_ERROR(AttentionLines(bench, mla, 64, 1023, 1, 8, 960));
  RETURN_IF_ERROR(AttentionLines(bench, mla, 128, 4095, 1, 8, 1024));
  RETURN_IF_ERROR(AttentionLines(bench, smollm2, 1024, 256, 1, 8, 128));
  RETURN_IF_ERROR(AttentionLines(bench, smollm2, 64, 256, 1, 8, 128));
  RETURN_IF_ERROR(AttentionLines(bench, gqa128, 256, 1023, 1, 8, 512));
  for (const auto& [h, sequences, queries] : {std::tuple<Heads, int, int>{smollm2, 32, 512},
                                              {mha64, 16, 1024},
                                              {mha128, 16, 1024},
                                              {mha128, 4, 4096},
                                              {unabsorbed, 16, 1024},
                                              {unabsorbed, 4, 4096},
                                              {mla, 16, 1024},
                                              {mla, 4, 4096}}) {
    RETURN_IF_ERROR(AttentionLines(bench, h, sequences, 0, queries));
  }
  // The quickstart's vocabulary, SmolLM2's, Qwen's.
  for (const auto& [rows, ids] : {std::pair<int64_t, int64_t>{16384, 31}, {64, 49152}, {1024, 49152}, {64, 151936}}) {
    RETURN_IF_ERROR(SamplingLines(bench, rows, ids, {}));
  }
  for (const SamplingFilter& filter : {SamplingFilter{1, 50, 1}, SamplingFilter{1, 0, 0.95f}}) {
    RETURN_IF_ERROR(SamplingLines(bench, 1024, 49152, filter));
    RETURN_IF_ERROR(SamplingLines(bench, 64, 151936, filter));
  }
  return absl::OkStatus();
}

}  // namespace grouper::kernels
