// The client against real workers over TCP and in process, and against doubles that go silent, double, delay or forge their answers.
#include "trainer/rollout_client.h"

#include <atomic>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/base/failpoint.h"
#include "common/rpc/server.h"
#include "gmock/gmock.h"
#include "rollout/rollout_service.h"
#include "tests/rollout/rollout_world.h"

namespace grouper {
namespace {

using testing::HasSubstr;

// A rollout worker with its own model, on a TCP port.
class RealWorker {
 public:
  explicit RealWorker(const std::string& listen = "127.0.0.1:0") : threads_(1) {
    model_ = *Model::Create(TinyConfig("llama"), DType::kF32);
    RolloutServiceOptions options;
    options.engine.max_sequences = 8;
    service_ = *MakeRolloutService(*model_, TinyTokenizer(), threads_, options);
    server_ = *RpcServer::Start(listen, {}, {service_.get()});
  }
  ~RealWorker() { server_->Shutdown(0); }
  std::string address() const { return absl::StrCat("127.0.0.1:", server_->port()); }
  RolloutClient::Worker worker() const { return {address(), *OpenChannel(address(), {}), false}; }

 private:
  ThreadPool threads_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<v1::RolloutService::Service> service_;
  std::unique_ptr<RpcServer> server_;
};

// Takes any weights; answers Generate as `answer` says.
class DoubleWorker : public v1::RolloutService::Service {
 public:
  using Stream = grpc::ServerReaderWriter<v1::GenerateResponse, v1::GenerateRequest>;
  using Answer = std::function<grpc::Status(grpc::ServerContext&, Stream&)>;
  // status: before GetStatus is answered.
  explicit DoubleWorker(Answer answer, std::function<void(grpc::ServerContext&, v1::RolloutStatus&)> status = {})
      : answer_(std::move(answer)), status_(std::move(status)), server_(*RpcServer::Start("127.0.0.1:0", {}, {this})) {}
  ~DoubleWorker() override { server_->Shutdown(0); }
  RolloutClient::Worker worker() const {
    const std::string address = absl::StrCat("127.0.0.1:", server_->port());
    return {address, *OpenChannel(address, {}), false};
  }
  int streams() const { return streams_; }

  grpc::Status Generate(grpc::ServerContext* context, Stream* stream) override {
    ++streams_;
    return answer_(*context, *stream);
  }
  grpc::Status UpdateWeights(grpc::ServerContext*, grpc::ServerReader<v1::UpdateWeightsRequest>* reader,
                             v1::UpdateWeightsResponse* response) override {
    v1::UpdateWeightsRequest request;
    while (reader->Read(&request)) {
      if (!request.has_manifest()) continue;
      response->set_version(request.manifest().version());
      response->set_digest(request.manifest().digest());
    }
    return grpc::Status::OK;
  }
  grpc::Status GetStatus(grpc::ServerContext* context, const v1::RolloutStatusRequest*, v1::RolloutStatus* status) override {
    status->set_process_id("double");
    if (status_) status_(*context, *status);
    return grpc::Status::OK;
  }

 private:
  const Answer answer_;
  const std::function<void(grpc::ServerContext&, v1::RolloutStatus&)> status_;
  std::atomic<int> streams_ = 0;
  std::unique_ptr<RpcServer> server_;
};

class RolloutClientTest : public testing::Test {
 protected:
  RolloutClientTest() : threads_(1), stream_(threads_), model_(TinyModel("llama", DType::kF32, stream_)) {
    for (uint64_t i = 0; i < 12; ++i) groups_.push_back(MakeGroup(i, 5 + 20 * static_cast<int64_t>(i % 4), 4, 40));
    expected_ = BitsOf(RunAll(*MakeEngine(*model_, threads_), groups_));
  }
  ~RolloutClientTest() override { EXPECT_TRUE(failpoint::Arm("").ok()); }

  static RolloutClient::Options Quick() {
    RolloutClient::Options options;
    options.timeout = absl::Seconds(1);
    options.no_worker_timeout = absl::Seconds(2);
    return options;
  }

  std::unique_ptr<RolloutClient> Connect(std::vector<RolloutClient::Worker> workers, RolloutClient::Options options = Quick()) {
    std::unique_ptr<RolloutClient> client = *RolloutClient::Create(std::move(workers), options);
    const absl::Status status = client->UpdateWeights(*model_, ++version_, threads_);
    EXPECT_TRUE(status.ok()) << status;
    return client;
  }

