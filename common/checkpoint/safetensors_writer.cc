#include "common/checkpoint/safetensors_writer.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/check.h"
#include "common/base/json.h"
#include "common/base/status.h"

namespace grouper {
namespace {

constexpr size_t kDataAlignment = 64;

uint64_t Bytes(const TensorSpec& spec) {
  uint64_t bytes = 0;
  const absl::Status status = StorageBytes(spec.type, spec.shape, &bytes);
  CHECK(status.ok()) << spec.name << ": " << status.message();
  return bytes;
}

std::vector<const TensorSpec*> FileOrder(const std::vector<TensorSpec>& tensors) {
  std::vector<const TensorSpec*> order;
  std::set<absl::string_view> names;
  for (const TensorSpec& spec : tensors) {
    CHECK(names.insert(spec.name).second && spec.name != "__metadata__") << "tensor name " << spec.name;
    CHECK_EQ(BlockElements(spec.type), 1) << spec.name;
    order.push_back(&spec);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const TensorSpec* a, const TensorSpec* b) { return BlockBytes(a->type) > BlockBytes(b->type); });
  return order;
}

// Length and JSON, padded with spaces.
std::string Header(const std::vector<const TensorSpec*>& order, const std::map<std::string, std::string>& metadata) {
  json::OrderedJson header = json::OrderedJson::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::string text = json::Dump(header);
  text.pop_back();  // entries are appended one by one: a lookup in an ordered object costs its length
  uint64_t offset = 0;
  for (const TensorSpec* spec : order) {
    const uint64_t end = offset + Bytes(*spec);
    const json::OrderedJson entry = {
        {"dtype", Name(spec->type)}, {"shape", spec->shape}, {"data_offsets", {offset, end}}};
    absl::StrAppend(&text, text.size() == 1 ? "" : ",", json::Dump(json::Json(spec->name)), ":", json::Dump(entry));
    offset = end;
  }
  text.push_back('}');
  text.append((kDataAlignment - (8 + text.size()) % kDataAlignment) % kDataAlignment, ' ');
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i));
  return length + text;
}

}  // namespace

absl::Status WriteSafetensors(WritableFile& file, const std::vector<TensorSpec>& tensors,
                              const std::map<std::string, std::string>& metadata, WriteTensor write_tensor) {
  const std::vector<const TensorSpec*> order = FileOrder(tensors);
  RETURN_IF_ERROR(file.Append(Header(order, metadata)));
  for (const TensorSpec* spec : order) {
    uint64_t written = 0;
    auto append = [&](absl::string_view bytes) {
      written += bytes.size();
      return file.Append(bytes);
    };
    RETURN_IF_ERROR(write_tensor(*spec, append));
    CHECK_EQ(written, Bytes(*spec)) << spec->name;
  }
  return absl::OkStatus();
}

absl::Status WriteModelSafetensors(FileSystem& fs, const std::string& directory, const std::vector<TensorSpec>& tensors,
                                   const std::map<std::string, std::string>& metadata, uint64_t max_shard_bytes,
                                   WriteTensor write_tensor) {
  std::vector<std::vector<TensorSpec>> shards(1);
  uint64_t in_shard = 0, total = 0;
  for (const TensorSpec& spec : tensors) {
    const uint64_t bytes = Bytes(spec);
    if (!shards.back().empty() && (in_shard > max_shard_bytes || bytes > max_shard_bytes - in_shard)) {
      shards.emplace_back();
      in_shard = 0;
    }
    shards.back().push_back(spec);
    in_shard += bytes;
    total += bytes;
  }

  std::map<std::string, std::string> sorted_map;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shards.size() == 1
                                 ? "model.safetensors"
                                 : absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
    ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs.Create(JoinPath(directory, name)));
    RETURN_IF_ERROR(WriteSafetensors(*file, shards[i], metadata, write_tensor));
    RETURN_IF_ERROR(file->Sync());
    RETURN_IF_ERROR(file->Close());
    for (const TensorSpec& spec : shards[i]) sorted_map[spec.name] = name;
  }
  if (shards.size() > 1) {
    const json::Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", sorted_map}};
    ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file,
                     fs.Create(JoinPath(directory, "model.safetensors.index.json")));
    RETURN_IF_ERROR(file->Append(json::Dump(index) + "\n"));
    RETURN_IF_ERROR(file->Sync());
    RETURN_IF_ERROR(file->Close());
  }
  return fs.SyncDirectory(directory);
}

}  // namespace grouper
