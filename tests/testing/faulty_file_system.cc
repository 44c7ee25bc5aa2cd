#include "tests/testing/faulty_file_system.h"

#include <cerrno>
#include <cstring>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/check.h"
#include "common/base/philox.h"
#include "common/base/status.h"

namespace grouper {
namespace {

absl::Status Error(int error, absl::string_view what, const std::string& path) {
  const std::string message = absl::StrCat(path, ": cannot ", what, ": ", std::strerror(error));
  if (error == ENOENT) return absl::NotFoundError(message);
  if (error == ENOSPC || error == EMFILE) return absl::ResourceExhaustedError(message);
  return absl::UnknownError(message);
}

}  // namespace

// A file or a directory: durable state and what was done since.
struct FaultyFileSystem::Node {
  struct Write {
    uint64_t serial = 0;      // over the whole disk
    bool in_flight = false;   // the process died in it
    int64_t truncate_to = -1; // >= 0: a truncation instead of an append
    std::string data;
  };
  struct Change {  // of a directory; child null: `name` is removed; from: where a rename within this directory took it
                   // away
    std::string name, from;
    NodePtr child;
  };

  bool is_directory = false;
  std::string durable;
  std::vector<Write> writes;
  std::map<std::string, NodePtr> durable_entries;
  std::vector<Change> changes;

  static void Apply(const Write& write, std::string* data) {
    if (write.truncate_to >= 0) {
      data->resize(static_cast<size_t>(write.truncate_to));
    } else {
      data->append(write.data);
    }
  }
  static void Apply(const Change& change, std::map<std::string, NodePtr>* entries) {
    if (!change.from.empty()) entries->erase(change.from);
    if (change.child == nullptr) {
      entries->erase(change.name);
    } else {
      (*entries)[change.name] = change.child;
    }
  }
  std::string Data() const {
    std::string data = durable;
    for (const Write& write : writes) Apply(write, &data);
    return data;
  }
  std::map<std::string, NodePtr> Entries() const {
    std::map<std::string, NodePtr> entries = durable_entries;
    for (const Change& change : changes) Apply(change, &entries);
    return entries;
  }
};

class FaultyFileSystem::File : public WritableFile {
 public:
  File(FaultyFileSystem& fs, std::string path, NodePtr node)
      : fs_(fs), path_(std::move(path)), node_(std::move(node)) {}
  absl::Status Append(absl::string_view data) override {
    if (failed_.ok()) failed_ = fs_.WriteTo(*node_, path_, data);
    return failed_;
  }
  absl::Status Flush() override { return failed_; }
  absl::Status Sync() override {
    if (failed_.ok()) failed_ = fs_.SyncFile(*node_, path_);
    return failed_;
  }
  absl::Status Close() override {
    const absl::Status closed = fs_.Step("close", path_);
    return failed_.ok() ? closed : failed_;
  }

