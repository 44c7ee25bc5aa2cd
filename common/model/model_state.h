// What a Model and its SavedActivations consist of; for the model's own .cc files only.
#pragma once

#include <memory>
#include <vector>

#include "common/model/layers.h"
#include "common/model/model.h"

namespace grouper {

struct Model::State {
  State(const ModelConfig& config, DType dtype, Device device, WeightUse use, size_t weight_bytes)
      : config(config), dtype(dtype), device(device), use(use), tables(device), store(dtype, device, use, weight_bytes) {}

  struct Block {
    Weight* input_norm;
    Weight* post_norm;
    std::unique_ptr<AttentionLayer> attention;
    std::unique_ptr<FeedForwardLayer> feed_forward;
  };

  ModelConfig config;
  DType dtype;
  Device device;
  WeightUse use;
  Arena tables;
  std::unique_ptr<RotaryTables> rotary;  // none without weights
  WeightStore store;
  Weight* embedding = nullptr;
  Weight* final_norm = nullptr;
  Weight* head = nullptr;  // the embedding when tied
  std::vector<Block> blocks;
  std::vector<LogicalTensor> tensors;  // sorted by name
  std::vector<int> logical_of;         // tensors[i] is store.logical[logical_of[i]]
};

// What a block's backward needs. `input` alone is kept under recomputation.
struct BlockSaved {
  Tensor input, rstd1, y1;   // attention: its residual input, norm and normalised input
  Tensor middle, rstd2, y2;  // feed-forward: the same
  AttentionSaved attention;
  FeedForwardSaved feed_forward;
};

struct SavedActivations::Blocks {
  std::vector<BlockSaved> blocks;
  Tensor final_input, final_rstd;  // rows of output_rows
};

}  // namespace grouper
