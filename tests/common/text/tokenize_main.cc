// Encodes and decodes a file of texts, for scripts/check_tokenizers.py.
//
//   tokenize TOKENIZER_JSON TEXTS OUTPUT
//
// TEXTS: for each text its length (uint32, little endian) and bytes. OUTPUT: for each text the number of ids (uint32), the ids (int32), and
// the length and bytes of Decode(ids), and of Decode of the ids backwards without special tokens. Both are compared with what the incremental
// decoder makes of the same ids, one by one. The last line on standard output is the speed of encoding in processor time.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "common/base/file.h"
#include "common/text/tokenizer.h"
#include "common/text/utf8.h"

namespace {

void AppendUint32(uint32_t value, std::string* out) { out->append(reinterpret_cast<const char*>(&value), sizeof(value)); }

// Processor time of this thread, in seconds.
double Now() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return Fail(absl::InvalidArgumentError("usage: tokenize TOKENIZER_JSON TEXTS OUTPUT"));
  const double begin_load = Now();
  const auto tokenizer = grouper::Tokenizer::FromFile(argv[1]);
  if (!tokenizer.ok()) return Fail(tokenizer.status());
  const double end_load = Now();
  const auto input = grouper::DefaultFileSystem().ReadFile(argv[2], uint64_t{4} << 30);
  if (!input.ok()) return Fail(input.status());
  std::string output;
  size_t bytes = 0;
  double seconds = 0, longest = 0;
  for (size_t pos = 0; pos + 4 <= input->size();) {
    uint32_t length;
    std::memcpy(&length, input->data() + pos, 4);
    pos += 4;
    if (input->size() - pos < length) return Fail(absl::InvalidArgumentError("truncated input"));
    const absl::string_view text(input->data() + pos, length);
    pos += length;
    const double begin = Now();
    const std::vector<int32_t> ids = (*tokenizer)->Encode(text);
    const double took = Now() - begin;
    seconds += took;
    if (took > longest) longest = took;
    bytes += length;
    AppendUint32(static_cast<uint32_t>(ids.size()), &output);
    output.append(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t));
    for (const bool backwards : {false, true}) {
      const std::vector<int32_t> order = backwards ? std::vector<int32_t>(ids.rbegin(), ids.rend()) : ids;
      const std::string decoded = (*tokenizer)->Decode(order, backwards);
      grouper::IncrementalDecoder incremental(*tokenizer, backwards);
      std::string pieces;
      for (const int32_t id : order) {
        const std::string piece = incremental.Add(id);
        if (!grouper::text::IsValidUtf8(piece)) return Fail(absl::InternalError("the incremental decoder gave half a character"));
        pieces += piece;
      }
      pieces += incremental.Flush();
      if (pieces != decoded) return Fail(absl::InternalError("the incremental decoder and Decode differ"));
      AppendUint32(static_cast<uint32_t>(decoded.size()), &output);
      output += decoded;
    }
  }
  const absl::Status written = grouper::WriteFileAtomically(grouper::DefaultFileSystem(), argv[3], output);
  if (!written.ok()) return Fail(written);
  std::printf("load %.0f ms, %.1f MB in %.3f s: %.1f MB/s, longest text %.3f s\n",
              1e3 * (end_load - begin_load), bytes / 1e6, seconds, bytes / 1e6 / seconds, longest);
  return 0;
}
