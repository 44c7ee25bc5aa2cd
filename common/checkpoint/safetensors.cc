#include "common/checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <unordered_set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/json.h"
#include "common/base/quote.h"
#include "common/base/status.h"

namespace grouper {
namespace {

std::optional<StorageType> TypeFromName(absl::string_view name) {
  for (StorageType type : {StorageType::kF32, StorageType::kF64, StorageType::kF16, StorageType::kBF16,
                           StorageType::kI64, StorageType::kI32, StorageType::kI16, StorageType::kI8, StorageType::kU64,
                           StorageType::kU32, StorageType::kU16, StorageType::kU8, StorageType::kBool,
                           StorageType::kF8E4M3, StorageType::kF8E5M2, StorageType::kF8E8M0, StorageType::kC64}) {
    if (name == Name(type)) return type;
  }
  return std::nullopt;
}

struct Entry {
  std::string name;
  StorageType type = StorageType::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;
};

// Reads the header in one pass. Its states are the places where a value may stand.
class HeaderReader : public nlohmann::json_sax<json::Json> {
 public:
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
  std::string error;

  bool null() override {
    if (place_ == Place::kMember && name_ == kMetadata) return Done(Place::kTop);  // the reference takes it for "none"
    return Scalar("null");
  }
  bool boolean(bool) override { return Scalar("a boolean"); }
  bool number_integer(number_integer_t value) override { return Scalar(absl::StrCat(value)); }
  bool number_float(number_float_t, const string_t& text) override { return Scalar(text.substr(0, 40)); }
  bool binary(binary_t&) override { return Scalar("binary"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::kShape) {
      if (entry_.shape.size() >= kMaxSafetensorsRank) {
        return Wrong(absl::StrCat("more than ", kMaxSafetensorsRank, " dimensions"));
      }
      if (value > static_cast<uint64_t>(INT64_MAX)) return Wrong(absl::StrCat("dimension ", value, " is too large"));
      entry_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ == Place::kOffsets) {
      if (offsets_ == 2) return Wrong("data_offsets: expected two numbers, got more");
      (offsets_++ == 0 ? entry_.begin : entry_.end) = value;
      return true;
    }
    return Scalar(absl::StrCat(value));
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadataValue) {
      metadata[key_] = std::move(value);
      return Done(Place::kMetadata);
    }
    if (place_ == Place::kField && key_ == "dtype") {
      const std::optional<StorageType> type = TypeFromName(value);
      if (!type.has_value()) return Wrong(absl::StrCat("unknown dtype ", QuoteName(value)));
      entry_.type = *type;
      return Done(Place::kFields);
    }
    return Scalar("a string");
  }

  bool start_object(std::size_t) override {
    if (Ignoring()) return Descend();
    if (place_ == Place::kStart) return Done(Place::kTop);
    if (place_ == Place::kMember) {
      fields_.clear();
      if (name_ == kMetadata) return Done(Place::kMetadata);
      entry_ = Entry();
      offsets_ = 0;
      return Done(Place::kFields);
    }
    return Scalar("an object");
  }

  bool end_object() override {
    if (ignored_depth_ > 0) return Ascend();
    if (place_ == Place::kFields) {
      for (const char* field : {"dtype", "shape", "data_offsets"}) {
        if (fields_.count(field) == 0) return Wrong(absl::StrCat("field \"", field, "\" is missing"));
      }
      entry_.name = name_;
      entries.push_back(std::move(entry_));
      return Done(Place::kTop);
    }
    return Done(place_ == Place::kMetadata ? Place::kTop : Place::kEnd);
  }

  bool start_array(std::size_t) override {
    if (Ignoring()) return Descend();
    if (place_ == Place::kField && key_ == "shape") return Done(Place::kShape);
    if (place_ == Place::kField && key_ == "data_offsets") return Done(Place::kOffsets);
    return Scalar("an array");
  }

  bool end_array() override {
    if (ignored_depth_ > 0) return Ascend();
    if (place_ == Place::kOffsets && offsets_ != 2) return Wrong("data_offsets: expected two numbers");
    return Done(Place::kFields);
  }

  bool key(string_t& key) override {
    if (ignored_depth_ > 0) return true;
    if (place_ == Place::kTop) {
      if (names_.size() >= kMaxSafetensorsTensors) return Fail(absl::StrCat("more than ", kMaxSafetensorsTensors, " tensors"));
      if (!names_.insert(key).second) return Fail(absl::StrCat("duplicate tensor ", QuoteName(key)));
      name_ = key;
      return Done(Place::kMember);
    }
    key_ = key;
    if (place_ == Place::kMetadata) {
      if (metadata.count(key) > 0) return Fail(absl::StrCat("__metadata__: duplicate key ", QuoteName(key)));
      if (metadata.size() >= kMaxSafetensorsMetadata) {
        return Fail(absl::StrCat("__metadata__: more than ", kMaxSafetensorsMetadata, " entries"));
      }
      return Done(Place::kMetadataValue);
    }
    if (IsField() && !fields_.insert(key).second) return Wrong(absl::StrCat("duplicate key ", QuoteName(key)));
    return Done(Place::kField);
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    return Fail(absl::StrCat("header is not JSON at its byte ", position));
  }

 private:
  enum class Place { kStart, kTop, kMember, kMetadata, kMetadataValue, kFields, kField, kShape, kOffsets, kEnd };
  static constexpr char kMetadata[] = "__metadata__";

  bool Done(Place next) {
    place_ = next;
    return true;
  }
  bool Fail(std::string message) {
    if (error.empty()) error = std::move(message);
    return false;
  }
  bool Wrong(absl::string_view what) { return Fail(absl::StrCat("tensor ", QuoteName(name_), ": ", what)); }

