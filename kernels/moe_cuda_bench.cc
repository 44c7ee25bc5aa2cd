// What surrounds the experts on CUDA: the router's float product, routing, sorting, combining. DeepSeek-V2-Lite (64 experts, 6 a token, 2048 wide),
// and V3's way of routing. Bytes are what must be read and written once.
#include "kernels/moe.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "kernels/cuda_bench.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"

namespace grouper::kernels {
namespace {

constexpr int64_t kMostDecoded = 256;

// Products of bf16 rows and float weights in the CPU's order. Their bytes say little: the chain of k bounds them where tokens are few, arithmetic where they are many.
absl::Status RouterProductLines(CudaBench& bench, int64_t tokens, int64_t experts, int64_t width) {
  const bool decode = tokens <= kMostDecoded;
  const int64_t t = bench.FewTokens(tokens), e = bench.Fewer(experts, 8), d = bench.FewColumns(width);
  const std::string shape = absl::StrCat(t, " x ", e, " x ", d, ", float weights"), forward = "cuda router product " + shape, input = "cuda router dx " + shape,
                    weight = "cuda router dw " + shape;
  if (!bench.Wants({forward}) && !(!decode && bench.Wants({input, weight}))) return absl::OkStatus();
  const RandomTensor x = bench.Random({t, d}), w = bench.RandomFloat({e, d});
  const CudaBench::Work work = {.bytes = AsDouble(2 * t * d + 4 * (e * d + t * e)), .recorded = decode};
  RETURN_IF_ERROR(ProductLines(bench, decode ? ProductNames{forward} : ProductNames{forward, input, weight}, work, x, w));
  bench.Reset();
  return absl::OkStatus();
}

absl::Status RouteLines(CudaBench& bench, int64_t tokens, const RouterConfig& config, bool biased) {
  const bool decode = tokens <= kMostDecoded;
  const int64_t t = bench.FewTokens(tokens), e = config.num_experts, k = config.top_k;
  const std::string shape = absl::StrCat(config.scoring == RouterConfig::Scoring::kSoftmax ? "softmax " : "sigmoid ", t, " x ", e, ", top ", k,
                                         config.num_groups > 1 ? absl::StrCat(" of ", config.topk_groups, "/", config.num_groups, " groups") : ""),
                    forward = "cuda route " + shape, backward = "cuda route gradient " + shape;
  if (!bench.Wants({forward}) && !(!decode && bench.Wants({backward}))) return absl::OkStatus();
  Stream& stream = bench.stream();
  const Tensor logits = bench.RandomFloat({t, e}), bias = biased ? Tensor(bench.RandomFloat({e})) : Tensor(), dweights = bench.RandomFloat({t, k});
  const Tensor ids = bench.New(DType::kI32, {t, k}), weights = bench.New(DType::kF32, {t, k}), scores = bench.New(DType::kF32, {t, e}),
               dlogits = bench.New(DType::kF32, {t, e});
  const std::vector<int64_t> some = CudaBench::SomeRows(t);
  const int64_t n = static_cast<int64_t>(some.size());
  Arena arena;
  const Tensor host_ids = arena.New(DType::kI32, {n, k}), host_weights = arena.New(DType::kF32, {n, k}), host_scores = arena.New(DType::kF32, {n, e}),
               host_dlogits = arena.New(DType::kF32, {n, e});
  // Logits are read, scores, ids and weights written.
  const auto route = [&](int) { Route(stream, config, logits, bias, ids, weights, scores); };
  const auto check = [&]() -> absl::Status {
    Route(bench.cpu(), config, bench.Host(logits, some), biased ? bench.Host(bias) : Tensor(), host_ids, host_weights, host_scores);
    RETURN_IF_ERROR(bench.CheckSameRows(ids, some, host_ids));
    RETURN_IF_ERROR(bench.CheckSameRows(scores, some, host_scores));
    return bench.CheckSameRows(weights, some, host_weights);
  };
  RETURN_IF_ERROR(bench.Line(forward, {.bytes = 8 * AsDouble(t * (e + k)), .recorded = decode}, route, check));
  if (!decode) {
    route(0);
    RETURN_IF_ERROR(bench.Line(
        backward, {.bytes = 8 * AsDouble(t * (e + k))}, [&](int) { RouteBackward(stream, config, scores, ids, dweights, dlogits); },
        [&]() -> absl::Status {
          RETURN_IF_ERROR(check());
          RouteBackward(bench.cpu(), config, host_scores, host_ids, bench.Host(dweights, some), host_dlogits);
          return bench.CheckSameRows(dlogits, some, host_dlogits);
        }));
  }
  bench.Reset();
  return absl::OkStatus();
}

absl::Status CombineLines(CudaBench& bench, int64_t tokens, int experts, int64_t k, int64_t width) {
  const bool decode = tokens <= kMostDecoded;
  const int64_t t = bench.FewTokens(tokens), d = bench.FewColumns(width), rows = t * k;
  const std::string shape = absl::StrCat(t, " x ", k, " x ", d), sort = absl::StrCat("cuda sort by expert ", rows, " rows, ", experts, " experts"),
                    combine = "cuda combine experts " + shape, gradient = "cuda combine experts gradient " + shape, scatter = "cuda scatter experts' rows " + shape;
  if (!bench.Wants({sort, combine}) && !(!decode && bench.Wants({gradient, scatter}))) return absl::OkStatus();
  Stream& stream = bench.stream();
  const RouterConfig config = {.num_experts = experts, .top_k = static_cast<int>(k)};
  const Tensor logits = bench.RandomFloat({t, experts}), scores = bench.New(DType::kF32, {t, experts}), weights = bench.New(DType::kF32, {t, k}),
               ids = bench.New(DType::kI32, {t, k});
  Route(stream, config, logits, {}, ids, weights, scores);
  const ExpertOrder order = SortByExpert(stream, ids, experts, bench.memory());
  // The order on the host, of all tokens and of some alone: their rows, in the order of their slots.
  const std::vector<int64_t> some = CudaBench::SomeRows(t);
  const int64_t n = static_cast<int64_t>(some.size());
  Arena arena;
  const ExpertOrder host_order = SortByExpert(bench.cpu(), bench.Host(ids), experts, arena);
  std::vector<int64_t> some_rows;
  ExpertOrder some_order;
  some_order.row_of = arena.New(DType::kI32, {n * k});
  for (const int64_t token : some) {
    for (int64_t slot = 0; slot < k; ++slot) {
      some_order.row_of.data<int32_t>()[some_rows.size()] = static_cast<int32_t>(some_rows.size());
      some_rows.push_back(host_order.row_of.data<int32_t>()[token * k + slot]);
    }
  }
  // Ids are read, the token of each row and the row of each slot written.
  RETURN_IF_ERROR(bench.Line(
      sort, {.bytes = 12 * AsDouble(rows), .recorded = decode},
      [&](int) {
        const Arena::Mark mark = bench.memory().mark();
        SortByExpert(stream, ids, experts, bench.memory());
        bench.memory().Release(mark);
      },
      [&]() -> absl::Status {
        RETURN_IF_ERROR(bench.CheckSame(order.offsets, host_order.offsets));
        RETURN_IF_ERROR(bench.CheckSame(order.token, host_order.token));
        return bench.CheckSame(order.row_of, host_order.row_of);
      }));
  const Tensor out = bench.Random({rows, d}), y = bench.Random({t, d}), dx = bench.Random({t, d});
  const Tensor host_out = bench.Host(out, some_rows), host_weights = bench.Host(weights, some), host_y = bench.Host(y, some), host_dx = bench.Host(dx, some);
  // Onto the shared experts' sum: the rows and y are read, y is written.
  RETURN_IF_ERROR(bench.Line(combine, {.bytes = 2 * AsDouble((k + 2) * t * d), .recorded = decode},
                             [&](int) { CombineExperts(stream, order, out, weights, y, true); }, [&] {
                               CombineExperts(bench.cpu(), some_order, host_out, host_weights, host_y, true);
                               return bench.CheckSameRows(y, some, host_y);
                             }));
  if (!decode) {
    const Tensor dy = bench.Random({t, d}), d_out = bench.New(DType::kBF16, {rows, d}), dweights = bench.New(DType::kF32, {t, k});
    const Tensor host_d_out = arena.New(DType::kBF16, {n * k, d}), host_dweights = arena.New(DType::kF32, {n, k});
    // dy and the rows are read, the rows' gradients written.
    RETURN_IF_ERROR(bench.Line(gradient, {.bytes = 2 * AsDouble((2 * k + 1) * t * d)},
                               [&](int) { CombineExpertsBackward(stream, order, dy, out, weights, d_out, dweights); }, [&]() -> absl::Status {
                                 CombineExpertsBackward(bench.cpu(), some_order, bench.Host(dy, some), host_out, host_weights, host_d_out, host_dweights);
                                 RETURN_IF_ERROR(bench.CheckSameRows(d_out, some_rows, host_d_out));
                                 return bench.CheckSameRows(dweights, some, host_dweights);
                               }));
    RETURN_IF_ERROR(bench.Line(scatter, {.bytes = 2 * AsDouble((k + 2) * t * d)},
                               [&](int) { ScatterExpertRows(stream, order, out, static_cast<int>(k), dx); }, [&] {
                                 ScatterExpertRows(bench.cpu(), some_order, host_out, static_cast<int>(k), host_dx);
                                 return bench.CheckSameRows(dx, some, host_dx);
                               }));
  }
  bench.Reset();
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchMoeCuda(CudaBench& bench) {
  const RouterConfig v2_lite = {.num_experts = 64, .top_k = 6};
  const RouterConfig v3 = {.num_experts = 256,
                           .top_k = 8,
                           .scoring = RouterConfig::Scoring::kSigmoid,
                           .num_groups = 8,
                           .topk_groups = 4,
                           .group_score = RouterConfig::GroupScore::kTop2Sum,
                           .norm_topk_prob = true,
                           .routed_scaling_factor = 2.5};
  for (const int64_t tokens : {64, 256, 4096, 16384}) RETURN_IF_ERROR(RouterProductLines(bench, tokens, 64, 2048));
  for (const int64_t tokens : {64, 256, 4096, 16384}) RETURN_IF_ERROR(RouteLines(bench, tokens, v2_lite, false));
  for (const int64_t tokens : {64, 256, 4096, 16384}) RETURN_IF_ERROR(RouteLines(bench, tokens, v3, true));
  for (const int64_t tokens : {64, 256, 4096, 16384}) RETURN_IF_ERROR(CombineLines(bench, tokens, 64, 6, 2048));
  return absl::OkStatus();
}

}  // namespace grouper::kernels
