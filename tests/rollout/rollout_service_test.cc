// The service over real channels: weight updates that are verified, statuses that arrive as they were meant, bounded queues.
#include "rollout/rollout_service.h"

#include "common/base/failpoint.h"
#include "common/rpc/context.h"
#include "common/rpc/server.h"
#include "common/rpc/status.h"
#include "gmock/gmock.h"
#include "proto/reward.grpc.pb.h"
#include "tests/rollout/rollout_world.h"

namespace grouper {
namespace {

using testing::HasSubstr;
using Parts = std::vector<v1::UpdateWeightsRequest>;

class RolloutServiceTest : public testing::TestWithParam<bool> {
 protected:
  RolloutServiceTest() : threads_(1), stream_(threads_), trained_(TinyModel("llama", DType::kF32, stream_)) { Start({}); }
  ~RolloutServiceTest() override {
    EXPECT_TRUE(failpoint::Arm("").ok());
    server_->Shutdown(0);
  }

  void Start(RolloutServiceOptions options) {
    if (server_ != nullptr) server_->Shutdown(0);
    service_.reset();
    absl::StatusOr<std::unique_ptr<Model>> model = Model::Create(TinyConfig("llama"), DType::kF32, {}, WeightUse::kForward);
    ASSERT_TRUE(model.ok());
    worker_model_ = *std::move(model);
    Model& served = options.shared_weights ? *trained_ : *worker_model_;
    service_ = *MakeRolloutService(served, TinyTokenizer(), threads_, options);
    server_ = *RpcServer::Start(GetParam() ? "127.0.0.1:0" : "", {}, {service_.get()});
    const std::shared_ptr<grpc::Channel> channel =
        GetParam() ? *OpenChannel(absl::StrCat("127.0.0.1:", server_->port()), {}) : server_->InProcessChannel();
    // A first connection may fail: gRPC 1.51 reads errno after it was overwritten (grpc/grpc#35064).
    ASSERT_TRUE(!GetParam() || channel->WaitForConnected(absl::ToChronoTime(absl::Now() + absl::Seconds(30))));
    stub_ = v1::RolloutService::NewStub(channel);
  }

  // Manifest, chunks of 1000 bytes, commit.
  Parts GoodUpdate(uint64_t version) {
    Parts parts(1);
    v1::WeightManifest& manifest = *parts[0].mutable_manifest();
    manifest.set_version(version);
    manifest.set_transport(v1::WEIGHT_TRANSPORT_GRPC);
    manifest.set_numerics_id(NumericsId(DType::kF32));
    manifest.set_exact_on_policy(true);
    std::vector<Sha256Digest> digests;
    const Sha256Digest digest = WeightsDigest(*trained_, threads_, &digests);
    manifest.set_digest(digest.data(), digest.size());
    for (size_t i = 0; i < digests.size(); ++i) AddTensor(parts, i, digests[i]);
    parts.emplace_back().mutable_commit()->set_version(version);
    return parts;
  }

  void AddTensor(Parts& parts, size_t i, const Sha256Digest& digest) {
    const LogicalTensor& tensor = trained_->tensors()[i];
    v1::WeightManifest& manifest = *parts[0].mutable_manifest();
    v1::WeightManifest::Tensor* entry = manifest.add_tensors();
    entry->set_name(tensor.name);
    entry->set_dtype("F32");
    for (int d = 0; d < tensor.value.rank(); ++d) entry->add_shape(tensor.value.dim(d));
    entry->set_sha256(digest.data(), digest.size());
    const size_t size = static_cast<size_t>(tensor.value.size()) * 4;
    for (size_t offset = 0; offset < size; offset += 1000) {
      v1::WeightChunk* chunk = parts.emplace_back().mutable_chunk();
      chunk->set_tensor_index(static_cast<uint32_t>(manifest.tensors_size() - 1));
      chunk->set_offset(offset);
      chunk->set_data(static_cast<const char*>(tensor.value.raw()) + offset, std::min<size_t>(1000, size - offset));
    }
  }

  absl::Status Send(const Parts& parts) {
    const auto context = MakeClientContext(absl::Seconds(20));
    v1::UpdateWeightsResponse response;
    const auto writer = stub_->UpdateWeights(context.get(), &response);
    for (const v1::UpdateWeightsRequest& part : parts) {
      if (!writer->Write(part)) break;
    }
    writer->WritesDone();
    return FromGrpc(writer->Finish());
  }

