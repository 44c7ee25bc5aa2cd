#include "trainer/rollout_client.h"

#include <algorithm>
#include <deque>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/rpc/context.h"
#include "common/rpc/status.h"
#include "trainer/progress_watch.h"
#include "trainer/worker_connection.h"

namespace grouper {
namespace {

constexpr absl::Duration kRetryPause = absl::Milliseconds(300);
constexpr absl::Duration kWarnEvery = absl::Seconds(10);  // of one worker
// How often a silent worker is asked whether it works, in the time after which it is given up.
constexpr int kLooksPerTimeout = 8;
// When a stop was asked for: time without a sample after which a worker is given up, at work or not.
constexpr absl::Duration kSilenceAtStop = absl::Seconds(20);
// A stream lives as long as it makes progress; this is only the backstop that every call has.
constexpr absl::Duration kStreamDeadline = absl::Hours(24);

// An error that another worker or another try would meet as well.
bool IsFinal(const absl::Status& status) {
  return status.code() == absl::StatusCode::kInvalidArgument || status.code() == absl::StatusCode::kUnimplemented ||
         status.code() == absl::StatusCode::kUnauthenticated || status.code() == absl::StatusCode::kPermissionDenied;
}

// An error that passes by itself: the worker went away, is restarting or is full.
bool Passes(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable || status.code() == absl::StatusCode::kCancelled ||
         status.code() == absl::StatusCode::kAborted || status.code() == absl::StatusCode::kDeadlineExceeded ||
         status.code() == absl::StatusCode::kResourceExhausted;
}
// A worker that fails in another way, or hangs without a sample in between, this often in one Generate gets no more of its work.
constexpr int kMaxOwnFailures = 3;

// One Generate call: which samples are open, who has them, what came.
class Job {
 public:
  Job(const std::vector<v1::GenerateRequest>& groups, uint64_t version, int64_t vocab_size)
      : groups_(groups), version_(version), vocab_size_(vocab_size) {
    result_.resize(groups.size());
    for (size_t i = 0; i < groups.size(); ++i) {
      result_[i].resize(static_cast<size_t>(groups[i].sample_indices_size()));
      received_.emplace_back(result_[i].size(), false);
      open_ += static_cast<int64_t>(result_[i].size());
      queue_.push_back({i, groups[i]});
    }
  }

  struct Task {
    size_t group;
    v1::GenerateRequest request;  // the samples still to be made
  };

  absl::Mutex mutex;

  bool Done() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return open_ == 0 || !error_.ok(); }
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return !queue_.empty(); }
  int64_t open() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return open_; }
  // One worker will take no more; true when it was the last of `workers`.
  bool WorkerGivesUp(size_t workers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return ++given_up_ == workers; }
  const absl::Status& error() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return error_; }
  void Fail(const absl::Status& error) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (error_.ok()) error_ = error;
  }

  Task Take() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    Task task = std::move(queue_.front());
    queue_.pop_front();
    return task;
  }

  // What is left of a task goes back, first in line, as the next attempt. Returns how many samples.
  int64_t GiveBack(Task task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    v1::GenerateRequest again = task.request;
    again.clear_sample_indices();
    for (uint32_t index : task.request.sample_indices()) {
      const int place = PlaceOf(task.group, index);
      if (place >= 0 && !received_[task.group][static_cast<size_t>(place)]) again.add_sample_indices(index);
    }
    if (again.sample_indices().empty()) return 0;
    again.set_attempt(again.attempt() + 1);
    const int64_t count = again.sample_indices_size();
    queue_.push_front({task.group, std::move(again)});
    return count;
  }

  // True when the sample was open and is the answer to this task; false for a late, doubled or foreign one.
  bool Accept(const Task& task, v1::Sample sample) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const v1::SampleId& id = sample.id();
    if (id.stage() != task.request.stage() || id.group_serial() != task.request.group_serial() || id.attempt() != task.request.attempt()) return false;
    const int place = PlaceOf(task.group, id.sample_index());
    if (place < 0 || received_[task.group][static_cast<size_t>(place)]) return false;
    if (!Fits(task.request, sample)) return false;
    received_[task.group][static_cast<size_t>(place)] = true;
    fresh_.push_back(sample);
    result_[task.group][static_cast<size_t>(place)] = std::move(sample);
    --open_;
    return true;
  }

  std::vector<v1::Sample> TakeFresh() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return std::exchange(fresh_, {}); }
  std::vector<std::vector<v1::Sample>> TakeResult() { return std::move(result_); }

 private:
  // The request's prompt, then sampled tokens of the vocabulary, all at the wanted version. None only where the first one's logits were not numbers.
  bool Fits(const v1::GenerateRequest& request, const v1::Sample& sample) const {
    const int length = sample.token_ids_size(), prompt = request.prompt_token_ids_size();
    if (sample.sampled_size() != length || sample.rollout_logprobs_size() != length || length < prompt) return false;
    if (length == prompt && sample.finish_reason() != v1::FINISH_REASON_NOT_FINITE) return false;
    for (int i = 0; i < length; ++i) {
      const int32_t token = sample.token_ids(i);
      if (sample.sampled(i) != (i >= prompt)) return false;
      if (i < prompt ? token != request.prompt_token_ids(i) : token < 0 || token >= vocab_size_) return false;
    }
    int64_t covered = 0;
    for (const v1::WeightVersionSpan& span : sample.weight_versions()) {
      if (span.weight_version() != version_) return false;
      covered += span.num_tokens();
    }
    return covered == length - prompt;
  }

  int PlaceOf(size_t group, uint32_t sample_index) const {
    const auto& indices = groups_[group].sample_indices();
    const auto it = std::find(indices.begin(), indices.end(), sample_index);
    return it == indices.end() ? -1 : static_cast<int>(it - indices.begin());
  }

  const std::vector<v1::GenerateRequest>& groups_;
  const uint64_t version_;
  const int64_t vocab_size_;
  std::deque<Task> queue_ ABSL_GUARDED_BY(mutex);
  std::vector<std::vector<v1::Sample>> result_;
  std::vector<std::vector<bool>> received_;
  std::vector<v1::Sample> fresh_ ABSL_GUARDED_BY(mutex);
  int64_t open_ ABSL_GUARDED_BY(mutex) = 0;
  size_t given_up_ ABSL_GUARDED_BY(mutex) = 0;
  absl::Status error_ ABSL_GUARDED_BY(mutex);
};

