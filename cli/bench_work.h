// What the work of `grouper bench train`, `rollout` and `step` amounts to, counted from shapes.
#pragma once

#include <cstdint>

#include "common/model/model.h"

namespace grouper::cli {

// Operations of forward and backward over sequences of `length` tokens each, of which `targets` have a log-probability; nothing is computed twice.
// 6 for each active parameter and token (N in perf/mfu; the head's for each target), and attention's 6 heads (key width + value width) for each of
// the length (length + 1) / 2 causal pairs of a sequence and layer. MLA's heads count unabsorbed: nope + rope and v wide.
double TrainingFlops(const ModelConfig& config, int64_t sequences, int64_t length, int64_t targets);

// Bytes that a decode step of `batch` sequences must read: all weights once, of the experts those that random choices hit, E (1 - (1 - k/E)^batch)
// of a layer's E, and of an untied embedding the batch's rows; and keys and values of `context` tokens a sequence, where `group` sequences after
// one another share the full pages of their first `prompt` tokens, which count once a group.
double DecodeStepBytes(const Model& model, int64_t batch, int64_t group, int64_t prompt, double context);

}  // namespace grouper::cli
