// What passes through a model take of memory, counted without running them: for memory plans, and for arenas that are made large enough at once.
//
// pass_memory.cc repeats the allocations of forward_backward.cc and the layers, tensor by tensor; a test compares the two.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/model/config.h"
#include "common/tensor/tensor.h"

namespace grouper {

// Counts what an Arena of `device` would hand out and take, without memory.
class ArenaSizer {
 public:
  explicit ArenaSizer(Device device) : cuda_(device.is_cuda()) {}

  void Allocate(size_t bytes);
  void New(DType dtype, int64_t elements) { Allocate(static_cast<size_t>(elements) * SizeOf(dtype)); }
  struct Mark {
    size_t block = 0, used = 0, handed_out = 0;
  };
  Mark mark() const { return {block_, used_, handed_out_}; }
  void Release(Mark mark);

  size_t peak() const { return peak_; }  // handed out at once: what one block would have to hold
  size_t largest() const { return largest_; }  // of the pieces that were asked for
  size_t reserved() const;               // taken from the system, in blocks that grow as an Arena's do
  size_t held() const;                   // of the memory itself: reserved; on the host what is handed out, in huge pages

 private:
  bool cuda_;
  std::vector<size_t> blocks_;
  size_t block_ = 0, used_ = 0, handed_out_ = 0, peak_ = 0, largest_ = 0;
};

// What an Arena holds (ArenaSizer::held) that handed out `bytes` at once.
size_t HeldBytes(size_t bytes, Device device);

struct PassSize {
  int64_t tokens = 0;
  int64_t rows = 0;       // output rows
  int64_t sequences = 1;
  int64_t longest = 0;     // tokens of the longest sequence, its context included
  int64_t logit_rows = 0;  // whose logits are held at once
  int64_t pages = 0;       // of all sequences, each of its own; 0: as many as so many sequences have at least
  bool whole = false;      // sequences have no context before the pass: TrainingPass'. Else most have one token
};

struct PassBytes {
  size_t arena = 0;    // the pass' own arena
  size_t logits = 0;   // of that: logits
  size_t largest = 0;  // the largest piece of the arena: as much is lost where a block ends
  size_t scratch = 0;  // the stream's
};

// Elements from a row of a pass' logits to the next: on a device a multiple of 8, which its copy engine needs; it would read a copy otherwise.
int64_t LogitsPitch(const ModelConfig& config, Device device);

// Forward with what it saves, log-probabilities and backward, as TrainingPass::Run goes through them.
PassBytes TrainingBytes(const ModelConfig& config, DType dtype, Device device, const PassSize& size, bool recompute);
// Forward alone, then logits: TrainingPass::Score, and a step of the engine.
PassBytes ForwardBytes(const ModelConfig& config, DType dtype, Device device, const PassSize& size);

}  // namespace grouper
