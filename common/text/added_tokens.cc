#include "common/text/added_tokens.h"

#include <algorithm>
#include <limits>

#include "common/base/status.h"
#include "common/text/json_fields.h"
#include "common/text/unicode_class.h"
#include "common/text/utf8.h"

namespace grouper::text {
namespace {

constexpr size_t kMaxContentBytes = 512;

uint16_t ClassBefore(absl::string_view text, size_t pos) {
  int length;
  return ClassOf(CodePointAt(text, PreviousPosition(text, pos), &length));
}

uint16_t ClassAt(absl::string_view text, size_t pos) {
  int length;
  return ClassOf(CodePointAt(text, pos, &length));
}

}  // namespace

void StringMatcher::Add(absl::string_view text, int32_t value) {
  if (text.empty()) return;
  first_[static_cast<uint8_t>(text[0])] = true;
  uint64_t node = 0;
  for (const char c : text) {
    const auto [it, added] = children_.emplace(node << 8 | static_cast<uint8_t>(c), ends_.size());
    if (added) ends_.push_back(-1);
    node = it->second;
  }
  ends_[node] = value;
}

bool StringMatcher::Next(absl::string_view text, size_t pos, size_t* begin, size_t* end, int32_t* value) const {
  for (; pos < text.size(); ++pos) {
    if (!first_[static_cast<uint8_t>(text[pos])]) continue;
    *value = -1;
    uint64_t node = 0;
    for (size_t i = pos; i < text.size(); ++i) {
      const auto it = children_.find(node << 8 | static_cast<uint8_t>(text[i]));
      if (it == children_.end()) break;
      node = it->second;
      if (ends_[node] >= 0) {
        *value = ends_[node];
        *end = i + 1;
      }
    }
    if (*value >= 0) {
      *begin = pos;
      return true;
    }
  }
  return false;
}

absl::StatusOr<AddedTokens> AddedTokens::FromJson(const json::Json& json, const std::string& path, const Vocabulary& model_vocabulary,
                                                  const Normalizer& normalizer) {
  AddedTokens added;
  if (json.is_null()) return added;
  if (!json.is_array()) return FieldError(path, "expected an array");
  int64_t next_id = model_vocabulary.size();
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string here = Item(path, i);
    AddedToken token;
    ASSIGN_OR_RETURN(token.content, StringField(json[i], "content", here));
    ASSIGN_OR_RETURN(const int64_t id, IntField(json[i], "id", here, 0, std::numeric_limits<int32_t>::max()));
    ASSIGN_OR_RETURN(token.single_word, BoolField(json[i], "single_word", here));
    ASSIGN_OR_RETURN(token.lstrip, BoolField(json[i], "lstrip", here));
    ASSIGN_OR_RETURN(token.rstrip, BoolField(json[i], "rstrip", here));
    ASSIGN_OR_RETURN(token.normalized, BoolField(json[i], "normalized", here));
    ASSIGN_OR_RETURN(token.special, BoolField(json[i], "special", here));
    if (token.content.empty()) return FieldError(At(here, "content"), "empty");
    if (token.content.size() > kMaxContentBytes) {
      return FieldError(At(here, "content"), "longer than ", kMaxContentBytes, " bytes");
    }
    const std::optional<int32_t> known = model_vocabulary.Find(token.content);
    const int64_t expected = known ? *known : next_id++;
    if (id != expected) {
      return FieldError(At(here, "id"), id, " for \"", token.content, "\", but ",
                        known ? "model.vocab has it as " : "it is the next token after the vocabulary, ", expected);
    }
    token.id = static_cast<int32_t>(id);
    if (!known && model_vocabulary.Has(id)) {
      return FieldError(At(here, "id"), "tokens \"", model_vocabulary.TokenOf(token.id), "\" and \"", token.content, "\" have the same id ", id);
    }
    if (!added.by_content_.emplace(token.content, i).second) {
      return FieldError(At(here, "content"), "\"", token.content, "\" is there twice");
    }
    added.by_id_.emplace(token.id, i);
    added.forms_.push_back(token.normalized ? normalizer.Normalize(token.content) : token.content);
    (token.normalized ? added.normalized_ : added.raw_).Add(added.forms_.back(), static_cast<int32_t>(i));
    added.tokens_.push_back(std::move(token));
  }
  return added;
}

const AddedToken* AddedTokens::Find(int32_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &tokens_[it->second];
}

const AddedToken* AddedTokens::Find(absl::string_view content) const {
  const auto it = by_content_.find(content);
  return it == by_content_.end() ? nullptr : &tokens_[it->second];
}

void AddedTokens::Cut(absl::string_view text, bool normalized, bool parse_special, std::vector<AddedSegment>* segments) const {
  const StringMatcher& matcher = normalized ? normalized_ : raw_;
  size_t done = 0;
  if (!matcher.empty()) {
    size_t begin, end;
    int32_t index;
    for (size_t pos = 0; matcher.Next(text, pos, &begin, &end, &index); ) {
      pos = end;
      const AddedToken& token = tokens_[index];
      if (token.special && !parse_special) continue;
      if (token.single_word && ((begin > 0 && (ClassBefore(text, begin) & kWord)) || (end < text.size() && (ClassAt(text, end) & kWord)))) {
        continue;
      }
      if (token.lstrip) {
        while (begin > done && (ClassBefore(text, begin) & kSpace)) begin = PreviousPosition(text, begin);
      }
      if (token.rstrip) {
        while (end < text.size() && (ClassAt(text, end) & kSpace)) {
          int length;
          CodePointAt(text, end, &length);
          end += length;
        }
      }
      if (done < begin) segments->push_back({text.substr(done, begin - done), -1});
      segments->push_back({{}, token.id});
      done = std::max(done, end);
    }
  }
  if (done < text.size()) segments->push_back({text.substr(done), -1});
}

}  // namespace grouper::text
