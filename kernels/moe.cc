#include "kernels/moe.h"

#include <algorithm>
#include <utility>

#include "kernels/dispatch.h"
#include "kernels/moe_cuda.h"

namespace grouper::kernels {

namespace cpu {  // moe_cpu.cc
template <typename T>
void Route(Stream& stream, const RouterConfig& config, const Tensor& logits, const Tensor& bias,
           const Tensor& expert_ids, const Tensor& weights, const Tensor& scores);
template <typename T>
void RouteBackward(Stream& stream, const RouterConfig& config, const Tensor& scores, const Tensor& expert_ids,
                   const Tensor& dweights, const Tensor& dlogits);
template <typename S>
void CombineExperts(Stream& stream, const ExpertOrder& order, const Tensor& expert_out, const Tensor& weights,
                    const Tensor& y, bool accumulate);
template <typename S>
void CombineExpertsBackward(Stream& stream, const ExpertOrder& order, const Tensor& dy, const Tensor& expert_out,
                            const Tensor& weights, const Tensor& d_expert_out, const Tensor& dweights);
template <typename S>
void ScatterExpertRows(Stream& stream, const ExpertOrder& order, const Tensor& d_rows, int top_k, const Tensor& dx);
}  // namespace cpu

namespace {

void CheckShape(const Tensor& t, DType dtype, int64_t rows, int64_t columns, const char* name) {
  CHECK(t.rank() == 2 && t.dtype() == dtype && t.dim(0) == rows && t.dim(1) == columns)
      << name << " is " << t.ShapeString() << ", expected " << Name(dtype) << "[" << rows << ", " << columns << "]";
}

void CheckRouter(const RouterConfig& config) {
  CHECK(config.num_experts > 0 && config.top_k > 0 && config.top_k <= config.num_experts);
  CHECK(config.num_groups > 0 && config.num_experts % config.num_groups == 0 && config.topk_groups > 0 &&
        config.topk_groups <= config.num_groups &&
        config.top_k <= config.topk_groups * (config.num_experts / config.num_groups));
}

}  // namespace

void Route(Stream& stream, const RouterConfig& config, const Tensor& logits, const Tensor& bias,
           const Tensor& expert_ids, const Tensor& weights, const Tensor& scores) {
  CheckRouter(config);
  const int64_t tokens = logits.dim(0);
  CheckShape(logits, logits.dtype(), tokens, config.num_experts, "logits");
  CHECK(logits.dtype() != DType::kBF16);
  CheckShape(expert_ids, DType::kI32, tokens, config.top_k, "expert_ids");
  CheckShape(weights, logits.dtype(), tokens, config.top_k, "weights");
  CheckShape(scores, logits.dtype(), tokens, config.num_experts, "scores");
  CHECK(bias.empty() || (bias.rank() == 1 && bias.dim(0) == config.num_experts && bias.dtype() == logits.dtype()));
  ByStorage(
      logits,
      [&](auto s) {
        using T = std::conditional_t<std::is_same_v<decltype(s), double>, double, float>;
        cpu::Route<T>(stream, config, logits, bias, expert_ids, weights, scores);
      },
      [&](auto) { cuda::Route(stream, config, logits, bias, expert_ids, weights, scores); });
}

void RouteBackward(Stream& stream, const RouterConfig& config, const Tensor& scores, const Tensor& expert_ids,
                   const Tensor& dweights, const Tensor& dlogits) {
  CheckRouter(config);
  const int64_t tokens = scores.dim(0);
  CheckShape(dweights, scores.dtype(), tokens, config.top_k, "dweights");
  CheckShape(dlogits, scores.dtype(), tokens, config.num_experts, "dlogits");
  CHECK(scores.dtype() != DType::kBF16);
  ByStorage(
      scores,
      [&](auto s) {
        using T = std::conditional_t<std::is_same_v<decltype(s), double>, double, float>;
        cpu::RouteBackward<T>(stream, config, scores, expert_ids, dweights, dlogits);
      },
      [&](auto) { cuda::RouteBackward(stream, config, scores, expert_ids, dweights, dlogits); });
}

ExpertOrder SortByExpert(Stream& stream, const Tensor& expert_ids, int num_experts, Arena& memory) {
  CHECK(expert_ids.rank() == 2 && expert_ids.device() == stream.device) << expert_ids.ShapeString();
  const int64_t slots = expert_ids.size(), top_k = expert_ids.dim(1);
  CHECK(slots <= INT32_MAX && expert_ids.contiguous()) << expert_ids.ShapeString();
  ExpertOrder order;
  order.offsets = memory.New(DType::kI32, {num_experts + 1});
  order.token = memory.New(DType::kI32, {slots});
  order.row_of = memory.New(DType::kI32, {slots});
  if constexpr (kWithCuda) {
    if (stream.device.is_cuda()) {
      cuda::SortByExpert(stream, expert_ids, order);
      return order;
    }
  }
  const int32_t* const ids = expert_ids.data<int32_t>();
  int32_t* const begin = order.offsets.data<int32_t>();
  int32_t* const token = order.token.data<int32_t>();
  int32_t* const row_of = order.row_of.data<int32_t>();
  // begin[e + 1] first counts expert e's rows, then is where its next row goes, and in the end where its rows end.
  std::fill_n(begin, num_experts + 1, 0);
  for (int64_t i = 0; i < slots; ++i) ++begin[ids[i] + 1];
  int32_t rows = 0;
  for (int e = 0; e < num_experts; ++e) rows += std::exchange(begin[e + 1], rows);
  for (int64_t i = 0; i < slots; ++i) {
    const int32_t row = begin[ids[i] + 1]++;
    token[row] = static_cast<int32_t>(i / top_k);
    row_of[i] = row;
  }
  return order;
}

namespace {

void CheckOrder(const ExpertOrder& order, const Tensor& slots) {
  CHECK(order.row_of.rank() == 1 && order.row_of.dim(0) == slots.size() && order.row_of.device() == slots.device())
      << order.row_of.ShapeString() << " for " << slots.ShapeString();
}

}  // namespace

void CombineExperts(Stream& stream, const ExpertOrder& order, const Tensor& expert_out, const Tensor& weights,
                    const Tensor& y, bool accumulate) {
  CheckOrder(order, weights);
  CheckShape(expert_out, y.dtype(), weights.size(), y.dim(1), "expert_out");
  CheckShape(weights, AccumulatorOf(y.dtype()), y.dim(0), weights.dim(1), "weights");
  ByStorage(y, [&](auto s) { cpu::CombineExperts<decltype(s)>(stream, order, expert_out, weights, y, accumulate); },
            [&](auto) { cuda::CombineExperts(stream, order, expert_out, weights, y, accumulate); });
}

void CombineExpertsBackward(Stream& stream, const ExpertOrder& order, const Tensor& dy, const Tensor& expert_out,
                            const Tensor& weights, const Tensor& d_expert_out, const Tensor& dweights) {
  CheckOrder(order, weights);
  CheckShape(expert_out, dy.dtype(), weights.size(), dy.dim(1), "expert_out");
  CheckShape(d_expert_out, dy.dtype(), weights.size(), dy.dim(1), "d_expert_out");
  CheckShape(dweights, weights.dtype(), weights.dim(0), weights.dim(1), "dweights");
  ByStorage(
      dy,
      [&](auto s) {
        cpu::CombineExpertsBackward<decltype(s)>(stream, order, dy, expert_out, weights, d_expert_out, dweights);
      },
      [&](auto) { cuda::CombineExpertsBackward(stream, order, dy, expert_out, weights, d_expert_out, dweights); });
}

void ScatterExpertRows(Stream& stream, const ExpertOrder& order, const Tensor& d_rows, int top_k, const Tensor& dx) {
  CheckShape(d_rows, dx.dtype(), dx.dim(0) * top_k, dx.dim(1), "d_rows");
  CHECK_EQ(order.row_of.size(), d_rows.dim(0));
  ByStorage(dx, [&](auto s) { cpu::ScatterExpertRows<decltype(s)>(stream, order, d_rows, top_k, dx); },
            [&](auto) { cuda::ScatterExpertRows(stream, order, d_rows, top_k, dx); });
}

void AddExpertLoad(Stream& stream, const Tensor& offsets, const Tensor& load) {
  const int64_t experts = load.dim(0);
  CHECK(load.dtype() == DType::kI32 && offsets.dtype() == DType::kI32 && offsets.dim(0) == experts + 1) << offsets.ShapeString() << " " << load.ShapeString();
  if constexpr (kWithCuda) {
    if (load.device().is_cuda()) return cuda::AddExpertLoad(stream, offsets, load);
  }
  const int32_t* const begin = offsets.data<int32_t>();
  for (int64_t e = 0; e < experts; ++e) load.data<int32_t>()[e] += begin[e + 1] - begin[e];
}

void UpdateExpertBias(Stream& stream, const Tensor& load, double rate, const Tensor& bias) {
  CHECK(load.dtype() == DType::kI32 && load.dim(0) == bias.dim(0)) << load.ShapeString() << " " << bias.ShapeString();
  if constexpr (kWithCuda) {
    if (bias.device().is_cuda()) return cuda::UpdateExpertBias(stream, load, rate, bias);
  }
  const int32_t* const counts = load.data<int32_t>();
  const int64_t experts = load.dim(0);
  int64_t total = 0;
  for (int64_t e = 0; e < experts; ++e) total += counts[e];
  for (int64_t e = 0; e < experts; ++e) {
    // sign(mean - load), exactly: compare total with load * experts.
    const int64_t scaled = counts[e] * experts;
    const double step = total > scaled ? rate : total < scaled ? -rate : 0;
    if (bias.dtype() == DType::kF64) {
      bias.data<double>()[e] += step;
    } else {
      bias.data<float>()[e] = static_cast<float>(static_cast<double>(bias.data<float>()[e]) + step);
    }
  }
}

}  // namespace grouper::kernels
