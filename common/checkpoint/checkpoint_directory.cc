#include "common/checkpoint/checkpoint_directory.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "common/base/check.h"
#include "common/base/failpoint.h"
#include "common/base/hash.h"
#include "common/base/status.h"

namespace grouper {
namespace {

constexpr char kPrefix[] = "step_";
constexpr char kTemporary[] = ".tmp";
constexpr uint64_t kChunk = 4 << 20;

// Size, CRC32C and SHA-256 of bytes as they pass by.
struct Digests {
  uint64_t bytes = 0;
  uint32_t crc = 0;
  Sha256Stream sha;

  void Update(absl::string_view data) {
    bytes += data.size();
    crc = Crc32c(data, crc);
    sha.Update(data);
  }
};

absl::Status Damaged(const std::string& path, absl::string_view what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what));
}

absl::StatusOr<Manifest> ReadManifest(FileSystem& fs, const std::string& directory) {
  const std::string path = JoinPath(directory, kManifestName);
  absl::StatusOr<std::string> text = fs.ReadFile(path, kMaxManifest);
  if (!text.ok()) {
    const bool of_the_file =
        absl::IsNotFound(text.status()) || absl::IsOutOfRange(text.status()) || absl::IsInvalidArgument(text.status());
    return of_the_file ? absl::DataLossError(text.status().message()) : text.status();
  }
  absl::StatusOr<Manifest> manifest = Annotate(ParseManifest(*text), path);
  const std::string name = Basename(directory);
  if (manifest.ok() && absl::StartsWith(name, kPrefix) && name != absl::StrCat(kPrefix, manifest->step)) {
    return Damaged(path, absl::StrCat("is the manifest of step ", manifest->step));
  }
  return manifest;
}

absl::Status CheckSize(FileSystem& fs, const std::string& path, const ManifestFile& file) {
  const absl::StatusOr<uint64_t> size = fs.FileSize(path);
  if (absl::IsNotFound(size.status())) return Damaged(path, "missing, though the manifest lists it");
  if (!size.ok()) return size.status();
  if (*size != file.bytes) return Damaged(path, absl::StrCat(*size, " bytes, the manifest says ", file.bytes));
  return absl::OkStatus();
}

absl::Status CompareDigests(Digests& digests, const std::string& path, const ManifestFile& file) {
  if (digests.bytes != file.bytes) {
    return Damaged(path, absl::StrCat(digests.bytes, " bytes, the manifest says ", file.bytes));
  }
  if (digests.crc != file.crc32c) {
    return Damaged(
        path, absl::StrFormat("its content is damaged: CRC32C %08x, the manifest says %08x", digests.crc, file.crc32c));
  }
  if (Hex(digests.sha.Finish()) != file.sha256) {
    return Damaged(path, "its content is damaged: its SHA-256 is not the manifest's");
  }
  return absl::OkStatus();
}

absl::Status VerifyFile(FileSystem& fs, const std::string& path, const ManifestFile& file) {
  RETURN_IF_ERROR(CheckSize(fs, path, file));
  Digests digests;
  while (digests.bytes < file.bytes) {
    ASSIGN_OR_RETURN(const std::string chunk,
                     fs.ReadRange(path, digests.bytes, std::min(kChunk, file.bytes - digests.bytes)));
    if (chunk.empty()) break;
    digests.Update(chunk);
  }
  return CompareDigests(digests, path, file);
}

// The manifest is valid and the files have their sizes: what a damaged save or copy would lack, without reading the
// content.
absl::Status CheckQuickly(FileSystem& fs, const std::string& directory) {
  ASSIGN_OR_RETURN(const Manifest manifest, ReadManifest(fs, directory));
  for (const ManifestFile& file : manifest.files) RETURN_IF_ERROR(CheckSize(fs, JoinPath(directory, file.name), file));
  return absl::OkStatus();
}

