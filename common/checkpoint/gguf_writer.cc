#include "common/checkpoint/gguf_writer.h"

#include <cstring>

#include "common/base/check.h"
#include "common/base/status.h"
#include "common/checkpoint/gguf.h"

namespace grouper {
namespace {

constexpr uint64_t kAlignment = 32;

template <typename T>
void Append(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

void AppendString(std::string& out, const std::string& text) {
  Append<uint64_t>(out, text.size());
  out += text;
}

uint64_t Aligned(uint64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

uint32_t GgmlType(StorageType type) {
  switch (type) {
    case StorageType::kF32: return 0;
    case StorageType::kF16: return 1;
    case StorageType::kQ4_0: return 2;
    case StorageType::kQ8_0: return 8;
    case StorageType::kQ4_K: return 12;
    case StorageType::kBF16: return 30;
    default: break;
  }
  CHECK(false) << "GGUF is not written with " << Name(type);
  return 0;
}

}  // namespace

void GgufWriter::AddKey(const std::string& key, uint32_t type) {
  AppendString(metadata_, key);
  Append(metadata_, type);
  ++count_;
}

void GgufWriter::AddUint32(const std::string& key, uint32_t value) {
  AddKey(key, static_cast<uint32_t>(GgufType::kUint32));
  Append(metadata_, value);
}

void GgufWriter::AddFloat32(const std::string& key, float value) {
  AddKey(key, static_cast<uint32_t>(GgufType::kFloat32));
  Append(metadata_, value);
}

void GgufWriter::AddBool(const std::string& key, bool value) {
  AddKey(key, static_cast<uint32_t>(GgufType::kBool));
  Append<uint8_t>(metadata_, value);
}

void GgufWriter::AddString(const std::string& key, const std::string& value) {
  AddKey(key, static_cast<uint32_t>(GgufType::kString));
  AppendString(metadata_, value);
}

void GgufWriter::AddStrings(const std::string& key, const std::vector<std::string>& values) {
  AddKey(key, static_cast<uint32_t>(GgufType::kArray));
  Append(metadata_, static_cast<uint32_t>(GgufType::kString));
  Append<uint64_t>(metadata_, values.size());
  for (const std::string& value : values) AppendString(metadata_, value);
}

void GgufWriter::AddInt32s(const std::string& key, const std::vector<int32_t>& values) {
  AddKey(key, static_cast<uint32_t>(GgufType::kArray));
  Append(metadata_, static_cast<uint32_t>(GgufType::kInt32));
  Append<uint64_t>(metadata_, values.size());
  for (int32_t value : values) Append(metadata_, value);
}

void GgufWriter::AddFloat32s(const std::string& key, const std::vector<float>& values) {
  AddKey(key, static_cast<uint32_t>(GgufType::kArray));
  Append(metadata_, static_cast<uint32_t>(GgufType::kFloat32));
  Append<uint64_t>(metadata_, values.size());
  for (float value : values) Append(metadata_, value);
}

absl::Status GgufWriter::Write(FileSystem& fs, const std::string& path, const std::vector<TensorSpec>& tensors, WriteTensor write_tensor) const {
  std::string header = "GGUF";
  Append<uint32_t>(header, 3);
  Append<uint64_t>(header, tensors.size());
  Append<uint64_t>(header, count_);
  header += metadata_;
  uint64_t offset = 0;
  std::vector<uint64_t> sizes;
  for (const TensorSpec& tensor : tensors) {
    AppendString(header, tensor.name);
    Append<uint32_t>(header, static_cast<uint32_t>(tensor.shape.size()));
    for (size_t d = tensor.shape.size(); d-- > 0;) Append<uint64_t>(header, static_cast<uint64_t>(tensor.shape[d]));
    Append<uint32_t>(header, GgmlType(tensor.type));
    Append<uint64_t>(header, offset);
    uint64_t bytes = 0;
    const absl::Status status = StorageBytes(tensor.type, tensor.shape, &bytes);
    CHECK(status.ok()) << tensor.name << ": " << status.message();
    sizes.push_back(bytes);
    offset = Aligned(offset + bytes);
  }
  header.append(Aligned(header.size()) - header.size(), '\0');

  ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs.Create(path));
  RETURN_IF_ERROR(file->Append(header));
  for (size_t i = 0; i < tensors.size(); ++i) {
    uint64_t written = 0;
    auto append = [&](absl::string_view bytes) {
      written += bytes.size();
      return file->Append(bytes);
    };
    RETURN_IF_ERROR(write_tensor(tensors[i], append));
    CHECK_EQ(written, sizes[i]) << tensors[i].name;
    RETURN_IF_ERROR(file->Append(std::string(Aligned(sizes[i]) - sizes[i], '\0')));
  }
  RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

}  // namespace grouper
