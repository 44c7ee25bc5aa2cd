#include "common/checkpoint/safetensors.h"

#include <sys/stat.h>

#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/philox.h"
#include "common/checkpoint/model_tensors.h"
#include "common/checkpoint/safetensors_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/faulty_file_system.h"

namespace grouper {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string File(absl::string_view header, size_t data_bytes) {
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i));
  return absl::StrCat(length, header, std::string(data_bytes, '\0'));
}

struct Parsed {
  absl::Status status;
  std::vector<StoredTensor> tensors;
  std::map<std::string, std::string> metadata;
};

Parsed Parse(absl::string_view bytes) {
  Parsed parsed;
  parsed.status = ParseSafetensors(bytes, "x.safetensors", &parsed.tensors, &parsed.metadata);
  return parsed;
}

std::string Directory(const std::string& name) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/safetensors_test_", getpid(), "_", name);
  EXPECT_TRUE(DefaultFileSystem().RemoveAll(path).ok());
  EXPECT_TRUE(DefaultFileSystem().CreateDirectories(path).ok());
  return path;
}

void Write(const std::string& path, absl::string_view data) {
  const absl::Status status = WriteFileAtomically(DefaultFileSystem(), path, data);
  ASSERT_TRUE(status.ok()) << status;
}

TEST(Safetensors, ReadsWhatTheReferenceWrote) {
  const auto file = SafetensorsFile::Open(GROUPER_SOURCE_DIR "/tests/golden/plain_types.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<std::string> shapes;
  for (const StoredTensor& tensor : (*file)->tensors()) shapes.push_back(tensor.name + " " + tensor.ShapeString());
  EXPECT_THAT(shapes, ElementsAre("bool BOOL[2]", "empty F32[0, 4]", "f16 F16[2, 4]", "f32 F32[2, 4]", "f64 F64[2, 4]",
                                  "i64 I64[3]", "scalar F32[]", "u8 U8[5]"));
  EXPECT_EQ((*file)->metadata().at("format"), "pt");
  const float expected[] = {0.0f, -0.0f, 1.0f, -2.5f, 3.140625f, 65504.0f, 5.9604645e-08f, -0.333251953125f};
  for (const char* name : {"f16", "f32", "f64"}) {
    float values[8];
    ASSERT_TRUE(DecodeToFloat(*(*file)->Find(name), 0, 8, values).ok());
    EXPECT_EQ(std::memcmp(values, expected, sizeof values), 0) << name;
    ASSERT_TRUE(DecodeToFloat(*(*file)->Find(name), 3, 5, values).ok());
    EXPECT_EQ(values[0], -2.5f) << name;
    EXPECT_EQ(values[1], 3.140625f) << name;
  }
  float one;
  ASSERT_TRUE(DecodeToFloat(*(*file)->Find("scalar"), 0, 1, &one).ok());
  EXPECT_EQ(one, 7.0f);
  EXPECT_THAT(std::string(DecodeToFloat(*(*file)->Find("i64"), 0, 1, &one).message()),
              HasSubstr("tensor \"i64\": expected a floating-point type"));
  EXPECT_EQ((*file)->Find("none"), nullptr);
}

TEST(Safetensors, EveryHalfAndBfloatDecodesExactly) {
  std::vector<uint16_t> bits(65536);
  for (int i = 0; i < 65536; ++i) bits[i] = static_cast<uint16_t>(i);
  const absl::string_view bytes(reinterpret_cast<const char*>(bits.data()), 2 * bits.size());
  std::vector<float> halves(65536), bfloats(65536);
  ASSERT_TRUE(DecodeToFloat({"h", StorageType::kF16, {65536}, bytes, "x"}, 0, 65536, halves.data()).ok());
  ASSERT_TRUE(DecodeToFloat({"b", StorageType::kBF16, {65536}, bytes, "x"}, 0, 65536, bfloats.data()).ok());
  for (int i = 0; i < 65536; ++i) {
    const int exponent = (i >> 10) & 31, mantissa = i & 1023;
    const double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(halves[i]), mantissa != 0);
      EXPECT_EQ(std::isinf(halves[i]), mantissa == 0);
    } else {
      EXPECT_EQ(halves[i], static_cast<float>(i & 0x8000 ? -magnitude : magnitude)) << i;
    }
    uint32_t wide;
    std::memcpy(&wide, &bfloats[i], 4);
    EXPECT_EQ(wide, static_cast<uint32_t>(i) << 16);
  }
}

