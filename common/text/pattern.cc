#include "common/text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/text/regex_translation.h"
#include "common/text/scanners.h"
#include "common/text/unicode_class.h"
#include "common/text/utf8.h"

namespace grouper::text {
namespace {

constexpr size_t kMaxRegexBytes = 16384;
constexpr uint32_t kMatchLimit = 20'000'000;  // one match on an honest text of 1 MB needs about as many steps as it has bytes
constexpr uint32_t kDepthLimit = 20'000'000;
constexpr uint32_t kHeapLimitKib = 65536;

class LiteralPattern final : public Pattern {
 public:
  explicit LiteralPattern(std::string literal) : literal_(std::move(literal)) {}
  bool FindAll(absl::string_view text, std::vector<Match>* matches) const override {
    matches->clear();
    if (literal_.empty()) return true;
    for (size_t pos = text.find(literal_); pos != absl::string_view::npos; pos = text.find(literal_, pos + literal_.size())) {
      matches->push_back({pos, pos + literal_.size()});
    }
    return true;
  }

 private:
  std::string literal_;
};

class ClassPattern final : public Pattern {
 public:
  explicit ClassPattern(uint16_t mask) : mask_(mask) {}
  bool FindAll(absl::string_view text, std::vector<Match>* matches) const override {
    matches->clear();
    for (size_t pos = 0; pos < text.size();) {
      int length;
      if (ClassOf(CodePointAt(text, pos, &length)) & mask_) matches->push_back({pos, pos + length});
      pos += length;
    }
    return true;
  }

 private:
  uint16_t mask_;
};

class ScannerPattern final : public Pattern {
 public:
  explicit ScannerPattern(Scanner scanner) : scanner_(scanner) {}
  bool FindAll(absl::string_view text, std::vector<Match>* matches) const override {
    matches->clear();
    scanner_(text, matches);
    return true;
  }

 private:
  Scanner scanner_;
};

void ScanWordsAndPunctuation(absl::string_view text, std::vector<Match>* matches) {
  size_t begin = 0;
  int kind = 0;  // 0 space, 1 word, 2 neither
  for (size_t pos = 0; pos < text.size();) {
    int length;
    const uint16_t mask = ClassOf(CodePointAt(text, pos, &length));
    const int next_kind = (mask & kWord) ? 1 : (mask & kSpace) ? 0 : 2;
    if (next_kind != kind) {
      if (kind != 0) matches->push_back({begin, pos});
      begin = pos;
      kind = next_kind;
    }
    pos += length;
  }
  if (kind != 0) matches->push_back({begin, text.size()});
}

// What a thread needs to run PCRE2: created at its first match, freed with the thread.
struct Pcre2Thread {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 * 1024, 8 * 1024 * 1024, nullptr);
  Pcre2Thread() {
    CHECK(data != nullptr && context != nullptr && stack != nullptr);
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_depth_limit(context, kDepthLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Pcre2Thread() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

class Pcre2Pattern final : public Pattern {
 public:
  explicit Pcre2Pattern(pcre2_code* code) : code_(code) {}
  ~Pcre2Pattern() override { pcre2_code_free(code_); }

  // An empty match right after a match is passed over, as Oniguruma's iterator does.
  bool FindAll(absl::string_view text, std::vector<Match>* matches) const override {
    matches->clear();
    thread_local Pcre2Thread thread;
    size_t pos = 0;
    while (pos <= text.size()) {
      const int count = pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), pos, PCRE2_NO_UTF_CHECK, thread.data,
                                    thread.context);
      if (count == PCRE2_ERROR_NOMATCH) return true;
      if (count < 0) return false;
      const PCRE2_SIZE* ovector = pcre2_get_ovector_pointer(thread.data);
      const Match match{ovector[0], ovector[1]};
      if (match.end < match.begin || match.end > text.size()) return false;  // \K inside a lookahead
      if (match.begin == match.end && !matches->empty() && matches->back().end == match.end) {
        if (match.end >= text.size()) return true;
        int length;
        CodePointAt(text, match.end, &length);
        pos = match.end + length;
        continue;
      }
      matches->push_back(match);
      pos = match.end;
    }
    return true;
  }

 private:
  pcre2_code* code_;
};

}  // namespace

std::shared_ptr<const Pattern> Pattern::Literal(std::string literal) { return std::make_shared<LiteralPattern>(std::move(literal)); }

std::shared_ptr<const Pattern> Pattern::OneOf(uint16_t char_classes) { return std::make_shared<ClassPattern>(char_classes); }

std::shared_ptr<const Pattern> Pattern::WordsAndPunctuation() { return std::make_shared<ScannerPattern>(ScanWordsAndPunctuation); }

std::shared_ptr<const Pattern> Pattern::Gpt2() { return std::make_shared<ScannerPattern>(FindScanner(kGpt2Regex)); }

absl::StatusOr<std::shared_ptr<const Pattern>> Pattern::Regex(std::string regex) {
  if (const Scanner scanner = FindScanner(regex)) return std::make_shared<ScannerPattern>(scanner);
  return Pcre2(std::move(regex));
}

absl::StatusOr<std::shared_ptr<const Pattern>> Pattern::Pcre2(std::string regex) {
  if (regex.size() > kMaxRegexBytes) {
    return absl::InvalidArgumentError(absl::StrCat("regex of ", regex.size(), " bytes; at most ", kMaxRegexBytes));
  }
  const absl::StatusOr<std::string> translated = TranslateRegex(regex);
  if (!translated.ok()) return translated.status();
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  CHECK(context != nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context, 100);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context);
  pcre2_compile_context_free(context);
  if (code == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(
        absl::StrCat("regex \"", regex.substr(0, 200), "\": ", reinterpret_cast<const char*>(message)));
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without JIT (a pattern it cannot do) the interpreter runs, under the same limits
  return std::make_shared<Pcre2Pattern>(code);
}

std::string ReplaceAll(const Pattern& pattern, absl::string_view text, absl::string_view content) {
  std::vector<Match> matches;
  pattern.FindAll(text, &matches);
  std::string out;
  size_t pos = 0;
  for (const Match& match : matches) {
    absl::StrAppend(&out, text.substr(pos, match.begin - pos), content);
    pos = match.end;
  }
  absl::StrAppend(&out, text.substr(pos));
  return out;
}

}  // namespace grouper::text
