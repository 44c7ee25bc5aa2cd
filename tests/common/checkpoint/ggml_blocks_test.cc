#include "common/checkpoint/ggml_blocks.h"

#include <cstring>

#include "common/checkpoint/ggml_encode.h"
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

// Values that a block holds exactly come back as they were; others within half a step (a step and a half for Q4_K, whose scales are rounded too).
TEST(GgmlEncode, DecodesToWithinAStep) {
  struct Row {
    StorageType type;
    float steps;  // of the range of a block
  };
  for (const Row& row : {Row{StorageType::kQ8_0, 0.51f / 127}, Row{StorageType::kQ4_0, 1.01f / 8}, Row{StorageType::kQ4_K, 1.5f / 15}}) {
    for (float size : {0.0f, 1e-42f, 1e-20f, 1e-3f, 1.0f, 1e4f}) {
      for (float shift : {0.0f, 1.0f, -1.0f}) {
        const int64_t n = BlockElements(row.type) * 3;
        std::vector<float> values(static_cast<size_t>(n)), decoded(static_cast<size_t>(n));
        for (int64_t i = 0; i < n; ++i) values[static_cast<size_t>(i)] = size * (shift + static_cast<float>(i * 7919 % 257 - 128) / 128);
        std::string bytes(static_cast<size_t>(n / BlockElements(row.type) * BlockBytes(row.type)), '\x5a');
        EncodeGgmlBlocks(row.type, values.data(), 3, bytes.data());
        const StoredTensor tensor{"t", row.type, {n}, bytes, "x"};
        ASSERT_TRUE(DecodeToFloat(tensor, 0, n, decoded.data()).ok());
        for (size_t i = 0; i < values.size(); ++i) {
          ASSERT_NEAR(decoded[i], values[i], row.steps * size * 2 + 1e-5f) << Name(row.type) << " size " << size << " shift " << shift << " at " << i;
        }
      }
    }
  }
}

TEST(GgmlEncode, HalvesRoundToNearestEven) {
  const std::pair<float, uint16_t> rows[] = {{0.0f, 0}, {1.0f, 0x3c00}, {-2.0f, 0xc000}, {65504.0f, 0x7bff}, {65520.0f, 0x7c00}, {1.00048828125f, 0x3c00}, {5.9604645e-8f, 1}};
  for (const auto& [value, bits] : rows) EXPECT_EQ(HalfFromFloat(value), bits) << value;
}

INSTANTIATE_TEST_SUITE_P(All, GgmlBlocks, ::testing::ValuesIn(kTypes),
                         [](const auto& info) { return Name(info.param); });

}  // namespace
}  // namespace grouper