// What the reference implementation accepts, we accept too.
TEST(Safetensors, AcceptsWhatTheFormatAllows) {
  constexpr char kA[] = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const std::pair<std::string, size_t> valid[] = {
      {absl::StrCat("{", kA, "}"), 8},
      {absl::StrCat("  {", kA, "}  \n"), 8},
      {absl::StrCat(R"({"__metadata__":null,)", kA, "}"), 8},
      {absl::StrCat(R"({"__metadata__":{"k":"v"},)", kA, "}"), 8},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"extra":{"deep":[1,[2,{"x":null}]]},"more":1.5}})", 8},
      {R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},"a":{"data_offsets":[0,8],"shape":[2],"dtype":"F32"}})",
       12},
      {R"({"z":{"dtype":"F32","shape":[0,3],"data_offsets":[8,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       8},
      {R"({"s":{"dtype":"U8","shape":[],"data_offsets":[0,1]}})", 1},
      {R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,2],"data_offsets":[0,2]}})", 2},
      {R"({"":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]}})", 3},
      {"{}", 0},
  };
  for (const auto& [header, bytes] : valid) {
    const Parsed parsed = Parse(File(header, bytes));
    EXPECT_TRUE(parsed.status.ok()) << header << ": " << parsed.status;
  }
}

TEST(Safetensors, RefusesEachLieWithItsName) {
  const std::string many_dims = [] {
    std::string dims = "1";
    for (int i = 1; i < 5000; ++i) dims += ",1";
    return dims;
  }();
  struct Case {
    std::string header;
    size_t data_bytes;
    const char* error;
  };
  const Case cases[] = {
      {"", 0, "not JSON"},
      {"[]", 0, "expected an object"},
      {"1", 0, "expected an object"},
      {"null", 0, "expected an object"},
      {"{", 0, "not JSON at its byte"},
      {"{}x", 0, "not JSON at its byte"},
      {"{} {}", 0, "not JSON at its byte"},
      {std::string("{}\0", 3), 0, "not JSON at its byte"},
      {"\xef\xbb\xbf{}", 0, "not JSON"},
      {"{}", 1, "1 bytes after the last tensor"},
      {"{\"\xff\":1}", 0, "not JSON"},
      {R"({"a\ud800":1})", 0, "not JSON"},
      {R"({"a":null})", 0, "tensor \"a\": expected an object, got null"},
      {R"({"a":[]})", 0, "tensor \"a\": expected an object, got an array"},
      {R"({"a":3})", 0, "tensor \"a\": expected an object, got 3"},
      {R"({"a":{}})", 0, "tensor \"a\": field \"dtype\" is missing"},
      {R"({"a":{"dtype":"F32","shape":[2]}})", 8, "tensor \"a\": field \"data_offsets\" is missing"},
      {R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8, "tensor \"a\": field \"shape\" is missing"},
      {R"({"a":{"dtype":"f32","shape":[2],"data_offsets":[0,8]}})", 8, "tensor \"a\": unknown dtype \"f32\""},
      {R"({"a":{"dtype":32,"shape":[2],"data_offsets":[0,8]}})", 8, "tensor \"a\": dtype: expected a string, got 32"},
      {R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", 8, "tensor \"a\": shape: expected an array, got 2"},
      {R"({"a":{"dtype":"F32","shape":"2","data_offsets":[0,8]}})", 8,
       "tensor \"a\": shape: expected an array, got a string"},
      {R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8,
       "shape: expected non-negative integers, got 2.0"},
      {R"({"a":{"dtype":"F32","shape":[2e0],"data_offsets":[0,8]}})", 8,
       "shape: expected non-negative integers, got 2e0"},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8,
       "shape: expected non-negative integers, got -2"},
      {R"({"a":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}})", 8,
       "shape: expected non-negative integers, got a string"},
      {R"({"a":{"dtype":"F32","shape":[true],"data_offsets":[0,8]}})", 8,
       "shape: expected non-negative integers, got a boolean"},
      {R"({"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})", 8,
       "shape: expected non-negative integers, got an array"},
      {R"({"a":{"dtype":"F32","shape":[null],"data_offsets":[0,8]}})", 8,
       "shape: expected non-negative integers, got null"},
      {R"({"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8]}})", 8, "tensor \"a\""},
      {R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})", 8, "too large"},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0, "too large"},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0, "too large"},
      {R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0, "too large"},
      {R"({"a":{"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}})", 0, "too large"},
      {R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,2]}})", 2, "more than 8 dimensions"},
      {absl::StrCat(R"({"a":{"dtype":"U8","shape":[)", many_dims, R"(],"data_offsets":[0,1]}})"), 1,
       "more than 8 dimensions"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[]}})", 8, "data_offsets: expected two numbers"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8]}})", 8, "data_offsets: expected two numbers"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", 8, "data_offsets: expected two numbers"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":8}})", 8, "data_offsets: expected an array"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8.0]}})", 8,
       "data_offsets: expected two non-negative integers"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", 8,
       "data_offsets: expected two non-negative integers"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, "expected an ascending pair"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,16]}})", 8, "within 8 bytes"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,18446744073709551615]}})", 8,
       "within 8 bytes"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, "8 bytes of data, its shape and dtype need 12"},
      {R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,8]}})", 8, "8 bytes of data, its shape and dtype need 4"},
      {R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,8]}})", 8, "8 bytes of data, its shape and dtype need 0"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12, "data begins at 4, expected 0 (unused bytes"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 12, "4 bytes after the last tensor"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
       12, "tensor \"b\": data begins at 4, expected 8 (overlaps"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       8, "tensor \"b\": data begins at 0, expected 8 (overlaps"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})",
       16, "tensor \"b\": data begins at 12, expected 8 (unused bytes"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"z":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}})",
       8, "overlaps"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       8, "duplicate tensor \"a\""},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
       16, "duplicate tensor \"a\""},
      {R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8,
       "tensor \"a\": duplicate key \"dtype\""},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "duplicate tensor \"__metadata__\""},
      {R"({"__metadata__":{"a":"1","a":"2"}})", 0, "duplicate key \"a\""},
      {R"({"__metadata__":{"a":1}})", 0, "__metadata__ \"a\": expected a string, got 1"},
      {R"({"__metadata__":{"a":{}}})", 0, "__metadata__ \"a\": expected a string, got an object"},
      {R"({"__metadata__":"x"})", 0, "expected an object, got a string"},
      {absl::StrCat(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":)", std::string(100000, '['),
                    std::string(100000, ']'), "}}"),
       1, "nested deeper than 64"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1e999}})", 1, "not JSON"},
  };
  for (const Case& c : cases) {
    const Parsed parsed = Parse(File(c.header, c.data_bytes));
    EXPECT_EQ(parsed.status.code(), absl::StatusCode::kInvalidArgument) << c.header.substr(0, 200);
    EXPECT_THAT(std::string(parsed.status.message()), HasSubstr(c.error)) << c.header.substr(0, 200);
    EXPECT_THAT(std::string(parsed.status.message()), HasSubstr("x.safetensors: "));
    EXPECT_THAT(parsed.tensors, IsEmpty());
  }
}

