// The parts of a decoder block, inside common/model: weights, forward with what it saves, backward beneath. Not for
// other folders.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/model/config.h"
#include "common/model/kv_pool.h"
#include "common/model/model.h"
#include "kernels/linear.h"
#include "kernels/moe.h"
#include "kernels/rope.h"

namespace grouper {

// A weight in memory: a matrix (or a stack of expert matrices, or a vector) that holds one or more logical tensors.
// `index` finds its gradient.
struct Weight {
  Tensor value;  // no memory where `packed` is all that there is (WeightUse::kForward), or with kShapes
  int index = -1;
  bool keep_packed = false;  // read through kernels::Linear or GroupedLinear
  kernels::PackedMatrix packed;
};

// Owns all weights of a model.
class WeightStore {
 public:
  // bytes: what the weights will take.
  WeightStore(DType dtype, Device device, WeightUse use, size_t bytes);
  DType dtype() const { return dtype_; }
  const Arena& memory() const { return memory_; }
  // What these weights take on the CPU, packed where they may be (which is no less than the values alone).
  size_t BytesOnCpu() const;
  // Packs what the kernels read packed; nothing where that is the only copy.
  void Pack(Stream& stream);

  struct Part {
    std::string name;
    int64_t rows;
  };
  // [sum of rows, cols], logical tensors one below the other. packed: read through kernels::Linear.
  Weight* AddMatrix(const std::vector<Part>& parts, int64_t cols, DType dtype, bool packed = true);
  Weight* AddMatrix(const std::vector<Part>& parts, int64_t cols) { return AddMatrix(parts, cols, dtype_); }
  // [experts, rows, cols]; part names have "%d" for the expert.
  Weight* AddExperts(const std::vector<Part>& parts, int64_t experts, int64_t cols);
  // [sum of rows]. A part without a name is no logical tensor: it stays zero.
  Weight* AddVector(const std::vector<Part>& parts, DType dtype, bool trainable = true);
  Weight* AddVector(const std::vector<Part>& parts) { return AddVector(parts, dtype_); }

  // A view into a weight, as `Model::tensors()` shows it.
  struct Logical {
    LogicalTensor tensor;
    int weight = -1;
    int64_t offset = 0;  // elements
  };

  std::vector<std::unique_ptr<Weight>> weights;
  std::vector<Logical> logical;  // in order of creation

 private:
  // shape: a tensor without memory.
  Weight* Add(const Tensor& shape, bool keep_packed);
  DType dtype_;
  Device device_;
  WeightUse use_;
  size_t bytes_;
  Arena memory_;
  Arena packed_;
};

// float, or double for an F64 model: norms' rstd, log-sum-exps, router scores, gradients.
inline DType AccumulatorType(DType dtype) { return dtype == DType::kF64 ? DType::kF64 : DType::kF32; }

class ExpandedKv;  // expanded_kv.h

// What every part of a pass needs.
struct Pass {
  Stream& stream;
  KvPool& kv;
  Arena& arena;  // outputs and whatever is saved
  int64_t tokens;
  Tensor positions;  // [T] int32, on the stream's device
  kernels::AttentionBatch attention;
  const ExpandedKv* expanded = nullptr;  // for the backward of MLA
};

struct GradientSink {  // by Weight::index; null: an empty tensor
  const std::vector<Tensor>& fused;
  bool accumulate;  // the blocks' matrices; without it they hold nothing yet and are written. Vectors and the embedding always +=
  Tensor operator[](const Weight* weight) const { return weight == nullptr ? Tensor() : fused[weight->index]; }
};

inline Tensor ValueOf(const Weight* weight) { return weight == nullptr ? Tensor() : weight->value; }

// --- attention -----------------------------------------------------------------------------------

struct AttentionSaved {
  Tensor qkv;  // GQA: projections, q and k after norm and rotation; MLA: fused first projection
  Tensor q_normed_input, k_normed_input, q_rstd, k_rstd;  // Qwen3's head norms: their inputs
  Tensor q_latent, q_latent_rstd;                         // MLA: normalised q_a
  Tensor q;                                               // MLA: q after q_b (or a view of qkv) and rotation
  Tensor kv_rstd, key;                                    // MLA: latent's norm, key [T, 1, r + rope]
  Tensor out, lse;                                        // attention's output (GQA) and log-sum-exp
  Tensor o;                                               // MLA: input of o_proj
};

class AttentionLayer {
 public:
  virtual ~AttentionLayer() = default;
  // y [T, D] -> delta [T, D] (=). saved may be null.
  virtual void Forward(Pass& pass, int64_t layer, const Tensor& y, const Tensor& delta,
                       AttentionSaved* saved) const = 0;
  // d_delta -> dy [T, D] (=); weight gradients as the sink says, each matrix' in one call.
  virtual void Backward(Pass& pass, int64_t layer, const Tensor& y, const AttentionSaved& saved, const Tensor& d_delta,
                        const Tensor& dy, const GradientSink& gradients) const = 0;
};

std::unique_ptr<AttentionLayer> MakeGqaLayer(const ModelConfig& config, const std::string& prefix,
                                             const kernels::RopeTable& rope, WeightStore& store);
std::unique_ptr<AttentionLayer> MakeMlaLayer(const ModelConfig& config, const std::string& prefix,
                                             const kernels::RopeTable& rope, WeightStore& store);

// --- feed-forward --------------------------------------------------------------------------------

struct FeedForwardSaved {
  Tensor gate_up, act;                               // dense, or the shared experts
  Tensor expert_ids, weights, scores;  // MoE
  kernels::ExpertOrder order;
  Tensor expert_gate_up, expert_act, expert_out;
};

class FeedForwardLayer {
 public:
  virtual ~FeedForwardLayer() = default;
  // y [T, D] -> delta [T, D] (=). expert_load [E] int32 += tokens, unless empty, in layers with experts.
  virtual void Forward(Pass& pass, const Tensor& y, const Tensor& delta, FeedForwardSaved* saved,
                       const Tensor& expert_load) const = 0;
  virtual void Backward(Pass& pass, const Tensor& y, const FeedForwardSaved& saved, const Tensor& d_delta,
                        const Tensor& dy, const GradientSink& gradients) const = 0;
};

std::unique_ptr<FeedForwardLayer> MakeDenseLayer(const ModelConfig& config, const std::string& prefix,
                                                 int64_t intermediate_size, WeightStore& store);
std::unique_ptr<FeedForwardLayer> MakeMoeLayer(const ModelConfig& config, const std::string& prefix,
                                               WeightStore& store);

// --- rotary tables -------------------------------------------------------------------------------

// cos and sin for positions [0, max_position_embeddings), allocated in `arena`. On the CPU a row is computed, and its memory touched, when
// a pass first gets that far: contexts are long (64 MB of tables for 128K positions of 128), most sequences are not.
class RotaryTables {
 public:
  RotaryTables(const ModelConfig& config, DType dtype, Arena& arena);

  const kernels::RopeTable& table() const { return table_; }
  // The rows of [0, positions) are there from now on. Thread-safe.
  void Fill(int64_t positions);

 private:
  const std::vector<double> frequencies_;
  const double factor_;
  kernels::RopeTable table_;
  std::mutex mutex_;
  std::atomic<int64_t> filled_ = 0;
};

}  // namespace grouper
