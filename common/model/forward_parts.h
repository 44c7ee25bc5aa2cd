// A pass cut into one part of the batch for each thread, for small models and many sequences.
//
// The ops of a small model last microseconds: at the end of each the threads wait for the slowest, and whatever an op does alone all
// of them wait for. So each thread takes some sequences through the whole model instead, and they meet once. A row's numbers do not
// depend on the other rows (kernels/README.md): the bits are those of the whole pass. For the model's own .cc files only.
//
// It follows that no sequence of a batch may read keys and values that another one writes in the same pass; a prompt that several share
// was computed by an earlier pass.
#pragma once

#include "common/model/model.h"

namespace grouper {

// Model::Forward without `saved`, on the CPU, in parts. False, with nothing done, where the whole pass is better: a large model (every
// thread would read all weights from memory), few tokens, or sequences that cannot be shared out evenly.
bool ForwardInParts(const Model& model, Stream& stream, const Batch& batch, KvPool& kv, const Tensor& hidden);

}  // namespace grouper