  // All samples came once, through the callback and in the result's order, with the bits that one engine makes.
  void ExpectGood(RolloutClient& client, const std::function<void(int)>& after = {}) {
    Samples seen;
    int count = 0;
    const std::thread::id caller = std::this_thread::get_id();
    const auto result = client.Generate(groups_, [&](const v1::Sample& sample) {
      EXPECT_EQ(std::this_thread::get_id(), caller);
      AddTo(seen, sample);
      if (after) after(++count);
    }, AtStop::kFinish);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(seen, expected_);
    ASSERT_EQ(result->size(), groups_.size());
    for (size_t i = 0; i < groups_.size(); ++i) {
      ASSERT_EQ((*result)[i].size(), 4u);
      for (size_t j = 0; j < 4; ++j) {
        EXPECT_EQ((*result)[i][j].id().group_serial(), i);
        EXPECT_EQ((*result)[i][j].id().sample_index(), j);
      }
    }
  }

  ThreadPool threads_;
  Stream stream_;
  std::unique_ptr<Model> model_;
  std::vector<v1::GenerateRequest> groups_;
  Samples expected_;
  uint64_t version_ = 0;
};

TEST_F(RolloutClientTest, OneWorkerTwoWorkersAndInProcessGiveTheSameBits) {
  RealWorker a, b;
  ExpectGood(*Connect({a.worker()}));
  ExpectGood(*Connect({a.worker(), b.worker()}));
  RolloutServiceOptions shared;
  shared.shared_weights = true;
  const auto service = *MakeRolloutService(*model_, TinyTokenizer(), threads_, shared);
  const auto server = *RpcServer::Start("", {}, {service.get()});
  {
    const auto client = Connect({{"in process", server->InProcessChannel(), true}});
    ExpectGood(*client);
    EXPECT_EQ(client->faults().worker_losses, 0);
  }
  server->Shutdown(1);
}

TEST_F(RolloutClientTest, AWorkerThatDiesInTheMiddleCostsNoSample) {
  auto a = std::make_unique<RealWorker>();
  RealWorker b;
  const auto client = Connect({a->worker(), b.worker()});
  ASSERT_TRUE(failpoint::Arm("rollout.decode:1+:delay=2").ok());
  ExpectGood(*client, [&](int count) {
    if (count == 3) a.reset();
  });
  EXPECT_GE(client->faults().worker_losses, 1);
  EXPECT_GE(client->faults().retried_samples, 1);
}

TEST_F(RolloutClientTest, TheOnlyWorkerRestartsAndGetsTheWeightsAgain) {
  auto a = std::make_unique<RealWorker>();
  const std::string address = a->address();
  RolloutClient::Options options = Quick();
  options.no_worker_timeout = absl::Seconds(20);
  const auto client = Connect({a->worker()}, options);
  ExpectGood(*client);
  a.reset();
  a = std::make_unique<RealWorker>(address);
  ExpectGood(*client);
  ASSERT_TRUE(failpoint::Arm("rollout.decode:1+:delay=2").ok());
  ExpectGood(*client, [&](int count) {
    if (count != 3) return;
    a.reset();
    a = std::make_unique<RealWorker>(address);
  });
}

TEST_F(RolloutClientTest, ASilentWorkerLosesItsWork) {
  DoubleWorker silent([](grpc::ServerContext& context, DoubleWorker::Stream&) {
    while (!context.IsCancelled()) absl::SleepFor(absl::Milliseconds(10));
    return grpc::Status::CANCELLED;
  });
  RealWorker b;
  const auto client = Connect({silent.worker(), b.worker()});
  const absl::Time start = absl::Now();
  ExpectGood(*client);
  EXPECT_LT(absl::Now() - start, absl::Seconds(4));
  EXPECT_GE(client->faults().timeouts, 1);
}

TEST_F(RolloutClientTest, AWorkerWhoseCompletionsTakeLongerThanTheTimeoutIsWaitedFor) {
  groups_ = {MakeGroup(0, 9, 4, 40)};
  expected_ = BitsOf(RunAll(*MakeEngine(*model_, threads_), groups_));
  RealWorker remote;
  RolloutServiceOptions shared;
  shared.shared_weights = true;
  const auto service = *MakeRolloutService(*model_, TinyTokenizer(), threads_, shared);
  const auto server = *RpcServer::Start("", {}, {service.get()});
  for (const RolloutClient::Worker& worker : {remote.worker(), RolloutClient::Worker{"in process", server->InProcessChannel(), true}}) {
    const auto client = Connect({worker});
    // 2.4 s without a sample, at a time-out of 1 s; not for ever, if it were made again and again.
    ASSERT_TRUE(failpoint::Arm("rollout.decode:1+:delay=60").ok());
    absl::Notification done;
    std::thread fast([&] {
      done.WaitForNotificationWithTimeout(absl::Seconds(10));
      EXPECT_TRUE(failpoint::Arm("").ok());
    });
    const absl::Time start = absl::Now();
    ExpectGood(*client);
    EXPECT_GT(absl::Now() - start, absl::Seconds(2));
    done.Notify();
    EXPECT_EQ(client->faults().timeouts, 0) << worker.name;
    EXPECT_EQ(client->faults().retried_samples, 0) << worker.name;
    fast.join();
  }
  server->Shutdown(1);
}

TEST_F(RolloutClientTest, AWorkerWhoseEngineHangsLosesItsWorkThoughItsStatusIsAnswered) {
  RealWorker a, b;
  const auto client = Connect({a.worker(), b.worker()});
  ASSERT_TRUE(failpoint::Arm("rollout.decode:20:delay=5000").ok());  // one of them
  const absl::Time start = absl::Now();
  ExpectGood(*client);
  EXPECT_LT(absl::Now() - start, absl::Seconds(4));
  EXPECT_GE(client->faults().timeouts, 1);
}

TEST_F(RolloutClientTest, WhereAllWorkersHangTheCallEndsAndSaysSo) {
  std::atomic<int> times = 0;
  DoubleWorker silent([&](grpc::ServerContext& context, DoubleWorker::Stream&) {
    ++times;
    while (!context.IsCancelled()) absl::SleepFor(absl::Milliseconds(10));
    return grpc::Status::CANCELLED;
  });
  const auto client = Connect({silent.worker()});
  const absl::Time start = absl::Now();
  const auto result = client->Generate(groups_, {}, AtStop::kFinish);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(result.status().message()), testing::AllOf(HasSubstr(silent.worker().name), HasSubstr("hangs"), HasSubstr("3 times in a row")));
  EXPECT_EQ(times, 3);
  EXPECT_LT(absl::Now() - start, absl::Seconds(8));
}

TEST_F(RolloutClientTest, AWorkerThatHangsNowAndThenButSendsSamplesKeepsItsWork) {
  // Each hang comes some steps after the shortest group that is left has ended; the others begin again.
  groups_.clear();
  for (uint64_t i = 0; i < 5; ++i) groups_.push_back(MakeGroup(i, 5, 4, 10 + 15 * static_cast<int64_t>(i)));
  expected_ = BitsOf(RunAll(*MakeEngine(*model_, threads_), groups_));
  RealWorker a;
  const auto client = Connect({a.worker()});
  ASSERT_TRUE(failpoint::Arm("rollout.decode:18:delay=1500,rollout.decode:51:delay=1500,rollout.decode:99:delay=1500,rollout.decode:162:delay=1500").ok());
  ExpectGood(*client);
  EXPECT_GT(client->faults().timeouts, 3);
}

TEST_F(RolloutClientTest, AWorkerWhoseStatusDoesNotComeIsNotWaitedForEither) {
  const DoubleWorker::Answer silent = [](grpc::ServerContext& context, DoubleWorker::Stream&) {
    while (!context.IsCancelled()) absl::SleepFor(absl::Milliseconds(10));
    return grpc::Status::CANCELLED;
  };
  std::atomic<bool> mute = false;
  std::atomic<uint64_t> asked = 0;
  DoubleWorker hangs(silent, [&](grpc::ServerContext& context, v1::RolloutStatus& status) {
    status.set_engine_steps(++asked);  // would be progress
    while (mute && !context.IsCancelled()) absl::SleepFor(absl::Milliseconds(10));
  });
  RealWorker b;
  const auto client = Connect({hangs.worker(), b.worker()});
  mute = true;
  const absl::Time start = absl::Now();
  absl::Time last_sample;
  ExpectGood(*client, [&](int) { last_sample = absl::Now(); });
  EXPECT_LT(last_sample - start, absl::Seconds(4));
  EXPECT_GE(client->faults().timeouts, 1);
  EXPECT_GE(asked, 2u);
}

TEST_F(RolloutClientTest, ForgedAndDoubledAnswersAreDropped) {
  // Answers each sample of each group with several wrong ones, then with the right one twice.
  const std::vector<v1::Sample> good = RunAll(*MakeEngine(*model_, threads_), groups_);
  DoubleWorker forger([&](grpc::ServerContext&, DoubleWorker::Stream& stream) {
    v1::GenerateRequest request;
    while (stream.Read(&request)) {
      for (uint32_t index : request.sample_indices()) {
        v1::GenerateResponse response;
        for (const v1::Sample& sample : good) {
          if (sample.id().group_serial() == request.group_serial() && sample.id().sample_index() == index) *response.mutable_sample() = sample;
        }
        v1::Sample& right = *response.mutable_sample();
        right.mutable_id()->set_attempt(request.attempt());
        right.mutable_weight_versions(0)->set_weight_version(request.min_weight_version());
        const v1::Sample kept = right;
        auto forge = [&](const std::function<void(v1::Sample&)>& change) {
          right = kept;
          change(right);
          stream.Write(response);
        };
        forge([](v1::Sample& s) { s.mutable_id()->set_attempt(s.id().attempt() + 1); });
        forge([](v1::Sample& s) { s.mutable_id()->set_stage(9); });
        forge([](v1::Sample& s) { s.mutable_id()->set_sample_index(99); });
        forge([](v1::Sample& s) { s.mutable_weight_versions(0)->set_weight_version(77); });
        forge([](v1::Sample& s) { s.clear_rollout_logprobs(); });
        forge([](v1::Sample& s) { s.set_token_ids(0, s.token_ids(0) ^ 1); });
        forge([](v1::Sample& s) { s.set_token_ids(s.token_ids_size() - 1, 4000000); });
        forge([](v1::Sample& s) { s.set_sampled(s.token_ids_size() - 1, false); });
        forge([](v1::Sample& s) { s.clear_weight_versions(); });
        forge([&](v1::Sample& s) {  // the prompt alone, and nothing said of logits that were not numbers
          s.mutable_token_ids()->Truncate(request.prompt_token_ids_size());
          s.mutable_sampled()->Truncate(request.prompt_token_ids_size());
          s.mutable_rollout_logprobs()->Truncate(request.prompt_token_ids_size());
          s.mutable_weight_versions(0)->set_num_tokens(0);
        });
        forge([](v1::Sample&) {});
        forge([](v1::Sample&) {});
      }
    }
    return grpc::Status::OK;
  });
  const auto client = Connect({forger.worker()});
  ExpectGood(*client);
  EXPECT_GE(client->faults().late_answers, 10 * 48);
}

TEST_F(RolloutClientTest, APromptThatIsTooLongEndsTheCallNamingTheGroup) {
  RealWorker a, b;
  const auto client = Connect({a.worker(), b.worker()});
  groups_[7] = MakeGroup(7, 256, 4, 4);
  const auto result = client->Generate(groups_, {}, AtStop::kFinish);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
  EXPECT_THAT(std::string(result.status().message()), testing::AllOf(HasSubstr("group 7"), HasSubstr("127.0.0.1:")));
}

TEST_F(RolloutClientTest, AWorkerThatKeepsFailingEndsTheCall) {
  DoubleWorker sick([](grpc::ServerContext&, DoubleWorker::Stream&) { return grpc::Status(grpc::StatusCode::INTERNAL, "out of order"); });
  const auto result = Connect({sick.worker()})->Generate(groups_, {}, AtStop::kFinish);
  EXPECT_THAT(std::string(result.status().message()), testing::AllOf(HasSubstr("out of order"), HasSubstr("127.0.0.1:")));
  EXPECT_EQ(sick.streams(), 3);
  RealWorker healthy;
  ExpectGood(*Connect({sick.worker(), healthy.worker()}));
}

TEST_F(RolloutClientTest, ASampleWhoseLogitsAreNotNumbersComesAsItIsAndIsNotMadeAgain) {
  RealWorker a, b;
  for (const char* where : {"rollout.logits:1:nan", "rollout.logits:300:nan"}) {  // without and with tokens before
    const auto client = Connect({a.worker(), b.worker()});
    ASSERT_TRUE(failpoint::Arm(where).ok());
    const auto result = client->Generate(groups_, {}, AtStop::kFinish);
    ASSERT_TRUE(result.ok()) << result.status();
    std::vector<v1::Sample> whole;
    int broken = 0;
    for (const std::vector<v1::Sample>& group : *result) {
      for (const v1::Sample& sample : group) {
        broken += sample.finish_reason() == v1::FINISH_REASON_NOT_FINITE;
        if (sample.finish_reason() != v1::FINISH_REASON_NOT_FINITE) whole.push_back(sample);
      }
    }
    EXPECT_EQ(broken, 1) << where;
    Samples expected = expected_;
    const Samples bits = BitsOf(whole);
    std::erase_if(expected, [&](const auto& entry) { return bits.count(entry.first) == 0; });
    EXPECT_EQ(bits, expected);
    EXPECT_EQ(client->faults().worker_losses, 0);
    EXPECT_EQ(client->faults().retried_samples, 0);
    EXPECT_EQ(client->faults().late_answers, 0);
  }
}

TEST_F(RolloutClientTest, NoWorkerLeftIsAnErrorThatNamesThem) {
  auto a = std::make_unique<RealWorker>();
  const std::string address = a->address();
  const auto client = Connect({a->worker()});
  a.reset();
  const absl::Time start = absl::Now();
  const auto result = client->Generate(groups_, {}, AtStop::kFinish);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(result.status().message()), testing::ContainsRegex(address + "\\) since [2-9](\\.[0-9])?s; "));
  EXPECT_LT(absl::Now() - start, absl::Seconds(12));
  EXPECT_THAT(std::string(client->UpdateWeights(*model_, 99, threads_).message()), HasSubstr(address));
}

