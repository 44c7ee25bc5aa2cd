#include "common/checkpoint/manifest.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/file.h"
#include "common/base/hash.h"
#include "common/base/json.h"
#include "common/base/status.h"

namespace grouper {
namespace {

constexpr char kFormat[] = "grouper-checkpoint-1";
constexpr size_t kDigestLine = 65;  // 64 digits and a newline

absl::StatusOr<Manifest> ParseBody(absl::string_view line) {
  ASSIGN_OR_RETURN(const json::Json body, json::Parse(line));
  ASSIGN_OR_RETURN(const std::string format, json::GetString(body, "format"));
  if (format != kFormat) {
    return absl::InvalidArgumentError(absl::StrCat("format \"", format, "\", expected \"", kFormat, "\""));
  }
  Manifest manifest;
  ASSIGN_OR_RETURN(manifest.step, json::GetInt(body, "step", 0, INT64_MAX));
  if (!body.contains("files") || !body["files"].is_array()) {
    return absl::InvalidArgumentError("expected an array \"files\"");
  }
  for (const json::Json& entry : body["files"]) {
    ManifestFile file;
    ASSIGN_OR_RETURN(file.name, json::GetString(entry, "name"));
    RETURN_IF_ERROR(CheckInnerPath(file.name));
    ASSIGN_OR_RETURN(const int64_t bytes, json::GetInt(entry, "bytes", 0, INT64_MAX));
    file.bytes = static_cast<uint64_t>(bytes);
    ASSIGN_OR_RETURN(const std::string crc, json::GetString(entry, "crc32c"));
    if (crc.size() != 8 || !absl::SimpleHexAtoi(crc, &file.crc32c)) {
      return absl::InvalidArgumentError("crc32c: expected 8 hex digits");
    }
    ASSIGN_OR_RETURN(file.sha256, json::GetString(entry, "sha256"));
    if (!manifest.files.empty() && manifest.files.back().name >= file.name) {
      return absl::InvalidArgumentError("expected files sorted by name, each once");
    }
    manifest.files.push_back(std::move(file));
  }
  return manifest;
}

}  // namespace

std::string FormatManifest(const Manifest& manifest) {
  std::vector<ManifestFile> files = manifest.files;
  std::sort(files.begin(), files.end(), [](const ManifestFile& a, const ManifestFile& b) { return a.name < b.name; });
  json::OrderedJson body = {{"format", kFormat}, {"step", manifest.step}, {"files", json::OrderedJson::array()}};
  for (const ManifestFile& file : files) {
    body["files"].push_back({{"name", file.name},
                             {"bytes", file.bytes},
                             {"crc32c", absl::StrFormat("%08x", file.crc32c)},
                             {"sha256", file.sha256}});
  }
  const std::string line = json::Dump(body) + "\n";
  return absl::StrCat(line, Hex(Sha256(line)), "\n");
}

absl::StatusOr<Manifest> ParseManifest(absl::string_view text) {
  if (text.size() < kDigestLine + 1 || text.back() != '\n') {
    return absl::DataLossError(
        absl::StrCat("expected two lines ending in a SHA-256 digest, got ", text.size(), " bytes"));
  }
  const absl::string_view line = text.substr(0, text.size() - kDigestLine);
  const absl::string_view digest = text.substr(line.size(), kDigestLine - 1);
  if (line.back() != '\n' || Hex(Sha256(line)) != digest) {
    return absl::DataLossError("its own SHA-256 digest does not match its text");
  }
  absl::StatusOr<Manifest> manifest = ParseBody(line);
  if (!manifest.ok()) return absl::DataLossError(manifest.status().message());
  return manifest;
}

}  // namespace grouper