TEST(Safetensors, HeaderLengthIsCheckedAtItsLimits) {
  auto with_length = [](uint64_t length, size_t bytes) {
    std::string file = File("", bytes);
    for (int i = 0; i < 8; ++i) file[i] = static_cast<char>(length >> (8 * i));
    return file;
  };
  EXPECT_THAT(std::string(Parse("").status.message()), HasSubstr("got 0 bytes"));
  EXPECT_THAT(std::string(Parse("1234567").status.message()), HasSubstr("got 7 bytes"));
  EXPECT_THAT(std::string(Parse(with_length(3, 2)).status.message()),
              HasSubstr("header of 3 bytes, but only 2 follow"));
  EXPECT_THAT(std::string(Parse(with_length(~uint64_t{0}, 2)).status.message()),
              HasSubstr("expected at most 100000000"));
  EXPECT_THAT(std::string(Parse(with_length(kMaxSafetensorsHeader + 1, 2)).status.message()),
              HasSubstr("expected at most 100000000"));
  std::string largest = "{}" + std::string(kMaxSafetensorsHeader - 2, ' ');
  EXPECT_TRUE(Parse(File(largest, 0)).status.ok());
  largest += ' ';
  EXPECT_THAT(std::string(Parse(File(largest, 0)).status.message()), HasSubstr("header of 100000001 bytes"));
}

