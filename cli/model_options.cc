#include "cli/model_options.h"

#include "common/base/status.h"
#include "common/tensor/cuda.h"

namespace grouper::cli {

Option DTypeOption() {
  return {.name = "dtype", .placeholder = "TYPE", .help = "float32 or bfloat16 (default: float32, on a GPU bfloat16)", .default_text = ""};
}

Option DeviceOption() {
  return {.name = "device", .placeholder = "DEVICE", .help = "auto (a GPU if there is one), cpu, cuda or cuda:N", .default_text = "auto"};
}

absl::StatusOr<ModelPlace> PlaceFromOptions(const Arguments& arguments) {
  const std::string dtype = arguments.Get("dtype");
  if (arguments.Has("dtype") && dtype != "float32" && dtype != "bfloat16") {
    return absl::InvalidArgumentError("--dtype " + dtype + ": expected float32 or bfloat16");
  }
  ModelPlace place;
  ASSIGN_OR_RETURN(place.device, Annotate(FindDevice(arguments.Get("device")), "--device"));
  place.dtype = dtype == "bfloat16" || (dtype.empty() && place.device.is_cuda()) ? DType::kBF16 : DType::kF32;
  return place;
}

}  // namespace grouper::cli