class PooledRolloutClient : public RolloutClient {
 public:
  PooledRolloutClient(std::vector<Worker> workers, const Options& options, Clock& clock) : options_(options), clock_(clock) {
    for (Worker& worker : workers) slots_.push_back(std::make_unique<Slot>(std::move(worker)));
  }

  absl::Status UpdateWeights(const Model& model, uint64_t version, ThreadPool& threads) override {
    weights_.model = &model;
    weights_.version = version;
    weights_.exact_on_policy = options_.exact_on_policy;
    const bool one_store = std::all_of(slots_.begin(), slots_.end(), [](const auto& slot) { return slot->connection.in_process(); });
    weights_.digest = one_store ? SharedWeightsDigest(version) : WeightsDigest(model, threads, &weights_.tensor_digests);
    const absl::Time start = clock_.Now();
    while (true) {
      std::vector<absl::Status> outcomes(slots_.size());
      std::vector<std::thread> pushes;
      for (size_t i = 1; i < slots_.size(); ++i) {
        pushes.emplace_back([&, i] { outcomes[i] = slots_[i]->connection.BringUpToDate(weights_); });
      }
      outcomes[0] = slots_[0]->connection.BringUpToDate(weights_);
      for (std::thread& push : pushes) push.join();
      bool any = false;
      absl::Status last;
      for (size_t i = 0; i < slots_.size(); ++i) {
        any |= outcomes[i].ok();
        if (outcomes[i].ok()) continue;
        last = outcomes[i];
        if (outcomes[i].code() == absl::StatusCode::kFailedPrecondition || IsFinal(outcomes[i])) {
          CountRefused();
          return outcomes[i];
        }
        if (outcomes[i].code() == absl::StatusCode::kDataLoss) CountRefused();
        absl::MutexLock lock(&mutex_);
        Warn(*slots_[i], std::string(outcomes[i].message()));
      }
      if (any) return absl::OkStatus();
      const absl::Duration waited = clock_.Now() - start;
      if (waited >= options_.no_worker_timeout) return NoWorker(waited, last);
      if (StopRequested()) return Stopped(NoWorker(waited, last));
      clock_.Sleep(kRetryPause);
    }
  }

