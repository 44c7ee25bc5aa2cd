// reward_bench [--million] [CASES.jsonl ...]: what the tables of docs/rewards.md were measured with. Each benchmark checks its result
// first, then prints one line.
//
//   math CASES   checks a second on one core, slowest check (CASES: gold, prediction or response, expect)
//   hostile      the slowest check over texts that are made to be slow
//   format       bytes a second of strict format on one core
//   service      completions a second through RewardService over TCP with format + math, then the latency at half that
//   load
//   memory       resident memory before and after a million requests (only with --million)
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/check.h"
#include "common/base/json.h"
#include "common/recipe/load_recipe.h"
#include "common/rpc/context.h"
#include "common/rpc/server.h"
#include "proto/reward.grpc.pb.h"
#include "reward/math/check.h"
#include "reward/reward_service.h"
#include "reward/rule.h"

namespace grouper {
namespace {

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Of this thread: what one core did, whatever else the machine does.
double CpuNow() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(q * static_cast<double>(values.size())))];
}

std::unique_ptr<RuleSet> Rules(const char* text) {
  v1::Reward config;
  CHECK(ParseTextProto(text, "bench", &config).ok());
  auto rules = RuleSet::Create(config, ".");
  CHECK(rules.ok()) << rules.status();
  return std::move(*rules);
}

void BenchMath(const std::string& path) {
  struct Case {
    std::string gold, text;
    bool expect;
  };
  std::vector<Case> cases;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    const auto row = json::Parse(line);
    CHECK(row.ok()) << row.status();
    cases.push_back({(*row)["gold"].get<std::string>(),
                     (row->contains("prediction") ? (*row)["prediction"] : (*row)["response"]).get<std::string>(),
                     (*row)["expect"].get<bool>()});
  }
  CHECK(!cases.empty()) << path;
  size_t true_pairs = 0, accepted = 0, false_positives = 0;
  for (const Case& c : cases) {
    const bool right = math::Check(c.gold, c.text, {}).status == math::CheckResult::Status::kRight;
    true_pairs += c.expect;
    accepted += right && c.expect;
    false_positives += right && !c.expect;
  }
  std::vector<double> times;
  const double start = CpuNow();
  while (CpuNow() - start < 2) {
    for (const Case& c : cases) {
      const double begin = CpuNow();
      math::Check(c.gold, c.text, {});
      times.push_back(CpuNow() - begin);
    }
  }
  double total = 0;
  for (const double t : times) total += t;
  std::printf("math     %s: recall %zu/%zu, false positives %zu/%zu, %.0f checks/s, p99.9 %.3f ms of processor time\n", path.c_str(),
              accepted, true_pairs, false_positives, cases.size() - true_pairs,
              static_cast<double>(times.size()) / total, 1e3 * Quantile(times, 0.999));
}

void BenchHostile() {
  const auto repeat = [](const char* piece, size_t n) {
    std::string text;
    for (size_t i = 0; i < n; ++i) text += piece;
    return text;
  };
  const std::string texts[] = {"9**9**9**9", "9^{9^{9^{9}}}", repeat("{", 100000), repeat("\\boxed{", 20000), repeat("7", 1 << 20), repeat("\\frac", 20000),
                               repeat("\\frac{1}{", 400), repeat("\xff\xfe", 50000), std::string(100000, '\0'), repeat("\\sqrt{", 600), repeat("(x+y+z)", 500),
                               "(a+b+c+d+e+f)^{200}", "1000000000!", repeat("\\sin(", 600), repeat("<answer>", 20000), repeat("$", 100000), repeat("1,", 2000), "10^{1000000000}",
                               repeat("answer is ", 20000), repeat("```", 50000), "\\binom{1000}{500}^{999}", repeat("\\pm 1", 500), repeat("x^{", 600), repeat("so it is 7. ", 80000),
                               repeat("$5$ and ", 100000), repeat("\\(", 500000), repeat("(1,2)\\cup", 400) + "(3,4)", repeat("x<1 or ", 500) + "x<2", repeat("|x|>\\sqrt{2+\\sqrt{3}} or ", 200) + "x<2",
                               "\\begin{pmatrix}" + repeat(repeat("x&", 19).append("y\\\\").c_str(), 20) + "\\end{pmatrix}^8", repeat("(\\sin{x}+\\sin{y})", 200), "0." + repeat("3", 1400) + "\\ldots",
                               repeat("the answer is not 7 or ", 40000), repeat("Step 1: ", 100000), repeat("A) ", 100000), repeat("'", 100000) + "1'000",
                               repeat("\\", 1 << 20), repeat("<", 1 << 20), repeat("a", 1 << 20), repeat("\"", 1 << 20)};
  double slowest = 0;
  std::string which;
  for (const std::string& text : texts) {
    for (const bool as_gold : {false, true}) {
      for (const bool boxed : {false, true}) {
        const std::string hostile = boxed ? absl::StrCat("\\boxed{", text, "}") : text;
        double best = 1e9;  // of three: what the machine does beside is not the check's
        for (int i = 0; i < 3; ++i) {
          const double begin = CpuNow();
          math::Check(as_gold ? hostile : "\\frac{14}{3}", as_gold ? "7" : hostile, {});
          best = std::min(best, CpuNow() - begin);
        }
        if (!as_gold && hostile.size() < 4000) {  // against nearly itself: all is read before they differ
          const double begin = CpuNow();
          math::Check(hostile, absl::StrCat(hostile, "+0"), {});
          best = std::max(best, CpuNow() - begin);
        }
        if (best > slowest) which = absl::StrCat(hostile.substr(0, 24), as_gold ? " as gold" : "");
        slowest = std::max(slowest, best);
      }
    }
  }
  std::printf("hostile  slowest check %.2f ms over %zu texts (%s...)\n", 1e3 * slowest, 4 * std::size(texts), which.c_str());
}

