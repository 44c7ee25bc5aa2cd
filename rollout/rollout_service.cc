#include "rollout/rollout_service.h"

#include <unistd.h>

#include <deque>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/rpc/status.h"
#include "rollout/generate_call.h"
#include "rollout/weight_receiver.h"

namespace grouper {
namespace {

struct QueuedGroup {
  std::shared_ptr<GenerateCall> call;
  v1::GenerateRequest request;
};

class RolloutServiceOverEngine : public v1::RolloutService::WithCallbackMethod_Generate<v1::RolloutService::Service> {
 public:
  RolloutServiceOverEngine(Model& model, ThreadPool& threads, const RolloutServiceOptions& options, std::unique_ptr<Engine> engine)
      : model_(model),
        threads_(threads),
        options_(options),
        engine_(std::move(engine)),
        process_id_(absl::StrCat(getpid(), "-", absl::ToUnixMicros(absl::Now()))),
        tensors_digest_(TensorsDigest(model)),
        thread_([this] { EngineLoop(); }) {}

  ~RolloutServiceOverEngine() override {
    {
      absl::MutexLock lock(&mutex_);
      stop_ = true;
    }
    thread_.join();
  }

  grpc::ServerBidiReactor<v1::GenerateRequest, v1::GenerateResponse>* Generate(grpc::CallbackServerContext*) override {
    return GenerateCall::Start(
        [this](const std::shared_ptr<GenerateCall>& call, const v1::GenerateRequest& request) { return Enqueue(call, request); });
  }

  grpc::Status UpdateWeights(grpc::ServerContext*, grpc::ServerReader<v1::UpdateWeightsRequest>* reader,
                             v1::UpdateWeightsResponse* response) override {
    absl::MutexLock update_lock(&update_mutex_);  // one update at a time
    const absl::Status status = Update(reader, response);
    ResumeEngine();
    if (!status.ok()) LOG(WARNING) << "weight update refused: " << status.message();
    return ToGrpc(status);
  }

  grpc::Status GetStatus(grpc::ServerContext*, const v1::RolloutStatusRequest*, v1::RolloutStatus* status) override {
    absl::MutexLock lock(&mutex_);
    status->set_weight_version(version_);
    status->set_weight_digest(digest_);
    status->set_serving(version_ > 0);
    status->set_numerics_id(NumericsId(model_.dtype(), model_.device()));
    status->set_model(absl::StrCat(model_.config().architecture, ", ", model_.config().NumParameters(), " parameters"));
    status->set_process_id(process_id_);
    status->set_running_sequences(static_cast<uint32_t>(stats_.running));
    status->set_waiting_sequences(static_cast<uint32_t>(stats_.waiting));
    status->set_free_pages(static_cast<uint32_t>(stats_.free_pages));
    status->set_total_pages(static_cast<uint32_t>(stats_.total_pages));
    status->set_sampled_tokens(stats_.sampled_tokens);
    status->set_preemptions(stats_.preemptions);
    status->set_engine_steps(stats_.steps);
    status->set_max_context(static_cast<uint32_t>(engine_->max_context()));
    status->set_tensors_digest(tensors_digest_.data(), tensors_digest_.size());
    return grpc::Status::OK;
  }

 private:
  absl::Status Enqueue(const std::shared_ptr<GenerateCall>& call, const v1::GenerateRequest& request) {
    RETURN_IF_ERROR(failpoint::Hit("rollout.generate_received"));
    absl::MutexLock lock(&mutex_);
    if (version_ == 0) return absl::FailedPreconditionError("this worker has no weights yet: send UpdateWeights first");
    if (request.min_weight_version() > version_) {
      return absl::FailedPreconditionError(absl::StrCat("group ", request.group_serial(), " asks for weight version ", request.min_weight_version(),
                                                        ", this worker serves ", version_));
    }
    const int64_t samples = request.sample_indices_size();
    if (queued_samples_ + stats_.running + stats_.waiting + samples > options_.max_queued_samples) {
      return absl::ResourceExhaustedError(absl::StrCat("group ", request.group_serial(), ": more than ", options_.max_queued_samples,
                                                       " samples would be queued; retry in a second"));
    }
    queued_samples_ += samples;
    call->Expect(samples);
    queue_.push_back({call, request});
    return absl::OkStatus();
  }

  // --- weights --------------------------------------------------------------------------------------------------------------

  absl::Status Update(grpc::ServerReader<v1::UpdateWeightsRequest>* reader, v1::UpdateWeightsResponse* response) {
    WeightReceiver receiver(model_, threads_, options_.shared_weights);
    v1::UpdateWeightsRequest request;
    bool begun = false;
    while (reader->Read(&request)) {
      switch (request.part_case()) {
        case v1::UpdateWeightsRequest::kManifest: {
          RETURN_IF_ERROR(receiver.Begin(request.manifest()));
          begun = true;
          absl::MutexLock lock(&mutex_);
          if (request.manifest().partial() && version_ == 0) return absl::FailedPreconditionError("a partial update before a full one");
          // From here on the old weights are gone: what runs is dropped and nothing is served until the commit.
          PauseEngine();
          version_ = 0;
          digest_.clear();
          break;
        }
        case v1::UpdateWeightsRequest::kChunk: RETURN_IF_ERROR(receiver.Receive(request.chunk())); break;
        case v1::UpdateWeightsRequest::kCommit: {
          ASSIGN_OR_RETURN(const Sha256Digest digest, receiver.Commit(request.commit()));
          absl::MutexLock lock(&mutex_);
          version_ = request.commit().version();
          digest_.assign(digest.begin(), digest.end());
          response->set_version(version_);
          response->set_digest(digest_);
          return failpoint::Hit("rollout.weights_swapped");
        }
        case v1::UpdateWeightsRequest::PART_NOT_SET: return absl::InvalidArgumentError("an empty part");
      }
    }
    return absl::DataLossError(begun ? "the update broke off before its commit" : "the update had no manifest");
  }

