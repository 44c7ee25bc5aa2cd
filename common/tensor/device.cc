#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/tensor/cuda.h"

namespace grouper {

std::string Name(Device device) { return !device.is_cuda() ? "cpu" : absl::StrCat("cuda:", device.index); }

absl::StatusOr<Device> ParseDevice(const std::string& name) {
  if (name == "cpu") return Device{};
  if (name.empty() || name == "auto") return NumCudaDevices() > 0 ? Device{Device::Kind::kCuda, 0} : Device{};
  absl::string_view rest = name;
  int index = 0;
  const bool ok = absl::ConsumePrefix(&rest, "cuda") &&
                  (rest.empty() || (absl::ConsumePrefix(&rest, ":") && absl::SimpleAtoi(rest, &index) && index >= 0));
  if (ok) return Device{Device::Kind::kCuda, index};
  return absl::InvalidArgumentError(absl::StrCat("device \"", name, "\": expected \"auto\", \"cpu\", \"cuda\" or \"cuda:N\""));
}

absl::StatusOr<Device> FindDevice(const std::string& name) {
  ASSIGN_OR_RETURN(const Device device, ParseDevice(name));
  if (!device.is_cuda() || device.index < NumCudaDevices()) return device;
  return absl::FailedPreconditionError(
      absl::StrCat("device \"", name, "\": ", NumCudaDevices(), " CUDA devices of compute capability 9.0 (Hopper) are here"));
}

}  // namespace grouper
