// The floor's numbers: Philox, bf16, half, digests.
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "common/base/bf16.h"
#include "common/base/hash.h"
#include "common/base/philox.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

using ::testing::ElementsAre;

// Random123's kat_vectors, philox4x32 with 10 rounds.
TEST(Philox, GivesTheKnownAnswers) {
  EXPECT_THAT(Philox({0, 0}, {0, 0, 0, 0}), ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
  constexpr uint32_t kOnes = 0xffffffffu;
  EXPECT_THAT(Philox({kOnes, kOnes}, {kOnes, kOnes, kOnes, kOnes}),
              ElementsAre(0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu));
  EXPECT_THAT(Philox({0xa4093822u, 0x299f31d0u}, {0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}),
              ElementsAre(0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u));
}

TEST(Philox, KeysDifferBySeedAndLabel) {
  std::set<std::pair<uint32_t, uint32_t>> keys;
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    for (const char* label : {"sampling", "init", "data", ""}) {
      const PhiloxKey key = MakePhiloxKey(seed, label);
      keys.insert({key.lo, key.hi});
    }
  }
  EXPECT_EQ(keys.size(), 4000u);
}

TEST(PhiloxStream, ACopyContinuesWhereItWasMade) {
  PhiloxStream stream(MakePhiloxKey(1, "test"), 5);
  for (int i = 0; i < 7; ++i) stream.NextUint32();
  PhiloxStream copy = stream;
  for (int i = 0; i < 20; ++i) EXPECT_EQ(copy.NextUint32(), stream.NextUint32());
  PhiloxStream other(MakePhiloxKey(1, "test"), 6), same(MakePhiloxKey(1, "test"), 5);
  EXPECT_NE(other.NextUint32(), same.NextUint32());
}

TEST(PhiloxStream, DrawsAreUniformAndNormal) {
  PhiloxStream stream(MakePhiloxKey(2, "test"));
  int counts[7] = {};
  double sum = 0, squares = 0, uniform = 0;
  constexpr int kDraws = 70000;
  for (int i = 0; i < kDraws; ++i) {
    const uint64_t below = stream.NextBelow(7);
    ASSERT_LT(below, 7u);
    ++counts[below];
    const double u = stream.NextDouble(), x = stream.NextNormal();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    uniform += u;
    sum += x;
    squares += x * x;
  }
  for (int count : counts) EXPECT_NEAR(count, kDraws / 7, 500);  // five standard deviations
  EXPECT_NEAR(uniform / kDraws, 0.5, 0.006);
  EXPECT_NEAR(sum / kDraws, 0.0, 0.02);
  EXPECT_NEAR(squares / kDraws, 1.0, 0.03);
  EXPECT_EQ(stream.NextBelow(1), 0u);
  EXPECT_LT(stream.NextBelow(~uint64_t{0}), ~uint64_t{0});
}

TEST(Bf16, EveryValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    bf16 value;
    value.bits = static_cast<uint16_t>(bits);
    const bf16 again(static_cast<float>(value));
    if (std::isnan(static_cast<float>(value))) {
      EXPECT_TRUE(std::isnan(static_cast<float>(again)));
    } else {
      EXPECT_EQ(again.bits, value.bits);
    }
  }
}

TEST(Bf16, RoundsToNearestEven) {
  const std::pair<uint32_t, uint16_t> cases[] = {
      {0x3f800000, 0x3f80}, {0x3f808000, 0x3f80},  // a tie goes to even: down
      {0x3f818000, 0x3f82},                        // a tie goes to even: up
      {0x3f808001, 0x3f81}, {0x3f807fff, 0x3f80}, {0x7f7fffff, 0x7f80},  // the largest float rounds to infinity
      {0x7f800000, 0x7f80}, {0xff800000, 0xff80}, {0x7f800001, 0x7fc0},  // NaN stays NaN
      {0x00000001, 0x0000}, {0x80000000, 0x8000},
  };
  for (const auto& [bits, expected] : cases) {
    EXPECT_EQ(bf16(std::bit_cast<float>(bits)).bits, expected) << std::hex << bits;
  }
}

TEST(Half, EveryValueIsExact) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    const float value = HalfToFloat(static_cast<uint16_t>(bits));
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(value), mantissa != 0) << bits;
      EXPECT_EQ(std::isinf(value), mantissa == 0) << bits;
      continue;
    }
    const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    EXPECT_EQ(value, static_cast<float>(bits & 0x8000 ? -magnitude : magnitude)) << bits;
    EXPECT_EQ(std::signbit(value), (bits & 0x8000) != 0) << bits;
  }
}

TEST(Hash, Sha256GivesTheKnownAnswers) {  // FIPS 180-2
  EXPECT_EQ(Hex(Sha256("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Hex(Sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256Stream stream;
  stream.Update("a");
  stream.Update("");
  stream.Update("bc");
  EXPECT_EQ(Hex(stream.Finish()), Hex(Sha256("abc")));
  Sha256Stream numbers;
  numbers.UpdateUint64(0x0102030405060708);
  EXPECT_EQ(Hex(numbers.Finish()), Hex(Sha256("\x08\x07\x06\x05\x04\x03\x02\x01")));
}

TEST(Hash, Crc32cGivesTheKnownAnswers) {  // RFC 3720, B.4
  std::string ascending(32, '\0');
  for (int i = 0; i < 32; ++i) ascending[i] = static_cast<char>(i);
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(Crc32c(ascending), 0x46dd794eu);
  EXPECT_EQ(Crc32c(""), 0u);
  for (size_t cut = 0; cut <= ascending.size(); ++cut) {
    EXPECT_EQ(Crc32c(ascending.substr(cut), Crc32c(ascending.substr(0, cut))), 0x46dd794eu) << cut;
  }
}

}  // namespace
}  // namespace grouper
