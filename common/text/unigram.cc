#include "common/text/unigram.h"

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>

#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/text/json_fields.h"
#include "common/text/utf8.h"

namespace grouper::text {
namespace {

constexpr size_t kKeptPositions = size_t{1} << 16;  // a thread keeps memory for a piece of that many bytes

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

PieceTrie::PieceTrie(std::vector<std::pair<absl::string_view, int32_t>> pieces) {
  std::stable_sort(pieces.begin(), pieces.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  struct Range {  // pieces that share `depth` bytes: what lies below a node
    size_t begin, end, depth;
  };
  std::vector<Range> ranges = {{0, pieces.size(), 0}};
  nodes_.push_back({1, -1});
  bytes_.push_back(0);
  for (size_t node = 0; node < ranges.size(); ++node) {
    const Range range = ranges[node];
    nodes_[node].children = static_cast<uint32_t>(nodes_.size());
    for (size_t i = range.begin; i < range.end;) {
      const absl::string_view piece = pieces[i].first;
      if (piece.size() == range.depth) {  // shorter ones come first
        if (node != 0) nodes_[node].id = pieces[i].second;
        ++i;
        continue;
      }
      const char byte = piece[range.depth];
      size_t end = i + 1;
      while (end < range.end && pieces[end].first[range.depth] == byte) ++end;
      if (node == 0) roots_[static_cast<uint8_t>(byte)] = static_cast<uint32_t>(nodes_.size());
      ranges.push_back({i, end, range.depth + 1});
      nodes_.push_back({0, -1});
      bytes_.push_back(static_cast<uint8_t>(byte));
      i = end;
    }
  }
  nodes_.push_back({static_cast<uint32_t>(nodes_.size()), -1});
  bytes_.resize(bytes_.size() + sizeof(__m128i));  // read past the end
}

uint32_t PieceTrie::Child(uint32_t node, uint8_t byte) const {
  const uint32_t end = nodes_[node + 1].children;
  const __m128i wanted = _mm_set1_epi8(static_cast<char>(byte));
  for (uint32_t child = nodes_[node].children; child < end; child += sizeof(__m128i)) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes_.data() + child));
    const uint32_t equal = static_cast<uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, wanted)));
    if (equal == 0) continue;
    const uint32_t found = child + static_cast<uint32_t>(std::countr_zero(equal));
    return found < end ? found : kNone;
  }
  return kNone;
}

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
  std::vector<std::pair<absl::string_view, int32_t>> pieces;
  pieces.reserve(items->size());
  for (size_t i = 0; i < items->size(); ++i) {
    const std::string here = Item(At(path, "vocab"), i);
    const json::Json& item = (*items)[i];  // [token, score]: ReadVocabulary has checked the shape
    const double score = item[1].get<double>();
    if (!std::isfinite(score)) return FieldError(here, "expected a finite score");
    unigram->scores_.push_back(ScoreAsRead(score));
    unigram->min_score_ = std::min(unigram->min_score_, unigram->scores_.back());
    pieces.emplace_back(item[0].get_ref<const std::string&>(), static_cast<int32_t>(i));
  }
  unigram->trie_ = PieceTrie(std::move(pieces));
  for (int byte = 0; byte < 256; ++byte) {
    unigram->byte_ids_[static_cast<size_t>(byte)] = vocabulary.Find(absl::StrFormat("<0x%02X>", byte)).value_or(-1);
  }
  return unigram;
}

// Unknown characters, one or more.
bool UnigramModel::EncodeUnknown(absl::string_view text, std::vector<int32_t>* ids, std::vector<std::string>* unknown) const {
  if (const std::optional<int32_t> id = vocabulary_.Find(text)) {
    ids->push_back(*id);
    return true;
  }
  const auto id_of = [&](char byte) { return byte_ids_[static_cast<uint8_t>(byte)]; };
  if (byte_fallback_ && std::all_of(text.begin(), text.end(), [&](char byte) { return id_of(byte) >= 0; })) {
    for (const char byte : text) ids->push_back(id_of(byte));
    return true;
  }
  if (unk_id_) ids->push_back(*unk_id_);
  for (int length; unknown != nullptr && !text.empty(); text.remove_prefix(static_cast<size_t>(length))) {
    CodePointAt(text, 0, &length);
    unknown->emplace_back(text.substr(0, static_cast<size_t>(length)));
  }
  return false;
}

bool UnigramModel::Encode(absl::string_view piece, std::vector<int32_t>* ids, std::vector<std::string>* unknown) const {
  constexpr int32_t kUnknown = -1;
  struct Best {  // path that ends here
    double score = 0;
    int32_t id = kUnknown;
    uint32_t length = 0;  // of its last part; 0: no path yet
  };
  thread_local std::vector<Best> best;
  best.assign(piece.size() + 1, Best());
  const int32_t unk = unk_id_.value_or(kUnknown);
  const double unk_score = min_score_ - 10.0;
  for (size_t pos = 0; pos < piece.size();) {
    int length;
    CodePointAt(piece, pos, &length);
    bool has_single = false;
    const double here = best[pos].score;
    const auto offer = [&](size_t end, double score, int32_t id) {
      if (best[end].length == 0 || score > best[end].score) best[end] = {score, id, static_cast<uint32_t>(end - pos)};
    };
    uint32_t node = trie_.First(static_cast<uint8_t>(piece[pos]));
    for (size_t end = pos + 1; node != PieceTrie::kNone; ++end) {
      if (const int32_t id = trie_.IdAt(node); id >= 0) {
        offer(end, scores_[static_cast<size_t>(id)] + here, id);
        has_single |= end - pos == static_cast<size_t>(length);
      }
      if (end == piece.size()) break;
      node = trie_.Child(node, static_cast<uint8_t>(piece[end]));
    }
    if (!has_single) offer(pos + static_cast<size_t>(length), unk_score + here, unk);
    pos += static_cast<size_t>(length);
  }
  struct Part {
    size_t begin, end;
    int32_t id;
  };
  thread_local std::vector<Part> parts;  // from the end; neighbouring unknown ones joined
  parts.clear();
  for (size_t end = piece.size(); end > 0;) {
    const Best& last = best[end];
    const size_t begin = end - last.length;
    if (last.id == unk && !parts.empty() && parts.back().id == unk) {
      parts.back().begin = begin;
    } else {
      parts.push_back({begin, end, last.id});
    }
    end = begin;
  }
  bool complete = true;
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    if (part->id == unk) {
      complete &= EncodeUnknown(piece.substr(part->begin, part->end - part->begin), ids, unknown);
    } else {
      ids->push_back(part->id);
    }
  }
  if (best.capacity() > kKeptPositions) std::vector<Best>().swap(best);
  if (parts.capacity() > kKeptPositions) std::vector<Part>().swap(parts);
  return complete;
}

}  // namespace grouper::text
