#include "common/checkpoint/gguf.h"

#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/base/quote.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kHuge = uint64_t{1} << 62;

// Little-endian pieces of a GGUF file.
template <typename T>
std::string Raw(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}
std::string U32(uint32_t value) { return Raw(value); }
std::string U64(uint64_t value) { return Raw(value); }
std::string Text(absl::string_view text) { return absl::StrCat(U64(text.size()), text); }
std::string Key(absl::string_view key, uint32_t type, absl::string_view value) {
  return absl::StrCat(Text(key), U32(type), value);
}
std::string KeyU32(absl::string_view key, uint32_t value) { return Key(key, 4, U32(value)); }
std::string ArrayOf(uint32_t type, uint64_t count, absl::string_view elements) {
  return absl::StrCat(U32(type), U64(count), elements);
}
std::string Info(absl::string_view name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
  std::string info = absl::StrCat(Text(name), U32(static_cast<uint32_t>(dims.size())));
  for (uint64_t dim : dims) info += U64(dim);
  return absl::StrCat(info, U32(type), U64(offset));
}

struct World {
  std::vector<std::string> values, infos;
  size_t data_bytes = 0;
  std::string magic = "GGUF";
  uint32_t version = 3;
  size_t alignment = 32;

  std::string Bytes() const {
    std::string file = absl::StrCat(magic, U32(version), U64(infos.size()), U64(values.size()));
    for (const std::string& value : values) file += value;
    for (const std::string& info : infos) file += info;
    if (data_bytes > 0) file.append((alignment - file.size() % alignment) % alignment, '\0');
    return file + std::string(data_bytes, '\1');
  }
};

absl::StatusOr<std::shared_ptr<const GgufFile>> Golden() {
  return GgufFile::Open(GROUPER_SOURCE_DIR "/tests/golden/tiny.gguf");
}

TEST(Gguf, ReadsTheMetadataThatTheReferenceWrote) {
  const auto file = Golden();
  ASSERT_TRUE(file.ok()) << file.status();
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min(), kMax = std::numeric_limits<int64_t>::max();
  EXPECT_EQ((*file)->version(), 3u);
  EXPECT_EQ(*(*file)->GetString("general.architecture"), "llama");
  EXPECT_EQ(*(*file)->GetInt("a.u8", kMin, kMax), 255);
  EXPECT_EQ(*(*file)->GetInt("a.i8", kMin, kMax), -128);
  EXPECT_EQ(*(*file)->GetInt("a.u16", kMin, kMax), 65535);
  EXPECT_EQ(*(*file)->GetInt("a.i16", kMin, kMax), -32768);
  EXPECT_EQ(*(*file)->GetInt("a.u32", kMin, kMax), 4294967295);
  EXPECT_EQ(*(*file)->GetInt("a.i32", kMin, kMax), -2147483648);
  EXPECT_EQ(*(*file)->GetInt("a.i64", kMin, kMax), kMin);
  EXPECT_EQ(*(*file)->GetFloat("a.f32"), 1e-5f);
  EXPECT_EQ(*(*file)->GetFloat("a.f64"), 1e-300);
  EXPECT_TRUE(*(*file)->GetBool("a.bool"));
  EXPECT_EQ(*(*file)->GetString("a.string"), "h\u00e9llo\n");
  EXPECT_THAT(*(*file)->GetStrings("a.strings"), ElementsAre("<s>", "", "\u0120the"));
  EXPECT_THAT(*(*file)->GetInts("a.ints", -1, 7), ElementsAre(-1, 0, 7));
  EXPECT_THAT(*(*file)->GetFloats("a.floats"), ElementsAre(0.5f, -1.5f));
  EXPECT_EQ((*file)->Describe("a.strings"), "array of 3 string");
  EXPECT_EQ((*file)->Describe("a.u64"), "u64 18446744073709551615");
  EXPECT_EQ((*file)->Describe("none"), "nothing");
  EXPECT_TRUE((*file)->Has("a.u8"));
  EXPECT_FALSE((*file)->Has("none"));
}

