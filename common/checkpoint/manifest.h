// MANIFEST, the file that makes a checkpoint a checkpoint: what belongs to it, and digests to prove it.
//
// Two lines of text. The first is a JSON object, the second the SHA-256 of the first (its newline included):
//
//   {"format":"grouper-checkpoint-1","step":20,"files":[{"name":"a.json","bytes":64,"crc32c":"e3069283","sha256":"..."}]}
//   9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace grouper {

inline constexpr char kManifestName[] = "MANIFEST";
inline constexpr uint64_t kMaxManifest = 16 << 20;

struct ManifestFile {
  std::string name;
  uint64_t bytes = 0;
  uint32_t crc32c = 0;
  std::string sha256;  // 64 lower-case hex digits
};

struct Manifest {
  int64_t step = 0;
  std::vector<ManifestFile> files;  // sorted by name
};

std::string FormatManifest(const Manifest& manifest);

// DataLoss saying what is wrong with the text; names inside are checked (CheckInnerPath, no duplicates).
absl::StatusOr<Manifest> ParseManifest(absl::string_view text);

}  // namespace grouper
