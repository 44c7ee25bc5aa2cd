// SentencePiece's unigram language model (Kudo 2018, arXiv:1804.10959): the segmentation with the best sum of scores (Viterbi).
// Equal to Hugging Face's Unigram model: unknown characters cost min(score) - 10 each, neighbours among them become one unk token
// (or byte tokens with byte_fallback).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/text/model.h"

namespace grouper::text {

class UnigramModel final : public Model {
 public:
  static absl::StatusOr<std::unique_ptr<const UnigramModel>> FromJson(const json::Json& model, const std::string& path,
                                                                      const Vocabulary& vocabulary);
  bool Encode(absl::string_view piece, std::vector<int32_t>* ids) const override;

 private:
  explicit UnigramModel(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}
  bool EncodeString(absl::string_view text, std::vector<int32_t>* ids) const;

  const Vocabulary& vocabulary_;
  std::vector<double> scores_;
  double min_score_ = 0;
  std::optional<int32_t> unk_id_;
  bool byte_fallback_ = false;
  absl::flat_hash_map<uint64_t, uint32_t> children_;  // node << 8 | byte -> node; node 0 is the root
  std::vector<int32_t> token_at_;                     // node -> token that ends there, or -1
};

}  // namespace grouper::text