TEST(Safetensors, MetadataIsLimited) {
  auto with_entries = [](size_t count) {
    std::string header = "{\"__metadata__\":{";
    for (size_t i = 0; i < count; ++i) absl::StrAppend(&header, i == 0 ? "" : ",", "\"", i, "\":\"\"");
    return File(header + "}}", 0);
  };
  EXPECT_TRUE(Parse(with_entries(kMaxSafetensorsMetadata)).status.ok());
  EXPECT_THAT(std::string(Parse(with_entries(kMaxSafetensorsMetadata + 1)).status.message()),
              HasSubstr("more than 100000 entries"));
}

TEST(Safetensors, AFileCutAnywhereIsRefused) {
  const auto text = DefaultFileSystem().ReadFile(GROUPER_SOURCE_DIR "/tests/golden/plain_types.safetensors", 1 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  ASSERT_TRUE(Parse(*text).status.ok());
  for (size_t size = 0; size < text->size(); ++size) {
    EXPECT_FALSE(Parse(text->substr(0, size)).status.ok()) << size;
  }
}

// One flipped bit may turn a name into another one, which the format cannot see; what is accepted must be sound.
TEST(Safetensors, FlippedBitsNeverBreakTheInvariants) {
  const auto text = DefaultFileSystem().ReadFile(GROUPER_SOURCE_DIR "/tests/golden/plain_types.safetensors", 1 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  uint64_t header = 0;
  std::memcpy(&header, text->data(), 8);
  int refused = 0;
  for (size_t bit = 0; bit < (8 + header) * 8; ++bit) {
    std::string flipped = *text;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    const Parsed parsed = Parse(flipped);
    refused += !parsed.status.ok();
    size_t covered = 0;
    for (const StoredTensor& tensor : parsed.tensors) {
      uint64_t bytes = 0;
      ASSERT_TRUE(StorageBytes(tensor.type, tensor.shape, &bytes).ok()) << bit;
      EXPECT_EQ(bytes, tensor.bytes.size()) << bit;
      EXPECT_TRUE(tensor.bytes.empty() ||
                  (tensor.bytes.data() >= flipped.data() + 8 && tensor.bytes.end() <= flipped.data() + flipped.size()))
          << bit;
      covered += tensor.bytes.size();
    }
    EXPECT_LE(covered + 8, flipped.size()) << bit;
  }
  EXPECT_GT(refused, 1000);
}

TEST(Safetensors, OnlyRegularFilesAreOpened) {
  const std::string directory = Directory("special");
  const std::string fifo = directory + "/model.safetensors";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(std::string(SafetensorsFile::Open(fifo).status().message()), HasSubstr("expected a regular file"));
  EXPECT_THAT(std::string(SafetensorsFile::Open("/dev/zero").status().message()), HasSubstr("expected a regular file"));
  EXPECT_THAT(std::string(SafetensorsFile::Open(directory).status().message()), HasSubstr("expected a regular file"));
  EXPECT_TRUE(absl::IsNotFound(SafetensorsFile::Open(directory + "/none").status()));
}

// --- writing ---------------------------------------------------------------

std::string Pattern(const TensorSpec& spec) {
  uint64_t bytes = 0;
  EXPECT_TRUE(StorageBytes(spec.type, spec.shape, &bytes).ok());
  std::string data(bytes, '\0');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 31 + spec.name.size());
  return data;
}

absl::Status WritePattern(const TensorSpec& spec, AppendBytes append) {
  const std::string data = Pattern(spec);
  for (size_t at = 0; at < data.size(); at += 7) {
    if (absl::Status status = append(absl::string_view(data).substr(at, 7)); !status.ok()) return status;
  }
  return absl::OkStatus();
}

const std::vector<TensorSpec>& Specs() {
  static const std::vector<TensorSpec> specs = {{"b.weight", StorageType::kBF16, {3, 5}},
                                                {"a.weight", StorageType::kF32, {2, 2}},
                                                {"quoted \"\n\u00e9", StorageType::kU8, {1}},
                                                {"empty", StorageType::kF32, {0}},
                                                {"step", StorageType::kI64, {}}};
  return specs;
}

TEST(SafetensorsWriter, WhatItWritesIsReadBackAndAligned) {
  const std::string directory = Directory("single");
  const absl::Status written =
      WriteModelSafetensors(DefaultFileSystem(), directory, Specs(), {{"format", "pt"}}, 1 << 20, WritePattern);
  ASSERT_TRUE(written.ok()) << written;
  const auto model = ModelTensors::Open(directory);
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ((*model)->tensors().size(), Specs().size());
  EXPECT_EQ((*model)->files()[0]->metadata().at("format"), "pt");
  for (const TensorSpec& spec : Specs()) {
    const StoredTensor* tensor = (*model)->Find(spec.name);
    ASSERT_NE(tensor, nullptr) << spec.name;
    EXPECT_EQ(tensor->shape, spec.shape);
    EXPECT_EQ(tensor->type, spec.type);
    EXPECT_EQ(tensor->bytes, Pattern(spec));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor->bytes.data()) % BlockBytes(spec.type), 0u) << spec.name;
  }
}