absl::Status RemoveLeftovers(FileSystem& fs, const std::string& directory) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, fs.ListDirectory(directory));
  for (const std::string& name : names) {
    if (absl::StartsWith(name, kPrefix) && absl::EndsWith(name, kTemporary)) {
      RETURN_IF_ERROR(fs.RemoveAll(JoinPath(directory, name)));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string CheckpointPath(const std::string& directory, int64_t step) {
  return JoinPath(directory, absl::StrCat(kPrefix, step));
}

// --- writing ---------------------------------------------------------------

// A file of a checkpoint in the making: digests what passes, and on Close syncs and enters itself into the manifest.
class CheckpointWriter::File : public WritableFile {
 public:
  File(CheckpointWriter& writer, std::string name, std::unique_ptr<WritableFile> file)
      : writer_(writer), name_(std::move(name)), file_(std::move(file)) {}

  absl::Status Append(absl::string_view data) override {
    RETURN_IF_ERROR(file_->Append(data));
    digests_.Update(data);
    return absl::OkStatus();
  }
  absl::Status Flush() override { return file_->Flush(); }
  absl::Status Sync() override { return file_->Sync(); }
  absl::Status Close() override {
    RETURN_IF_ERROR(file_->Sync());
    RETURN_IF_ERROR(file_->Close());
    writer_.manifest_.files.push_back({name_, digests_.bytes, digests_.crc, Hex(digests_.sha.Finish())});
    --writer_.open_files_;
    return failpoint::Hit("checkpoint.file_written");
  }

 private:
  CheckpointWriter& writer_;
  const std::string name_;
  std::unique_ptr<WritableFile> file_;
  Digests digests_;
};

CheckpointWriter::CheckpointWriter(FileSystem& fs, std::string directory, int64_t step)
    : fs_(fs),
      directory_(std::move(directory)),
      final_path_(CheckpointPath(directory_, step)),
      temporary_path_(final_path_ + kTemporary) {
  manifest_.step = step;
}

CheckpointWriter::~CheckpointWriter() {
  if (!renamed_) fs_.RemoveAll(temporary_path_).IgnoreError();  // else the next Create does
}

absl::StatusOr<std::unique_ptr<CheckpointWriter>> CheckpointWriter::Create(FileSystem& fs, const std::string& directory,
                                                                           int64_t step) {
  CHECK_GE(step, 0);
  RETURN_IF_ERROR(failpoint::Hit("checkpoint.begin"));
  auto writer = std::unique_ptr<CheckpointWriter>(new CheckpointWriter(fs, directory, step));
  if (fs.Exists(writer->final_path_)) {
    return absl::AlreadyExistsError(absl::StrCat(writer->final_path_, ": is there already"));
  }
  RETURN_IF_ERROR(fs.CreateDirectories(directory));
  RETURN_IF_ERROR(RemoveLeftovers(fs, directory));
  RETURN_IF_ERROR(fs.CreateDirectories(writer->temporary_path_));
  return writer;
}

absl::StatusOr<std::unique_ptr<WritableFile>> CheckpointWriter::CreateFile(const std::string& name) {
  CHECK(CheckInnerPath(name).ok() && name != "." && name.find('/') == std::string::npos && name != kManifestName)
      << name;
  for (const ManifestFile& file : manifest_.files) CHECK(file.name != name) << name;
  ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs_.Create(JoinPath(temporary_path_, name)));
  ++open_files_;
  return std::make_unique<File>(*this, name, std::move(file));
}

absl::Status CheckpointWriter::AddFile(const std::string& name, absl::string_view data) {
  ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, CreateFile(name));
  RETURN_IF_ERROR(file->Append(data));
  return file->Close();
}

absl::Status CheckpointWriter::Commit() {
  CHECK_EQ(open_files_, 0) << "a file of " << final_path_ << " was not closed";
  CHECK(!renamed_);
  RETURN_IF_ERROR(failpoint::Hit("checkpoint.before_manifest"));
  ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs_.Create(JoinPath(temporary_path_, kManifestName)));
  RETURN_IF_ERROR(file->Append(FormatManifest(manifest_)));
  RETURN_IF_ERROR(file->Sync());
  RETURN_IF_ERROR(file->Close());
  RETURN_IF_ERROR(fs_.SyncDirectory(temporary_path_));
  RETURN_IF_ERROR(failpoint::Hit("checkpoint.before_rename"));
  RETURN_IF_ERROR(fs_.Rename(temporary_path_, final_path_));
  renamed_ = true;
  RETURN_IF_ERROR(fs_.SyncDirectory(directory_));
  return failpoint::Hit("checkpoint.after_rename");
}

// --- reading ---------------------------------------------------------------

CheckpointReader::CheckpointReader(FileSystem& fs, std::string directory, Manifest manifest)
    : fs_(&fs), directory_(std::move(directory)), manifest_(std::move(manifest)) {}

absl::StatusOr<CheckpointReader> CheckpointReader::Open(FileSystem& fs, const std::string& path) {
  const std::string directory(absl::StripSuffix(path, "/"));
  ASSIGN_OR_RETURN(Manifest manifest, ReadManifest(fs, directory));
  for (const ManifestFile& file : manifest.files) RETURN_IF_ERROR(VerifyFile(fs, JoinPath(directory, file.name), file));
  return CheckpointReader(fs, directory, std::move(manifest));
}

