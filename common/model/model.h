// Model: the one decoder definition. Embedding, blocks (GQA or MLA; dense SwiGLU or MoE), final norm, head.
//
// Forward serves prefill, decode, teacher-forced scoring and training: a ragged batch of tokens whose keys and values
// go to 64-token pages. Training is a prefill that also saves what Backward needs. The numbers for a token depend only
// on the token and its context (kernels/README.md), so the four uses agree bit for bit.
//
//   Stream stream(threads);
//   KvPool kv(model.config(), model.dtype(), pages);
//   Tensor hidden = arena.New(model.dtype(), {batch.output_rows.size(), hidden_size});
//   model.Forward(stream, batch, kv, hidden, nullptr);
//   model.Logits(stream, hidden, logits);
//
// Thread-safety: const methods may run concurrently on different Streams; whoever writes weights must be alone.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/hash.h"
#include "common/model/config.h"
#include "common/model/kv_pool.h"
#include "common/tensor/arena.h"
#include "common/tensor/stream.h"
#include "kernels/attention.h"

namespace grouper {

// A weight as checkpoints know it. `value` is contiguous; several logical tensors may lie beside each other in one
// fused matrix.
struct LogicalTensor {
  std::string name;       // Hugging Face name: model.layers.0.self_attn.q_proj.weight
  Tensor value;           // [out, in] or [n]; see WeightUse
  bool trainable = true;  // false: e_score_correction_bias, which the trainer moves by its own rule
};

// One forward pass' input. Row t belongs to the sequence whose [q_begin, q_begin + q_len) holds t; sequences lie in
// order and cover all rows.
struct Batch {
  std::vector<int32_t> token_ids;                     // [T]
  std::vector<kernels::AttentionSequence> sequences;  // page tables are the caller's and must outlive the call
  std::vector<int32_t> output_rows;                   // ascending rows whose final hidden state is wanted
};

// The same in the memory of the model's device, or in the host's on the CPU, read when the pass runs: a token may be what the pass before
// samples, and a pass that was recorded (common/tensor/graph.h) can run again with other contents.
struct DeviceBatch {
  Tensor token_ids;    // [T] int32
  Tensor positions;    // [T] int32, of the tokens in their sequences
  Tensor output_rows;  // [R] int32, ascending; empty: all rows
  kernels::AttentionTables attention;  // in the device's memory, or the host's
  int64_t num_outputs() const { return (output_rows.empty() ? token_ids : output_rows).dim(0); }
};

// Gradients, one float (F64 for an F64 model) tensor for each of Model::tensors(), same order and shape. Accumulated
// with +=, from zero at first. Matrices are not zeroed for that: the first pass after Zero writes theirs, which saves writing zeros and
// reading them.
class Gradients {
 public:
  // REQUIRES: a model for training. matrices: the type of the blocks' bf16 matrices' gradients; BF16 halves their memory and rounds a sum once a
  // micro-batch. BF16 REQUIRES a BF16 model on a device. Embedding, head, router, norms and biases stay float.
  explicit Gradients(const class Model& model, DType matrices = DType::kF32);
  ~Gradients();
  Gradients(const Gradients&) = delete;
  Gradients& operator=(const Gradients&) = delete;

  void Zero(Stream& stream);
  // Call it when all micro-batches are done: a tied head's gradient is summed apart from the embedding's, so that bits
  // do not depend on micro-batches, and joins it here; matrices that no pass has written become zero.
  void Finish(Stream& stream);
  // What Gradients of `model` take on `device`, arena blocks included.
  static size_t Bytes(const class Model& model, Device device, DType matrices = DType::kF32);
  // REQUIRES: Finish since the last Zero, LogitsBackward or Backward.
  const Tensor& tensor(size_t i) const;
  size_t size() const { return tensors_.size(); }

 private:
  friend class Model;
  std::vector<Tensor> tensors_;  // by logical tensor
  Tensor sums_, matrices_;       // as floats: what passes add to (vectors, the embedding), and what the first writes (the blocks' matrices)
  Tensor head_;                  // of the head; when tied the embedding's is another
  std::vector<Tensor> fused_;    // by storage matrix, in these
  size_t tied_ = SIZE_MAX;       // index in tensors_ that head_ joins
  bool matrices_empty_ = false, head_empty_ = false;  // to be written by the next pass: what they hold is not their value
  bool finished_ = true;
  std::unique_ptr<Arena> memory_;
};

struct SaveOptions {
  bool recompute = false;  // keep only each block's input; Backward runs the block's forward again (same bits)
};

// What Forward leaves for Backward. Tensors live in `arena`; valid until the arena is released below the mark taken
// before Forward.
struct SavedActivations {
  explicit SavedActivations(Arena& arena, SaveOptions options = {}, const Tensor& expert_load = {});
  ~SavedActivations();
  Arena& arena;
  SaveOptions options;
  struct Blocks;
  std::unique_ptr<Blocks> blocks;
  const Tensor expert_load;  // [layers, experts] (I32), where the model is: += tokens; empty: they are not counted
};

// What a model's weights are there for.
enum class WeightUse {
  kTrain,    // all as tensors that may be written. On the CPU matrices lie packed beside them, for the kernels
  kForward,  // passes without gradients. On the CPU a matrix is kept as the kernels read it and not a second time, so that
             // the model takes its weights' size once; LogicalTensor::value has no memory then: WriteRows, ReadRows
  kShapes,   // names and shapes; no memory, no passes
};

class Model {
 public:
  // Weights are allocated; those that have tensors are zero. InvalidArgument for a config that is not valid, FailedPrecondition
  // for a device that is not there (CheckDevice), ResourceExhausted for a model that cannot fit (CheckMemory).
  static absl::StatusOr<std::unique_ptr<Model>> Create(const ModelConfig& config, DType dtype, Device device = {},
                                                       WeightUse use = WeightUse::kTrain);
  static absl::Status CheckMemory(const ModelConfig& config, DType dtype, Device device, WeightUse use);
  ~Model();

