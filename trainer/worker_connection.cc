#include "trainer/worker_connection.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/failpoint.h"
#include "common/base/status.h"
#include "common/rpc/context.h"
#include "common/rpc/status.h"
#include "common/tensor/host_memory.h"

namespace grouper {
namespace {

constexpr absl::Duration kStatusTimeout = absl::Seconds(5);
constexpr size_t kChunkBytes = 4 << 20;

std::string Bytes(const Sha256Digest& digest) { return std::string(digest.begin(), digest.end()); }

v1::WeightManifest MakeManifest(const PublishedWeights& weights, bool in_process) {
  v1::WeightManifest manifest;
  manifest.set_version(weights.version);
  manifest.set_transport(in_process ? v1::WEIGHT_TRANSPORT_IN_PROCESS : v1::WEIGHT_TRANSPORT_GRPC);
  manifest.set_digest(Bytes(in_process ? SharedWeightsDigest(weights.version) : weights.digest));
  manifest.set_numerics_id(NumericsId(weights.model->dtype(), weights.model->device()));
  manifest.set_exact_on_policy(weights.exact_on_policy);
  if (in_process) return manifest;
  for (size_t i = 0; i < weights.model->tensors().size(); ++i) {
    const LogicalTensor& tensor = weights.model->tensors()[i];
    v1::WeightManifest::Tensor* entry = manifest.add_tensors();
    entry->set_name(tensor.name);
    entry->set_dtype(Name(tensor.value.dtype()));
    for (int d = 0; d < tensor.value.rank(); ++d) entry->add_shape(tensor.value.dim(d));
    entry->set_sha256(Bytes(weights.tensor_digests[i]));
  }
  return manifest;
}

}  // namespace

WorkerConnection::WorkerConnection(RolloutClient::Worker worker)
    : worker_(std::move(worker)), stub_(v1::RolloutService::NewStub(worker_.channel)) {}

absl::StatusOr<bool> WorkerConnection::IsUpToDate(const PublishedWeights& weights) {
  v1::RolloutStatus status;
  const auto context = MakeClientContext(kStatusTimeout);
  const absl::Status answer = FromGrpc(stub_->GetStatus(context.get(), {}, &status));
  if (!answer.ok()) {
    Forget();
    return Annotate(answer, absl::StrCat("rollout worker ", name(), ": GetStatus"));
  }
  const bool same_process = status.process_id() == process_id_;
  process_id_ = status.process_id();
  if (same_process && status.weight_version() == weights.version && status.weight_digest() == Bytes(weights.digest)) {
    version_ = weights.version;
    return true;
  }
  return false;
}

absl::Status WorkerConnection::BringUpToDate(const PublishedWeights& weights) {
  ASSIGN_OR_RETURN(const bool up_to_date, IsUpToDate(weights));
  return up_to_date ? absl::OkStatus() : Push(weights);
}

absl::Status WorkerConnection::Push(const PublishedWeights& weights) {
  RETURN_IF_ERROR(failpoint::Hit("client.weights_sent"));
  size_t total = 0;
  for (const LogicalTensor& tensor : weights.model->tensors()) total += NumBytes(tensor.value);
  // A minute, and a second more for every 10 MB.
  const auto context = MakeClientContext(absl::Minutes(1) + absl::Seconds(static_cast<double>(total) / 10e6));
  v1::UpdateWeightsResponse response;
  const auto writer = stub_->UpdateWeights(context.get(), &response);
  v1::UpdateWeightsRequest request;
  *request.mutable_manifest() = MakeManifest(weights, worker_.in_process);
  bool open = writer->Write(request);
  for (size_t i = 0; open && !worker_.in_process && i < weights.model->tensors().size(); ++i) {
    const HostBytes bytes(weights.model->tensors()[i].value);
    const size_t size = bytes.view().size();
    for (size_t offset = 0; open && offset < size; offset += kChunkBytes) {
      v1::WeightChunk* chunk = request.mutable_chunk();
      chunk->set_tensor_index(static_cast<uint32_t>(i));
      chunk->set_offset(offset);
      chunk->set_data(bytes.data() + offset, std::min(kChunkBytes, size - offset));
      open = writer->Write(request);
    }
  }
  if (open) {
    request.mutable_commit()->set_version(weights.version);
    writer->Write(request);
  }
  writer->WritesDone();
  const absl::Status status = FromGrpc(writer->Finish());
  if (!status.ok()) {
    Forget();
    return Annotate(status, absl::StrCat("rollout worker ", name(), ": UpdateWeights to version ", weights.version));
  }
  if (response.version() != weights.version || response.digest() != Bytes(weights.digest)) {
    Forget();
    return absl::DataLossError(absl::StrCat("rollout worker ", name(), ": UpdateWeights answered with another version or digest"));
  }
  version_ = weights.version;
  return absl::OkStatus();
}

}  // namespace grouper
