#include "common/text/pre_tokenizer.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "common/base/status.h"
#include "common/text/json_fields.h"
#include "common/text/unicode_class.h"
#include "common/text/utf8.h"

namespace grouper::text {
namespace {

constexpr size_t kMaxSteps = 64;

absl::StatusOr<SplitBehavior> BehaviorField(const json::Json& json, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string name, StringField(json, "behavior", path));
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return FieldError(At(path, "behavior"), "\"", name,
                    "\"; expected Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

// A stretch of a piece: a match or what lies between matches.
struct Part {
  size_t begin;
  size_t end;
  bool is_match;
};

// Hugging Face's NormalizedString::split. `emit(begin, end)` for each resulting piece.
template <typename Emit>
void ApplyBehavior(absl::string_view text, const std::vector<Match>& matches, SplitBehavior behavior, bool invert, Emit emit) {
  if (behavior == SplitBehavior::kIsolated) {
    size_t pos = 0;
    for (const Match& match : matches) {
      if (pos < match.begin) emit(pos, match.begin);
      if (match.begin < match.end) emit(match.begin, match.end);
      pos = match.end;
    }
    if (pos < text.size()) emit(pos, text.size());
    return;
  }
  std::vector<Part> parts;
  size_t pos = 0;
  for (const Match& match : matches) {
    if (pos != match.begin) parts.push_back({pos, match.begin, invert});
    parts.push_back({match.begin, match.end, !invert});
    pos = match.end;
  }
  if (pos != text.size()) parts.push_back({pos, text.size(), invert});

  std::vector<Part> out;
  bool previous = false;  // was the part before a match?
  switch (behavior) {
    case SplitBehavior::kRemoved:
      for (const Part& part : parts) {
        if (!part.is_match) out.push_back(part);
      }
      break;
    case SplitBehavior::kContiguous:
      for (const Part& part : parts) {
        if (part.is_match == previous && !out.empty()) {
          out.back().end = part.end;
        } else {
          out.push_back(part);
        }
        previous = part.is_match;
      }
      break;
    case SplitBehavior::kMergedWithPrevious:
      for (const Part& part : parts) {
        if (part.is_match && !previous && !out.empty()) {
          out.back().end = part.end;
        } else {
          out.push_back(part);
        }
        previous = part.is_match;
      }
      break;
    case SplitBehavior::kMergedWithNext:
      for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
        if (part->is_match && !previous && !out.empty()) {
          out.back().begin = part->begin;
        } else {
          out.push_back(*part);
        }
        previous = part->is_match;
      }
      std::reverse(out.begin(), out.end());
      break;
    case SplitBehavior::kIsolated:
      break;
  }
  for (const Part& part : out) {
    if (part.begin < part.end) emit(part.begin, part.end);
  }
}

void SplitPieces(const Pattern& pattern, SplitBehavior behavior, bool invert, Pieces* pieces) {
  pieces->next.clear();
  for (const Pieces::Piece& piece : pieces->items) {
    if (!pattern.FindAll(piece.text, &pieces->matches)) pieces->limits_hit = true;
    ApplyBehavior(piece.text, pieces->matches, behavior, invert, [&](size_t begin, size_t end) {
      pieces->next.push_back({piece.text.substr(begin, end - begin), piece.at_start && begin == 0});
    });
  }
  pieces->items.swap(pieces->next);
}

}  // namespace

absl::Status PreTokenizer::Read(const json::Json& json, const std::string& path) {
  if (byte_level_) return FieldError(path, "stands after ByteLevel; ByteLevel must be the last pre-tokenizer");
  ASSIGN_OR_RETURN(const std::string type, TypeOf(json, path));
  if (steps_.size() >= kMaxSteps) return FieldError(path, "more than ", kMaxSteps, " pre-tokenizers");
  PreTokenizerStep step;
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const json::Json* const items, ArrayField(json, "pretokenizers", path));
    for (size_t i = 0; i < items->size(); ++i) RETURN_IF_ERROR(Read((*items)[i], Item(At(path, "pretokenizers"), i)));
    return absl::OkStatus();
  }
  if (type == "ByteLevel") {
    ASSIGN_OR_RETURN(const bool add_prefix_space, BoolField(json, "add_prefix_space", path));
    ASSIGN_OR_RETURN(const bool use_regex, BoolField(json, "use_regex", path, true));
    if (add_prefix_space) {
      step.kind = PreTokenizerStep::kPrefixSpace;
      steps_.push_back(step);
    }
    if (use_regex) {
      step.kind = PreTokenizerStep::kSplit;
      step.pattern = Pattern::Gpt2();
      steps_.push_back(step);
    }
    byte_level_ = true;
    return absl::OkStatus();
  }
  if (type == "Split") {
    ASSIGN_OR_RETURN(step.pattern, PatternField(json, path));
    ASSIGN_OR_RETURN(step.behavior, BehaviorField(json, path));
    ASSIGN_OR_RETURN(step.invert, BoolField(json, "invert", path));
  } else if (type == "Digits") {
    ASSIGN_OR_RETURN(const bool individual, BoolField(json, "individual_digits", path));
    step.pattern = Pattern::OneOf(kSplitNumber);
    step.behavior = individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
  } else if (type == "Punctuation") {
    step.pattern = Pattern::OneOf(kSplitPunctuation);
    if (json::Has(json, "behavior")) {
      ASSIGN_OR_RETURN(step.behavior, BehaviorField(json, path));
    }
  } else if (type == "Whitespace") {
    step.pattern = Pattern::WordsAndPunctuation();
    step.behavior = SplitBehavior::kRemoved;
    step.invert = true;
  } else if (type == "WhitespaceSplit") {
    step.pattern = Pattern::OneOf(kSpace);
    step.behavior = SplitBehavior::kRemoved;
  } else if (type == "Metaspace") {
    step.kind = PreTokenizerStep::kMetaspace;
    ASSIGN_OR_RETURN(step.replacement, CharacterField(json, "replacement", path));
    step.prepend = PreTokenizerStep::kAlways;
    if (json::Has(json, "prepend_scheme")) {
      ASSIGN_OR_RETURN(const std::string scheme, StringField(json, "prepend_scheme", path));
      if (scheme == "never") {
        step.prepend = PreTokenizerStep::kNever;
      } else if (scheme == "first") {
        step.prepend = PreTokenizerStep::kFirst;
      } else if (scheme != "always") {
        return FieldError(At(path, "prepend_scheme"), "\"", scheme, "\"; expected always, first or never");
      }
    }
    ASSIGN_OR_RETURN(const bool add_prefix_space, BoolField(json, "add_prefix_space", path, step.prepend != PreTokenizerStep::kNever));
    if (!add_prefix_space && step.prepend != PreTokenizerStep::kNever) {
      return FieldError(At(path, "add_prefix_space"), "false contradicts prepend_scheme");
    }
    ASSIGN_OR_RETURN(const bool split, BoolField(json, "split", path, true));
    steps_.push_back(step);
    if (!split) return absl::OkStatus();
    PreTokenizerStep split_step;
    split_step.pattern = Pattern::Literal(step.replacement);
    split_step.behavior = SplitBehavior::kMergedWithNext;
    step = std::move(split_step);
  } else {
    return FieldError(At(path, "type"), "pre-tokenizer \"", type, "\" is not supported");
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::StatusOr<PreTokenizer> PreTokenizer::FromJson(const json::Json& json, const std::string& path) {
  PreTokenizer pre_tokenizer;
  if (!json.is_null()) RETURN_IF_ERROR(pre_tokenizer.Read(json, path));
  return pre_tokenizer;
}

void PreTokenizer::Split(absl::string_view text, bool at_start, Pieces* pieces) const {
  pieces->items.clear();
  pieces->storage.clear();
  if (text.empty()) return;
  pieces->items.push_back({text, at_start});
  for (const PreTokenizerStep& step : steps_) {
    switch (step.kind) {
      case PreTokenizerStep::kSplit:
        SplitPieces(*step.pattern, step.behavior, step.invert, pieces);
        break;
      case PreTokenizerStep::kPrefixSpace:
        for (Pieces::Piece& piece : pieces->items) {
          if (piece.text.front() == ' ') continue;
          pieces->storage.push_back(absl::StrCat(" ", piece.text));
          piece.text = pieces->storage.back();
        }
        break;
      case PreTokenizerStep::kMetaspace:
        for (Pieces::Piece& piece : pieces->items) {
          std::string changed = absl::StrReplaceAll(piece.text, {{" ", step.replacement}});
          const bool wanted = step.prepend == PreTokenizerStep::kAlways || (step.prepend == PreTokenizerStep::kFirst && piece.at_start);
          if (wanted && !absl::StartsWith(changed, step.replacement)) changed.insert(0, step.replacement);
          pieces->storage.push_back(std::move(changed));
          piece.text = pieces->storage.back();
        }
        break;
    }
  }
}

}  // namespace grouper::text
