#include "common/text/normalizer.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <unicode/uchar.h>

#include <algorithm>
#include <iterator>

#include "common/base/check.h"
#include "common/base/status.h"
#include "common/text/json_fields.h"
#include "common/text/unicode_class.h"
#include "common/text/utf8.h"

namespace grouper::text {
namespace {

constexpr size_t kMaxSteps = 64;

constexpr struct {
  absl::string_view name;
  NormalizerStep::Kind kind;
} kKinds[] = {
    {"NFC", NormalizerStep::kNfc},
    {"NFD", NormalizerStep::kNfd},
    {"NFKC", NormalizerStep::kNfkc},
    {"NFKD", NormalizerStep::kNfkd},
    {"Lowercase", NormalizerStep::kLowercase},
    {"StripAccents", NormalizerStep::kStripAccents},
    {"Strip", NormalizerStep::kStrip},
    {"Prepend", NormalizerStep::kPrepend},
    {"Replace", NormalizerStep::kReplace},
};

std::string UnicodeForm(NormalizerStep::Kind kind, absl::string_view text) {
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; })) return std::string(text);
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* form = nullptr;
  switch (kind) {
    case NormalizerStep::kNfc:
      form = icu::Normalizer2::getNFCInstance(error);
      break;
    case NormalizerStep::kNfd:
      form = icu::Normalizer2::getNFDInstance(error);
      break;
    case NormalizerStep::kNfkc:
      form = icu::Normalizer2::getNFKCInstance(error);
      break;
    default:
      form = icu::Normalizer2::getNFKDInstance(error);
      break;
  }
  CHECK(U_SUCCESS(error)) << u_errorName(error);
  std::string out;
  out.reserve(text.size());
  icu::StringByteSink<std::string> sink(&out);
  // Characters that ICU knows but Hugging Face's older tables do not pass unchanged and separate what stands around them. ICU counts
  // in int32: longer texts go in parts, cut before an ASCII character, which every form leaves alone.
  const auto flush = [&](size_t begin, size_t end) {
    if (begin == end) return;
    form->normalizeUTF8(0, icu::StringPiece(text.data() + begin, static_cast<int32_t>(end - begin)), sink, nullptr, error);
    CHECK(U_SUCCESS(error)) << u_errorName(error);
  };
  constexpr size_t kPart = 1 << 28;
  size_t begin = 0;
  for (size_t pos = 0; pos < text.size();) {
    int length;
    const uint32_t c = CodePointAt(text, pos, &length);
    if (c < 0x80) {
      if (pos - begin >= kPart && text[pos] == ' ') {
        flush(begin, pos);
        begin = pos;
      }
    } else if ((ClassOf(c) & kNormalizing) == 0 && !form->isInert(static_cast<UChar32>(c))) {
      flush(begin, pos);
      out.append(text.data() + pos, length);
      begin = pos + length;
    }
    pos += length;
  }
  flush(begin, text.size());
  return out;
}

// Character by character, without context, as Rust's char::to_lowercase.
std::string Lowercase(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    int length;
    const uint32_t c = CodePointAt(text, pos, &length);
    if (c == 0x130) {
      out.append("i\xCC\x87");
    } else {
      AppendCodePoint(static_cast<uint32_t>(u_tolower(static_cast<UChar32>(c))), &out);
    }
    pos += length;
  }
  return out;
}

std::string Without(absl::string_view text, uint16_t mask) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    int length;
    if ((ClassOf(CodePointAt(text, pos, &length)) & mask) == 0) out.append(text.data() + pos, length);
    pos += length;
  }
  return out;
}

absl::string_view Stripped(absl::string_view text, bool left, bool right) {
  while (left && !text.empty()) {
    int length;
    if ((ClassOf(CodePointAt(text, 0, &length)) & kSpace) == 0) break;
    text.remove_prefix(length);
  }
  while (right && !text.empty()) {
    const size_t last = PreviousPosition(text, text.size());
    int length;
    if ((ClassOf(CodePointAt(text, last, &length)) & kSpace) == 0) break;
    text = text.substr(0, last);
  }
  return text;
}

absl::Status Read(const json::Json& json, const std::string& path, std::vector<NormalizerStep>* steps) {
  ASSIGN_OR_RETURN(const std::string type, TypeOf(json, path));
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const json::Json* const items, ArrayField(json, "normalizers", path));
    for (size_t i = 0; i < items->size(); ++i) {
      RETURN_IF_ERROR(Read((*items)[i], Item(At(path, "normalizers"), i), steps));
      if (steps->size() > kMaxSteps) return FieldError(path, "more than ", kMaxSteps, " normalizers");
    }
    return absl::OkStatus();
  }
  NormalizerStep step;
  const auto* const entry = std::find_if(std::begin(kKinds), std::end(kKinds), [&](const auto& kind) { return kind.name == type; });
  if (entry == std::end(kKinds)) return FieldError(At(path, "type"), "normalizer \"", type, "\" is not supported");
  step.kind = entry->kind;
  switch (step.kind) {
    case NormalizerStep::kStrip: {
      ASSIGN_OR_RETURN(step.strip_left, BoolField(json, "strip_left", path));
      ASSIGN_OR_RETURN(step.strip_right, BoolField(json, "strip_right", path));
      break;
    }
    case NormalizerStep::kPrepend: {
      ASSIGN_OR_RETURN(step.content, StringField(json, "prepend", path));
      break;
    }
    case NormalizerStep::kReplace: {
      ASSIGN_OR_RETURN(step.pattern, PatternField(json, path));
      ASSIGN_OR_RETURN(step.content, StringField(json, "content", path));
      break;
    }
    default:
      break;
  }
  steps->push_back(std::move(step));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Normalizer> Normalizer::FromJson(const json::Json& json, const std::string& path) {
  Normalizer normalizer;
  if (!json.is_null()) RETURN_IF_ERROR(Read(json, path, &normalizer.steps_));
  return normalizer;
}

std::string Normalizer::Normalize(absl::string_view text, bool* lost_first) const {
  std::string current(text);
  bool lost = false;
  const auto loses = [&](uint16_t mask) {
    int length;
    return !current.empty() && (ClassOf(CodePointAt(current, 0, &length)) & mask) != 0;
  };
  for (const NormalizerStep& step : steps_) {
    switch (step.kind) {
      case NormalizerStep::kNfc:
      case NormalizerStep::kNfd:
      case NormalizerStep::kNfkc:
      case NormalizerStep::kNfkd:
        current = UnicodeForm(step.kind, current);
        break;
      case NormalizerStep::kLowercase:
        current = Lowercase(current);
        break;
      case NormalizerStep::kStripAccents:
        lost |= loses(kCombining);
        current = Without(current, kCombining);
        break;
      case NormalizerStep::kStrip:
        lost |= step.strip_left && loses(kSpace);
        current = std::string(Stripped(current, step.strip_left, step.strip_right));
        break;
      case NormalizerStep::kPrepend:
        if (!current.empty()) current.insert(0, step.content);
        break;
      case NormalizerStep::kReplace:
        current = ReplaceAll(*step.pattern, current, step.content);
        break;
    }
  }
  if (lost_first != nullptr) *lost_first = lost;
  return current;
}

}  // namespace grouper::text