  v1::RolloutStatus GetStatus() {
    v1::RolloutStatus status;
    const auto context = MakeClientContext(absl::Seconds(10));
    EXPECT_TRUE(stub_->GetStatus(context.get(), {}, &status).ok());
    return status;
  }

  absl::Status Generate(const std::vector<v1::GenerateRequest>& groups, std::vector<v1::Sample>* samples = nullptr, bool half_close = true) {
    const auto context = MakeClientContext(absl::Seconds(30));
    const auto stream = stub_->Generate(context.get());
    for (const v1::GenerateRequest& group : groups) stream->Write(group);
    if (half_close) stream->WritesDone();
    v1::GenerateResponse response;
    while (stream->Read(&response)) {
      if (samples != nullptr) samples->push_back(response.sample());
    }
    return FromGrpc(stream->Finish());
  }

  ThreadPool threads_;
  Stream stream_;
  std::unique_ptr<Model> trained_, worker_model_;
  std::unique_ptr<v1::RolloutService::Service> service_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<v1::RolloutService::Stub> stub_;
};

TEST_P(RolloutServiceTest, GivesTheEnginesSamples) {
  ASSERT_TRUE(Send(GoodUpdate(3)).ok());
  std::vector<v1::Sample> samples;
  const absl::Status status = Generate(MixedGroups(), &samples);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(BitsOf(samples), BitsOf(RunAll(*MakeEngine(*trained_, threads_), MixedGroups())));
  for (const v1::Sample& sample : samples) EXPECT_EQ(sample.weight_versions(0).weight_version(), 3u);
}

TEST_P(RolloutServiceTest, ServesNothingBeforeItsFirstWeights) {
  EXPECT_FALSE(GetStatus().serving());
  const absl::Status status = Generate({MakeGroup(1, 5, 1, 4)});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("no weights yet"));
}

TEST_P(RolloutServiceTest, DamagedUpdatesAreRefusedAndServeNothing) {
  const Parts good = GoodUpdate(5);
  const struct {
    const char* name;
    absl::StatusCode code;
    const char* says;
    std::function<void(Parts&)> damage;
  } cases[] = {
      {"a flipped bit", absl::StatusCode::kDataLoss, "wrong SHA-256", [](Parts& p) { (*p[3].mutable_chunk()->mutable_data())[17] ^= 4; }},
      {"a dropped chunk", absl::StatusCode::kDataLoss, "model.embed_tokens.weight", [](Parts& p) { p.erase(p.begin() + 2); }},
      {"a doubled chunk", absl::StatusCode::kDataLoss, "expected", [](Parts& p) { p.insert(p.begin() + 2, p[2]); }},
      {"reordered chunks", absl::StatusCode::kDataLoss, "expected", [](Parts& p) { std::swap(p[1], p[2]); }},
      {"a short chunk", absl::StatusCode::kDataLoss, "expected", [](Parts& p) { p[1].mutable_chunk()->mutable_data()->pop_back(); }},
      {"a long chunk", absl::StatusCode::kDataLoss, "bytes where", [](Parts& p) { p[1].mutable_chunk()->mutable_data()->append(10000, 'x'); }},
      {"a chunk too many", absl::StatusCode::kDataLoss, "after the last", [](Parts& p) { p.insert(p.end() - 1, p[p.size() - 2]); }},
      {"the last tensor missing", absl::StatusCode::kDataLoss, "model.norm.weight", [](Parts& p) { p.erase(p.end() - 2); }},
      {"no commit", absl::StatusCode::kDataLoss, "broke off", [](Parts& p) { p.pop_back(); }},
      {"nothing", absl::StatusCode::kDataLoss, "no manifest", [](Parts& p) { p.clear(); }},
      {"another version", absl::StatusCode::kDataLoss, "another version", [](Parts& p) { p.back().mutable_commit()->set_version(6); }},
      {"a wrong root", absl::StatusCode::kDataLoss, "digest", [](Parts& p) { (*p[0].mutable_manifest()->mutable_digest())[0] ^= 1; }},
      {"version 0", absl::StatusCode::kInvalidArgument, "version", [](Parts& p) { p[0].mutable_manifest()->set_version(0); }},
      {"no manifest", absl::StatusCode::kInvalidArgument, "before the manifest", [](Parts& p) { p.erase(p.begin()); }},
      {"an empty part", absl::StatusCode::kInvalidArgument, "empty part", [](Parts& p) { p[2].Clear(); }},
      {"two manifests", absl::StatusCode::kInvalidArgument, "second manifest", [](Parts& p) { p.insert(p.begin(), p[0]); }},
      {"a foreign tensor", absl::StatusCode::kInvalidArgument, "nose", [](Parts& p) { p[0].mutable_manifest()->mutable_tensors(1)->set_name("nose"); }},
      {"another shape", absl::StatusCode::kInvalidArgument, "shape", [](Parts& p) { p[0].mutable_manifest()->mutable_tensors(0)->set_shape(0, 7); }},
      {"another dtype", absl::StatusCode::kInvalidArgument, "BF16", [](Parts& p) { p[0].mutable_manifest()->mutable_tensors(0)->set_dtype("BF16"); }},
      {"other numerics", absl::StatusCode::kFailedPrecondition, "numerics_id", [](Parts& p) { p[0].mutable_manifest()->set_numerics_id("abacus"); }},
  };
  const Samples expected = BitsOf(RunAll(*MakeEngine(*trained_, threads_), {MakeGroup(1, 5, 2, 8)}));
  for (const auto& c : cases) {
    Start({});
    Parts parts = good;
    c.damage(parts);
    const absl::Status status = Send(parts);
    EXPECT_EQ(status.code(), c.code) << c.name << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says)) << c.name;
    EXPECT_FALSE(GetStatus().serving()) << c.name;
    EXPECT_EQ(Generate({MakeGroup(1, 5, 2, 8)}).code(), absl::StatusCode::kFailedPrecondition) << c.name;
    ASSERT_TRUE(Send(good).ok()) << c.name;
    std::vector<v1::Sample> samples;
    EXPECT_TRUE(Generate({MakeGroup(1, 5, 2, 8)}, &samples).ok()) << c.name;
    EXPECT_EQ(BitsOf(samples), expected) << c.name;
  }
}

