// ExpertLoad: tokens per expert, counted where the model is, so that training need not wait for them; and what is done with them.
#pragma once

#include <cstdint>
#include <vector>

#include "common/model/model.h"

namespace grouper {

using ExpertCounts = std::vector<std::vector<int64_t>>;  // [layer][expert]; zeros in layers without experts

class ExpertLoad {
 public:
  explicit ExpertLoad(const Model& model);
  ~ExpertLoad();
  ExpertLoad(const ExpertLoad&) = delete;
  ExpertLoad& operator=(const ExpertLoad&) = delete;

  void Zero(Stream& stream);
  // [layers, experts] (I32) for SavedActivations; empty when the model has no experts.
  const Tensor& counts() const { return counts_; }
  // Moves the score-correction biases by the counts (kernels/moe.h), on the stream: wait for it (as Read does) before another one reads them. rate 0:
  // nothing.
  void UpdateBiases(Stream& stream, double rate) const;
  // Waits. Empty without experts.
  ExpertCounts Read(Stream& stream) const;

 private:
  const Model& model_;
  size_t bytes_ = 0;
  Tensor counts_;
};

// sums += load.
void AddExpertCounts(const ExpertCounts& load, ExpertCounts& sums);
// Largest load over the mean, worst layer; 0 without experts.
double MaxExpertLoad(const ExpertCounts& load);

}  // namespace grouper
