#include "common/text/unigram.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/text/json_fields.h"
#include "common/text/pattern.h"
#include "common/text/utf8.h"

namespace grouper::text {
namespace {

// A score as Hugging Face reads it: the decimal digits as one integer, divided by a power of ten, which is often not the nearest double.
// Segmentations whose scores add up to the same number are told apart by that last bit.
double ScoreAsRead(double value) {
  const std::string text = json::Dump(json::Json(value));
  uint64_t digits = 0;
  int exponent = 0;
  bool after_point = false;
  for (const char c : text) {
    if (c == '.') {
      after_point = true;
    } else if (c >= '0' && c <= '9') {
      digits = digits * 10 + static_cast<uint64_t>(c - '0');  // at most 17 digits
      exponent -= after_point;
    } else if (c != '-') {
      return value;  // 1e-30
    }
  }
  static constexpr double kPowers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                       1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  if (-exponent >= static_cast<int>(std::size(kPowers))) return value;
  const double magnitude = static_cast<double>(digits) / kPowers[-exponent];
  return value < 0 ? -magnitude : magnitude;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const UnigramModel>> UnigramModel::FromJson(const json::Json& model, const std::string& path,
                                                                           const Vocabulary& vocabulary) {
  std::unique_ptr<UnigramModel> unigram(new UnigramModel(vocabulary));
  ASSIGN_OR_RETURN(const json::Json* const items, ArrayField(model, "vocab", path));
  ASSIGN_OR_RETURN(unigram->byte_fallback_, BoolField(model, "byte_fallback", path, false));
  if (json::Has(model, "unk_id")) {
    ASSIGN_OR_RETURN(const int64_t unk_id, IntField(model, "unk_id", path, 0, static_cast<int64_t>(items->size()) - 1));
    unigram->unk_id_ = static_cast<int32_t>(unk_id);
  }
  unigram->min_score_ = std::numeric_limits<double>::infinity();
  unigram->token_at_.push_back(-1);
  for (size_t i = 0; i < items->size(); ++i) {
    const std::string here = Item(At(path, "vocab"), i);
    const json::Json& item = (*items)[i];  // [token, score]: ReadVocabulary has checked the shape
    const double score = item[1].get<double>();
    if (!std::isfinite(score)) return FieldError(here, "expected a finite score");
    unigram->scores_.push_back(ScoreAsRead(score));
    unigram->min_score_ = std::min(unigram->min_score_, unigram->scores_.back());
    uint64_t node = 0;
    for (const char c : item[0].get_ref<const std::string&>()) {
      const auto [it, added] = unigram->children_.emplace(node << 8 | static_cast<uint8_t>(c), unigram->token_at_.size());
      if (added) unigram->token_at_.push_back(-1);
      node = it->second;
    }
    if (node != 0) unigram->token_at_[node] = static_cast<int32_t>(i);
  }
  return unigram;
}

bool UnigramModel::EncodeString(absl::string_view text, std::vector<int32_t>* ids) const {
  if (const std::optional<int32_t> id = vocabulary_.Find(text)) {
    ids->push_back(*id);
    return true;
  }
  if (byte_fallback_) {
    std::vector<int32_t> bytes;
    for (const char c : text) {
      const std::optional<int32_t> id = vocabulary_.Find(absl::StrFormat("<0x%02X>", static_cast<uint8_t>(c)));
      if (!id) break;
      bytes.push_back(*id);
    }
    if (bytes.size() == text.size()) {
      ids->insert(ids->end(), bytes.begin(), bytes.end());
      return true;
    }
  }
  if (!unk_id_) return false;
  ids->push_back(*unk_id_);
  return true;
}

bool UnigramModel::Encode(absl::string_view piece, std::vector<int32_t>* ids) const {
  constexpr int32_t kUnknown = -1;
  constexpr size_t kNowhere = std::numeric_limits<size_t>::max();
  struct Best {  // path that ends here
    double score = 0;
    size_t begin = kNowhere;
    int32_t id = kUnknown;
  };
  std::vector<Best> best(piece.size() + 1);
  const int32_t unk = unk_id_.value_or(kUnknown);
  const double unk_score = min_score_ - 10.0;
  for (size_t pos = 0; pos < piece.size();) {
    int length;
    CodePointAt(piece, pos, &length);
    bool has_single = false;
    const double here = best[pos].score;
    const auto offer = [&](size_t end, double score, int32_t id) {
      if (best[end].begin == kNowhere || score > best[end].score) best[end] = {score, pos, id};
    };
    uint64_t node = 0;
    for (size_t end = pos; end < piece.size();) {
      const auto it = children_.find(node << 8 | static_cast<uint8_t>(piece[end]));
      if (it == children_.end()) break;
      node = it->second;
      ++end;
      const int32_t id = token_at_[node];
      if (id < 0) continue;
      offer(end, scores_[id] + here, id);
      has_single |= end - pos == static_cast<size_t>(length);
    }
    if (!has_single) offer(pos + length, unk_score + here, unk);
    pos += length;
  }
  std::vector<Match> parts;  // from the end; neighbouring unknown ones joined
  bool previous_unknown = false;
  for (size_t end = piece.size(); end > 0;) {
    const Best& node = best[end];
    const bool unknown = node.id == unk;
    if (unknown && previous_unknown) {
      parts.back().begin = node.begin;
    } else {
      parts.push_back({node.begin, end});
    }
    previous_unknown = unknown;
    end = node.begin;
  }
  bool complete = true;
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    complete &= EncodeString(piece.substr(part->begin, part->end - part->begin), ids);
  }
  return complete;
}

}  // namespace grouper::text
