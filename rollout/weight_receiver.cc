#include "rollout/weight_receiver.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/failpoint.h"
#include "common/base/status.h"
#include "common/tensor/host_memory.h"

namespace grouper {
namespace {

bool SameDigest(const std::string& bytes, const Sha256Digest& digest) {
  return bytes.size() == digest.size() && std::memcmp(bytes.data(), digest.data(), digest.size()) == 0;
}

}  // namespace

absl::Status WeightReceiver::Begin(const v1::WeightManifest& manifest) {
  if (begun_) return absl::InvalidArgumentError("a second manifest in one update");
  if (manifest.version() == 0) return absl::InvalidArgumentError("manifest.version: 0, expected at least 1");
  const std::string own = NumericsId(model_.dtype(), model_.device());
  if (manifest.exact_on_policy() && manifest.numerics_id() != own) {
    return absl::FailedPreconditionError(absl::StrCat("numerics_id: the trainer has \"", manifest.numerics_id(), "\", this worker \"", own,
                                                      "\"; exact_on_policy needs the same"));
  }
  const bool in_process = manifest.transport() == v1::WEIGHT_TRANSPORT_IN_PROCESS;
  if (in_process != shared_) {
    return absl::InvalidArgumentError(shared_ ? "manifest.transport: this worker shares the trainer's weights, expected IN_PROCESS"
                                              : "manifest.transport: this worker has its own weights, expected GRPC");
  }
  target_.clear();
  if (!in_process) {
    if (!manifest.partial() && static_cast<size_t>(manifest.tensors_size()) != model_.tensors().size()) {
      return absl::InvalidArgumentError(absl::StrCat("manifest.tensors: ", manifest.tensors_size(), ", this worker's model has ",
                                                     model_.tensors().size()));
    }
    std::vector<bool> seen(model_.tensors().size(), false);
    for (const v1::WeightManifest::Tensor& tensor : manifest.tensors()) {
      const int index = model_.FindTensor(tensor.name());
      if (index < 0) return absl::InvalidArgumentError(absl::StrCat("manifest: tensor ", tensor.name(), " is not in this worker's model"));
      if (seen[index]) return absl::InvalidArgumentError(absl::StrCat("manifest: tensor ", tensor.name(), " twice"));
      seen[index] = true;
      const Tensor& value = model_.tensors()[index].value;
      bool same = tensor.dtype() == Name(value.dtype()) && tensor.shape_size() == value.rank();
      for (int d = 0; same && d < value.rank(); ++d) same = tensor.shape(d) == value.dim(d);
      if (!same) {
        return absl::InvalidArgumentError(absl::StrCat("manifest: tensor ", tensor.name(), " is ", tensor.dtype(), " of another shape, expected ",
                                                       value.ShapeString()));
      }
      target_.push_back(index);
    }
  }
  manifest_ = manifest;
  begun_ = true;
  return absl::OkStatus();
}

absl::Status WeightReceiver::FinishTensor() {
  const size_t index = static_cast<size_t>(target_[current_]);
  const Tensor& value = model_.tensors()[index].value;
  const Sha256Digest digest = value.empty() ? Sha256(staged_) : Sha256(HostBytes(value).view());
  if (!SameDigest(manifest_.tensors(static_cast<int>(current_)).sha256(), digest)) {
    return absl::DataLossError(absl::StrCat("tensor ", manifest_.tensors(static_cast<int>(current_)).name(), ": wrong SHA-256 after transfer"));
  }
  if (value.empty()) model_.WriteRows(index, 0, value.dim(0), staged_.data());
  staged_.clear();
  ++current_;
  received_ = 0;
  return absl::OkStatus();
}

absl::Status WeightReceiver::Receive(const v1::WeightChunk& chunk) {
  RETURN_IF_ERROR(failpoint::Hit("rollout.weights_chunk"));
  if (!begun_) return absl::InvalidArgumentError("a chunk before the manifest");
  if (current_ >= target_.size()) return absl::DataLossError("a chunk after the last tensor");
  const std::string& name = manifest_.tensors(static_cast<int>(current_)).name();
  if (chunk.tensor_index() != current_ || chunk.offset() != received_) {
    return absl::DataLossError(absl::StrCat("tensor ", name, ": chunk (", chunk.tensor_index(), ", ", chunk.offset(), ") came, expected (", current_,
                                            ", ", received_, ")"));
  }
  const Tensor& value = model_.tensors()[target_[current_]].value;
  const uint64_t left = NumBytes(value) - received_;
  if (chunk.data().empty() || chunk.data().size() > left) {
    return absl::DataLossError(absl::StrCat("tensor ", name, ": chunk of ", chunk.data().size(), " bytes where ", left, " are left"));
  }
  if (value.empty()) {
    staged_.append(chunk.data());
  } else {
    WriteBytes(value, received_, chunk.data());
  }
  received_ += chunk.data().size();
  return received_ == NumBytes(value) ? FinishTensor() : absl::OkStatus();
}

absl::StatusOr<Sha256Digest> WeightReceiver::Commit(const v1::WeightCommit& commit) {
  if (!begun_) return absl::InvalidArgumentError("a commit before the manifest");
  if (commit.version() != manifest_.version()) return absl::DataLossError("commit of another version than the manifest's");
  if (current_ != target_.size()) {
    return absl::DataLossError(absl::StrCat("commit before tensor ", manifest_.tensors(static_cast<int>(current_)).name(), " was complete"));
  }
  RETURN_IF_ERROR(failpoint::Hit("rollout.before_swap"));
  const Sha256Digest digest = shared_ ? SharedWeightsDigest(manifest_.version()) : WeightsDigest(model_, threads_);
  if (!SameDigest(manifest_.digest(), digest)) {
    return absl::DataLossError(absl::StrCat("weights digest is ", Hex(digest), " after the update to version ", manifest_.version(),
                                            ", not the manifest's"));
  }
  Stream stream(threads_, model_.device());
  if (!shared_) model_.WeightsChanged(stream);
  return digest;
}

}  // namespace grouper
