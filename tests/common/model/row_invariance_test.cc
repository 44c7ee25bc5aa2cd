// A token's logits depend on the token and its context alone: == for every way of running the same sequences.
#include "tests/common/model/model_world.h"

namespace grouper {
namespace {

class RowInvariance : public testing::TestWithParam<std::tuple<std::string, DType, Device::Kind>> {
 protected:
  void SetUp() override {
    device_.kind = std::get<2>(GetParam());
    if (device_.is_cuda() && NumCudaDevices() == 0) GTEST_SKIP() << "no GPU";
    local_ = std::make_unique<Stream>(threads_, device_);
    model_ = TinyModel(std::get<0>(GetParam()), std::get<1>(GetParam()), *local_);
    const int lengths[] = {5, 64, 131, 1, 70};
    for (int length : lengths) sequences_.push_back(RandomTokens(length, static_cast<uint64_t>(length)));
    for (size_t i = 0; i < sequences_.size(); ++i) {
      Cache cache(*model_);
      alone_.push_back(cache.Run(*model_, *local_, {{0, sequences_[i]}})[0]);
    }
  }
  static std::vector<int32_t> Slice(const std::vector<int32_t>& tokens, size_t begin, size_t end) {
    return {tokens.begin() + static_cast<ptrdiff_t>(begin),
            tokens.begin() + static_cast<ptrdiff_t>(std::min(end, tokens.size()))};
  }

  ThreadPool threads_{1};
  Device device_;
  std::unique_ptr<Stream> local_;
  std::unique_ptr<Model> model_;
  std::vector<std::vector<int32_t>> sequences_;
  std::vector<std::string> alone_;  // logits of all rows of each sequence, run alone in one piece
};

TEST_P(RowInvariance, PackedEqualsAlone) {
  Cache cache(*model_);
  std::vector<Cache::Piece> pieces;
  for (size_t i = 0; i < sequences_.size(); ++i) pieces.push_back({static_cast<int>(i), sequences_[i]});
  EXPECT_EQ(cache.Run(*model_, *local_, pieces), alone_);
}

// The same sequences n times are shared out evenly: then each thread runs its own part (forward_parts.h).
TEST_P(RowInvariance, ThreadsDoNotMatter) {
  for (int n : {2, 3}) {
    ThreadPool threads(n);
    Stream stream(threads, device_);
    for (int copies : {1, n}) {
      Cache cache(*model_);
      std::vector<Cache::Piece> pieces;
      std::vector<std::string> expected;
      for (int copy = 0; copy < copies; ++copy) {
        for (const std::vector<int32_t>& tokens : sequences_) pieces.push_back({static_cast<int>(pieces.size()), tokens});
        expected.insert(expected.end(), alone_.begin(), alone_.end());
      }
      EXPECT_EQ(cache.Run(*model_, stream, pieces), expected) << n << " threads, " << copies << " copies";
    }
  }
}

TEST_P(RowInvariance, ChunkedPrefillEqualsWhole) {
  for (size_t chunk : {1, 7, 64, 100}) {
    Cache cache(*model_);
    std::string logits;
    for (size_t begin = 0; begin < sequences_[2].size(); begin += chunk) {
      logits += cache.Run(*model_, *local_, {{0, Slice(sequences_[2], begin, begin + chunk)}})[0];
    }
    EXPECT_EQ(logits, alone_[2]) << "chunks of " << chunk;
  }
}

TEST_P(RowInvariance, DecodeBesideOthersEqualsPrefill) {
  Cache cache(*model_);
  std::vector<std::string> logits(sequences_.size());
  for (size_t position = 0; position < 131; ++position) {
    std::vector<Cache::Piece> pieces;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      if (position < sequences_[i].size()) pieces.push_back({static_cast<int>(i), {sequences_[i][position]}});
    }
    const std::vector<std::string> rows = cache.Run(*model_, *local_, pieces);
    for (size_t k = 0; k < pieces.size(); ++k) logits[static_cast<size_t>(pieces[k].sequence)] += rows[k];
  }
  EXPECT_EQ(logits, alone_);
}

TEST_P(RowInvariance, SharedPrefixPagesEqualOwn) {
  std::vector<int32_t> other = sequences_[2];
  for (size_t i = 64; i < other.size(); ++i) other[i] = (other[i] + 1) % 41;
  Cache own(*model_);
  const std::string expected = own.Run(*model_, *local_, {{0, other}})[0];

  Cache cache(*model_);
  cache.Run(*model_, *local_, {{0, sequences_[2]}});
  cache.Share(0, 1, 1);
  const size_t row = 41 * SizeOf(model_->dtype());
  EXPECT_EQ(cache.Run(*model_, *local_, {{1, Slice(other, 64, other.size())}})[0], expected.substr(64 * row));
}

TEST_P(RowInvariance, TrainingForwardEqualsScoring) {
  for (bool recompute : {false, true}) {
    std::vector<int32_t> pages = {0, 1, 2};
    Batch batch;
    batch.token_ids = sequences_[2];
    batch.sequences = {{0, 131, 0, pages.data()}};
    for (int32_t i = 0; i < 131; ++i) batch.output_rows.push_back(i);
    KvPool kv(model_->config(), model_->dtype(), 3, device_);
    Arena arena(device_, local_->handle);
    SavedActivations saved(arena, {.recompute = recompute});
    const Tensor hidden = arena.New(model_->dtype(), {131, model_->config().hidden_size});
    const Tensor logits = arena.New(model_->dtype(), {131, 41});
    model_->Forward(*local_, batch, kv, hidden, &saved);
    model_->Logits(*local_, hidden, logits);
    local_->Synchronize();
    EXPECT_TRUE(HostBytes(logits).view() == alone_[2]);
  }
}

std::string NameOf(const testing::TestParamInfo<RowInvariance::ParamType>& info) {
  return std::get<0>(info.param) + "_" + Name(std::get<1>(info.param)) +
         (std::get<2>(info.param) == Device::Kind::kCuda ? "_cuda" : "");
}
INSTANTIATE_TEST_SUITE_P(Families, RowInvariance,
                         testing::Combine(testing::ValuesIn(TinyFamilies()),
                                          testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(Device::Kind::kCpu, Device::Kind::kCuda)),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(TensorCores, RowInvariance,
                         testing::Combine(testing::ValuesIn(TensorCoreFamilies()), testing::Values(DType::kBF16),
                                          testing::Values(Device::Kind::kCpu, Device::Kind::kCuda)),
                         NameOf);

}  // namespace
}  // namespace grouper
