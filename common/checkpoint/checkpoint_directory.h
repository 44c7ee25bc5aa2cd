// Checkpoints on disk: DIR/step_N/, each whole or absent after any accident.
//
// Saving step N: files are written into DIR/step_N.tmp/, each synced; then MANIFEST (manifest.h) with size, CRC32C and
// SHA-256 of every file, written and synced last; the directory synced; renamed to step_N; DIR synced; only then may
// older ones be pruned. So a crash or power loss at any moment leaves the old checkpoints and the new one either
// complete or as an ignored *.tmp.
//
// Loading trusts nothing without a valid MANIFEST: every file's size, CRC32C and SHA-256 are checked before the first
// is used. A damaged newest checkpoint is DataLoss that names the file and says how to go on; nothing ever falls back
// or starts over silently.
//
// One writer at a time a DIR. Failpoints:
// checkpoint.{begin,file_written,before_manifest,before_rename,after_rename,before_prune,after_prune}. Not here: what
// the files mean and when to save (trainer/).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/file.h"
#include "common/checkpoint/manifest.h"

namespace grouper {

// Saves one checkpoint. Not thread-safe. Destroyed before Commit succeeded, it removes what it wrote as far as it can.
class CheckpointWriter {
 public:
  // Makes DIR/step_N.tmp (DIR too when needed); removes leftovers (*.tmp) of earlier accidents. AlreadyExists when
  // DIR/step_N is there.
  static absl::StatusOr<std::unique_ptr<CheckpointWriter>> Create(FileSystem& fs, const std::string& directory,
                                                                  int64_t step);
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // A file of the checkpoint, all at once or as a stream. `name` is plain: no slash, not "MANIFEST", each once
  // (CHECKed). The stream's Close syncs it and enters it into the manifest; it must come before Commit, and the writer
  // outlives the stream.
  absl::Status AddFile(const std::string& name, absl::string_view data);
  absl::StatusOr<std::unique_ptr<WritableFile>> CreateFile(const std::string& name);

  // Makes it a checkpoint. After an error the checkpoint does not count (but for a failed last sync of DIR: then it
  // may), older ones are untouched, and a later save of another step works.
  absl::Status Commit();

 private:
  class File;
  CheckpointWriter(FileSystem& fs, std::string directory, int64_t step);

  FileSystem& fs_;
  const std::string directory_, final_path_, temporary_path_;
  Manifest manifest_;
  int open_files_ = 0;
  bool renamed_ = false;
};

// One verified checkpoint. Thread-safe. A snapshot: pruning the directory beneath it makes its reads fail.
class CheckpointReader {
 public:
  // Opens `path` (a step_N directory) and verifies every file. DataLoss naming the file that is damaged or missing.
  static absl::StatusOr<CheckpointReader> Open(FileSystem& fs, const std::string& path);

  int64_t step() const { return manifest_.step; }
  const std::string& directory() const { return directory_; }
  const std::vector<ManifestFile>& files() const { return manifest_.files; }  // sorted by name
  bool Has(absl::string_view name) const;

  // The whole file; verified again as it is read. NotFound when the checkpoint has none of that name.
  absl::StatusOr<std::string> ReadFile(const std::string& name) const;
  // For who maps it. NotFound as above.
  absl::StatusOr<std::string> Path(const std::string& name) const;

 private:
  CheckpointReader(FileSystem& fs, std::string directory, Manifest manifest);
  FileSystem* fs_;
  std::string directory_;
  Manifest manifest_;
};

// Steps that have a step_N entry in `directory`, ascending, good or not; *.tmp do not count. An absent directory has
// none.
absl::StatusOr<std::vector<int64_t>> ListCheckpoints(FileSystem& fs, const std::string& directory);
std::string CheckpointPath(const std::string& directory, int64_t step);  // DIRECTORY/step_N

// The newest checkpoint; nullopt when there is none at all. When the newest is damaged: DataLoss naming the file, the
// newest good one before it, and what to do.
absl::StatusOr<std::optional<CheckpointReader>> FindLatestCheckpoint(FileSystem& fs, const std::string& directory);

// Removes all but the newest `keep_last` (>= 1) and those in `keep_steps`. Nothing is removed unless the newest kept
// one has a valid manifest and its files have their sizes; damaged ones are never removed (a person decides). Each
// removal is first renamed to *.tmp and synced, so that no half-removed step_N can appear.
absl::Status PruneCheckpoints(FileSystem& fs, const std::string& directory, int keep_last,
                              const std::vector<int64_t>& keep_steps);

}  // namespace grouper