TEST(Gguf, AccessorsFailInsteadOfConverting) {
  const auto file = Golden();
  ASSERT_TRUE(file.ok()) << file.status();
  const GgufFile& f = **file;
  const std::pair<absl::Status, const char*> cases[] = {
      {f.GetInt("none", 0, 9).status(), "key \"none\" is missing (expected an integer in 0..9)"},
      {f.GetInt("a.u8", 0, 254).status(), "key \"a.u8\": expected an integer in 0..254, got u8 255"},
      {f.GetInt("a.i8", 0, 254).status(), "got i8 -128"},
      {f.GetInt("a.u64", 0, std::numeric_limits<int64_t>::max()).status(), "got u64 18446744073709551615"},
      {f.GetInt("a.f32", 0, 9).status(), "got f32 1e-05"},
      {f.GetInt("a.bool", 0, 9).status(), "got bool true"},
      {f.GetInt("a.string", 0, 9).status(), "got string \"h\u00e9llo\\n\""},
      {f.GetInt("a.ints", 0, 9).status(), "got array of 3 i32"},
      {f.GetFloat("a.u8").status(), "expected a finite f32 or f64, got u8 255"},
      {f.GetBool("a.u8").status(), "expected a bool"},
      {f.GetString("a.u8").status(), "expected a string"},
      {f.GetString("a.strings").status(), "expected a string"},
      {f.GetStrings("a.string").status(), "expected an array of strings"},
      {f.GetStrings("a.ints").status(), "expected an array of strings"},
      {f.GetInts("a.floats", 0, 9).status(), "expected an array of integers"},
      {f.GetInts("a.ints", 0, 9).status(), "element 0"},
      {f.GetInts("a.bools", 0, 9).status(), "array of 2 bool"},
      {f.GetFloats("a.ints").status(), "expected an array of f32"},
  };
  for (const auto& [status, error] : cases) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << error;
    EXPECT_THAT(std::string(status.message()), HasSubstr(error));
    EXPECT_THAT(std::string(status.message()), HasSubstr("tiny.gguf"));
  }
}

TEST(Gguf, NonFiniteNumbersAreNoNumbers) {
  for (float value : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const std::string bytes = World{.values = {Key("rope", 6, Raw(value))}, .infos = {}}.Bytes();  // outlives the file
    const auto file = GgufFile::Parse(bytes, "x");
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_THAT(std::string((*file)->GetFloat("rope").status().message()), HasSubstr("expected a finite f32"));
  }
}

TEST(Gguf, TensorsHaveRowMajorShapesAndDecode) {
  const auto file = Golden();
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<std::string> shapes;
  for (const StoredTensor& tensor : (*file)->tensors()) shapes.push_back(tensor.name + " " + tensor.ShapeString());
  EXPECT_THAT(shapes, ElementsAre("plain.bf16 BF16[3]", "plain.f16 F16[4]", "plain.f32 F32[2, 3]",
                                  "quantised.Q4_1 Q4_1[2, 32]", "quantised.Q8_0 Q8_0[2, 32]"));
  float plain[6], bf16[3];
  ASSERT_TRUE(DecodeToFloat(*(*file)->Find("plain.f32"), 0, 6, plain).ok());
  EXPECT_THAT(plain, ElementsAre(0, 1, 2, 3, 4, 5));
  ASSERT_TRUE(DecodeToFloat(*(*file)->Find("plain.bf16"), 0, 3, bf16).ok());
  EXPECT_THAT(bf16, ElementsAre(1, -2, 0.5));
  float row[32];
  ASSERT_TRUE(DecodeToFloat(*(*file)->Find("quantised.Q8_0"), 32, 64, row).ok());
  for (int i = 0; i < 32; ++i) EXPECT_NEAR(row[i], (32 + i - 31.5) / 8, 0.02);
  EXPECT_EQ((*file)->Find("none"), nullptr);
}

