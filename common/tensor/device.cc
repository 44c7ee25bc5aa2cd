#include <algorithm>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/tensor/cuda.h"

namespace grouper {
namespace {

std::string Describe(int index) {
  const CudaDevices::Card& card = ListCudaDevices().cards[static_cast<size_t>(index)];
  return absl::StrCat("cuda:", index, " ", cuda::CardName(index), " (compute capability ", card.major, ".", card.minor, ")");
}

// Why the CUDA device of this index cannot be used; empty: it can.
std::string WhyNot(int index) {
  const CudaDevices& here = ListCudaDevices();
  const int count = static_cast<int>(here.cards.size());
  if (index < count && here.cards[static_cast<size_t>(index)].usable()) return "";
  if (!here.driver) return here.error;
  const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
  const std::string seen = visible == nullptr ? "CUDA_VISIBLE_DEVICES is not set" : absl::StrCat("CUDA_VISIBLE_DEVICES is \"", visible, "\"");
  if (count == 0) return absl::StrCat(here.error, "; ", seen);
  std::vector<std::string> cards;
  for (int i = 0; i < count; ++i) cards.push_back(Describe(i));
  return absl::StrCat(count, count == 1 ? " CUDA device is here: " : " CUDA devices are here: ", absl::StrJoin(cards, ", "),
                      index < count ? "; expected one of compute capability 9.0 (Hopper: H100, H200); " : absl::StrCat(", no cuda:", index, "; "), seen);
}

// The first usable device, or -1.
int FirstUsable() {
  const std::vector<CudaDevices::Card>& cards = ListCudaDevices().cards;
  const auto first = std::find_if(cards.begin(), cards.end(), [](const CudaDevices::Card& card) { return card.usable(); });
  return first == cards.end() ? -1 : static_cast<int>(first - cards.begin());
}

}  // namespace

std::string Name(Device device) { return !device.is_cuda() ? "cpu" : absl::StrCat("cuda:", device.index); }

int NumCudaDevices() {
  const std::vector<CudaDevices::Card>& cards = ListCudaDevices().cards;
  return static_cast<int>(std::count_if(cards.begin(), cards.end(), [](const CudaDevices::Card& card) { return card.usable(); }));
}

Device AutoDevice() {
  static const Device device = [] {
    const int first = FirstUsable();
    if (first >= 0) return Device{Device::Kind::kCuda, first};
    if (ListCudaDevices().driver) LOG(WARNING) << "device \"auto\" is the CPU: " << WhyNot(0);
    return Device{};
  }();
  return device;
}

absl::StatusOr<Device> ParseDevice(const std::string& name) {
  if (name == "cpu") return Device{};
  if (name.empty() || name == "auto") return AutoDevice();
  absl::string_view rest = name;
  int index = std::max(0, FirstUsable());
  const bool ok = absl::ConsumePrefix(&rest, "cuda") &&
                  (rest.empty() || (absl::ConsumePrefix(&rest, ":") && absl::SimpleAtoi(rest, &index) && index >= 0));
  if (ok) return Device{Device::Kind::kCuda, index};
  return absl::InvalidArgumentError(absl::StrCat("device \"", name, "\": expected \"auto\", \"cpu\", \"cuda\" or \"cuda:N\""));
}

absl::StatusOr<Device> FindDevice(const std::string& name) {
  ASSIGN_OR_RETURN(const Device device, ParseDevice(name));
  const std::string why = device.is_cuda() ? WhyNot(device.index) : "";
  if (why.empty()) return device;
  return absl::FailedPreconditionError(absl::StrCat("device \"", name, "\": ", why));
}

absl::Status CheckDevice(Device device) { return FindDevice(Name(device)).status(); }

}  // namespace grouper
