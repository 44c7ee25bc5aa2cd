// `grouper serve` as a child process.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/testing/process.h"

namespace grouper::testing {

// A service of tests/e2e/tiny.textproto with `sets` as in --set, on a free port; ended with this object.
class Service {
 public:
  Service(const std::string& kind, int port, const std::map<std::string, std::string>& environment = {}, const std::vector<std::string>& sets = {})
      : process_(Command(kind, port, sets), environment) {
    const bool up = process_.WaitForOutput("listening on port ", 30);
    EXPECT_TRUE(up) << process_.Output();
    const std::string output = process_.Output();
    const size_t at = output.find("listening on port ");
    if (at != std::string::npos) {
      const std::string rest = output.substr(at + 18);
      EXPECT_TRUE(absl::SimpleAtoi(rest.substr(0, rest.find('\n')), &port_));
    }
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  int port() const { return port_; }
  Process& process() { return process_; }

 private:
  static std::vector<std::string> Command(const std::string& kind, int port, const std::vector<std::string>& sets) {
    std::vector<std::string> argv = {GrouperBinary(), "serve", kind, "--recipe", SourcePath("tests/e2e/tiny.textproto"), "--set", "threads=1", "--listen",
                                     absl::StrCat("127.0.0.1:", port)};
    for (const std::string& set : sets) argv.insert(argv.end(), {"--set", set});
    return argv;
  }

  Process process_;
  int port_ = 0;
};

}  // namespace grouper::testing
