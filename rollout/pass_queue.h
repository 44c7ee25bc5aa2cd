// PassQueue: forward passes that a device takes one after another, while the host looks at the results of the pass before.
//
//   host:    launch 1 | launch 2 | collect 1 | launch 3 | collect 2 | ...
//   device:             pass 1   | pass 2               | pass 3 ...
//
// A pass takes some tokens of each of its sequences through the model, and samples the next token of those whose last known token is among them.
// What pass n samples, pass n + 1 may take: the device hands it on by itself. So a pass can be launched before the host has seen the tokens of the
// one before, whether it decodes, computes prompts, or both; the host learns of a stop token one pass late, and the token that such a sequence
// samples beyond its end is thrown away.
//
// On CUDA a pass is one copy of its input (tokens, page tables, positions, who samples how), its kernels, and one copy of its sampled tokens; the host
// waits for nothing. The kernels of a pass that only decodes are one graph launch: graphs are recorded for row counts of a few sizes; rows beyond
// the pass' own are padding whose keys and values go to a page of their own. (A graph is recorded when the first such pass comes: that waits once.)
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "common/model/model.h"
#include "common/tensor/graph.h"
#include "common/tensor/pinned_memory.h"
#include "kernels/sampling.h"

namespace grouper {

class PassQueue {
 public:
  static constexpr int kMaxInFlight = 2;

  struct Options {
    int32_t max_sequences = 0, max_tokens = 0;  // of a pass
    bool graphs = false;                        // for passes that only decode; takes one page of the pool
  };
  // `model`, `stream`, `kv` and `memory` must outlive this. `memory` is for a pass' own tensors: others may use it while nothing is in flight,
  // and with graphs it must have grown to its full size (a recorded pass keeps its addresses).
  PassQueue(const Model& model, Stream& stream, KvPool& kv, Arena& memory, const Options& options);
  // What it takes for passes' input and sampled tokens: of the device, and of the host for copies that run while it goes on.
  static size_t DeviceBytes(const ModelConfig& config, const Options& options);
  static size_t PinnedBytes(const ModelConfig& config, const Options& options);

  // One sequence's share of a pass. Everything pointed to is read during the call.
  struct Item {
    absl::Span<const int32_t> tokens;             // to feed
    int32_t from = -1;                            // >= 0: and after them the one that the pass launched before samples, with this index among its samples
    int32_t context = 0;                          // the sequence's tokens before them; their keys and values are there, or come with passes launched before
    const std::vector<int32_t>* pages = nullptr;  // cover all of these
    std::optional<kernels::SampleRequest> sample;  // of the token that follows
    int32_t size() const { return static_cast<int32_t>(tokens.size()) + (from >= 0 ? 1 : 0); }
  };
  // REQUIRES: at least one item, of at least one token each, no more of either than Options say; fewer than kMaxInFlight passes in flight.
  void Launch(absl::Span<const Item> items);

  int in_flight() const { return in_flight_; }
  // Waits for the oldest pass in flight. The tokens of its items that sample, in their order; valid until the next Launch.
  absl::Span<const kernels::SampledToken> Collect();

 private:
  // The host's knowledge of a pass, padding included: what a recorded one is recorded for.
  struct Shape {
    int32_t sequences = 0, tokens = 0, samples = 0;
    int32_t max_q_len = 0, max_context = 0;
    int64_t partial_rows = 0;  // as in kernels::AttentionTables
    bool decodes() const { return samples == tokens; }
  };
  // Where the parts of a pass' input lie: byte offsets.
  struct Layout {
    explicit Layout(const Shape& shape);
    size_t sequences, requests, next, positions, output_rows, pages;
  };
  struct Turn {
    Turn(Device device, size_t input_bytes, size_t samples);
    PinnedMemory input, sampled;
    StreamEvent done;
    size_t samples = 0;
  };

  static size_t InputBytes(const ModelConfig& config, const Options& options);
  int32_t PaddedRows(int32_t rows) const;
  Shape ShapeOf(absl::Span<const Item> items) const;
  size_t Write(absl::Span<const Item> items, const Shape& shape, char* input) const;  // returns its bytes
  void Run(const Shape& shape);  // what a pass does, from input_
  Graph& GraphFor(const Shape& shape);

  const Model& model_;
  Stream& stream_;
  KvPool& kv_;
  const Options options_;
  const int32_t max_pages_, padding_page_;
  Arena& pass_memory_;
  Arena memory_;
  char* input_;                     // on the device
  kernels::SampledToken* sampled_;  // likewise, [max_sequences]
  Tensor token_ids_;                // likewise, [max_tokens]
  std::map<std::pair<int32_t, int32_t>, std::unique_ptr<Graph>> graphs_;  // by rows and context
  std::vector<std::unique_ptr<Turn>> turns_;
  int next_turn_ = 0, in_flight_ = 0;
  int32_t last_samples_ = 0;  // of the pass launched last
};

}  // namespace grouper
