#include "trainer/expert_load.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/tensor/cuda.h"
#include "kernels/moe.h"

namespace grouper {

ExpertLoad::ExpertLoad(const Model& model) : model_(model) {
  const ModelConfig& config = model.config();
  if (!config.moe) return;
  const int64_t layers = config.num_hidden_layers, experts = config.moe->router.num_experts;
  bytes_ = static_cast<size_t>(layers * experts) * sizeof(int32_t);
  void* const data = model.device().is_cuda() ? cuda::Allocate(model.device().index, bytes_) : std::malloc(bytes_);
  CHECK(data != nullptr) << "out of memory: " << bytes_ << " bytes";
  counts_ = Tensor(data, DType::kI32, {layers, experts}, model.device());
}

ExpertLoad::~ExpertLoad() {
  if (counts_.empty()) return;
  model_.device().is_cuda() ? cuda::Free(model_.device().index, counts_.raw()) : std::free(counts_.raw());
}

void ExpertLoad::Zero(Stream& stream) {
  if (counts_.empty()) return;
  if (stream.device.is_cuda()) return cuda::Zero(stream.device.index, counts_.raw(), bytes_, stream.handle);
  std::memset(counts_.raw(), 0, bytes_);
}

void ExpertLoad::UpdateBiases(Stream& stream, double rate) const {
  if (counts_.empty() || rate == 0) return;
  for (int64_t layer = 0; layer < counts_.dim(0); ++layer) {
    const int index = model_.FindTensor(absl::StrCat("model.layers.", layer, ".mlp.gate.e_score_correction_bias"));
    if (index >= 0) kernels::UpdateExpertBias(stream, counts_[layer], rate, model_.tensors()[static_cast<size_t>(index)].value);
  }
}

ExpertCounts ExpertLoad::Read(Stream& stream) const {
  if (counts_.empty()) return {};
  std::vector<int32_t> copy;
  const int32_t* values = counts_.data<int32_t>();
  if (stream.device.is_cuda()) {
    copy.resize(static_cast<size_t>(counts_.size()));
    Download(stream, counts_, Tensor(copy.data(), DType::kI32, {counts_.dim(0), counts_.dim(1)}));
    values = copy.data();
  }
  ExpertCounts load;
  for (int64_t layer = 0; layer < counts_.dim(0); ++layer) load.emplace_back(values + layer * counts_.dim(1), values + (layer + 1) * counts_.dim(1));
  return load;
}

void AddExpertCounts(const ExpertCounts& load, ExpertCounts& sums) {
  if (sums.size() < load.size()) sums.resize(load.size());
  for (size_t layer = 0; layer < load.size(); ++layer) {
    sums[layer].resize(load[layer].size(), 0);
    for (size_t e = 0; e < load[layer].size(); ++e) sums[layer][e] += load[layer][e];
  }
}

double MaxExpertLoad(const ExpertCounts& load) {
  double worst = 0;
  for (const std::vector<int64_t>& layer : load) {
    int64_t total = 0, most = 0;
    for (int64_t n : layer) {
      total += n;
      most = std::max(most, n);
    }
    if (total > 0) worst = std::max(worst, static_cast<double>(most) * static_cast<double>(layer.size()) / static_cast<double>(total));
  }
  return worst;
}

}  // namespace grouper