int CountOf(const std::string& text, const std::string& what) {
  int count = 0;
  for (size_t at = text.find(what); at != text.npos; at = text.find(what, at + 1)) ++count;
  return count;
}

TEST_F(RolloutClientTest, AWorkerThatStaysAwayIsSaidOnceInTenSeconds) {
  RealWorker a;
  auto b = std::make_unique<RealWorker>();
  const std::string gone = b->address();
  const auto client = Connect({a.worker(), b->worker()});
  b.reset();
  testing::internal::CaptureStderr();
  // As many steps as a small model makes in a few seconds.
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(client->UpdateWeights(*model_, ++version_, threads_).ok());
  EXPECT_EQ(CountOf(testing::internal::GetCapturedStderr(), "rollout worker " + gone), 1);
}

TEST_F(RolloutClientTest, HowLongNoWorkerAnswersIsSaidAsItWasAndOnlyOnceInTenSeconds) {
  auto a = std::make_unique<RealWorker>();
  const std::string address = a->address();
  std::atomic<bool> stop = false;
  RolloutClient::Options options = Quick();
  options.no_worker_timeout = absl::Seconds(30);
  options.stop_requested = [&] { return stop.load(); };
  const auto client = Connect({a->worker()}, options);
  a.reset();
  std::thread stopper([&] {
    absl::SleepFor(absl::Seconds(2));
    stop = true;
  });
  testing::internal::CaptureStderr();
  const absl::Status status = client->UpdateWeights(*model_, ++version_, threads_);
  EXPECT_EQ(CountOf(testing::internal::GetCapturedStderr(), "rollout worker " + address), 1);
  stopper.join();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::ContainsRegex(address + "\\) since [2-6](\\.[0-9])?s; "));
}

