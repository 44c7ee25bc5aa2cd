// Byte pair encoding (Sennrich et al. 2016, arXiv:1508.07909): from single symbols, the pair of the best rank is merged, leftmost first,
// until no neighbours have a merge. Equal to Hugging Face's BPE model.
//
// Short pieces: the best pair by linear search. Long pieces: a heap of pairs over a linked list, O(n log n). A per-thread cache of short
// pieces serves ordinary text, where a few thousand words make most of it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/json.h"
#include "common/text/model.h"
#include "common/text/vocabulary.h"

namespace grouper::text {

// (left, right) -> (rank, merged id): open addressing, for the inner loop.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  static constexpr uint32_t kNone = UINT32_MAX;

  explicit MergeTable(size_t merges);
  void Set(int32_t left, int32_t right, Merge merge);  // the later of two wins
  Merge Find(int32_t left, int32_t right) const;       // rank kNone: no such merge

 private:
  struct Slot {
    uint64_t key = UINT64_MAX;
    Merge merge{kNone, -1};
  };
  size_t Home(uint64_t key) const { return (key * 0x9E3779B97F4A7C15ull) >> shift_; }
  int shift_;
  std::vector<Slot> slots_;
};

class BpeModel final : public Model {
 public:
  // `vocabulary` must outlive the model. byte_level: pieces are bytes, tokens are written in GPT-2's alphabet.
  static absl::StatusOr<std::unique_ptr<const BpeModel>> FromJson(const json::Json& model, const std::string& path,
                                                                  const Vocabulary& vocabulary, bool byte_level);

  bool Encode(absl::string_view piece, std::vector<int32_t>* ids, std::vector<std::string>* unknown) const override;
  std::optional<int32_t> unk_id() const override { return unk_id_; }

 private:
  BpeModel(const Vocabulary& vocabulary, size_t merges);
  bool Symbols(absl::string_view piece, std::vector<int32_t>* symbols, std::vector<std::string>* unknown) const;
  void MergeShort(std::vector<int32_t>* symbols, std::vector<int32_t>* ids) const;
  void MergeLong(const std::vector<int32_t>& symbols, std::vector<int32_t>* ids) const;

  const Vocabulary& vocabulary_;
  const uint64_t serial_;  // this model in the per-thread caches
  bool byte_level_ = false;
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
  std::optional<int32_t> unk_id_;
  MergeTable merges_;
  std::array<int32_t, 256> byte_ids_;           // byte-level: the byte's token; byte_fallback: <0xNN>; -1: none
  absl::flat_hash_map<std::string, int32_t> whole_;  // ignore_merges: pieces that are tokens
};

}  // namespace grouper::text
