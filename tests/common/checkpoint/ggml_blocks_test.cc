#include "common/checkpoint/ggml_blocks.h"

#include <cstring>

#include "common/checkpoint/safetensors.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

constexpr StorageType kTypes[] = {StorageType::kQ4_0, StorageType::kQ4_1, StorageType::kQ5_0, StorageType::kQ5_1,
                                  StorageType::kQ8_0, StorageType::kQ4_K, StorageType::kQ5_K, StorageType::kQ6_K};

class GgmlBlocks : public ::testing::TestWithParam<StorageType> {};

TEST_P(GgmlBlocks, DecodeToTheBitsOfTheReference) {
  const StorageType type = GetParam();
  const auto golden = SafetensorsFile::Open(GROUPER_SOURCE_DIR "/tests/golden/ggml_blocks.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  const StoredTensor* blocks = (*golden)->Find(std::string(Name(type)) + ".blocks");
  const StoredTensor* values = (*golden)->Find(std::string(Name(type)) + ".values");
  ASSERT_TRUE(blocks != nullptr && values != nullptr);
  const int64_t n = values->num_elements();
  ASSERT_EQ(static_cast<int64_t>(blocks->bytes.size()), n / BlockElements(type) * BlockBytes(type));

  const StoredTensor tensor{"t", type, {n}, blocks->bytes, "x"};
  std::vector<float> decoded(n);
  ASSERT_TRUE(DecodeToFloat(tensor, 0, n, decoded.data()).ok());
  EXPECT_EQ(std::memcmp(decoded.data(), values->bytes.data(), values->bytes.size()), 0);

  // A range decodes to the same numbers as the whole.
  std::vector<float> range(BlockElements(type));
  ASSERT_TRUE(DecodeToFloat(tensor, n - BlockElements(type), n, range.data()).ok());
  EXPECT_EQ(std::memcmp(range.data(), decoded.data() + n - BlockElements(type), range.size() * sizeof(float)), 0);
}

INSTANTIATE_TEST_SUITE_P(All, GgmlBlocks, ::testing::ValuesIn(kTypes),
                         [](const auto& info) { return Name(info.param); });

}  // namespace
}  // namespace grouper
