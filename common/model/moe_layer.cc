// Mixture of experts: shared experts (one dense SwiGLU) plus the routed ones, combined in slot order. Router logits are
// float.
#include "common/model/layers.h"
#include "kernels/elementwise.h"
#include "kernels/swiglu.h"

namespace grouper {
namespace {

class MoeLayer : public FeedForwardLayer {
 public:
  MoeLayer(const ModelConfig& config, const std::string& prefix, WeightStore& store, DType dtype)
      : router_(config.moe->router), width_(config.moe->moe_intermediate_size), hidden_(config.hidden_size) {
    const int64_t experts = router_.num_experts;
    gate_ = store.AddMatrix({{prefix + "gate.weight", experts}}, hidden_, AccumulatorType(dtype));
    if (config.moe->score_correction_bias) {
      bias_ = store.AddVector({{prefix + "gate.e_score_correction_bias", experts}}, AccumulatorType(dtype),
                              /*trainable=*/false);
    }
    gate_up_ = store.AddExperts(
        {{prefix + "experts.%d.gate_proj.weight", width_}, {prefix + "experts.%d.up_proj.weight", width_}}, experts,
        hidden_);
    down_ = store.AddExperts({{prefix + "experts.%d.down_proj.weight", hidden_}}, experts, width_);
    if (config.moe->n_shared_experts > 0) {
      shared_ = MakeDenseLayer(config, prefix + "shared_experts.", config.moe->n_shared_experts * width_, store);
    }
  }

  void Forward(Pass& pass, const Tensor& y, const Tensor& delta, FeedForwardSaved* saved,
               const Tensor& expert_load) const override {
    Stream& stream = pass.stream;
    const int64_t t = pass.tokens, k = router_.top_k, rows = t * k;
    const DType dtype = y.dtype(), acc = AccumulatorType(dtype);
    FeedForwardSaved local;
    FeedForwardSaved& s = saved != nullptr ? *saved : local;
    if (shared_ != nullptr) shared_->Forward(pass, y, delta, saved, {});

    const Tensor logits = pass.arena.New(acc, {t, router_.num_experts});
    kernels::Linear(stream, y, gate_->value, &gate_->packed, {}, logits);
    s.expert_ids = pass.arena.New(DType::kI32, {t, k});
    s.weights = pass.arena.New(acc, {t, k});
    s.scores = pass.arena.New(acc, {t, router_.num_experts});
    kernels::Route(stream, router_, logits, ValueOf(bias_), s.expert_ids, s.weights, s.scores);
    s.order = kernels::SortByExpert(stream, s.expert_ids, router_.num_experts, pass.arena);
    if (!expert_load.empty()) kernels::AddExpertLoad(stream, s.order.offsets, expert_load);

    if (saved != nullptr) s.expert_gate_up = pass.arena.New(dtype, {rows, 2 * width_});
    s.expert_act = pass.arena.New(dtype, {rows, width_});
    s.expert_out = pass.arena.New(dtype, {rows, hidden_});
    kernels::GroupedLinearSwiGlu(stream, y, s.order.offsets, s.order.token, gate_up_->value, &gate_up_->packed,
                                 s.expert_gate_up, s.expert_act);
    kernels::GroupedLinear(stream, s.expert_act, s.order.offsets, {}, down_->value, &down_->packed, s.expert_out);
    kernels::CombineExperts(stream, s.order, s.expert_out, s.weights, delta, /*accumulate=*/shared_ != nullptr);
  }

  void Backward(Pass& pass, const Tensor& y, const FeedForwardSaved& s, const Tensor& d_delta, const Tensor& dy,
                const GradientSink& gradients) const override {
    Stream& stream = pass.stream;
    const int64_t t = pass.tokens, k = router_.top_k, rows = t * k;
    const DType dtype = y.dtype(), acc = AccumulatorType(dtype);
    const Arena::Mark mark = pass.arena.mark();
    if (shared_ != nullptr) {
      shared_->Backward(pass, y, s, d_delta, dy, gradients);
    } else {
      kernels::Fill(stream, dy, 0);
    }
    // delta += sum_k weight * expert_out
    const Tensor d_out = pass.arena.New(dtype, {rows, hidden_});
    const Tensor d_weights = pass.arena.New(acc, {t, k});
    kernels::CombineExpertsBackward(stream, s.order, d_delta, s.expert_out, s.weights, d_out, d_weights);
    // expert_out = swiglu(gather(y) W^T) W_down^T
    const Tensor d_act = pass.arena.New(dtype, {rows, width_});
    kernels::GroupedLinearBackwardWeight(stream, d_out, s.expert_act, s.order.offsets, {}, gradients[down_], gradients.accumulate);
    const Tensor d_gate_up = pass.arena.New(dtype, {rows, 2 * width_});
    kernels::GroupedLinearBackwardSwiGlu(stream, d_out, s.order.offsets, down_->value, s.expert_gate_up, d_act, d_gate_up);
    kernels::GroupedLinearBackwardWeight(stream, d_gate_up, y, s.order.offsets, s.order.token, gradients[gate_up_], gradients.accumulate);
    const Tensor d_rows = pass.arena.New(dtype, {rows, hidden_});
    kernels::GroupedLinearBackwardInput(stream, d_gate_up, s.order.offsets, gate_up_->value, d_rows);
    kernels::ScatterExpertRows(stream, s.order, d_rows, static_cast<int>(k), dy);
    // weights = route(y W_gate^T)
    const Tensor d_logits = pass.arena.New(acc, {t, router_.num_experts});
    kernels::RouteBackward(stream, router_, s.scores, s.expert_ids, d_weights, d_logits);
    kernels::LinearBackwardWeight(stream, d_logits, y, gradients[gate_], {}, gradients.accumulate);
    kernels::LinearBackwardInput(stream, d_logits, gate_->value, dy, /*accumulate=*/true);
    pass.arena.Release(mark);
  }

 private:
  kernels::RouterConfig router_;
  int64_t width_, hidden_;
  Weight *gate_ = nullptr, *bias_ = nullptr, *gate_up_ = nullptr, *down_ = nullptr;
  std::unique_ptr<FeedForwardLayer> shared_;
};

}  // namespace

std::unique_ptr<FeedForwardLayer> MakeMoeLayer(const ModelConfig& config, const std::string& prefix,
                                               WeightStore& store) {
  return std::make_unique<MoeLayer>(config, prefix, store, store.dtype());
}

}  // namespace grouper
