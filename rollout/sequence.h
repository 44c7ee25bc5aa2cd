// One sample's life inside the engine: its tokens, its pages, and how far the model has computed it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "common/text/tokenizer.h"
#include "kernels/sampling.h"
#include "rollout/engine.h"

namespace grouper {

// What the samples of one GenerateRequest have in common.
struct Group {
  v1::GenerateRequest request;
  uint64_t weight_version = 0;
  PhiloxKey key;
  kernels::SamplingFilter filter;
  Engine::OnFinished on_finished;
  Engine::OnToken on_token;
  const void* owner = nullptr;
  size_t longest_stop = 0;  // bytes of the longest stop string
  std::vector<int32_t> prompt;

  // The prompt's pages, held by the group from the moment that its first sample has computed the prompt until all samples have started.
  enum class Prefix { kNone, kComputing, kReady };
  Prefix prefix = Prefix::kNone;
  std::vector<int32_t> prefix_pages;
  int32_t unstarted = 0;  // samples that have not yet taken the prefix
  int64_t turn = -1;      // the order in which groups first ran; < 0: not yet
};

struct Sequence {
  std::shared_ptr<Group> group;
  uint32_t sample_index = 0;
  std::vector<int32_t> tokens;  // prompt, then what was sampled
  std::vector<float> logprobs;  // of the sampled tokens
  int32_t computed = 0;         // tokens whose keys and values are in the cache, or come with a pass that is under way
  std::vector<int32_t> pages;
  bool computes_prefix = false;  // its prompt becomes the group's prefix
  bool started = false;          // counted off group->unstarted
  int32_t ahead = 0;             // tokens that are being sampled (pass_queue.h), not yet in `tokens`
  int32_t row = -1;              // the index of the newest of them among what its pass samples
  bool over = false;             // finished or dropped: what is still being sampled for it is thrown away
  std::optional<IncrementalDecoder> decoder;  // with stop strings only
  std::string text;                           // decoded completion so far, likewise

  int32_t size() const { return static_cast<int32_t>(tokens.size()); }
  int32_t length() const { return size() + ahead; }
  int32_t remaining() const { return length() - computed; }  // tokens to feed before the next one can be sampled
};

}  // namespace grouper
