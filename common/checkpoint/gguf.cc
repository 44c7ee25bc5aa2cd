#include "common/checkpoint/gguf.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "common/base/quote.h"
#include "common/base/status.h"

namespace grouper {
namespace {

constexpr uint64_t kMaxKey = 65535;     // the format's limit
constexpr uint64_t kMaxTensorName = 64;  // the format's limit
constexpr uint32_t kMaxRank = 4;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr uint32_t kDefaultAlignment = 32;
constexpr char kAlignmentKey[] = "general.alignment";
constexpr char kSplitKey[] = "split.count";

// Bytes of a value of fixed size; 0 for strings, arrays and unknown types.
uint64_t FixedSize(uint32_t type) {
  static constexpr uint8_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < sizeof kSizes ? kSizes[type] : 0;
}

bool IsInteger(GgufType type) {
  switch (type) {
    case GgufType::kUint8: case GgufType::kInt8: case GgufType::kUint16: case GgufType::kInt16: case GgufType::kUint32:
    case GgufType::kInt32: case GgufType::kUint64: case GgufType::kInt64: return true;
    default: return false;
  }
}

uint64_t LoadUnsigned(absl::string_view bytes) {
  uint64_t value = 0;
  std::memcpy(&value, bytes.data(), bytes.size());
  return value;
}

// nullopt: a u64 beyond int64.
std::optional<int64_t> LoadInteger(GgufType type, absl::string_view bytes) {
  const uint64_t value = LoadUnsigned(bytes);
  switch (type) {
    case GgufType::kInt8: return static_cast<int8_t>(value);
    case GgufType::kInt16: return static_cast<int16_t>(value);
    case GgufType::kInt32: return static_cast<int32_t>(value);
    case GgufType::kInt64: return static_cast<int64_t>(value);
    default:
      return value > static_cast<uint64_t>(INT64_MAX) ? std::nullopt
                                                      : std::optional<int64_t>(static_cast<int64_t>(value));
  }
}

// ggml's numbers for tensor types.
std::optional<StorageType> TensorType(uint32_t type) {
  switch (type) {
    case 0: return StorageType::kF32;
    case 1: return StorageType::kF16;
    case 2: return StorageType::kQ4_0;
    case 3: return StorageType::kQ4_1;
    case 6: return StorageType::kQ5_0;
    case 7: return StorageType::kQ5_1;
    case 8: return StorageType::kQ8_0;
    case 12: return StorageType::kQ4_K;
    case 13: return StorageType::kQ5_K;
    case 14: return StorageType::kQ6_K;
    case 24: return StorageType::kI8;
    case 25: return StorageType::kI16;
    case 26: return StorageType::kI32;
    case 27: return StorageType::kI64;
    case 28: return StorageType::kF64;
    case 30: return StorageType::kBF16;
    default: return std::nullopt;
  }
}

// The names of types that exist but are not read, for the error.
std::string TensorTypeName(uint32_t type) {
  static constexpr const char* kNames[] = {
      "F32",   "F16",    "Q4_0", "Q4_1", "Q4_2", "Q4_3",    "Q5_0",   "Q5_1",    "Q8_0",  "Q8_1",   "Q2_K",
      "Q3_K",  "Q4_K",   "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
      "IQ2_S", "IQ4_XS", "I8",   "I16",  "I32",  "I64",     "F64",    "IQ1_M",   "BF16"};
  return type < std::size(kNames) ? kNames[type] : absl::StrCat("number ", type);
}

}  // namespace

const char* Name(GgufType type) {
  static constexpr const char* kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                           "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<uint32_t>(type)];
}

// Walks the bytes once. Every read is bounded by what is left.
class GgufParser {
 public:
  GgufParser(absl::string_view bytes, GgufFile* file) : all_(bytes), rest_(bytes), file_(*file) {}

