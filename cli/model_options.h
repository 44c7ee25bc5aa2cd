// How `generate` and `eval` load their model: --dtype and --device, described once.
#pragma once

#include "absl/status/statusor.h"
#include "cli/command.h"
#include "common/tensor/tensor.h"

namespace grouper::cli {

Option DTypeOption();
Option DeviceOption();

struct ModelPlace {
  DType dtype;  // F32 or BF16
  Device device;
};
// Errors name the option: another type, a device that is not here.
absl::StatusOr<ModelPlace> PlaceFromOptions(const Arguments& arguments);

}  // namespace grouper::cli
