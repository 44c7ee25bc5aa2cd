// A tiny model, groups to sample from it, and how a sample reads as text: what the tests of the engine and of the services share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "rollout/engine.h"
#include "tests/common/model/model_world.h"

namespace grouper {

inline std::shared_ptr<const Tokenizer> TinyTokenizer() {
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer =
      Tokenizer::FromDirectory(std::string(GROUPER_SOURCE_DIR) + "/recipes/quickstart");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

inline v1::GenerateRequest MakeGroup(uint64_t serial, int64_t prompt_length, int samples, uint32_t max_new_tokens) {
  v1::GenerateRequest request;
  request.set_seed(5);
  request.set_stage(1);
  request.set_group_serial(serial);
  for (int i = 0; i < samples; ++i) request.add_sample_indices(static_cast<uint32_t>(i));
  for (int32_t token : RandomTokens(prompt_length, serial)) request.add_prompt_token_ids(token);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_top_p(1);
  request.mutable_sampling()->set_max_new_tokens(max_new_tokens);
  return request;
}

// Groups of all kinds: lengths around page borders, filters, a stop token.
inline std::vector<v1::GenerateRequest> MixedGroups() {
  std::vector<v1::GenerateRequest> groups;
  const int64_t prompts[] = {1, 63, 64, 65, 130, 9};
  for (uint64_t i = 0; i < 6; ++i) {
    groups.push_back(MakeGroup(100 + i, prompts[i], 3, 20 + 15 * static_cast<uint32_t>(i)));
    v1::SamplingParams& sampling = *groups.back().mutable_sampling();
    if (i == 1) sampling.set_temperature(0.6f);
    if (i == 2) sampling.set_top_k(5);
    if (i == 3) sampling.set_top_p(0.7f);
    if (i == 4) sampling.set_temperature(0);
    if (i == 5) sampling.add_stop_token_ids(2);
  }
  return groups;
}

// (group, sample) -> tokens, log-probabilities and reason, attempt and version left out.
using Samples = std::map<std::pair<uint64_t, uint32_t>, std::string>;

inline void AddTo(Samples& samples, const v1::Sample& sample) {
  v1::Sample bits = sample;
  bits.mutable_id()->clear_attempt();
  bits.clear_weight_versions();
  const bool fresh = samples.emplace(std::make_pair(sample.id().group_serial(), sample.id().sample_index()), bits.SerializeAsString()).second;
  EXPECT_TRUE(fresh) << "sample " << sample.id().ShortDebugString() << " came twice";
}

inline std::unique_ptr<Engine> MakeEngine(const Model& model, ThreadPool& threads, const EngineOptions& options = {}) {
  absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Create(model, TinyTokenizer(), threads, options);
  EXPECT_TRUE(engine.ok()) << engine.status();
  return *std::move(engine);
}

inline std::vector<v1::Sample> RunAll(Engine& engine, const std::vector<v1::GenerateRequest>& groups) {
  std::vector<v1::Sample> samples;
  for (const v1::GenerateRequest& group : groups) {
    const absl::Status status = engine.Add(group, 1, [&](v1::Sample sample) { samples.push_back(std::move(sample)); });
    EXPECT_TRUE(status.ok()) << status;
  }
  for (int steps = 0; steps < 100000; ++steps) {
    const absl::StatusOr<bool> more = engine.Step();
    EXPECT_TRUE(more.ok()) << more.status();
    if (!more.ok() || !*more) return samples;
  }
  ADD_FAILURE() << "the engine does not come to an end";
  return samples;
}

inline Samples BitsOf(const std::vector<v1::Sample>& samples) {
  Samples bits;
  for (const v1::Sample& sample : samples) AddTo(bits, sample);
  return bits;
}

}  // namespace grouper
