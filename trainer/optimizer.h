// AdamW over a model's trainable weights, with global-norm clipping. Its state is made anew at each stage's start.
//
// Weight decay acts on matrices only. bf16 weights have a float master copy here; float weights are their own master.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/model/model.h"
#include "proto/recipe.pb.h"

namespace grouper {

class OptimizerState {
 public:
  // m = v = 0, masters from the model. `model` must outlive the state.
  OptimizerState(Model& model, Stream& stream);
  // What it takes of memory on `device`, arena blocks included.
  static size_t Bytes(const Model& model, Device device);

  struct Outcome {
    double grad_norm = 0;   // before clipping
    bool applied = false;   // false: the gradient was not finite, nothing changed
    std::string not_finite;  // then: whose gradient, the first one
  };
  // One step with learning rate `lr`. The caller calls Model::WeightsChanged afterwards.
  Outcome Step(Stream& stream, const v1::Optimizer& config, double lr, const Gradients& gradients);

  int64_t steps_applied() const { return step_; }
  void set_steps_applied(int64_t step) { step_ = step; }

  // Everything to be saved: name ("m.model.norm.weight", "v....", "master...."), tensor.
  struct Named {
    std::string name;
    Tensor tensor;
  };
  const std::vector<Named>& tensors() const { return named_; }

 private:
  Model& model_;
  Arena memory_;
  std::vector<Tensor> m_, v_, master_;  // by Model::tensors(); empty for weights that are not trained
  std::vector<Named> named_;
  int64_t step_ = 0;
};

}  // namespace grouper