bool CheckpointReader::Has(absl::string_view name) const {
  return std::any_of(files().begin(), files().end(), [&](const ManifestFile& file) { return file.name == name; });
}

absl::StatusOr<std::string> CheckpointReader::Path(const std::string& name) const {
  if (!Has(name)) return absl::NotFoundError(absl::StrCat(directory_, ": the checkpoint has no file \"", name, "\""));
  return JoinPath(directory_, name);
}

absl::StatusOr<std::string> CheckpointReader::ReadFile(const std::string& name) const {
  ASSIGN_OR_RETURN(const std::string path, Path(name));
  const auto file = std::find_if(files().begin(), files().end(), [&](const ManifestFile& f) { return f.name == name; });
  ASSIGN_OR_RETURN(std::string data, fs_->ReadFile(path, file->bytes));
  Digests digests;
  digests.Update(data);
  RETURN_IF_ERROR(CompareDigests(digests, path, *file));
  return data;
}

absl::StatusOr<std::vector<int64_t>> ListCheckpoints(FileSystem& fs, const std::string& directory) {
  std::vector<int64_t> steps;
  absl::StatusOr<std::vector<std::string>> names = fs.ListDirectory(directory);
  if (absl::IsNotFound(names.status())) return steps;
  if (!names.ok()) return names.status();
  for (absl::string_view name : *names) {
    int64_t step;
    absl::string_view digits = name;
    if (!absl::ConsumePrefix(&digits, kPrefix) || !absl::SimpleAtoi(digits, &step) || step < 0) continue;
    if (name == absl::StrCat(kPrefix, step)) steps.push_back(step);  // step_007 is not ours
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

absl::StatusOr<std::optional<CheckpointReader>> FindLatestCheckpoint(FileSystem& fs, const std::string& directory) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ListCheckpoints(fs, directory));
  if (steps.empty()) return std::optional<CheckpointReader>();
  const std::string newest = CheckpointPath(directory, steps.back());
  absl::StatusOr<CheckpointReader> reader = CheckpointReader::Open(fs, newest);
  if (reader.ok()) return std::optional<CheckpointReader>(*std::move(reader));
  if (!absl::IsDataLoss(reader.status())) return reader.status();
  for (auto step = steps.rbegin() + 1; step != steps.rend(); ++step) {
    const std::string earlier = CheckpointPath(directory, *step);
    if (!CheckpointReader::Open(fs, earlier).ok()) continue;
    return absl::DataLossError(absl::StrCat(
        reader.status().message(), ". The newest checkpoint is damaged; the newest good one is ", earlier,
        ": to go on from it, move ", newest, " out of ", directory,
        *step == *(steps.rbegin() + 1) ? "" : " together with the damaged ones between them", " and resume"));
  }
  return absl::DataLossError(absl::StrCat(reader.status().message(),
                                          ". The newest checkpoint is damaged and no other good one is in ", directory,
                                          ": restore one from a copy, or start again in another run directory"));
}

absl::Status PruneCheckpoints(FileSystem& fs, const std::string& directory, int keep_last,
                              const std::vector<int64_t>& keep_steps) {
  CHECK_GE(keep_last, 1);
  RETURN_IF_ERROR(failpoint::Hit("checkpoint.before_prune"));
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ListCheckpoints(fs, directory));
  if (steps.size() <= static_cast<size_t>(keep_last)) return failpoint::Hit("checkpoint.after_prune");
  RETURN_IF_ERROR(Annotate(CheckQuickly(fs, CheckpointPath(directory, steps.back())), "older checkpoints are kept"));
  for (size_t i = 0; i + keep_last < steps.size(); ++i) {
    if (std::find(keep_steps.begin(), keep_steps.end(), steps[i]) != keep_steps.end()) continue;
    const std::string path = CheckpointPath(directory, steps[i]);
    const absl::Status checked = CheckQuickly(fs, path);
    if (absl::IsDataLoss(checked)) continue;  // evidence, and rare
    RETURN_IF_ERROR(checked);
    const std::string temporary = path + kTemporary;
    RETURN_IF_ERROR(fs.RemoveAll(temporary));
    RETURN_IF_ERROR(fs.Rename(path, temporary));
    RETURN_IF_ERROR(fs.SyncDirectory(directory));
    RETURN_IF_ERROR(fs.RemoveAll(temporary));
  }
  return failpoint::Hit("checkpoint.after_prune");
}

}  // namespace grouper