  absl::Status Run() {
    absl::string_view magic;
    if (!Take(4, &magic) || magic != "GGUF") return absl::InvalidArgumentError("expected a GGUF file (magic \"GGUF\")");
    if (!TakeUint32(&file_.version_)) return Truncated("version");
    if ((file_.version_ & 0xffff) == 0 && file_.version_ != 0) {
      return absl::InvalidArgumentError("a big-endian GGUF file; expected little-endian");
    }
    if (file_.version_ != 2 && file_.version_ != 3) {
      return absl::InvalidArgumentError(absl::StrCat("GGUF version ", file_.version_, ", expected 2 or 3"));
    }
    uint64_t num_tensors, num_values;
    if (!TakeUint64(&num_tensors) || !TakeUint64(&num_values)) return Truncated("counts");
    // The smallest value takes 14 bytes, the smallest info 25.
    if (num_values > rest_.size() / 14) return absl::InvalidArgumentError(TooMany("metadata values", num_values));
    if (num_tensors > rest_.size() / 25) return absl::InvalidArgumentError(TooMany("tensors", num_tensors));
    for (uint64_t i = 0; i < num_values; ++i) RETURN_IF_ERROR(ReadKeyValue(i));
    RETURN_IF_ERROR(CheckGeneral());
    file_.tensors_.reserve(num_tensors);
    offsets_.reserve(num_tensors);
    for (uint64_t i = 0; i < num_tensors; ++i) RETURN_IF_ERROR(ReadInfo(i));
    return PlaceTensors();
  }

 private:
  bool Take(uint64_t n, absl::string_view* bytes) {
    if (n > rest_.size()) return false;
    *bytes = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return true;
  }
  bool TakeUint32(uint32_t* value) {
    absl::string_view bytes;
    if (!Take(4, &bytes)) return false;
    *value = static_cast<uint32_t>(LoadUnsigned(bytes));
    return true;
  }
  bool TakeUint64(uint64_t* value) {
    absl::string_view bytes;
    if (!Take(8, &bytes)) return false;
    *value = LoadUnsigned(bytes);
    return true;
  }
  bool TakeString(absl::string_view* text) {
    uint64_t length;
    return TakeUint64(&length) && Take(length, text);
  }

  std::string TooMany(absl::string_view what, uint64_t count) const {
    return absl::StrCat(count, " ", what, " do not fit into the ", rest_.size(), " bytes that follow");
  }
  absl::Status Truncated(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("the file ends within its ", what,
                                                   ", or a length there is too large (byte ",
                                                   all_.size() - rest_.size(), " of ", all_.size(), ")"));
  }

  absl::Status ReadKeyValue(uint64_t index) {
    absl::string_view key;
    if (!TakeString(&key)) return Truncated(absl::StrCat("metadata key ", index));
    if (key.empty() || key.size() > kMaxKey) {
      return absl::InvalidArgumentError(
          absl::StrCat("metadata key ", index, ": expected 1..", kMaxKey, " bytes, got ", key.size()));
    }
    if (!IsUtf8(key)) return absl::InvalidArgumentError(absl::StrCat("key ", QuoteName(key), ": not UTF-8"));
    GgufValue value;
    RETURN_IF_ERROR(Annotate(ReadValue(&value), absl::StrCat("key ", QuoteName(key))));
    if (!file_.values_.emplace(std::string(key), value).second) {
      return absl::InvalidArgumentError(absl::StrCat("duplicate key ", QuoteName(key)));
    }
    file_.keys_.emplace_back(key);
    return absl::OkStatus();
  }

  absl::Status ReadValue(GgufValue* value) {
    uint32_t type;
    if (!TakeUint32(&type)) return Truncated("type");
    if (type > static_cast<uint32_t>(GgufType::kFloat64)) {
      return absl::InvalidArgumentError(absl::StrCat("unknown value type ", type));
    }
    value->type = static_cast<GgufType>(type);
    if (value->type == GgufType::kString) return TakeString(&value->bytes) ? absl::OkStatus() : Truncated("string");
    if (value->type == GgufType::kArray) return ReadArray(value);
    if (!Take(FixedSize(type), &value->bytes)) return Truncated("value");
    if (value->type == GgufType::kBool) return CheckBools(value->bytes);
    return absl::OkStatus();
  }