  void PauseEngine() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    pause_wanted_ = true;
    mutex_.Await(absl::Condition(&paused_));  // the engine thread looks between two passes
  }

  void ResumeEngine() {
    absl::MutexLock lock(&mutex_);
    pause_wanted_ = false;
  }

  // --- the engine's thread ------------------------------------------------------------------------------------------------------

  void EngineLoop() {
    while (true) {
      std::deque<QueuedGroup> groups;
      uint64_t version;
      int64_t moved;  // samples that go from the queue to the engine
      {
        absl::MutexLock lock(&mutex_);
        stats_ = engine_->stats();
        if (pause_wanted_) {
          DropAll(absl::AbortedError("the weights are being replaced"));
          paused_ = true;
          auto resume = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !pause_wanted_ || stop_; };
          mutex_.Await(absl::Condition(&resume));
          paused_ = false;
        }
        auto work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_ || pause_wanted_ || !queue_.empty() || busy_; };
        mutex_.AwaitWithTimeout(absl::Condition(&work), absl::Seconds(1));
        if (stop_) {
          DropAll(absl::UnavailableError("the worker is stopping"));
          return;
        }
        if (pause_wanted_) continue;
        groups.swap(queue_);
        version = version_;
        moved = queued_samples_;
      }
      for (QueuedGroup& group : groups) Begin(std::move(group), version);
      DropFailedCalls();
      const absl::StatusOr<bool> progress = engine_->Step();
      absl::MutexLock lock(&mutex_);
      if (progress.ok()) {
        queued_samples_ -= moved;
      } else {
        DropAll(progress.status());
      }
      const Engine::Stats stats = engine_->stats();
      stats_ = stats;
      busy_ = stats.running + stats.waiting > 0;
    }
  }

  void Begin(QueuedGroup group, uint64_t version) {
    const std::shared_ptr<GenerateCall> call = std::move(group.call);
    if (call->state() == GenerateCall::State::kFailed) return;
    if (version == 0) return call->Fail(absl::FailedPreconditionError("this worker has no weights yet: send UpdateWeights first"));
    const auto deliver = [this, call](v1::Sample sample) {
      // Said once a version: a broken model breaks all samples. Whoever shares this process says it himself.
      if (const absl::Status finite = CheckFinite(sample); !finite.ok() && !options_.shared_weights) {
        const uint64_t at = sample.weight_versions(0).weight_version();
        if (std::exchange(warned_version_, at) != at) LOG(WARNING) << "weight version " << at << ": " << finite.message();
      }
      call->Deliver(std::move(sample));
    };
    const absl::Status status = engine_->Add(group.request, version, deliver, {}, call.get());
    if (!status.ok()) return call->Fail(status);
    if (calls_.empty() || calls_.back() != call) calls_.push_back(call);
  }

  // Work of calls whose client has gone is dropped; calls that are over are forgotten.
  void DropFailedCalls() {
    std::erase_if(calls_, [this](const std::shared_ptr<GenerateCall>& call) {
      const GenerateCall::State state = call->state();
      if (state == GenerateCall::State::kFailed) engine_->AbortOwner(call.get());
      return state != GenerateCall::State::kOpen;
    });
  }

  void DropAll(const absl::Status& reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (const QueuedGroup& group : queue_) group.call->Fail(reason);
    queue_.clear();
    queued_samples_ = 0;
    for (const std::shared_ptr<GenerateCall>& call : calls_) call->Fail(reason);
    calls_.clear();
    engine_->Abort();
    busy_ = false;
  }

  Model& model_;
  ThreadPool& threads_;
  const RolloutServiceOptions options_;
  std::unique_ptr<Engine> engine_;         // engine thread only
  std::vector<std::shared_ptr<GenerateCall>> calls_;  // engine thread only; one may stand here more than once
  uint64_t warned_version_ = 0;            // engine thread only: whose logits were not finite, the newest
  const std::string process_id_;
  const Sha256Digest tensors_digest_;

  absl::Mutex update_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  absl::Mutex mutex_;
  std::deque<QueuedGroup> queue_ ABSL_GUARDED_BY(mutex_);
  int64_t queued_samples_ ABSL_GUARDED_BY(mutex_) = 0;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool pause_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t version_ ABSL_GUARDED_BY(mutex_) = 0;  // 0: serves nothing
  std::string digest_ ABSL_GUARDED_BY(mutex_);
  Engine::Stats stats_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;  // last: starts when all else is there
};

}  // namespace

absl::StatusOr<std::unique_ptr<v1::RolloutService::Service>> MakeRolloutService(Model& model, std::shared_ptr<const Tokenizer> tokenizer,
                                                                               ThreadPool& threads, const RolloutServiceOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, Engine::Create(model, std::move(tokenizer), threads, options.engine));
  return std::make_unique<RolloutServiceOverEngine>(model, threads, options, std::move(engine));
}

}  // namespace grouper