TEST_P(RolloutServiceTest, AManifestThatDoesNotFitLeavesTheOldWeightsServing) {
  ASSERT_TRUE(Send(GoodUpdate(5)).ok());
  Parts parts = GoodUpdate(6);
  parts[0].mutable_manifest()->set_numerics_id("abacus");
  EXPECT_EQ(Send(parts).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(GetStatus().weight_version(), 5u);
  EXPECT_TRUE(Generate({MakeGroup(1, 5, 1, 4)}).ok());
}

TEST_P(RolloutServiceTest, APartialUpdateChangesItsTensorsOnly) {
  Parts partial(1);
  EXPECT_TRUE(Send(GoodUpdate(1)).ok());
  const int index = trained_->FindTensor("model.norm.weight");
  trained_->tensors()[static_cast<size_t>(index)].value.data<float>()[0] += 0.5f;
  trained_->WeightsChanged(stream_);
  std::vector<Sha256Digest> digests;
  const Sha256Digest digest = WeightsDigest(*trained_, threads_, &digests);
  v1::WeightManifest& manifest = *partial[0].mutable_manifest();
  manifest.set_version(2);
  manifest.set_transport(v1::WEIGHT_TRANSPORT_GRPC);
  manifest.set_partial(true);
  manifest.set_digest(digest.data(), digest.size());
  AddTensor(partial, static_cast<size_t>(index), digests[static_cast<size_t>(index)]);
  partial.emplace_back().mutable_commit()->set_version(2);
  const absl::Status status = Send(partial);
  ASSERT_TRUE(status.ok()) << status;
  std::vector<v1::Sample> samples;
  ASSERT_TRUE(Generate({MakeGroup(1, 5, 2, 8)}, &samples).ok());
  EXPECT_EQ(BitsOf(samples), BitsOf(RunAll(*MakeEngine(*trained_, threads_), {MakeGroup(1, 5, 2, 8)})));
  Start({});
  EXPECT_EQ(Send(partial).code(), absl::StatusCode::kFailedPrecondition) << "partial before full";
}

TEST_P(RolloutServiceTest, SharedWeightsAreServedOnlyWhenTheirDigestIsRight) {
  Start({.shared_weights = true});
  Parts parts = GoodUpdate(4);
  parts.erase(parts.begin() + 1, parts.end() - 1);
  parts[0].mutable_manifest()->set_transport(v1::WEIGHT_TRANSPORT_IN_PROCESS);
  parts[0].mutable_manifest()->clear_tensors();
  const auto set_digest = [&](uint64_t version) {
    const Sha256Digest digest = SharedWeightsDigest(version);
    parts[0].mutable_manifest()->set_digest(std::string(digest.begin(), digest.end()));
  };
  set_digest(4);
  ASSERT_TRUE(Send(parts).ok());
  EXPECT_TRUE(Generate({MakeGroup(1, 5, 1, 4)}).ok());
  set_digest(5);
  EXPECT_EQ(Send(parts).code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(GetStatus().serving());
}

TEST_P(RolloutServiceTest, ErrorsReachAClientThatHasNotHalfClosed) {
  ASSERT_TRUE(Send(GoodUpdate(2)).ok());
  const absl::Status long_prompt = Generate({MakeGroup(9, 256, 1, 4)}, nullptr, false);
  EXPECT_EQ(long_prompt.code(), absl::StatusCode::kInvalidArgument) << long_prompt;
  EXPECT_THAT(std::string(long_prompt.message()), testing::AllOf(HasSubstr("group 9"), HasSubstr("context of 256")));
  v1::GenerateRequest newer = MakeGroup(8, 5, 1, 4);
  newer.set_min_weight_version(7);
  const absl::Status stale = Generate({newer}, nullptr, false);
  EXPECT_EQ(stale.code(), absl::StatusCode::kFailedPrecondition) << stale;
  EXPECT_THAT(std::string(stale.message()), testing::AllOf(HasSubstr("version 7"), HasSubstr("serves 2")));
}

TEST_P(RolloutServiceTest, AFullQueueSaysSo) {
  Start({.max_queued_samples = 10});
  ASSERT_TRUE(Send(GoodUpdate(2)).ok());
  EXPECT_EQ(Generate({MakeGroup(1, 5, 11, 4)}, nullptr, false).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Generate({MakeGroup(1, 5, 8, 250), MakeGroup(2, 5, 8, 250)}, nullptr, false).code(), absl::StatusCode::kResourceExhausted);
  // The refused stream's work is dropped, and then there is room again.
  absl::Status status = Generate({MakeGroup(1, 5, 10, 4)});
  const absl::Time deadline = absl::Now() + absl::Seconds(5);
  while (!status.ok() && absl::Now() < deadline) status = Generate({MakeGroup(1, 5, 10, 4)});
  EXPECT_TRUE(status.ok()) << status;
}

TEST_P(RolloutServiceTest, TheCountOfEngineStepsRisesWithTheWorkAndOnlyThen) {
  ASSERT_TRUE(Send(GoodUpdate(2)).ok());
  EXPECT_EQ(GetStatus().engine_steps(), 0u);
  ASSERT_TRUE(failpoint::Arm("rollout.decode:1+:delay=5").ok());
  const auto context = MakeClientContext(absl::Seconds(30));
  const auto stream = stub_->Generate(context.get());
  stream->Write(MakeGroup(1, 5, 1, 250));
  for (uint64_t last = 0, rises = 0; rises < 5;) {
    const uint64_t steps = GetStatus().engine_steps();
    rises += steps > last;
    last = steps;
    ASSERT_LT(steps, 250u) << "seen while the completion grows";
    absl::SleepFor(absl::Milliseconds(5));
  }
  context->TryCancel();
  v1::GenerateResponse response;
  while (stream->Read(&response)) {
  }
  stream->Finish();
  while (GetStatus().running_sequences() > 0) absl::SleepFor(absl::Milliseconds(5));
  const uint64_t steps = GetStatus().engine_steps();
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(GetStatus().engine_steps(), steps);
}

TEST_P(RolloutServiceTest, CancellingDropsTheWork) {
  ASSERT_TRUE(Send(GoodUpdate(2)).ok());
  ASSERT_TRUE(failpoint::Arm("rollout.decode:1+:delay=5").ok());
  {
    const auto context = MakeClientContext(absl::Seconds(30));
    const auto stream = stub_->Generate(context.get());
    stream->Write(MakeGroup(1, 5, 4, 250));
    while (GetStatus().running_sequences() == 0) absl::SleepFor(absl::Milliseconds(5));
    context->TryCancel();
    v1::GenerateResponse response;
    while (stream->Read(&response)) {
    }
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  const absl::Time deadline = absl::Now() + absl::Seconds(1);
  while (GetStatus().running_sequences() > 0 && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(GetStatus().running_sequences(), 0u);
}

TEST_P(RolloutServiceTest, NewWeightsAbortWhatRuns) {
  ASSERT_TRUE(Send(GoodUpdate(2)).ok());
  ASSERT_TRUE(failpoint::Arm("rollout.decode:1+:delay=5").ok());
  const auto context = MakeClientContext(absl::Seconds(30));
  const auto stream = stub_->Generate(context.get());
  stream->Write(MakeGroup(1, 5, 4, 250));
  while (GetStatus().running_sequences() == 0) absl::SleepFor(absl::Milliseconds(5));
  ASSERT_TRUE(Send(GoodUpdate(3)).ok());
  v1::GenerateResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(FromGrpc(stream->Finish()).code(), absl::StatusCode::kAborted);
}

TEST_P(RolloutServiceTest, AFailedPassEndsTheStreamsAndTheWorkerGoesOn) {
  ASSERT_TRUE(Send(GoodUpdate(2)).ok());
  ASSERT_TRUE(failpoint::Arm("rollout.decode:3:error").ok());
  const absl::Status status = Generate({MakeGroup(1, 5, 2, 8)}, nullptr, false);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rollout.decode"));
  EXPECT_TRUE(Generate({MakeGroup(1, 5, 2, 8)}).ok());
}

INSTANTIATE_TEST_SUITE_P(Channels, RolloutServiceTest, testing::Bool(), [](const auto& info) { return info.param ? "Tcp" : "InProcess"; });

TEST(RpcServerTest, APortInUseIsAnErrorThatSaysSo) {
  ThreadPool threads(1);
  Stream stream(threads);
  const std::unique_ptr<Model> model = TinyModel("llama", DType::kF32, stream);
  const auto service = *MakeRolloutService(*model, nullptr, threads, {});
  const auto first = *RpcServer::Start("127.0.0.1:0", {}, {service.get()});
  const std::string address = absl::StrCat("127.0.0.1:", first->port());
  const auto other = *MakeRolloutService(*model, nullptr, threads, {});
  const auto second = RpcServer::Start(address, {}, {other.get()});
  EXPECT_THAT(std::string(second.status().message()), testing::AllOf(HasSubstr(address), HasSubstr("port is in use")));
}

TEST(RpcServerTest, AnAddressWithoutAPortIsRefusedOnBothSides) {
  EXPECT_THAT(std::string(RpcServer::Start("127.0.0.1", {}, {}).status().message()), HasSubstr("listen address: \"127.0.0.1\", expected HOST:PORT"));
  EXPECT_THAT(std::string(OpenChannel("127.0.0.1:99999", {}).status().message()), HasSubstr("address: \"127.0.0.1:99999\", expected HOST:PORT"));
}

TEST(RpcServerTest, AnotherServiceAtTheAddressIsAnErrorThatSaysSo) {
  ThreadPool threads(1);
  Stream stream(threads);
  const std::unique_ptr<Model> model = TinyModel("llama", DType::kF32, stream);
  const auto service = *MakeRolloutService(*model, nullptr, threads, {});
  const auto server = *RpcServer::Start("127.0.0.1:0", {}, {service.get()});
  const auto rewards = v1::RewardService::NewStub(*OpenChannel(absl::StrCat("127.0.0.1:", server->port()), {}));
  v1::ScoreResponse response;
  const absl::Status status = FromGrpc(rewards->Score(MakeClientContext(absl::Seconds(10)).get(), {}, &response));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), testing::AllOf(HasSubstr("UNIMPLEMENTED without a message: another service answers at this address"), HasSubstr("reward.address")));
  EXPECT_EQ(FromGrpc(grpc::Status(grpc::StatusCode::INTERNAL, "")).message(), "INTERNAL without a message");
  EXPECT_EQ(FromGrpc(grpc::Status(grpc::StatusCode::INTERNAL, "why")).message(), "why");
}

TEST(RpcServerTest, BeyondLoopbackTlsOrInsecureIsAsked) {
  const auto server = RpcServer::Start("0.0.0.0:0", {}, {});
  EXPECT_THAT(std::string(server.status().message()), HasSubstr("insecure: true"));
  for (const char* target : {"example.org:1", "dns:///127.evil.example:1", "localhost.evil.example:1"}) {
    EXPECT_EQ(OpenChannel(target, {}).status().code(), absl::StatusCode::kInvalidArgument) << target;
  }
  v1::Credentials insecure;
  insecure.set_insecure(true);
  EXPECT_TRUE(OpenChannel("example.org:1", insecure).ok());
  for (const char* target : {"127.0.0.1:1", "dns:///localhost:1", "[::1]:1", "unix:/tmp/x"}) EXPECT_TRUE(OpenChannel(target, {}).ok()) << target;
}

}  // namespace
}  // namespace grouper
