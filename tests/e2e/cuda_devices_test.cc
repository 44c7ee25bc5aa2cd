// Which device a run takes, and what it says when there is none: on the emulator, which can be told what CUDA finds (kernels/emulator/runtime.cc).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "tests/testing/process.h"

namespace grouper::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// A dry run's output where CUDA finds `devices`.
Outcome DryRun(const std::string& devices, const std::string& device) {
  return RunProgram({GrouperBinary(), "run", SourcePath("tests/e2e/tiny.textproto"), "--out", FreshDirectory("devices"), "--dry-run", "--set", "model.device=" + device},
                    60, {{"GROUPER_EMULATED_DEVICES", devices}, {"CUDA_VISIBLE_DEVICES", "0"}});
}

TEST(CudaDevicesTest, AnErrorSaysWhyAndWhatIsHere) {
  const struct {
    const char *devices, *device, *expected;
  } cases[] = {
      {"none", "cuda", "device \"cuda\": no NVIDIA driver is installed"},
      {"35", "cuda", "device \"cuda\": CUDA lists no device: CUDA driver version is insufficient for CUDA runtime version (the driver is for CUDA 11.4, this program"},
      {"100", "cuda:1", "device \"cuda:1\": CUDA lists no device: no CUDA-capable device is detected"},
      {"8.0", "cuda", "device \"cuda\": 1 CUDA device is here: cuda:0 emulated (compute capability 8.0); expected one of compute capability 9.0"},
      {"8.0,9.0", "cuda:0",
       "device \"cuda:0\": 2 CUDA devices are here: cuda:0 emulated (compute capability 8.0), cuda:1 emulated (compute capability 9.0); expected one of"},
      {"9.0", "cuda:3", "device \"cuda:3\": 1 CUDA device is here: cuda:0 emulated (compute capability 9.0), no cuda:3; "
                        "CUDA_VISIBLE_DEVICES is \"0\""},
  };
  for (const auto& c : cases) {
    const Outcome outcome = DryRun(c.devices, c.device);
    EXPECT_EQ(outcome.exit_code, 1) << c.devices;
    EXPECT_THAT(outcome.output, HasSubstr(c.expected));
  }
}

TEST(CudaDevicesTest, AutoTakesTheCpuAndWarnsWhereADriverIs) {
  for (const char* const devices : {"35", "100", "8.0"}) {
    const Outcome outcome = DryRun(devices, "auto");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    EXPECT_THAT(outcome.output, AllOf(HasSubstr("device \"auto\" is the CPU: "), HasSubstr("on cpu in float32"))) << devices;
  }
  EXPECT_THAT(DryRun("none", "auto").output, AllOf(Not(HasSubstr("is the CPU")), HasSubstr("on cpu in float32")));
}

TEST(CudaDevicesTest, AHopperThatIsSecondIsFound) {
  for (const char* const device : {"auto", "cuda", "cuda:1"}) {
    const Outcome outcome = DryRun("8.0,9.0", device);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("on cuda:1 in bfloat16")) << device;
  }
}

// Every kernel goes to a stream of the device that its thread has chosen, which the emulator checks.
TEST(CudaDevicesTest, ARunOnTheSecondDeviceHasTheBitsOfTheFirst) {
  std::vector<std::string> digests;
  for (const auto& [devices, device] : {std::pair("9.0", "cuda"), std::pair("8.0,9.0", "cuda:1")}) {
    const std::string out = FreshDirectory("second");
    const Outcome outcome = RunProgram({GrouperBinary(), "run", SourcePath("tests/e2e/tiny.textproto"), "--out", out, "--set", std::string("model.device=") + device, "--set",
                                        "stages[sft].steps=2", "--set", "stages[rl].steps=2"},
                                       300, {{"GROUPER_EMULATED_DEVICES", devices}});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
    digests.push_back(Digests(out));
  }
  EXPECT_EQ(digests[0], digests[1]);
}

TEST(CudaDevicesTest, BenchmarksTakeTheSecondDeviceAsWell) {
  const Outcome outcome = RunProgram({GrouperBinary(), "bench", "kernels", "--filter", "cuda swiglu"}, 120,
                                     {{"GROUPER_EMULATED_DEVICES", "8.0,9.0"}, {"GROUPER_FEW_CASES", "1"}});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("cuda swiglu gradient"));
  const Outcome none = RunProgram({GrouperBinary(), "bench", "kernels", "--filter", "cuda swiglu"}, 120, {{"GROUPER_EMULATED_DEVICES", "8.0"}});
  EXPECT_NE(none.exit_code, 0);
  EXPECT_THAT(none.output, HasSubstr("cuda:0 emulated (compute capability 8.0); expected one of compute capability 9.0"));
}

}  // namespace
}  // namespace grouper::testing