  absl::StatusOr<std::vector<std::vector<v1::Sample>>> Generate(const std::vector<v1::GenerateRequest>& groups,
                                                               std::function<void(const v1::Sample&)> on_sample, AtStop at_stop) override {
    if (weights_.model == nullptr) return absl::FailedPreconditionError("Generate before the first UpdateWeights");
    std::vector<v1::GenerateRequest> requests = groups;
    for (v1::GenerateRequest& request : requests) request.set_min_weight_version(weights_.version);
    Job job(requests, weights_.version, weights_.model->config().vocab_size);
    {
      absl::MutexLock lock(&mutex_);
      last_alive_ = clock_.Now();
    }
    std::vector<std::thread> threads;
    for (const std::unique_ptr<Slot>& slot : slots_) {
      threads.emplace_back([this, &job, slot = slot.get()] { Serve(job, *slot); });
    }
    // This thread hands out finished samples and watches for silence.
    ProgressWatch progress(slots_.size());
    while (true) {
      std::vector<v1::Sample> fresh;
      bool done;
      {
        absl::MutexLock lock(&job.mutex);
        job.mutex.AwaitWithTimeout(absl::Condition(&job, &Job::Done), absl::Milliseconds(50));
        fresh = job.TakeFresh();
        done = job.Done();
      }
      if (on_sample) {
        for (const v1::Sample& sample : fresh) on_sample(sample);
      }
      if (done) break;
      if (at_stop == AtStop::kCancel && StopRequested()) {
        absl::MutexLock lock(&job.mutex);
        job.Fail(absl::CancelledError(absl::StrCat("sampling was cut off with ", job.open(), " completions to go, a stop was asked for")));
        continue;
      }
      Watch(job, progress);
    }
    {
      // Whoever still reads a stream must not wait for it.
      absl::MutexLock lock(&mutex_);
      for (const std::unique_ptr<Slot>& slot : slots_) {
        if (slot->stream_context != nullptr) slot->stream_context->TryCancel();
      }
    }
    for (std::thread& thread : threads) thread.join();
    absl::MutexLock lock(&job.mutex);
    if (!job.error().ok()) return job.error();
    return job.TakeResult();
  }

  RolloutFaults faults() const override {
    absl::MutexLock lock(&mutex_);
    return faults_;
  }

 private:
  struct Slot {
    explicit Slot(Worker worker) : connection(std::move(worker)) {}
    WorkerConnection connection;
    // Guarded by the client's mutex_: the open stream, when it last moved, when the worker was last seen to work and asked whether it does.
    grpc::ClientContext* stream_context = nullptr;
    absl::Time last_activity;
    absl::Time last_progress = absl::InfinitePast(), last_look = absl::InfinitePast();
    bool has_work = false;
    bool timed_out = false;
    bool sent_samples = false;  // on the last stream
    bool receives_weights = false;
    absl::Time next_warning = absl::InfinitePast();
  };

  static std::string Seconds(absl::Duration duration) { return absl::FormatDuration(absl::Trunc(duration, absl::Milliseconds(100))); }

