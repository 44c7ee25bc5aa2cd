#include "trainer/stage.h"

#include "absl/strings/str_cat.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace grouper {

absl::Status WeightPublisher::Publish() {
  if (!changed_) return absl::OkStatus();
  RETURN_IF_ERROR(rollout_.UpdateWeights(model_, version_ + 1, threads_));
  ++version_;
  changed_ = false;
  return failpoint::Hit("trainer.weights_pushed");
}

absl::Status SkipTooLong(const v1::Stage& stage, const DataRow& row, const char* what, int64_t tokens, int64_t most, int64_t* skipped) {
  if (stage.data().too_long() == "error") {
    return absl::InvalidArgumentError(absl::StrCat(row.source, ": ", what, " of ", tokens, " tokens, expected at most ", most,
                                                   " (model.max_context; or data.too_long: \"skip\")"));
  }
  if (++*skipped < kMostSkipped) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(row.source, ": none of ", *skipped, " rows in a row fits: ", what, " of ", tokens,
                                                 " tokens, expected at most ", most, " (model.max_context)"));
}

absl::Status CountSkipped(const StageContext& context, const std::string& why, StageState& state, MetricsRow& metrics) {
  metrics.Set("fault/skipped_steps", why.empty() ? 0 : 1);
  if (why.empty()) {
    state.skipped_in_row = 0;
    return absl::OkStatus();
  }
  ++state.skipped_in_row;
  const std::string what = absl::StrCat("stage ", context.config().name(), " step ", context.RunStep(state.step), ": ", why);
  const int64_t most = context.config().optimizer().max_skipped_steps();
  if (state.skipped_in_row > most) {
    return absl::InternalError(absl::StrCat(what, "; so ended ", state.skipped_in_row, " steps in a row (optimizer.max_skipped_steps: ", most, ")"));
  }
  LOG(WARNING) << what << "; skipped, it changes no weight";
  return absl::OkStatus();
}

}  // namespace grouper
