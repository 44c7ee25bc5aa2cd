// RunControl: where those outside a run (signals, TrainerService) meet its loop. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <string>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/trainer.pb.h"

namespace grouper {

class RunControl {
 public:
  // `stop` (a signal's flag; may be null) is looked at beside RequestStop.
  explicit RunControl(std::atomic<bool>* stop = nullptr) : external_stop_(stop) {}

  // --- for those outside ---
  void RequestStop();
  void Pause();
  void Resume();
  v1::TrainerStatus Status();
  // Asks for a checkpoint after the current step, or at once while the run is paused, and waits for its path; empty when the run ended or the time is over.
  std::string CheckpointNow(absl::Duration timeout);
  // The metrics rows numbered `from` and later, waiting for the first up to `timeout`; *from is moved behind them. False when the run has ended and
  // no row is left. Old rows are dropped (kKeptRows): a slow reader misses some.
  bool Rows(uint64_t* from, absl::Duration timeout, std::deque<std::string>* rows);
  uint64_t next_row();

  // --- for the loop ---
  bool StopRequested() const;
  // True: still paused, and a checkpoint is wanted. False: go on; at once when a stop is requested.
  bool WaitWhilePaused();
  bool CheckpointWanted();
  void CheckpointSaved(const std::string& path);  // what was wanted until now is done
  // Of `status`, paused and last_checkpoint do not count: they are kept here.
  void SetStatus(const v1::TrainerStatus& status);
  void StepDone(const v1::TrainerStatus& status, const std::string& metrics_row);
  void Ended();

 private:
  static constexpr size_t kKeptRows = 1000;

  std::atomic<bool>* external_stop_;
  std::atomic<bool> stop_{false};
  absl::Mutex mutex_;
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  bool checkpoint_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t checkpoints_ ABSL_GUARDED_BY(mutex_) = 0;
  v1::TrainerStatus status_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::string> rows_ ABSL_GUARDED_BY(mutex_);
  uint64_t first_row_ ABSL_GUARDED_BY(mutex_) = 0;  // number of rows_[0]
};

}  // namespace grouper