TEST(Gguf, AcceptsWhatTheFormatAllows) {
  const World valid[] = {
      {.values = {}, .infos = {}},
      {.values = {}, .infos = {}, .version = 2},
      {.values = {KeyU32("general.alignment", 64)},
       .infos = {Info("a", {8}, 0, 0), Info("b", {1}, 0, 64)},
       .data_bytes = 68,
       .alignment = 64},
      {.values = {}, .infos = {Info("b", {1}, 0, 32), Info("a", {8}, 0, 0)}, .data_bytes = 36},
      {.values = {}, .infos = {Info("scalar", {}, 0, 0)}, .data_bytes = 4},
      {.values = {}, .infos = {Info(std::string(64, 'n'), {1, 1, 1, 1}, 26, 0)}, .data_bytes = 4},
      {.values = {Key("empty", 9, ArrayOf(8, 0, ""))}, .infos = {}},
      {.values = {Key("split.count", 2, Raw<uint16_t>(1))}, .infos = {}},
      {.values = {Key("split.count", 2, Raw<uint16_t>(0))}, .infos = {}},
      {.values = {Key(std::string(65535, 'k'), 0, "1")}, .infos = {}},
  };
  for (const World& world : valid) {
    const auto file = GgufFile::Parse(world.Bytes(), "x.gguf");
    EXPECT_TRUE(file.ok()) << file.status();
  }
}

