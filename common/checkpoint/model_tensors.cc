#include "common/checkpoint/model_tensors.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/json.h"
#include "common/base/quote.h"
#include "common/base/status.h"

namespace grouper {
namespace {

constexpr size_t kMaxProblems = 20;

// tensor name -> shard's file name
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, DefaultFileSystem().ReadFile(path, kMaxSafetensorsIndex));
  ASSIGN_OR_RETURN(const json::Json index, Annotate(json::Parse(text), path));
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected an object with an object \"weight_map\""));
  }
  std::map<std::string, std::string> weight_map;
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": weight_map: ", QuoteName(name), ": expected a file name"));
    }
    const std::string& shard = file.get_ref<const std::string&>();
    RETURN_IF_ERROR(Annotate(CheckInnerPath(shard), absl::StrCat(path, ": weight_map: ", QuoteName(name))));
    weight_map[name] = shard;
  }
  if (weight_map.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": weight_map names no tensor"));
  return weight_map;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelTensors>> ModelTensors::Open(const std::string& directory) {
  auto opened = std::make_shared<ModelTensors>();
  const std::string single = JoinPath(directory, "model.safetensors");
  const std::string index = JoinPath(directory, "model.safetensors.index.json");
  FileSystem& fs = DefaultFileSystem();
  if (fs.Exists(single) || !fs.Exists(index)) {  // transformers looks in this order too
    absl::StatusOr<std::shared_ptr<const SafetensorsFile>> file = SafetensorsFile::Open(single);
    if (absl::IsNotFound(file.status())) {
      return absl::NotFoundError(
          absl::StrCat(directory, ": expected model.safetensors or model.safetensors.index.json in it"));
    }
    if (!file.ok()) return file.status();
    opened->path_ = single;
    opened->tensors_.assign((*file)->tensors().begin(), (*file)->tensors().end());
    opened->files_.push_back(*std::move(file));
    return opened;
  }

  using WeightMap = std::map<std::string, std::string>;
  ASSIGN_OR_RETURN(const WeightMap weight_map, ReadIndex(index));
  std::vector<std::string> problems;
  std::map<std::string, std::shared_ptr<const SafetensorsFile>> shards;  // null: could not be opened
  for (const auto& [name, shard] : weight_map) {
    if (shards.count(shard) > 0) continue;
    absl::StatusOr<std::shared_ptr<const SafetensorsFile>> file = SafetensorsFile::Open(JoinPath(directory, shard));
    if (!file.ok()) problems.push_back(std::string(file.status().message()));
    shards[shard] = file.ok() ? *std::move(file) : nullptr;
  }
  for (const auto& [name, shard] : weight_map) {
    const auto& file = shards[shard];
    if (file != nullptr && file->Find(name) == nullptr) {
      problems.push_back(absl::StrCat("tensor ", QuoteName(name), " is not in ", shard));
    }
  }
  std::map<absl::string_view, const std::string*> owner;  // tensor -> the shard that has it
  for (const auto& [shard, file] : shards) {
    if (file == nullptr) continue;
    for (const StoredTensor& tensor : file->tensors()) {
      const auto [it, added] = owner.emplace(tensor.name, &shard);
      if (!added) {
        problems.push_back(
            absl::StrCat("tensor ", QuoteName(tensor.name), " is in both ", *it->second, " and ", shard));
      }
    }
  }
  if (!problems.empty()) {
    const size_t count = problems.size();
    problems.resize(std::min(count, kMaxProblems));
    if (count > kMaxProblems) problems.push_back(absl::StrCat("and ", count - kMaxProblems, " more"));
    return absl::InvalidArgumentError(absl::StrCat(index, ": ", absl::StrJoin(problems, "; ")));
  }
  opened->path_ = index;
  for (auto& [shard, file] : shards) {
    opened->tensors_.insert(opened->tensors_.end(), file->tensors().begin(), file->tensors().end());
    opened->files_.push_back(std::move(file));
  }
  std::sort(opened->tensors_.begin(), opened->tensors_.end(),
            [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
  return opened;
}

const StoredTensor* ModelTensors::Find(absl::string_view name) const {
  auto it = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                             [](const StoredTensor& t, absl::string_view n) { return t.name < n; });
  return it != tensors_.end() && it->name == name ? &*it : nullptr;
}

}  // namespace grouper
