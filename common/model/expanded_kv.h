// MLA's keys and values as they read unabsorbed, one of each a head, which its backward makes for a layer at a time: pages
// beside the cache, in which a batch's sequences lie one after the other. Made once a pass, for all layers. For the model's
// own .cc files only.
#pragma once

#include <vector>

#include "common/model/config.h"
#include "kernels/attention.h"

namespace grouper {

class ExpandedKv {
 public:
  // key_dim = nope + rope, value_dim = v. REQUIRES: config.mla.
  static kernels::KvLayout LayoutOf(const ModelConfig& config, DType dtype);

  // What the batch needs lies in `memory`, of the stream's device. REQUIRES: config.mla; whole sequences (context == 0).
  ExpandedKv(Stream& stream, const std::vector<kernels::AttentionSequence>& sequences, const ModelConfig& config, DType dtype,
             Arena& memory);
  ExpandedKv(const ExpandedKv&) = delete;  // the batch points to the tables
  ExpandedKv& operator=(const ExpandedKv&) = delete;

  // Pages of one layer for all of the batch's tokens, as `memory` has them: they may hold anything.
  kernels::PagedKv New(Arena& memory) const;
  const kernels::AttentionBatch& batch() const { return batch_; }

 private:
  kernels::KvLayout layout_;
  std::vector<int32_t> pages_;
  std::vector<kernels::AttentionSequence> sequences_;
  kernels::AttentionBatch batch_;
};

}  // namespace grouper