  const ModelConfig& config() const;
  DType dtype() const;
  WeightUse use() const;
  Device device() const;  // of weights; passes run on Streams and KvPools of the same

  // Every weight, sorted by name. Tied heads appear once, as model.embed_tokens.weight.
  const std::vector<LogicalTensor>& tensors() const;
  // Memory held by the weights and the rotary tables; by the matrices packed beside them (kTrain on the CPU).
  size_t WeightBytes() const;
  size_t PackedBytes() const;
  // WeightBytes of a kForward model like this one.
  size_t ForwardWeightBytes() const;
  // Rows [begin, end) of tensors()[i] one after another, in its type, on the host, however the model keeps them; a
  // vector's rows are its elements. Calls for different rows may run at once. WeightsChanged comes after writing.
  void WriteRows(size_t i, int64_t begin, int64_t end, const char* bytes);
  void ReadRows(size_t i, int64_t begin, int64_t end, char* bytes) const;
  // Index in tensors(), or -1.
  int FindTensor(const std::string& name) const;

  // Random weights, a pure function of (config, seed): N(0, 1/fan_in) for matrices, times 1/sqrt(2 layers) for o_proj
  // and down_proj; embedding N(0, 0.25); norms 1; biases 0 (docs/model.md).
  void InitRandom(Stream& stream, uint64_t seed);

  // Call after writing weights and before the next Forward: refreshes what is derived from them (packed matrices), and
  // waits for `stream`, so that other streams and the host see them.
  void WeightsChanged(Stream& stream);

  // hidden [output_rows, hidden_size] (=): the final, normalised hidden states of batch.output_rows. Writes the batch's
  // keys and values into `kv`. saved: null, or filled for Backward (then every sequence must have context == 0).
  void Forward(Stream& stream, const Batch& batch, KvPool& kv, const Tensor& hidden, SavedActivations* saved) const;

  // The same bits. hidden [num_outputs(), hidden_size].
  void Forward(Stream& stream, const DeviceBatch& batch, KvPool& kv, const Tensor& hidden) const;

  // logits [R, vocab_size] (=) of hidden [R, hidden_size], in the model's dtype.
  void Logits(Stream& stream, const Tensor& hidden, const Tensor& logits) const;

  // dhidden [R, hidden_size] (=) = dlogits W; gradients of the head +=. dlogits like logits.
  void LogitsBackward(Stream& stream, const Tensor& dlogits, const Tensor& hidden, const Tensor& dhidden,
                      Gradients& gradients) const;

  // Gradients of all weights += for dhidden [output_rows, hidden_size], the gradient at Forward's output. The same
  // batch, kv and saved as in Forward.
  void Backward(Stream& stream, const Batch& batch, KvPool& kv, SavedActivations& saved, const Tensor& dhidden,
                Gradients& gradients) const;

  // Bytes that Forward with `saved` and Backward take from the arena for `tokens` tokens, all of them output rows,
  // within ten percent (arena blocks aside).
  size_t SavedBytes(int64_t tokens, SaveOptions options) const;

  struct State;  // model_state.h

 private:
  friend class Gradients;
  struct PackedRows {
    struct Weight* weight;
    int64_t expert, first;
  };
  explicit Model(std::unique_ptr<State> state);
  PackedRows Packed(size_t i) const;
  std::unique_ptr<State> state_;
};

// Names backend, ISA baseline, split sizes, dtype and the version of our numerics: two processes with one id give the
// same bits.
std::string NumericsId(DType dtype, Device device = {});

// SHA-256 over (name, dtype, shape, sha256 of the bytes) of every logical tensor in name order. `tensor_digests`, when
// not null, receives each tensor's own.
Sha256Digest WeightsDigest(const Model& model, ThreadPool& threads,
                           std::vector<Sha256Digest>* tensor_digests = nullptr);
// The same root from the tensors (names, types, shapes) and their digests.
Sha256Digest WeightsDigestOf(const std::vector<LogicalTensor>& tensors, const std::vector<Sha256Digest>& tensor_digests);

// SHA-256 over (name, dtype, shape) of every logical tensor in name order: two models with one digest can have the same weights.
Sha256Digest TensorsDigest(const Model& model);

// The digest of weights that sampler and trainer hold in one store: nothing travels that could change on the way, so their contents are not
// hashed. SHA-256 of "one weight store" and the version.
Sha256Digest SharedWeightsDigest(uint64_t version);

}  // namespace grouper