  absl::Status ReadArray(GgufValue* value) {
    uint32_t type;
    if (!TakeUint32(&type) || !TakeUint64(&value->count)) return Truncated("array");
    if (type > static_cast<uint32_t>(GgufType::kFloat64)) {
      return absl::InvalidArgumentError(absl::StrCat("unknown array type ", type));
    }
    value->element_type = static_cast<GgufType>(type);
    if (value->element_type == GgufType::kArray) {
      return absl::InvalidArgumentError("an array of arrays; expected plain elements");
    }
    const uint64_t element_size = value->element_type == GgufType::kString ? 8 : FixedSize(type);
    if (value->count > rest_.size() / element_size) {
      return absl::InvalidArgumentError(TooMany("array elements", value->count));
    }
    if (value->element_type != GgufType::kString) {
      if (!Take(value->count * element_size, &value->bytes)) return Truncated("array");
      if (value->element_type == GgufType::kBool) return CheckBools(value->bytes);
      return absl::OkStatus();
    }
    const absl::string_view start = rest_;
    absl::string_view text;
    for (uint64_t i = 0; i < value->count; ++i) {
      if (!TakeString(&text)) return Truncated(absl::StrCat("array element ", i));
    }
    value->bytes = start.substr(0, start.size() - rest_.size());
    return absl::OkStatus();
  }

