#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/model/layers.h"
#include "common/model/model.h"
#include "common/tensor/host_memory.h"

namespace grouper {

std::string NumericsId(DType dtype, Device device) {
  // The version rises with any change that moves a bit of a pass there, forward or backward.
  const bool cpu = !device.is_cuda();
  return absl::StrCat(cpu ? "cpu" : "cuda", "/lanes8-fma/page", kernels::kPageTokens, "/", Name(dtype), cpu ? "/v3" : "/v6");
}

namespace {

// A few rows at a time: of a tensor that is only there packed, or on a device.
Sha256Digest DigestOfRows(const Model& model, size_t i) {
  const Tensor& value = model.tensors()[i].value;
  const int64_t rows = value.dim(0), columns = value.rank() == 1 ? 1 : value.dim(1);
  const int64_t step = std::max<int64_t>(1, (1 << 18) / std::max<int64_t>(1, columns));
  std::string bytes;
  Sha256Stream digest;
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t end = std::min(rows, row + step);
    bytes.resize(static_cast<size_t>((end - row) * columns) * SizeOf(value.dtype()));
    model.ReadRows(i, row, end, bytes.data());
    digest.Update(bytes);
  }
  return digest.Finish();
}

}  // namespace

Sha256Digest WeightsDigestOf(const std::vector<LogicalTensor>& tensors, const std::vector<Sha256Digest>& tensor_digests) {
  Sha256Stream root;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const LogicalTensor& tensor = tensors[i];
    root.UpdateUint64(tensor.name.size());
    root.Update(tensor.name);
    root.Update(Name(tensor.value.dtype()));
    root.UpdateUint64(static_cast<uint64_t>(tensor.value.rank()));
    for (int d = 0; d < tensor.value.rank(); ++d) root.UpdateUint64(static_cast<uint64_t>(tensor.value.dim(d)));
    root.Update({reinterpret_cast<const char*>(tensor_digests[i].data()), tensor_digests[i].size()});
  }
  return root.Finish();
}

Sha256Digest TensorsDigest(const Model& model) { return WeightsDigestOf(model.tensors(), std::vector<Sha256Digest>(model.tensors().size())); }

Sha256Digest SharedWeightsDigest(uint64_t version) {
  Sha256Stream digest;
  digest.Update("one weight store");
  digest.UpdateUint64(version);
  return digest.Finish();
}

Sha256Digest WeightsDigest(const Model& model, ThreadPool& threads, std::vector<Sha256Digest>* tensor_digests) {
  std::vector<Sha256Digest> digests(model.tensors().size());
  threads.ParallelForDynamic(static_cast<int64_t>(digests.size()), [&](int64_t i) {
    const Tensor& value = model.tensors()[static_cast<size_t>(i)].value;
    digests[static_cast<size_t>(i)] =
        value.empty() || value.device().is_cuda() ? DigestOfRows(model, static_cast<size_t>(i)) : Sha256(HostBytes(value).view());
  });
  const Sha256Digest root = WeightsDigestOf(model.tensors(), digests);
  if (tensor_digests != nullptr) *tensor_digests = std::move(digests);
  return root;
}

}  // namespace grouper
