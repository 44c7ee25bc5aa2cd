#include "trainer/run_control.h"

#include <algorithm>

namespace grouper {

void RunControl::RequestStop() { stop_ = true; }

bool RunControl::StopRequested() const { return stop_ || (external_stop_ != nullptr && *external_stop_); }

void RunControl::Pause() {
  absl::MutexLock lock(&mutex_);
  paused_ = true;
  status_.set_paused(true);
}

void RunControl::Resume() {
  absl::MutexLock lock(&mutex_);
  paused_ = false;
  status_.set_paused(false);
}

v1::TrainerStatus RunControl::Status() {
  absl::MutexLock lock(&mutex_);
  return status_;
}

std::string RunControl::CheckpointNow(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  checkpoint_wanted_ = true;
  const uint64_t before = checkpoints_;
  auto saved = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return checkpoints_ > before || ended_; };
  mutex_.AwaitWithTimeout(absl::Condition(&saved), timeout);
  return checkpoints_ > before ? status_.last_checkpoint() : "";
}

uint64_t RunControl::next_row() {
  absl::MutexLock lock(&mutex_);
  return first_row_ + rows_.size();
}

bool RunControl::Rows(uint64_t* from, absl::Duration timeout, std::deque<std::string>* rows) {
  absl::MutexLock lock(&mutex_);
  auto ready = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return first_row_ + rows_.size() > *from || ended_; };
  mutex_.AwaitWithTimeout(absl::Condition(&ready), timeout);
  rows->clear();
  *from = std::max(*from, first_row_);
  for (; *from < first_row_ + rows_.size(); ++*from) rows->push_back(rows_[*from - first_row_]);
  return !rows->empty() || !ended_;
}

bool RunControl::WaitWhilePaused() {
  absl::MutexLock lock(&mutex_);
  auto going = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !paused_ || checkpoint_wanted_; };
  while (!mutex_.AwaitWithTimeout(absl::Condition(&going), absl::Milliseconds(200))) {
    if (StopRequested()) return false;
  }
  return paused_ && checkpoint_wanted_;
}

bool RunControl::CheckpointWanted() {
  absl::MutexLock lock(&mutex_);
  return checkpoint_wanted_;
}

void RunControl::CheckpointSaved(const std::string& path) {
  absl::MutexLock lock(&mutex_);
  status_.set_last_checkpoint(path);
  checkpoint_wanted_ = false;
  ++checkpoints_;
}

void RunControl::SetStatus(const v1::TrainerStatus& status) {
  absl::MutexLock lock(&mutex_);
  const std::string checkpoint = status_.last_checkpoint();
  const bool paused = status_.paused();
  status_ = status;
  status_.set_last_checkpoint(checkpoint);
  status_.set_paused(paused);
}

void RunControl::StepDone(const v1::TrainerStatus& status, const std::string& metrics_row) {
  SetStatus(status);
  absl::MutexLock lock(&mutex_);
  rows_.push_back(metrics_row);
  if (rows_.size() > kKeptRows) {
    rows_.pop_front();
    ++first_row_;
  }
}

void RunControl::Ended() {
  absl::MutexLock lock(&mutex_);
  ended_ = true;
}

}  // namespace grouper