TEST(Gguf, RefusesEachLieWithItsName) {
  struct Case {
    World world;
    const char* error;
  };
  auto value = [](std::string bytes) { return World{.values = {std::move(bytes)}, .infos = {}}; };
  auto info = [](std::string bytes, size_t data = 4096) {
    return World{.values = {}, .infos = {std::move(bytes)}, .data_bytes = data};
  };
  const Case cases[] = {
      {{.values = {}, .infos = {}, .magic = "GGML"}, "expected a GGUF file"},
      {{.values = {}, .infos = {}, .magic = "FUGG"}, "expected a GGUF file"},
      {{.values = {}, .infos = {}, .version = 0}, "GGUF version 0"},
      {{.values = {}, .infos = {}, .version = 1}, "GGUF version 1, expected 2 or 3"},
      {{.values = {}, .infos = {}, .version = 4}, "GGUF version 4"},
      {{.values = {}, .infos = {}, .version = 0x03000000}, "big-endian"},
      {value(Key("", 4, U32(1))), "metadata key 0: expected 1..65535 bytes, got 0"},
      {value(Key(std::string(65536, 'k'), 4, U32(1))), "got 65536"},
      {value(U64(kHuge) + "key-------------"), "metadata key 0"},
      {value(U64(~uint64_t{0}) + "key-------------"), "metadata key 0"},
      {value(Key("k", 13, U32(1))), "key \"k\": unknown value type 13"},
      {value(Key("k", 0xffffffff, U32(1))), "key \"k\": unknown value type 4294967295"},
      {value(Key("k", 10, U32(1))), "key \"k\": the file ends within its value"},
      {value(Key("k", 7, "\2")), "key \"k\": a bool of 2"},
      {value(Key("k", 7, "\xff")), "key \"k\": a bool of 255"},
      {value(Key("k", 8, U64(9) + "12345678")), "key \"k\": the file ends within its string"},
      {value(Key("k", 8, U64(kHuge))), "key \"k\": the file ends within its string"},
      {value(Key("k", 8, U64(~uint64_t{0}))), "key \"k\""},
      {value(Key("k", 9, U32(4))), "key \"k\": the file ends within its array"},
      {value(Key("k", 9, ArrayOf(13, 1, U32(1)))), "key \"k\": unknown array type 13"},
      {value(Key("k", 9, ArrayOf(9, 1, ArrayOf(4, 1, U32(1))))), "key \"k\": an array of arrays"},
      {value(Key("k", 9, ArrayOf(4, 2, U32(1)))), "key \"k\": 2 array elements do not fit into the 4 bytes"},
      {value(Key("k", 9, ArrayOf(4, kHuge, U32(1)))), "array elements do not fit"},
      {value(Key("k", 9, ArrayOf(4, (uint64_t{1} << 62) + 1, U32(1)))), "array elements do not fit"},
      {value(Key("k", 9, ArrayOf(10, (uint64_t{1} << 61) + 1, U64(1)))), "array elements do not fit"},
      {value(Key("k", 9, ArrayOf(8, kHuge, Text("a")))), "array elements do not fit"},
      {value(Key("k", 9, ArrayOf(8, 2, Text("a") + U64(100)))), "key \"k\": the file ends within its array element 1"},
      {value(Key("k", 9, ArrayOf(7, 3, std::string("\1\0\3", 3)))), "key \"k\": a bool of 3"},
      {{.values = {KeyU32("k", 1), KeyU32("k", 1)}, .infos = {}}, "duplicate key \"k\""},
      {value(Key("general.alignment", 8, Text("32"))), "\"general.alignment\": expected u32, got string"},
      {value(Key("general.alignment", 10, U64(32))), "\"general.alignment\": expected u32, got u64"},
      {value(Key("general.alignment", 9, ArrayOf(4, 1, U32(32)))), "expected u32, got array"},
      {value(KeyU32("general.alignment", 0)), "expected a power of two up to 1048576, got 0"},
      {value(KeyU32("general.alignment", 33)), "expected a power of two up to 1048576, got 33"},
      {value(KeyU32("general.alignment", 0xffffffff)), "expected a power of two"},
      {{.values = {KeyU32("general.alignment", 0x80000000)}, .infos = {Info("a", {1}, 0, 0)}, .data_bytes = 4},
       "expected a power of two up to 1048576, got 2147483648"},
      {value(Key("split.count", 2, Raw<uint16_t>(2))), "one part of a split model"},
      {info(Info("", {1}, 0, 0)), "expected a name of 1..64 bytes"},
      {info(Info(std::string(65, 'n'), {1}, 0, 0)), "expected a name of 1..64 bytes"},
      {info(U64(kHuge) + std::string(60, 'n')), "tensor info 0"},
      {info(Info("t", {1, 1, 1, 1, 1}, 0, 0)), "tensor \"t\": 5 dimensions, expected at most 4"},
      {info(Text("t") + U32(0xffffffff) + std::string(64, '\1')), "tensor \"t\": 4294967295 dimensions"},
      {info(Info("t", {0}, 0, 0)), "tensor \"t\": dimension 0 is 0"},
      {info(Info("t", {32, 0}, 8, 0)), "tensor \"t\": dimension 1 is 0"},
      {info(Info("t", {uint64_t{1} << 63}, 0, 0)), "tensor \"t\": dimension 0 is 9223372036854775808"},
      {info(Info("t", {~uint64_t{0}}, 0, 0)), "tensor \"t\": dimension 0"},
      {info(Info("t", {kHuge, 4}, 0, 0)), "tensor \"t\": shape [4, 4611686018427387904] is too large"},
      {info(Info("t", {uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0)), "too large"},
      {info(Info("t", {uint64_t{1} << 32, uint64_t{1} << 30}, 0, 0)), "too large"},
      {info(Info("t", {1 << 16, 1 << 16, 1 << 16, 1 << 16}, 0, 0)), "too large"},
      {info(Info("t", {uint64_t{1} << 40}, 0, 0)),
       "tensor \"t\": 4398046511104 bytes at offset 0, but the file holds 4096"},
      {info(Info("t", {31}, 2, 0)), "innermost dimension of Q4_0 must be a multiple of 32"},
      {info(Info("t", {128}, 12, 0)), "innermost dimension of Q4_K must be a multiple of 256"},
      {info(Info("t", {}, 8, 0)), "innermost dimension of Q8_0"},
      {info(Info("t", {256}, 10, 0)), "tensor \"t\": type Q2_K, expected F32"},
      {info(Info("t", {32}, 4, 0)), "tensor \"t\": type Q4_2"},
      {info(Info("t", {32}, 200, 0)), "tensor \"t\": type number 200"},
      {info(Info("t", {32}, 0xffffffff, 0)), "tensor \"t\": type number 4294967295"},
      {info(Info("t", {1}, 0, 1)), "tensor \"t\": offset 1, expected 0"},
      {info(Info("t", {1}, 0, 32)), "tensor \"t\": offset 32, expected 0"},
      {info(Info("t", {1}, 0, ~uint64_t{0} - 31)), "tensor \"t\": offset"},
      {info(Info("t", {1025}, 0, 0)), "tensor \"t\": 4100 bytes at offset 0, but the file holds 4096"},
      {info(Info("t", {1}, 0, 0), 0), "tensor \"t\": 4 bytes at offset 0"},
      {{.values = {}, .infos = {Info("a", {8}, 0, 0), Info("b", {8}, 0, 0)}, .data_bytes = 64},
       "tensor \"b\": offset 0, expected 32"},
      {{.values = {}, .infos = {Info("a", {9}, 0, 0), Info("b", {8}, 0, 32)}, .data_bytes = 96},
       "tensor \"b\": offset 32, expected 64"},
      {{.values = {}, .infos = {Info("a", {8}, 0, 0), Info("b", {8}, 0, 64)}, .data_bytes = 96},
       "tensor \"b\": offset 64, expected 32"},
      {{.values = {}, .infos = {Info("a", {8}, 0, 0), Info("a", {8}, 0, 32)}, .data_bytes = 64},
       "duplicate tensor \"a\""},
  };
  for (const Case& c : cases) {
    std::string bytes = c.world.Bytes();
    if (c.world.data_bytes == 0 && !c.world.infos.empty()) bytes.append((32 - bytes.size() % 32) % 32, '\0');
    const auto file = GgufFile::Parse(bytes, "x.gguf");
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << c.error;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(c.error));
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("x.gguf: "));
  }
}