  static absl::Status CheckBools(absl::string_view bytes) {
    for (char c : bytes) {
      if (c != 0 && c != 1) {
        return absl::InvalidArgumentError(
            absl::StrCat("a bool of ", static_cast<int>(static_cast<uint8_t>(c)), ", expected 0 or 1"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckGeneral() {
    if (const GgufValue* value = file_.Value(kAlignmentKey)) {
      if (value->type != GgufType::kUint32) {
        return absl::InvalidArgumentError(
            absl::StrCat("key \"", kAlignmentKey, "\": expected u32, got ", Name(value->type)));
      }
      alignment_ = LoadUnsigned(value->bytes);
      if (!std::has_single_bit(alignment_) || alignment_ > kMaxAlignment) {
        return absl::InvalidArgumentError(
            absl::StrCat("key \"", kAlignmentKey, "\": expected a power of two up to ", kMaxAlignment, ", got ", alignment_));
      }
    }
    if (const GgufValue* value = file_.Value(kSplitKey); value != nullptr && IsInteger(value->type)) {
      if (const std::optional<int64_t> parts = LoadInteger(value->type, value->bytes);
          !parts.has_value() || *parts > 1) {
        return absl::InvalidArgumentError(
            "one part of a split model; expected a whole one (llama-gguf-split --merge joins them)");
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadInfo(uint64_t index) {
    StoredTensor tensor;
    absl::string_view name;
    if (!TakeString(&name)) return Truncated(absl::StrCat("tensor info ", index));
    if (name.empty() || name.size() > kMaxTensorName) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", index, ", ", QuoteName(name), ": expected a name of 1..", kMaxTensorName, " bytes"));
    }
    tensor.name = std::string(name);
    tensor.file = file_.path_;
    const std::string where = absl::StrCat("tensor ", QuoteName(name));
    if (!names_.insert(tensor.name).second) return absl::InvalidArgumentError(absl::StrCat("duplicate ", where));
    uint32_t rank, type;
    if (!TakeUint32(&rank)) return Truncated(where);
    if (rank > kMaxRank) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": ", rank, " dimensions, expected at most ", kMaxRank));
    }
    for (uint32_t i = 0; i < rank; ++i) {
      uint64_t dim;
      if (!TakeUint64(&dim)) return Truncated(where);
      if (dim == 0 || dim > static_cast<uint64_t>(INT64_MAX)) {
        return absl::InvalidArgumentError(
            absl::StrCat(where, ": dimension ", i, " is ", dim, ", expected 1..", INT64_MAX));
      }
      tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(dim));
    }
    uint64_t offset;
    if (!TakeUint32(&type) || !TakeUint64(&offset)) return Truncated(where);
    const std::optional<StorageType> storage = TensorType(type);
    if (!storage.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": type ", TensorTypeName(type),
                                                     ", expected F32, F16, BF16, F64, Q4_0, Q4_1, "
                                                     "Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K or an integer type"));
    }
    tensor.type = *storage;
    file_.tensors_.push_back(std::move(tensor));
    offsets_.push_back(offset);
    return absl::OkStatus();
  }

  // Finds each tensor's bytes: one after another, each at a multiple of the alignment.
  absl::Status PlaceTensors() {
    const uint64_t header = all_.size() - rest_.size();
    const uint64_t padding = Padding(header);
    if (file_.tensors_.empty()) return absl::OkStatus();
    if (padding > rest_.size()) return Truncated("padding before the tensors");
    const absl::string_view data = rest_.substr(padding);
    std::vector<size_t> order(offsets_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(),
              [this](size_t a, size_t b) { return std::tie(offsets_[a], a) < std::tie(offsets_[b], b); });
    uint64_t expected = 0;  // <= data.size() + alignment: cannot wrap
    for (size_t i : order) {
      StoredTensor& tensor = file_.tensors_[i];
      const std::string where = absl::StrCat("tensor ", QuoteName(tensor.name));
      uint64_t size = 0;
      RETURN_IF_ERROR(Annotate(StorageBytes(tensor.type, tensor.shape, &size), where));
      if (offsets_[i] != expected) {
        return absl::InvalidArgumentError(absl::StrCat(where, ": offset ", offsets_[i], ", expected ", expected,
                                                       " (tensors follow one another at multiples of ", alignment_,
                                                       ")"));
      }
      if (offsets_[i] > data.size() || size > data.size() - offsets_[i]) {
        return absl::InvalidArgumentError(absl::StrCat(where, ": ", size, " bytes at offset ", offsets_[i],
                                                       ", but the file holds ", data.size(),
                                                       " bytes of data (truncated?)"));
      }
      tensor.bytes = data.substr(offsets_[i], size);
      expected = offsets_[i] + size + Padding(offsets_[i] + size);
    }
    std::sort(file_.tensors_.begin(), file_.tensors_.end(),
              [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
    return absl::OkStatus();
  }

  uint64_t Padding(uint64_t position) const { return (alignment_ - position % alignment_) % alignment_; }

  const absl::string_view all_;
  absl::string_view rest_;
  GgufFile& file_;
  uint64_t alignment_ = kDefaultAlignment;
  std::vector<uint64_t> offsets_;
  std::unordered_set<std::string> names_;
};

absl::StatusOr<std::shared_ptr<const GgufFile>> GgufFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(std::shared_ptr<MappedFile> mapped, MappedFile::Open(path));
  auto file = std::make_shared<GgufFile>();
  file->path_ = path;
  file->file_ = mapped;
  RETURN_IF_ERROR(Annotate(GgufParser(mapped->bytes(), file.get()).Run(), path));
  return file;
}

absl::StatusOr<std::shared_ptr<const GgufFile>> GgufFile::Parse(absl::string_view bytes, const std::string& name) {
  auto file = std::make_shared<GgufFile>();
  file->path_ = name;
  RETURN_IF_ERROR(Annotate(GgufParser(bytes, file.get()).Run(), name));
  return file;
}

const StoredTensor* GgufFile::Find(absl::string_view name) const {
  auto it = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                             [](const StoredTensor& t, absl::string_view n) { return t.name < n; });
  return it != tensors_.end() && it->name == name ? &*it : nullptr;
}

const GgufValue* GgufFile::Value(const std::string& key) const {
  auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

absl::Status GgufFile::Wrong(const std::string& key, absl::string_view expected) const {
  return absl::InvalidArgumentError(
      absl::StrCat(path_, ": key \"", key, "\": expected ", expected, ", got ", Describe(key)));
}

absl::StatusOr<const GgufValue*> GgufFile::Get(const std::string& key, absl::string_view expected) const {
  const GgufValue* value = Value(key);
  if (value == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": key \"", key, "\" is missing (expected ", expected, ")"));
  }
  return value;
}

absl::StatusOr<const GgufValue*> GgufFile::GetArray(const std::string& key, absl::string_view expected) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Get(key, expected));
  if (value->type != GgufType::kArray) return Wrong(key, expected);
  return value;
}

absl::StatusOr<int64_t> GgufFile::GetInt(const std::string& key, int64_t min, int64_t max) const {
  const std::string expected = absl::StrCat("an integer in ", min, "..", max);
  ASSIGN_OR_RETURN(const GgufValue* value, Get(key, expected));
  if (!IsInteger(value->type)) return Wrong(key, expected);
  const std::optional<int64_t> number = LoadInteger(value->type, value->bytes);
  if (!number.has_value() || *number < min || *number > max) return Wrong(key, expected);
  return *number;
}