  // The value of a field that we do not know: skipped, however it is made, up to the depth that all our JSON has.
  bool Ignoring() const { return ignored_depth_ > 0 || (place_ == Place::kField && !IsField()); }
  bool IsField() const { return key_ == "dtype" || key_ == "shape" || key_ == "data_offsets"; }
  bool Descend() {
    return ++ignored_depth_ < json::kMaxDepth - 2 || Wrong(absl::StrCat("nested deeper than ", json::kMaxDepth));
  }
  bool Ascend() {
    if (--ignored_depth_ == 0) place_ = Place::kFields;
    return true;
  }

  bool Scalar(absl::string_view got) {
    if (Ignoring()) {
      if (ignored_depth_ == 0) place_ = Place::kFields;
      return true;
    }
    switch (place_) {
      case Place::kMember: return Wrong(absl::StrCat("expected an object, got ", got));
      case Place::kMetadataValue:
        return Fail(absl::StrCat("__metadata__ ", QuoteName(key_), ": expected a string, got ", got));
      case Place::kShape: return Wrong(absl::StrCat("shape: expected non-negative integers, got ", got));
      case Place::kOffsets: return Wrong(absl::StrCat("data_offsets: expected two non-negative integers, got ", got));
      case Place::kField:
        return Wrong(absl::StrCat(key_, ": expected ", key_ == "dtype" ? "a string" : "an array", ", got ", got));
      default: return Fail(absl::StrCat("header: expected an object, got ", got));
    }
  }

  Place place_ = Place::kStart;
  int ignored_depth_ = 0;
  std::string name_, key_;
  Entry entry_;
  int offsets_ = 0;
  std::unordered_set<std::string> names_, fields_;  // tensors so far; fields of this one
};

absl::Status Parse(absl::string_view bytes, const std::string& file, std::vector<StoredTensor>* tensors,
                   std::map<std::string, std::string>* metadata) {
  if (bytes.size() < 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a safetensors file, whose header length has 8 bytes; got ", bytes.size(), " bytes"));
  }
  uint64_t header_size = 0;
  for (int i = 7; i >= 0; --i) header_size = header_size << 8 | static_cast<uint8_t>(bytes[i]);
  bytes.remove_prefix(8);
  if (header_size > kMaxSafetensorsHeader) {
    return absl::InvalidArgumentError(
        absl::StrCat("header of ", header_size, " bytes, expected at most ", kMaxSafetensorsHeader));
  }
  if (header_size > bytes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("header of ", header_size, " bytes, but only ", bytes.size(), " follow (truncated?)"));
  }
  const absl::string_view header = bytes.substr(0, header_size);
  const absl::string_view data = bytes.substr(header_size);
  // nlohmann's lexer skips a byte order mark and takes a NUL for the end of the text: neither is JSON.
  if (absl::StartsWith(header, "\xef\xbb\xbf")) return absl::InvalidArgumentError("header is not JSON at its byte 1");
  if (const size_t nul = header.find('\0'); nul != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("header is not JSON at its byte ", nul + 1));
  }

  RETURN_IF_ERROR(Annotate(json::CheckSizes(header), "header"));
  HeaderReader reader;
  if (!json::Json::sax_parse(header.begin(), header.end(), &reader)) {
    return absl::InvalidArgumentError(reader.error.empty() ? "header is not JSON" : reader.error);
  }

  std::vector<Entry>& entries = reader.entries;
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t covered = 0;
  for (const Entry& entry : entries) {
    const std::string where = absl::StrCat("tensor ", QuoteName(entry.name));
    uint64_t size = 0;
    RETURN_IF_ERROR(Annotate(StorageBytes(entry.type, entry.shape, &size), where));
    if (entry.begin > entry.end || entry.end > data.size()) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": data_offsets [", entry.begin, ", ", entry.end,
                                                     "], expected an ascending pair within ", data.size(),
                                                     " bytes of data"));
    }
    if (entry.end - entry.begin != size) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": ", entry.end - entry.begin, " bytes of data, its shape and dtype need ", size));
    }
    if (entry.begin != covered) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": data begins at ", entry.begin, ", expected ", covered,
                       entry.begin < covered ? " (overlaps the tensor before it)" : " (unused bytes before it)"));
    }
    covered = entry.end;
  }
  if (covered != data.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(data.size() - covered, " bytes after the last tensor belong to none"));
  }

  tensors->clear();
  tensors->reserve(entries.size());
  for (Entry& entry : entries) {
    tensors->push_back({std::move(entry.name), entry.type, std::move(entry.shape),
                        data.substr(entry.begin, entry.end - entry.begin), file});
  }
  std::sort(tensors->begin(), tensors->end(),
            [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
  *metadata = std::move(reader.metadata);
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseSafetensors(absl::string_view bytes, const std::string& name, std::vector<StoredTensor>* tensors,
                              std::map<std::string, std::string>* metadata) {
  return Annotate(Parse(bytes, name, tensors, metadata), name);
}

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  auto opened = std::make_shared<SafetensorsFile>();
  ASSIGN_OR_RETURN(opened->file_, MappedFile::Open(path));
  RETURN_IF_ERROR(ParseSafetensors(opened->file_->bytes(), path, &opened->tensors_, &opened->metadata_));
  return opened;
}

const StoredTensor* SafetensorsFile::Find(absl::string_view name) const {
  auto it = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                             [](const StoredTensor& t, absl::string_view n) { return t.name < n; });
  return it != tensors_.end() && it->name == name ? &*it : nullptr;
}

}  // namespace grouper