TEST(Gguf, NamesFromAFileAreMadeFitToPrint) {
  const std::pair<std::string, std::string> kNames[] = {
      {"blk.0", "\"blk.0\""},
      {"a\"b\n\x1b", "\"a\\\"b\\n\\x1b\""},
      {"\xc3\xa9\xf0\x9f\x91\x8d", "\"\xc3\xa9\xf0\x9f\x91\x8d\""},
      {"\xff\xc3(\xe2\x82", "\"\\xff\\xc3(\\xe2\\x82\""},
      {"\xed\xa0\x80\xc0\x80\xf4\x90\x80\x80", "\"\\xed\\xa0\\x80\\xc0\\x80\\xf4\\x90\\x80\\x80\""},
      {std::string(119, 'a') + "\xc3\xa9z", "\"" + std::string(119, 'a') + "\xc3\xa9...\" (122 bytes)"},
  };
  for (const auto& [name, shown] : kNames) EXPECT_EQ(QuoteName(name), shown);
}

TEST(Gguf, CountsAreComparedWithTheBytesThatFollow) {
  for (uint64_t count : {uint64_t{2}, uint64_t{1000}, kHuge, ~uint64_t{0}}) {
    const auto values = GgufFile::Parse(absl::StrCat("GGUF", U32(3), U64(0), U64(count), KeyU32("k", 1)), "x");
    EXPECT_THAT(std::string(values.status().message()),
                HasSubstr("metadata values do not fit into the 17 bytes that follow"))
        << count;
    const auto tensors = GgufFile::Parse(absl::StrCat("GGUF", U32(3), U64(count), U64(0), Info("t", {1}, 0, 0)), "x");
    EXPECT_THAT(std::string(tensors.status().message()), HasSubstr("tensors do not fit into the 33 bytes that follow"))
        << count;
  }
}

TEST(Gguf, AFileCutAnywhereBeforeItsPaddingIsRefused) {
  const auto text = DefaultFileSystem().ReadFile(GROUPER_SOURCE_DIR "/tests/golden/tiny.gguf", 1 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  constexpr size_t kLastByte = 1000;  // of the last tensor; padding follows
  for (size_t size = 0; size <= text->size(); ++size) {
    EXPECT_EQ(GgufFile::Parse(text->substr(0, size), "x").ok(), size >= kLastByte) << size;
  }
}

TEST(Gguf, FlippedBitsNeverBreakTheInvariants) {
  const auto text = DefaultFileSystem().ReadFile(GROUPER_SOURCE_DIR "/tests/golden/tiny.gguf", 1 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  int refused = 0;
  for (size_t bit = 0; bit < text->size() * 8; ++bit) {
    std::string flipped = *text;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    const auto file = GgufFile::Parse(flipped, "x");
    refused += !file.ok();
    if (!file.ok()) continue;
    for (const StoredTensor& tensor : (*file)->tensors()) {
      EXPECT_TRUE(tensor.bytes.data() >= flipped.data() && tensor.bytes.end() <= flipped.data() + flipped.size())
          << bit;
      std::vector<float> values(tensor.num_elements());
      EXPECT_EQ(DecodeToFloat(tensor, 0, tensor.num_elements(), values.data()).ok(), CanDecodeToFloat(tensor.type))
          << bit;
    }
    for (const std::string& key : (*file)->keys()) EXPECT_FALSE((*file)->Describe(key).empty());
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace grouper