TEST(SafetensorsWriter, ShardsAtTheLimitAndWritesTheIndex) {
  const std::string directory = Directory("sharded");
  ASSERT_TRUE(WriteModelSafetensors(DefaultFileSystem(), directory, Specs(), {}, 30, WritePattern).ok());
  const auto names = DefaultFileSystem().ListDirectory(directory);
  EXPECT_THAT(*names, ElementsAre("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                  "model.safetensors.index.json"));
  const auto model = ModelTensors::Open(directory);
  ASSERT_TRUE(model.ok()) << model.status();
  for (const TensorSpec& spec : Specs()) EXPECT_EQ((*model)->Find(spec.name)->bytes, Pattern(spec));
}

TEST(SafetensorsWriter, EveryFileIsSyncedAndEveryFaultIsTold) {
  FaultyFileSystem fs;
  ASSERT_TRUE(fs.CreateDirectories("model").ok());
  fs.ResetCounter();
  ASSERT_TRUE(WriteModelSafetensors(fs, "model", Specs(), {}, 30, WritePattern).ok());
  const uint64_t operations = fs.operations();
  fs.Restart(FaultyFileSystem::Loss::kUnsyncedBytes);
  EXPECT_GT(*fs.FileSize("model/model-00001-of-00002.safetensors"), 100u);
  EXPECT_GT(*fs.FileSize("model/model.safetensors.index.json"), 100u);
  for (uint64_t n = 1; n <= operations; ++n) {
    fs.ResetCounter();
    fs.FailAt(n, ENOSPC);
    const absl::Status status = WriteModelSafetensors(fs, "model", Specs(), {}, 30, WritePattern);
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << n;
    EXPECT_THAT(std::string(status.message()), HasSubstr("model"));
  }
}

// --- sharded models --------------------------------------------------------

constexpr char kA[] = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
constexpr char kB[] = R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})";