  // For what may repeat itself with every try.
  void Warn(Slot& slot, const std::string& text) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const absl::Time now = clock_.Now();
    if (now < slot.next_warning) return;
    slot.next_warning = now + kWarnEvery;
    LOG(WARNING) << text;
  }

  absl::Status NoWorker(absl::Duration waited, const absl::Status& last) const {
    std::vector<std::string> names;
    for (const std::unique_ptr<Slot>& slot : slots_) names.push_back(slot->connection.name());
    return absl::UnavailableError(absl::StrCat("no rollout worker answers (", absl::StrJoin(names, ", "), ") since ",
                                               Seconds(waited), "; last: ", last.message()));
  }

  bool StopRequested() const { return options_.stop_requested && options_.stop_requested(); }
  static absl::Status Stopped(const absl::Status& why) {
    return absl::CancelledError(absl::StrCat(why.message(), "; not waited for any longer, a stop was asked for"));
  }

  void CountRefused() {
    absl::MutexLock lock(&mutex_);
    ++faults_.weight_updates_refused;
  }

  // Cancels the streams of workers that are silent for too long and do not move, and fails the job when nobody has been alive for too long.
  void Watch(Job& job, ProgressWatch& progress) {
    const std::vector<size_t> moved = progress.Moved();
    const absl::Time now = clock_.Now();
    absl::Status dead;
    {
      absl::MutexLock lock(&mutex_);
      for (size_t i : moved) slots_[i]->last_progress = now;
      for (size_t i = 0; i < slots_.size(); ++i) {
        Slot* const slot = slots_[i].get();
        if (slot->stream_context == nullptr || !slot->has_work || slot->timed_out) continue;
        const absl::Duration silence = now - std::max(slot->last_activity, slot->last_progress);
        if (silence < options_.timeout) {
          if (now - std::max(slot->last_activity, slot->last_look) < options_.timeout / kLooksPerTimeout) continue;
          slot->last_look = now;
          progress.Ask(i, slot->connection.stub(), options_.timeout / 2);
          continue;
        }
        Warn(*slot, absl::StrCat("rollout worker ", slot->connection.name(), ": Generate: no sample for ", Seconds(now - slot->last_activity),
                                 " and no sign of work for ", Seconds(silence), ", its work goes to others"));
        slot->timed_out = true;
        ++faults_.timeouts;
        slot->stream_context->TryCancel();
      }
      bool streaming = false;
      for (const std::unique_ptr<Slot>& slot : slots_) streaming |= slot->stream_context != nullptr || slot->receives_weights;
      if (streaming) last_alive_ = now;
      if (now - last_alive_ >= options_.no_worker_timeout) dead = NoWorker(now - last_alive_, last_error_);
      if (dead.ok() && StopRequested()) {
        absl::Time newest = last_alive_;
        if (streaming) newest = absl::InfinitePast();
        for (const std::unique_ptr<Slot>& slot : slots_) {
          if (slot->stream_context != nullptr) newest = std::max(newest, slot->last_activity);
          if (slot->receives_weights) newest = now;
        }
        if (now - newest >= (streaming ? kSilenceAtStop : absl::Seconds(1))) {
          dead = Stopped(absl::UnavailableError(absl::StrCat("rollout workers are silent since ", Seconds(now - newest))));
        }
      }
    }
    if (dead.ok()) return;
    absl::MutexLock lock(&job.mutex);
    job.Fail(dead);
  }

  // One worker's thread during a Generate call: streams while there is work, reconnects after a loss.
  void Serve(Job& job, Slot& slot) {
    int own_failures = 0, hangs = 0;
    while (true) {
      {
        absl::MutexLock lock(&job.mutex);
        auto ready = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(job.mutex) { return job.Done() || job.HasWork(); };
        job.mutex.AwaitWithTimeout(absl::Condition(&ready), absl::Seconds(1));
        if (job.Done()) return;
        if (!job.HasWork()) continue;
      }
      absl::Status status;
      if (!slot.connection.Has(weights_)) status = Refresh(slot);
      bool hung = false;
      if (status.ok()) {
        status = Stream(job, slot);
        absl::MutexLock lock(&mutex_);
        hung = !status.ok() && slot.timed_out;
        if (std::exchange(slot.sent_samples, false)) hangs = 0;
      }
      if (status.ok()) continue;
      absl::MutexLock job_lock(&job.mutex);
      if (job.Done()) return;
      if (IsFinal(status)) {
        job.Fail(Annotate(status, absl::StrCat("rollout worker ", slot.connection.name())));
        return;
      }
      if (status.code() != absl::StatusCode::kResourceExhausted) slot.connection.Forget();
      {
        absl::MutexLock lock(&mutex_);
        last_error_ = Annotate(status, slot.connection.name());
      }
      if (hung && ++hangs == kMaxOwnFailures) {
        status = absl::DeadlineExceededError(absl::StrCat("hangs: has work and for ", absl::FormatDuration(options_.timeout),
                                                          " neither sent a sample nor made a step, ", kMaxOwnFailures, " times in a row"));
      }
      if (hangs == kMaxOwnFailures || (!Passes(status) && ++own_failures == kMaxOwnFailures)) {
        if (job.WorkerGivesUp(slots_.size())) job.Fail(Annotate(status, absl::StrCat("rollout worker ", slot.connection.name())));
        return;
      }
      auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(job.mutex) { return job.Done(); };
      job.mutex.AwaitWithTimeout(absl::Condition(&done), kRetryPause);
    }
  }

  // Sends a worker that has come back the weights. While they travel it counts as alive.
  absl::Status Refresh(Slot& slot) {
    ASSIGN_OR_RETURN(const bool up_to_date, slot.connection.IsUpToDate(weights_));
    if (up_to_date) return absl::OkStatus();
    auto receives = [&](bool value) {
      absl::MutexLock lock(&mutex_);
      slot.receives_weights = value;
    };
    receives(true);
    const absl::Status status = slot.connection.Push(weights_);
    receives(false);
    return status;
  }

  // Samples that one worker holds at most: three quarters of its even share of what is open, so that whoever is faster finds more.
  int64_t HoldAtMost(int64_t open) const {
    if (slots_.size() == 1) return kMostHeld;
    return std::clamp<int64_t>(open * 3 / (4 * static_cast<int64_t>(slots_.size())), kLeastHeld, kMostHeld);
  }
  static constexpr int64_t kLeastHeld = 8;
  static constexpr int64_t kMostHeld = 8192;  // well below a worker's queue

  absl::Status Stream(Job& job, Slot& slot) {
    const auto context = MakeClientContext(kStreamDeadline);
    const auto stream = slot.connection.stub().Generate(context.get());
    {
      absl::MutexLock lock(&mutex_);
      slot.stream_context = context.get();
      slot.last_activity = clock_.Now();
      slot.timed_out = false;
    }
    std::vector<Job::Task> held;
    int64_t held_samples = 0;
    bool writable = true, finished = false;
    absl::Status injected;
    v1::GenerateResponse response;
    while (true) {
      // Take and send as much as this worker should hold.
      std::vector<size_t> fresh;
      {
        absl::MutexLock lock(&job.mutex);
        while (writable && !job.Done() && job.HasWork() && held_samples < HoldAtMost(job.open())) {
          held.push_back(job.Take());
          held_samples += held.back().request.sample_indices_size();
          fresh.push_back(held.size() - 1);
        }
        finished = job.Done() || held_samples == 0;
      }
      {
        absl::MutexLock lock(&mutex_);
        if (!slot.has_work) slot.last_activity = clock_.Now();
        slot.has_work = held_samples > 0;
      }
      for (size_t i : fresh) {
        injected = failpoint::Hit("client.generate_sent");
        if (!injected.ok()) break;
        writable = writable && stream->Write(held[i].request);
      }
      if (finished || !writable || !injected.ok()) break;
      if (!stream->Read(&response)) {
        writable = false;
        break;
      }
      injected = failpoint::Hit("client.sample_received");
      if (!injected.ok()) break;
      {
        absl::MutexLock lock(&mutex_);
        slot.last_activity = clock_.Now();
      }
      absl::MutexLock lock(&job.mutex);
      bool accepted = false;
      for (const Job::Task& task : held) {
        if (task.request.group_serial() == response.sample().id().group_serial()) accepted |= job.Accept(task, response.sample());
      }
      absl::MutexLock own(&mutex_);
      if (accepted) {
        --held_samples;
        slot.sent_samples = true;
      } else {
        ++faults_.late_answers;
      }
    }
    if (!injected.ok() || held_samples > 0) {
      // Given up by us, or already ended by the worker: then cancelling would hide the worker's own status.
      if (writable) context->TryCancel();
    } else {
      stream->WritesDone();
    }
    while (stream->Read(&response)) {
    }
    absl::Status status = FromGrpc(stream->Finish());
    bool timed_out;
    {
      absl::MutexLock lock(&mutex_);
      slot.stream_context = nullptr;
      slot.has_work = false;
      timed_out = slot.timed_out;
    }
    absl::MutexLock lock(&job.mutex);
    if (job.Done() || (finished && writable && held_samples == 0)) return absl::OkStatus();
    // Lost: everything that it still had goes back.
    int64_t retried = 0;
    for (Job::Task& task : held) retried += job.GiveBack(std::move(task));
    if (!injected.ok()) status = injected;
    if (status.ok() || timed_out) status = absl::UnavailableError(timed_out ? "silent for too long" : "the stream ended early");
    absl::MutexLock own(&mutex_);
    ++faults_.worker_losses;
    faults_.retried_samples += retried;
    Warn(slot, absl::StrCat("rollout worker ", slot.connection.name(), ": Generate: ", status.message(), "; ", retried, " samples are made again"));
    return status;
  }

  const Options options_;
  Clock& clock_;
  std::vector<std::unique_ptr<Slot>> slots_;
  PublishedWeights weights_;  // changes only in UpdateWeights, while no Generate runs

  mutable absl::Mutex mutex_;  // after job.mutex
  RolloutFaults faults_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_alive_ ABSL_GUARDED_BY(mutex_);
  absl::Status last_error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<RolloutClient>> RolloutClient::Create(std::vector<Worker> workers, const Options& options, Clock& clock) {
  if (workers.empty()) return absl::InvalidArgumentError("rollout.addresses: expected at least one worker");
  return std::make_unique<PooledRolloutClient>(std::move(workers), options, clock);
}

}  // namespace grouper
