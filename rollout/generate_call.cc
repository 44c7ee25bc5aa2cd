#include "rollout/generate_call.h"

#include <utility>

#include "common/rpc/status.h"

namespace grouper {

GenerateCall* GenerateCall::Start(Enqueue enqueue) {
  const std::shared_ptr<GenerateCall> call(new GenerateCall(std::move(enqueue)));
  call->self_ = call;
  call->StartRead(&call->request_);
  return call.get();
}

void GenerateCall::Expect(int64_t samples) {
  absl::MutexLock lock(&mutex_);
  expected_ += samples;
}

void GenerateCall::Deliver(v1::Sample sample) {
  absl::MutexLock lock(&mutex_);
  if (!error_.ok()) return;
  ready_.push_back(std::move(sample));
  Proceed();
}

void GenerateCall::Fail(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (!error_.ok() || finished_) return;
  error_ = status;
  ready_.clear();
  Proceed();
}

GenerateCall::State GenerateCall::state() const {
  absl::MutexLock lock(&mutex_);
  if (!error_.ok()) return State::kFailed;
  return finished_ ? State::kServed : State::kOpen;
}

void GenerateCall::Proceed() {
  if (writing_ || finished_) return;
  if (!error_.ok() || (no_more_groups_ && expected_ == 0)) {
    finished_ = true;
    Finish(ToGrpc(error_));
    return;
  }
  if (ready_.empty()) return;
  *response_.mutable_sample() = std::move(ready_.front());
  ready_.pop_front();
  writing_ = true;
  StartWrite(&response_);
}

void GenerateCall::OnReadDone(bool ok) {
  if (ok) {
    const absl::Status status = enqueue_(self_, request_);
    if (!status.ok()) return Fail(status);
    absl::MutexLock lock(&mutex_);
    if (!finished_) StartRead(&request_);
    return;
  }
  absl::MutexLock lock(&mutex_);
  no_more_groups_ = true;
  Proceed();
}

void GenerateCall::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  writing_ = false;
  --expected_;
  if (!ok && error_.ok()) error_ = absl::CancelledError("the client went away");
  Proceed();
}

void GenerateCall::OnCancel() { Fail(absl::CancelledError("the client went away")); }

void GenerateCall::OnDone() {
  // May be the last reference: nothing of this object is touched afterwards.
  const std::shared_ptr<GenerateCall> last = std::move(self_);
}

}  // namespace grouper