 private:
  FaultyFileSystem& fs_;
  const std::string path_;
  const NodePtr node_;
  absl::Status failed_;
};

FaultyFileSystem::FaultyFileSystem() : root_(std::make_shared<Node>()) { root_->is_directory = true; }
FaultyFileSystem::~FaultyFileSystem() = default;

void FaultyFileSystem::ResetCounter() {
  count_ = 0;
  trace_.clear();
}
void FaultyFileSystem::FailAt(uint64_t n, int error) {
  fail_at_ = n;
  fail_error_ = error;
}
void FaultyFileSystem::CrashAt(uint64_t n) { crash_at_ = n; }

absl::Status FaultyFileSystem::Step(const std::string& what, const std::string& path) {
  ++count_;
  trace_.push_back(absl::StrCat(what, " ", path));
  if (crash_at_ != 0 && count_ >= crash_at_) crashed_ = true;
  if (crashed_) return absl::AbortedError(absl::StrCat(path, ": the process died before it could ", what));
  if (count_ == fail_at_) return Error(fail_error_, what, path);
  return absl::OkStatus();
}

void FaultyFileSystem::Restart(Loss loss, uint64_t seed) {
  PhiloxStream random(MakePhiloxKey(seed, "power loss"));
  uint64_t last_write = 0;
  std::vector<NodePtr> seen;
  // Everything reachable before or after is visited once; what neither shows is gone anyway.
  std::function<void(const NodePtr&)> settle = [&](const NodePtr& node) {
    for (const NodePtr& other : seen) {
      if (other == node) return;
    }
    seen.push_back(node);
    if (node->is_directory) {
      size_t kept = node->changes.size();
      if (loss == Loss::kUnsyncedEntries) kept = 0;
      if (loss == Loss::kRandom) kept = random.NextBelow(kept + 1);
      node->changes.resize(kept);
      node->durable_entries = node->Entries();
      node->changes.clear();
      for (const auto& [name, child] : node->durable_entries) settle(child);
      return;
    }
    std::vector<Node::Write>& writes = node->writes;
    if (!writes.empty() && writes.back().in_flight && loss != Loss::kTornWrite && loss != Loss::kRandom) {
      writes.pop_back();
    }
    size_t kept = writes.size();
    bool torn = false;
    if (loss == Loss::kUnsyncedBytes) kept = 0;
    if (loss == Loss::kRandom) {
      kept = random.NextBelow(kept + 1);
      torn = random.NextBelow(2) == 1;
    }
    writes.resize(kept);
    if (loss == Loss::kTornWrite && kept > 0 && writes.back().serial == last_write) torn = true;
    if (torn && kept > 0) writes.back().data.resize(writes.back().data.size() / 2);
    node->durable = node->Data();
    writes.clear();
  };
  std::function<void(const NodePtr&)> find_last = [&](const NodePtr& node) {
    if (!node->writes.empty()) last_write = std::max(last_write, node->writes.back().serial);
    for (const auto& [name, child] : node->Entries()) find_last(child);
  };
  find_last(root_);
  settle(root_);
  crashed_ = false;
  fail_at_ = crash_at_ = 0;
  ResetCounter();
}

void FaultyFileSystem::FlipBit(const std::string& path, uint64_t bit) {
  const NodePtr node = Find(path);
  CHECK(node != nullptr && !node->is_directory) << path;
  std::string data = node->Data();
  CHECK_LT(bit / 8, data.size()) << path;
  data[bit / 8] = static_cast<char>(data[bit / 8] ^ (1 << (bit % 8)));
  node->durable = data;
  node->writes.clear();
}

std::vector<std::string> FaultyFileSystem::Files() const {
  std::vector<std::string> files;
  std::function<void(const NodePtr&, const std::string&)> walk = [&](const NodePtr& node, const std::string& path) {
    if (!node->is_directory) {
      files.push_back(path);
      return;
    }
    for (const auto& [name, child] : node->Entries()) walk(child, JoinPath(path, name));
  };
  walk(root_, "");
  return files;
}

FaultyFileSystem::NodePtr FaultyFileSystem::Find(const std::string& path) const {
  NodePtr node = root_;
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == ".") continue;
    if (!node->is_directory) return nullptr;
    const std::map<std::string, NodePtr> entries = node->Entries();
    auto it = entries.find(std::string(part));
    if (it == entries.end()) return nullptr;
    node = it->second;
  }
  return node;
}

absl::StatusOr<FaultyFileSystem::NodePtr> FaultyFileSystem::FindFile(const std::string& path) const {
  NodePtr node = Find(path);
  if (node == nullptr) return Error(ENOENT, "open", path);
  if (node->is_directory) return absl::InvalidArgumentError(absl::StrCat(path, ": expected a regular file"));
  return node;
}

absl::StatusOr<FaultyFileSystem::NodePtr> FaultyFileSystem::FindDirectory(const std::string& path) const {
  NodePtr node = Find(path);
  if (node == nullptr) return Error(ENOENT, "open", path);
  if (!node->is_directory) return Error(ENOTDIR, "open", path);
  return node;
}

absl::StatusOr<std::unique_ptr<WritableFile>> FaultyFileSystem::Open(const std::string& path, bool truncate) {
  RETURN_IF_ERROR(Step(truncate ? "create" : "open for appending", path));
  NodePtr node = Find(path);
  if (node == nullptr) {
    ASSIGN_OR_RETURN(const NodePtr parent, FindDirectory(Dirname(path)));
    node = std::make_shared<Node>();
    parent->changes.push_back({Basename(path), "", node});
  } else if (truncate) {
    node->writes.push_back({++writes_, false, 0, ""});
  }
  return std::make_unique<File>(*this, path, node);
}

absl::StatusOr<std::unique_ptr<WritableFile>> FaultyFileSystem::Create(const std::string& path) {
  return Open(path, true);
}
absl::StatusOr<std::unique_ptr<WritableFile>> FaultyFileSystem::OpenAppend(const std::string& path) {
  return Open(path, false);
}

absl::Status FaultyFileSystem::WriteTo(Node& node, const std::string& path, absl::string_view data) {
  const bool was_crashed = crashed_;
  const absl::Status status = Step("write", path);
  if (!status.ok() && was_crashed) return status;
  Node::Write write{++writes_, crashed_, -1, std::string(data)};
  if (!status.ok() && !crashed_) write.data.resize(data.size() / 2);  // short write
  node.writes.push_back(std::move(write));
  return status;
}

absl::Status FaultyFileSystem::SyncFile(Node& node, const std::string& path) {
  RETURN_IF_ERROR(Step("sync", path));
  if (!syncs_work_) return absl::OkStatus();
  node.durable = node.Data();
  node.writes.clear();
  return absl::OkStatus();
}