absl::StatusOr<double> GgufFile::GetFloat(const std::string& key) const {
  constexpr char kExpected[] = "a finite f32 or f64";
  ASSIGN_OR_RETURN(const GgufValue* value, Get(key, kExpected));
  double number = 0;
  if (value->type == GgufType::kFloat32) {
    float single;
    std::memcpy(&single, value->bytes.data(), sizeof single);
    number = single;
  } else if (value->type == GgufType::kFloat64) {
    std::memcpy(&number, value->bytes.data(), sizeof number);
  } else {
    return Wrong(key, kExpected);
  }
  if (!std::isfinite(number)) return Wrong(key, kExpected);
  return number;
}

absl::StatusOr<bool> GgufFile::GetBool(const std::string& key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Get(key, "a bool"));
  if (value->type != GgufType::kBool) return Wrong(key, "a bool");
  return value->bytes[0] != 0;
}

absl::StatusOr<absl::string_view> GgufFile::GetString(const std::string& key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Get(key, "a string"));
  if (value->type != GgufType::kString) return Wrong(key, "a string");
  return value->bytes;
}

absl::StatusOr<std::vector<int64_t>> GgufFile::GetInts(const std::string& key, int64_t min, int64_t max) const {
  const std::string expected = absl::StrCat("an array of integers in ", min, "..", max);
  ASSIGN_OR_RETURN(const GgufValue* value, GetArray(key, expected));
  if (!IsInteger(value->element_type)) return Wrong(key, expected);
  const uint64_t size = FixedSize(static_cast<uint32_t>(value->element_type));
  std::vector<int64_t> numbers(value->count);
  for (uint64_t i = 0; i < value->count; ++i) {
    const std::optional<int64_t> number = LoadInteger(value->element_type, value->bytes.substr(i * size, size));
    if (!number.has_value() || *number < min || *number > max) {
      return Annotate(Wrong(key, expected), absl::StrCat("element ", i));
    }
    numbers[i] = *number;
  }
  return numbers;
}

absl::StatusOr<std::vector<float>> GgufFile::GetFloats(const std::string& key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, GetArray(key, "an array of f32"));
  if (value->element_type != GgufType::kFloat32) return Wrong(key, "an array of f32");
  std::vector<float> numbers(value->count);
  if (!numbers.empty()) std::memcpy(numbers.data(), value->bytes.data(), value->bytes.size());
  return numbers;
}

absl::StatusOr<std::vector<absl::string_view>> GgufFile::GetStrings(const std::string& key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, GetArray(key, "an array of strings"));
  if (value->element_type != GgufType::kString) return Wrong(key, "an array of strings");
  std::vector<absl::string_view> texts;
  texts.reserve(value->count);
  absl::string_view rest = value->bytes;  // the parser checked every length
  for (uint64_t i = 0; i < value->count; ++i) {
    const uint64_t length = LoadUnsigned(rest.substr(0, 8));
    texts.push_back(rest.substr(8, length));
    rest.remove_prefix(8 + length);
  }
  return texts;
}

std::string GgufFile::Describe(const std::string& key) const {
  const GgufValue* value = Value(key);
  if (value == nullptr) return "nothing";
  const std::string type = Name(value->type);
  if (value->type == GgufType::kArray) return absl::StrCat("array of ", value->count, " ", Name(value->element_type));
  if (value->type == GgufType::kString) return absl::StrCat(type, " ", QuoteName(value->bytes));
  if (value->type == GgufType::kBool) return value->bytes[0] != 0 ? "bool true" : "bool false";
  if (value->type == GgufType::kFloat32) {
    return absl::StrCat(type, " ", std::bit_cast<float>(static_cast<uint32_t>(LoadUnsigned(value->bytes))));
  }
  if (value->type == GgufType::kFloat64) {
    return absl::StrCat(type, " ", std::bit_cast<double>(LoadUnsigned(value->bytes)));
  }
  const std::optional<int64_t> number = LoadInteger(value->type, value->bytes);
  return number.has_value() ? absl::StrCat(type, " ", *number) : absl::StrCat(type, " ", LoadUnsigned(value->bytes));
}

}  // namespace grouper
