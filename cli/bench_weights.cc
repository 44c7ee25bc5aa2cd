#include "cli/bench_weights.h"

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "common/base/philox.h"
#include "common/tensor/host_memory.h"

namespace grouper::cli {

void FillWeights(Model& model, Stream& stream, float vector_noise) {
  std::vector<float> table(size_t{1} << 22);
  PhiloxStream random(MakePhiloxKey(1, "weights"));
  for (float& value : table) value = static_cast<float>(random.NextNormal());
  const double residual = 1 / std::sqrt(2.0 * static_cast<double>(model.config().num_hidden_layers));
  stream.threads.ParallelForDynamic(static_cast<int64_t>(model.tensors().size()), [&](int64_t index) {
    const LogicalTensor& tensor = model.tensors()[static_cast<size_t>(index)];
    const Tensor& value = tensor.value;
    std::string bytes(NumBytes(value), '\0');
    const Tensor host = value.At(bytes.data(), {});
    const bool matrix = value.rank() >= 2, last = absl::EndsWith(tensor.name, "o_proj.weight") || absl::EndsWith(tensor.name, "down_proj.weight");
    const float scale = matrix ? static_cast<float>((last ? residual : 1) / std::sqrt(static_cast<double>(value.dim(-1)))) : vector_noise;
    const float constant = !matrix && absl::EndsWith(tensor.name, "norm.weight") ? 1 : 0;
    size_t at = static_cast<size_t>(index) * 7919;
    for (int64_t i = 0; i < value.size(); ++i) {
      const float x = table[at++ % table.size()] * scale + constant;
      if (host.dtype() == DType::kBF16) {
        host.data<bf16>()[i] = bf16(x);
      } else {
        host.data<float>()[i] = x;
      }
    }
    CopyTensor(host, value);
  });
  model.WeightsChanged(stream);
}

}  // namespace grouper::cli
