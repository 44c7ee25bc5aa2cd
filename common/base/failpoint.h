// Named places where a test can make the program fail. Always compiled in; costs one relaxed load when nothing is
// armed.
//
//   GROUPER_FAIL=checkpoint.before_rename:2:kill          the second time that place is reached, SIGKILL to ourselves
//   GROUPER_FAIL=rollout.first_token:1:stop,trainer.loss:3:nan
//
// Grammar: NAME:COUNT:ACTION[=ARG], separated by commas. COUNT is the ordinal of the hit that fires (1 = first), or N+
// for "from the N-th on". Actions: kill (SIGKILL), stop (SIGSTOP), error (the place returns Unavailable "injected
// failure at NAME"), delay=MILLISECONDS, nan (the place poisons its value). An unknown name or action or a malformed
// entry is an error at start. docs/reliability.md lists the names, failpoint.cc has them too (layering_test compares).
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace grouper::failpoint {

// Reads GROUPER_FAIL. A name that no place has is an error that lists those of its part ("rollout."). Call once in main.
absl::Status InitFromEnvironment();

// For tests in this process. Replaces what was armed; "" disarms. Counts start again. Takes any name.
absl::Status Arm(absl::string_view spec);

// Marks a place. OK unless `error` fires here.
absl::Status Hit(absl::string_view name);

// Marks a place that has a number to poison: true when `nan` fires here (other actions act as in Hit, `error`
// excepted).
bool HitNan(absl::string_view name);

}  // namespace grouper::failpoint
