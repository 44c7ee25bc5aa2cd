// WeightReceiver: one update of a worker's weights, from manifest to commit, verified before a token is sampled from it.
//
//   manifest: names, dtypes and shapes must be the model's; digest of each tensor and over all.
//   chunks:   in the manifest's order, without gaps; a finished tensor's SHA-256 must be the manifest's.
//   commit:   all tensors of the manifest came; the digest over the whole model is recomputed and must be the manifest's.
//
// Chunks are written straight into the model (a tensor that it keeps packed is first put together), so after any error the model is unusable until
// a good full update: the caller serves nothing meanwhile. Errors: DataLoss naming the tensor (bad bytes, gaps), InvalidArgument (a manifest that does not fit), FailedPrecondition (numerics_id).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "common/model/model.h"
#include "proto/rollout.pb.h"

namespace grouper {

class WeightReceiver {
 public:
  WeightReceiver(Model& model, ThreadPool& threads, bool shared_weights) : model_(model), threads_(threads), shared_(shared_weights) {}

  absl::Status Begin(const v1::WeightManifest& manifest);
  absl::Status Receive(const v1::WeightChunk& chunk);
  // Returns the digest over all; packs the weights for use.
  absl::StatusOr<Sha256Digest> Commit(const v1::WeightCommit& commit);

 private:
  absl::Status FinishTensor();

  Model& model_;
  ThreadPool& threads_;
  bool shared_;
  v1::WeightManifest manifest_;
  std::vector<int> target_;  // manifest index -> model tensor
  bool begun_ = false;
  uint32_t current_ = 0;     // tensor being received
  uint64_t received_ = 0;    // bytes of it
  std::string staged_;       // these bytes, of a tensor that has no memory of its own in the model
};

}  // namespace grouper