TEST_F(RolloutClientTest, AStopEndsWhatIsNotAStepAtOnceAndTheWorkerDropsIt) {
  RealWorker a;
  std::atomic<bool> stop = false;
  RolloutClient::Options options = Quick();
  options.timeout = absl::Seconds(60);
  options.stop_requested = [&] { return stop.load(); };
  const auto client = Connect({a.worker()}, options);
  ASSERT_TRUE(failpoint::Arm("rollout.decode:3+:delay=300").ok());
  std::thread stopper([&] {
    absl::SleepFor(absl::Seconds(1));
    stop = true;
  });
  const absl::Time start = absl::Now();
  const auto result = client->Generate(groups_, {}, AtStop::kCancel);
  EXPECT_LT(absl::Now() - start, absl::Seconds(8));
  stopper.join();
  EXPECT_TRUE(absl::IsCancelled(result.status())) << result.status();
  EXPECT_THAT(std::string(result.status().message()), testing::ContainsRegex("cut off with [0-9]+ completions to go, a stop was asked for"));
  // A step's work is finished all the same, and the worker has nothing left of the other.
  ASSERT_TRUE(failpoint::Arm("").ok());
  ExpectGood(*client);
}

TEST_F(RolloutClientTest, AFullWorkerIsAskedAgain) {
  RealWorker a;
  const auto client = Connect({a.worker()});
  std::atomic<int> refused = 0;
  DoubleWorker full([&](grpc::ServerContext&, DoubleWorker::Stream&) {
    ++refused;
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full");
  });
  ExpectGood(*Connect({full.worker(), a.worker()}));
  EXPECT_GE(refused, 1);
}

TEST_F(RolloutClientTest, FailuresOfTheClientsOwnCostNoSample) {
  RealWorker a, b;
  for (const char* place : {"client.generate_sent:1:error", "client.generate_sent:3:error", "client.sample_received:5:error"}) {
    const auto client = Connect({a.worker(), b.worker()});
    ASSERT_TRUE(failpoint::Arm(place).ok());
    ExpectGood(*client);
    EXPECT_EQ(client->faults().worker_losses, 1) << place;
    ASSERT_TRUE(failpoint::Arm("").ok());
  }
}

}  // namespace
}  // namespace grouper
