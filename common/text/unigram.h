// SentencePiece's unigram language model (Kudo 2018, arXiv:1804.10959): the segmentation with the best sum of scores (Viterbi).
// Equal to Hugging Face's Unigram model: unknown characters cost min(score) - 10 each, neighbours among them become one unk token
// (or byte tokens with byte_fallback).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/text/model.h"

namespace grouper::text {

// The pieces as a trie over their bytes. Nodes lie breadth first, so the children of one lie side by side and their bytes are searched sixteen at
// a time: nine bytes a node, and two cache lines a step.
class PieceTrie {
 public:
  static constexpr uint32_t kNone = 0;  // the root, which is nobody's child

  PieceTrie() = default;
  // `pieces`: (piece, id); of equal ones the last counts, empty ones are left out.
  explicit PieceTrie(std::vector<std::pair<absl::string_view, int32_t>> pieces);

  uint32_t First(uint8_t byte) const { return roots_[byte]; }
  uint32_t Child(uint32_t node, uint8_t byte) const;
  int32_t IdAt(uint32_t node) const { return nodes_[node].id; }  // of the piece that ends there, or -1

 private:
  struct Node {
    uint32_t children;  // the first; they end where the next node's begin
    int32_t id;
  };
  std::array<uint32_t, 256> roots_{};
  std::vector<Node> nodes_;
  std::vector<uint8_t> bytes_;  // by node: that which leads to it
};

class UnigramModel final : public Model {
 public:
  static absl::StatusOr<std::unique_ptr<const UnigramModel>> FromJson(const json::Json& model, const std::string& path,
                                                                      const Vocabulary& vocabulary);
  bool Encode(absl::string_view piece, std::vector<int32_t>* ids, std::vector<std::string>* unknown) const override;
  std::optional<int32_t> unk_id() const override { return unk_id_; }

 private:
  explicit UnigramModel(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}
  bool EncodeUnknown(absl::string_view text, std::vector<int32_t>* ids, std::vector<std::string>* unknown) const;

  const Vocabulary& vocabulary_;
  std::vector<double> scores_;
  double min_score_ = 0;
  std::optional<int32_t> unk_id_;
  bool byte_fallback_ = false;
  PieceTrie trie_;
  std::array<int32_t, 256> byte_ids_;  // byte_fallback: of <0xNN>; -1: none
};

}  // namespace grouper::text
