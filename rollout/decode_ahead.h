// DecodeAhead: decode steps that a device takes one after another, while the host looks at the results of the step before.
//
//   host:    launch 1 | launch 2 | collect 1 | launch 3 | collect 2 | ...
//   device:             step 1   | step 2               | step 3 ...
//
// A step takes one token of each of its rows through the model and samples the next. The token that step n + 1 takes is the one that step n
// sampled: the device hands it on by itself. So a step can be launched before the host has seen the tokens of the one before; the host learns
// of a stop token one step late, and the token that such a sequence samples beyond its end is thrown away.
//
// On CUDA a step is one graph launch, one copy of the step's input (page tables, positions, who samples how) and one copy of its tokens. Graphs
// are recorded for row counts of a few sizes; rows beyond the step's own are padding whose keys and values go to a page of their own.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "common/model/model.h"
#include "common/tensor/graph.h"
#include "common/tensor/pinned_memory.h"
#include "kernels/sampling.h"

namespace grouper {

class DecodeAhead {
 public:
  static constexpr int kMaxInFlight = 2;

  // `model`, `stream`, `kv` and `memory` must outlive this; it takes one page of `kv`. `memory` is for a step's own tensors: others may use it
  // while nothing is in flight, and it must have grown to its full size (a recorded step keeps its addresses). `max_rows`: of a step.
  DecodeAhead(const Model& model, Stream& stream, KvPool& kv, Arena& memory, int32_t max_rows);

  struct Row {
    kernels::NextToken token;                   // from: a row of the step launched before, or -1 and the token itself
    int32_t position = 0;                       // of that token in its sequence
    const std::vector<int32_t>* pages = nullptr;  // cover the position; read during the call
    kernels::SampleRequest request;             // of the token after it
  };
  // REQUIRES: 1 to max_rows rows, fewer than kMaxInFlight steps in flight.
  void Launch(absl::Span<const Row> rows);

  int in_flight() const { return in_flight_; }
  // Waits for the oldest step in flight. Its tokens, in the order of its rows; valid until the next Launch.
  absl::Span<const kernels::SampledToken> Collect();

  uint64_t launched() const { return launched_; }

 private:
  // Where the parts of a step's input lie, for a number of rows.
  struct Layout {
    explicit Layout(int32_t rows);
    size_t sequences, requests, next, positions, pages;  // byte offsets
  };
  struct Turn {
    Turn(Device device, size_t input_bytes, size_t rows);
    PinnedMemory input, sampled;
    StreamEvent done;
    size_t rows = 0;
  };

  int32_t PaddedRows(int32_t rows) const;
  Graph& GraphFor(int32_t rows, int32_t context);
  void Ops(int32_t rows, int32_t context);  // what a step does, from input_

  const Model& model_;
  Stream& stream_;
  KvPool& kv_;
  const int32_t max_rows_, max_pages_, padding_page_;
  Arena& step_memory_;
  Arena memory_;
  char* input_;                       // on the device
  kernels::SampledToken* sampled_;    // likewise, [max_rows]
  Tensor token_ids_;                  // likewise
  std::map<std::pair<int32_t, int32_t>, std::unique_ptr<Graph>> graphs_;  // by rows and context
  std::vector<std::unique_ptr<Turn>> turns_;
  int next_turn_ = 0, in_flight_ = 0;
  uint64_t launched_ = 0;
};

}  // namespace grouper