absl::StatusOr<std::string> FaultyFileSystem::ReadFile(const std::string& path, uint64_t max_bytes) {
  RETURN_IF_ERROR(Step("read", path));
  ASSIGN_OR_RETURN(const NodePtr node, FindFile(path));
  std::string data = node->Data();
  if (data.size() > max_bytes) {
    return absl::OutOfRangeError(absl::StrCat(path, ": ", data.size(), " bytes, expected at most ", max_bytes));
  }
  return data;
}

absl::StatusOr<std::string> FaultyFileSystem::ReadRange(const std::string& path, uint64_t offset, uint64_t size) {
  RETURN_IF_ERROR(Step("read", path));
  ASSIGN_OR_RETURN(const NodePtr node, FindFile(path));
  const std::string data = node->Data();
  if (offset > data.size() || size > data.size() - offset) {
    return absl::OutOfRangeError(absl::StrCat(path, ": ", data.size(), " bytes"));
  }
  return data.substr(offset, size);
}

absl::StatusOr<uint64_t> FaultyFileSystem::FileSize(const std::string& path) {
  RETURN_IF_ERROR(Step("stat", path));
  const NodePtr node = Find(path);
  if (node == nullptr) return Error(ENOENT, "stat", path);
  return node->Data().size();
}

bool FaultyFileSystem::Exists(const std::string& path) { return Find(path) != nullptr; }

absl::StatusOr<std::vector<std::string>> FaultyFileSystem::ListDirectory(const std::string& path) {
  RETURN_IF_ERROR(Step("list", path));
  ASSIGN_OR_RETURN(const NodePtr node, FindDirectory(path));
  std::vector<std::string> names;
  for (const auto& [name, child] : node->Entries()) names.push_back(name);
  return names;
}

absl::Status FaultyFileSystem::CreateDirectories(const std::string& path) {
  std::string prefix = path.empty() || path[0] != '/' ? "" : "/";
  for (absl::string_view part : absl::StrSplit(path, '/', absl::SkipEmpty())) {
    const std::string parent = prefix.empty() ? "." : prefix;
    prefix = JoinPath(prefix, part);
    const NodePtr there = Find(prefix);
    if (there != nullptr && there->is_directory) continue;
    RETURN_IF_ERROR(Step("create directory", prefix));
    if (there != nullptr) return Error(EEXIST, "create directory", prefix);
    auto node = std::make_shared<Node>();
    node->is_directory = true;
    Find(parent)->changes.push_back({std::string(part), "", node});
    RETURN_IF_ERROR(SyncDirectory(parent));
  }
  return absl::OkStatus();
}

absl::Status FaultyFileSystem::Rename(const std::string& from, const std::string& to) {
  RETURN_IF_ERROR(Step("rename", from));
  const NodePtr node = Find(from);
  if (node == nullptr) return Error(ENOENT, "rename", from);
  ASSIGN_OR_RETURN(const NodePtr source, FindDirectory(Dirname(from)));
  ASSIGN_OR_RETURN(const NodePtr target, FindDirectory(Dirname(to)));
  const NodePtr replaced = Find(to);
  if (replaced != nullptr && replaced->is_directory && !replaced->Entries().empty()) {
    return Error(ENOTEMPTY, "rename", from);
  }
  if (source == target) {
    source->changes.push_back({Basename(to), Basename(from), node});
  } else {
    source->changes.push_back({Basename(from), "", nullptr});
    target->changes.push_back({Basename(to), "", node});
  }
  return absl::OkStatus();
}

absl::Status FaultyFileSystem::RemoveFile(const std::string& path) {
  RETURN_IF_ERROR(Step("unlink", path));
  RETURN_IF_ERROR(FindFile(path));
  Find(Dirname(path))->changes.push_back({Basename(path), "", nullptr});
  return absl::OkStatus();
}

absl::Status FaultyFileSystem::RemoveAll(const std::string& path) {
  const NodePtr node = Find(path);
  if (node == nullptr) return absl::OkStatus();
  if (!node->is_directory) return RemoveFile(path);
  for (const auto& [name, child] : node->Entries()) RETURN_IF_ERROR(RemoveAll(JoinPath(path, name)));
  RETURN_IF_ERROR(Step("rmdir", path));
  Find(Dirname(path))->changes.push_back({Basename(path), "", nullptr});
  return absl::OkStatus();
}

absl::Status FaultyFileSystem::Truncate(const std::string& path, uint64_t size) {
  RETURN_IF_ERROR(Step("truncate", path));
  ASSIGN_OR_RETURN(const NodePtr node, FindFile(path));
  node->writes.push_back({++writes_, false, static_cast<int64_t>(size), ""});
  return SyncFile(*node, path);
}

absl::Status FaultyFileSystem::SyncDirectory(const std::string& path) {
  RETURN_IF_ERROR(Step("sync directory", path));
  ASSIGN_OR_RETURN(const NodePtr node, FindDirectory(path));
  if (!syncs_work_) return absl::OkStatus();
  node->durable_entries = node->Entries();
  node->changes.clear();
  return absl::OkStatus();
}

}  // namespace grouper
