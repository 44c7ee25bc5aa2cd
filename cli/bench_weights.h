// Random weights for benchmarks.
#pragma once

#include "common/model/model.h"

namespace grouper::cli {

// Weights of the sizes that Model::InitRandom gives, from a table of random numbers that every tensor reads from another place: seconds for
// billions of weights instead of minutes. vector_noise: standard deviation around 1 (norms) and 0 (biases). A float or bf16 model.
void FillWeights(Model& model, Stream& stream, float vector_noise = 0);

}  // namespace grouper::cli