// Resident memory in MB.
double Resident() {
  std::ifstream in("/proc/self/statm");
  double total = 0, resident = 0;
  in >> total >> resident;
  return resident * 4096e-6;
}

void BenchMemory() {
  const auto rules = Rules("rules { weight: 0.1 format {} } rules { math {} } rules { language {} } rules { repetition {} }");
  const auto service = CreateRewardService(rules.get(), nullptr);
  double at_100000 = 0;
  for (int i = 1; i <= 1000000; ++i) {
    v1::ScoreRequest request;
    v1::ScoreGroup* group = request.add_groups();
    group->set_row_json(absl::StrCat(R"({"answer": ")", i % 1000, R"("})"));
    group->add_completions()->set_text(absl::StrCat("<think>We count to ", i, ".</think><answer>", i % 997, "</answer>"));
    v1::ScoreResponse response;
    CHECK(service->Score(nullptr, &request, &response).ok());
    if (i == 100000) at_100000 = Resident();
  }
  std::printf("memory   %.1f MB after 100,000 requests, %.1f MB after 1,000,000\n", at_100000, Resident());
}

void BenchFormat() {
  const auto rules = Rules("rules { format {} }");
  std::string text = "<think>";
  while (text.size() < (1 << 20))
    text += "So the sum of 3 and 4 is 7, and a < b holds; then we go on with the next column. ";
  text += "</think><answer>7</answer>";
  v1::ScoreRequest request;
  for (int i = 0; i < 16; ++i) request.add_groups()->add_completions()->set_text(text);
  const auto checked = rules->Score(request, nullptr);
  CHECK(checked.ok() && checked->groups(0).completions(0).reward() == 1);
  int rounds = 0;
  const double start = CpuNow();
  for (; CpuNow() - start < 1; ++rounds) CHECK(rules->Score(request, nullptr).ok());
  std::printf("format   %.2f GB/s\n", 16e-9 * rounds * static_cast<double>(text.size()) / (CpuNow() - start));
}

// `clients` threads send requests of one group of 8 until the time is up; pause > 0 spaces them. Returns completions a
// second.
double Load(const std::string& address, int clients, double seconds, double pause, std::vector<double>* latencies) {
  v1::ScoreRequest request;
  v1::ScoreGroup* group = request.add_groups();
  group->set_row_json(R"({"answer": "\\frac{14}{3}", "source": "bench"})");
  for (int i = 0; i < 8; ++i) {
    group->add_completions()->set_text(
        absl::StrCat("<think>We add the fractions and get \\frac{", 13 + i,
                     "}{3} after some steps that fill a line or two.</think><answer>\\frac{", 13 + i, "}{3}</answer>"));
  }
  std::vector<std::vector<double>> times(static_cast<size_t>(clients));
  std::vector<std::thread> threads;
  const double start = Now();
  for (int c = 0; c < clients; ++c) {
    threads.emplace_back([&, c] {
      v1::Credentials plain;
      auto channel = OpenChannel(address, plain);
      CHECK(channel.ok()) << channel.status();
      CHECK((*channel)->WaitForConnected(absl::ToChronoTime(absl::Now() + absl::Seconds(10))));
      const auto stub = v1::RewardService::NewStub(*channel);
      while (Now() - start < seconds) {
        const auto context = MakeClientContext(absl::Seconds(10));
        v1::ScoreResponse response;
        const double begin = Now();
        const grpc::Status status = stub->Score(context.get(), request, &response);
        CHECK(status.ok()) << status.error_message();
        CHECK(response.groups(0).completions(1).reward() > 1);
        times[static_cast<size_t>(c)].push_back(Now() - begin);
        if (pause > 0) std::this_thread::sleep_for(std::chrono::duration<double>(pause));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double elapsed = Now() - start;
  size_t requests = 0;
  for (const auto& t : times) {
    requests += t.size();
    if (latencies != nullptr) latencies->insert(latencies->end(), t.begin(), t.end());
  }
  return 8 * static_cast<double>(requests) / elapsed;
}

void BenchService() {
  const auto rules = Rules("rules { weight: 0.1 format {} } rules { math {} }");
  const auto service = CreateRewardService(rules.get(), nullptr);
  v1::Credentials plain;
  auto server = RpcServer::Start("127.0.0.1:0", plain, {service.get()});
  CHECK(server.ok()) << server.status();
  const std::string address = absl::StrCat("127.0.0.1:", (*server)->port());
  Load(address, 4, 0.5, 0, nullptr);
  const double full = Load(address, 4, 3, 0, nullptr);
  std::vector<double> latencies;
  const double half = Load(address, 4, 3, 4 * 8 / (full / 2), &latencies);
  std::printf("service  %.0f completions/s over TCP (4 clients, groups of 8); at %.0f/s: p50 %.2f ms, p99 %.2f ms\n",
              full, half, 1e3 * Quantile(latencies, 0.5), 1e3 * Quantile(latencies, 0.99));
  (*server)->Shutdown(1);
}

}  // namespace
}  // namespace grouper

int main(int argc, char** argv) {
  bool million = false;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--million") {
      million = true;
    } else {
      grouper::BenchMath(argv[i]);
    }
  }
  grouper::BenchHostile();
  grouper::BenchFormat();
  grouper::BenchService();
  if (million) grouper::BenchMemory();
  return 0;
}
