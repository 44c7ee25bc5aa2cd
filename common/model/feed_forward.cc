// The dense SwiGLU feed-forward: delta = (silu(y W_gate^T) * (y W_up^T)) W_down^T.
#include "common/model/layers.h"
#include "kernels/swiglu.h"

namespace grouper {
namespace {

class DenseLayer : public FeedForwardLayer {
 public:
  DenseLayer(const ModelConfig& config, const std::string& prefix, int64_t intermediate_size, WeightStore& store)
      : width_(intermediate_size) {
    gate_up_ = store.AddMatrix({{prefix + "gate_proj.weight", width_}, {prefix + "up_proj.weight", width_}},
                               config.hidden_size);
    down_ = store.AddMatrix({{prefix + "down_proj.weight", config.hidden_size}}, width_);
    if (config.mlp_bias) {
      gate_up_bias_ = store.AddVector({{prefix + "gate_proj.bias", width_}, {prefix + "up_proj.bias", width_}});
      down_bias_ = store.AddVector({{prefix + "down_proj.bias", config.hidden_size}});
    }
  }

  void Forward(Pass& pass, const Tensor& y, const Tensor& delta, FeedForwardSaved* saved,
               const Tensor&) const override {
    const Tensor gate_up = saved != nullptr ? pass.arena.New(y.dtype(), {pass.tokens, 2 * width_}) : Tensor();
    const Tensor act = pass.arena.New(y.dtype(), {pass.tokens, width_});
    kernels::LinearSwiGlu(pass.stream, y, gate_up_->value, &gate_up_->packed, ValueOf(gate_up_bias_), gate_up, act);
    kernels::Linear(pass.stream, act, down_->value, &down_->packed, ValueOf(down_bias_), delta);
    if (saved != nullptr) {
      saved->gate_up = gate_up;
      saved->act = act;
    }
  }

  void Backward(Pass& pass, const Tensor& y, const FeedForwardSaved& saved, const Tensor& d_delta, const Tensor& dy,
                const GradientSink& gradients) const override {
    const Arena::Mark mark = pass.arena.mark();
    const Tensor d_act = pass.arena.New(y.dtype(), {pass.tokens, width_});
    const Tensor d_gate_up = pass.arena.New(y.dtype(), {pass.tokens, 2 * width_});
    kernels::LinearBackwardWeight(pass.stream, d_delta, saved.act, gradients[down_], gradients[down_bias_], gradients.accumulate);
    kernels::LinearBackwardSwiGlu(pass.stream, d_delta, down_->value, saved.gate_up, d_act, d_gate_up);
    kernels::LinearBackwardInput(pass.stream, d_gate_up, gate_up_->value, dy, false);
    kernels::LinearBackwardWeight(pass.stream, d_gate_up, y, gradients[gate_up_], gradients[gate_up_bias_], gradients.accumulate);
    pass.arena.Release(mark);
  }

 private:
  int64_t width_;
  Weight *gate_up_ = nullptr, *gate_up_bias_ = nullptr, *down_ = nullptr, *down_bias_ = nullptr;
};

}  // namespace

std::unique_ptr<FeedForwardLayer> MakeDenseLayer(const ModelConfig& config, const std::string& prefix,
                                                 int64_t intermediate_size, WeightStore& store) {
  return std::make_unique<DenseLayer>(config, prefix, intermediate_size, store);
}

}  // namespace grouper