TEST(ModelTensors, EveryProblemIsNamedAtOnce) {
  const std::string directory = Directory("problems");
  Write(directory + "/one.safetensors", File(kA, 1));
  Write(directory + "/bad.safetensors", "short");
  Write(directory + "/model.safetensors.index.json",
        R"({"weight_map":{"a":"one.safetensors","x":"one.safetensors","b":"gone.safetensors","c":"bad.safetensors"}})");
  const std::string error(ModelTensors::Open(directory).status().message());
  EXPECT_THAT(error, HasSubstr("gone.safetensors: cannot open"));
  EXPECT_THAT(error, HasSubstr("bad.safetensors: expected a safetensors file"));
  EXPECT_THAT(error, HasSubstr("tensor \"x\" is not in one.safetensors"));
  EXPECT_THAT(error, HasSubstr("model.safetensors.index.json"));
}

TEST(ModelTensors, RefusesBadIndexes) {
  const std::string directory = Directory("index");
  Write(directory + "/one.safetensors", File(kA, 1));
  Write(directory + "/two.safetensors", File(kA, 1));
  const std::pair<const char*, const char*> cases[] = {
      {"", "not JSON"},
      {"[]", "weight_map"},
      {"{}", "weight_map"},
      {R"({"weight_map":[]})", "weight_map"},
      {R"({"weight_map":{}})", "names no tensor"},
      {R"({"weight_map":{"a":1}})", "\"a\": expected a file name"},
      {R"({"weight_map":{"a":""}})", "expected a relative path"},
      {R"({"weight_map":{"a":"../one.safetensors"}})", "expected a relative path"},
      {R"({"weight_map":{"a":"x/../../one.safetensors"}})", "expected a relative path"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", "expected a relative path"},
      {R"({"weight_map":{"a":"one.safetensors\u0000"}})", "expected a relative path"},
      {R"({"weight_map":{"a":"one.safetensors","a":"two.safetensors"}})", "duplicate key"},
      {R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})",
       "tensor \"a\" is in both one.safetensors and two.safetensors"},
  };
  for (const auto& [index, error] : cases) {
    Write(directory + "/model.safetensors.index.json", index);
    const auto model = ModelTensors::Open(directory);
    EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument) << index;
    EXPECT_THAT(std::string(model.status().message()), HasSubstr(error)) << index;
  }
}

TEST(ModelTensors, ShardsMayBeLinksAndStandInFolders) {
  const std::string blobs = Directory("blobs"), directory = Directory("snapshot");
  Write(blobs + "/1234", File(kA, 1));
  ASSERT_EQ(symlink((blobs + "/1234").c_str(), (directory + "/one.safetensors").c_str()), 0);
  ASSERT_TRUE(DefaultFileSystem().CreateDirectories(directory + "/part").ok());
  Write(directory + "/part/two.safetensors", File(kB, 2));
  Write(directory + "/model.safetensors.index.json",
        R"({"metadata":{},"weight_map":{"a":"one.safetensors","b":"part/two.safetensors"}})");
  const auto model = ModelTensors::Open(directory);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->tensors().size(), 2u);
  EXPECT_EQ((*model)->Find("b")->file, directory + "/part/two.safetensors");
}

TEST(ModelTensors, AnEmptyDirectorySaysWhatWasExpected) {
  const auto model = ModelTensors::Open(Directory("nothing"));
  EXPECT_TRUE(absl::IsNotFound(model.status()));
  EXPECT_THAT(std::string(model.status().message()),
              HasSubstr("expected model.safetensors or model.safetensors.index.json"));
}

}  // namespace
}  // namespace grouper
