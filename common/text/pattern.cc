#include "common/text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
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

constexpr char kSpaceMembers[] =
    R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
struct PropertyGap {
  char name;  // of \p{L}
  uint16_t mask;
  std::string ranges;  // "\x{...}-\x{...}..." of the code points in our table that PCRE2's older Unicode does not count
};

std::vector<PropertyGap> FindGaps() {
  std::vector<PropertyGap> gaps = {{'L', kLetter, ""}, {'M', kMark, ""}, {'N', kNumber, ""}, {'P', kPunctuation, ""}, {'S', kSymbol, ""}};
  for (PropertyGap& gap : gaps) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    const std::string regex = {'\\', 'p', '{', gap.name, '}'};
    pcre2_code* const code =
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(regex.data()), regex.size(), PCRE2_UTF | PCRE2_ANCHORED, &error, &offset, nullptr);
    pcre2_match_data* const data = pcre2_match_data_create(1, nullptr);
    CHECK(code != nullptr && data != nullptr);
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    std::string character;
    for (uint32_t c = 0; c < 0x110000; ++c) {
      uint32_t last = c;
      while (last < 0x110000 && (ClassOf(last) & gap.mask) != 0) {
        character.clear();
        AppendCodePoint(last, &character);
        if (pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(character.data()), character.size(), 0, PCRE2_NO_UTF_CHECK, data, nullptr) >= 0) break;
        ++last;
      }
      if (last == c) continue;
      absl::StrAppend(&gap.ranges, "\\x{", absl::Hex(c), "}-\\x{", absl::Hex(last - 1), "}");
      c = last;
    }
    pcre2_match_data_free(data);
    pcre2_code_free(code);
  }
  return gaps;
}

// What to add to \p{name} ("L", "Lo", ...); nothing for other properties.
absl::string_view GapOf(absl::string_view name) {
  static const std::vector<PropertyGap>* const gaps = new std::vector<PropertyGap>(FindGaps());
  if (name == "Lo") name = "L";  // nearly all new letters have no case
  for (const PropertyGap& gap : *gaps) {
    if (name.size() == 1 && name[0] == gap.name) return gap.ranges;
  }
  return "";
}

constexpr char kWordMembers[] = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";

// Oniguruma's meaning in PCRE2's words: \s is White_Space, \w and \b go by its word characters. What means something else in PCRE2 and
// cannot be said there is refused.
absl::StatusOr<std::string> TranslateRegex(absl::string_view regex) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < regex.size(); ++i) {
    const char c = regex[i];
    if (c == '\\' && i + 1 < regex.size()) {
      const char escaped = regex[++i];
      const char* const members = escaped == 's' || escaped == 'S' ? kSpaceMembers : kWordMembers;
      if (escaped == 's' || escaped == 'w') {
        absl::StrAppend(&out, in_class ? "" : "[", members, in_class ? "" : "]");
      } else if ((escaped == 'S' || escaped == 'W') && !in_class) {
        absl::StrAppend(&out, "[^", members, "]");
      } else if (escaped == 'b' && !in_class) {
        absl::StrAppend(&out, "(?:(?<=[", members, "])(?![", members, "])|(?<![", members, "])(?=[", members, "]))");
      } else if (absl::StrContains("PSWBKChHCRXMyYOq", absl::string_view(&escaped, 1))) {
        return absl::InvalidArgumentError(absl::StrCat("regex: \\", absl::string_view(&escaped, 1), " is not supported here"));
      } else if (escaped == 'p' && i + 1 < regex.size() && regex[i + 1] == '{') {
        const size_t end = regex.find('}', i);
        if (end == absl::string_view::npos) return absl::InvalidArgumentError("regex: unclosed \\p{");
        const absl::string_view name = regex.substr(i + 2, end - i - 2);
        absl::StrAppend(&out, in_class ? "" : "[", "\\p{", name, "}", GapOf(name), in_class ? "" : "]");
        i = end;
      } else {
        out.push_back('\\');
        out.push_back(escaped);
      }
      continue;
    }
    if (in_class) {
      if (c == '[' && (i + 1 >= regex.size() || regex[i + 1] != ':')) {
        return absl::InvalidArgumentError("regex: a class inside a class is not supported");
      }
      if (c == '&' && absl::StartsWith(regex.substr(i), "&&")) {
        return absl::InvalidArgumentError("regex: && inside a class is not supported");
      }
      if (c == '[') {  // [:name:]
        const size_t end = regex.find(":]", i);
        if (end == absl::string_view::npos) return absl::InvalidArgumentError("regex: unclosed [:");
        out.append(regex.data() + i, end + 2 - i);
        i = end + 1;
        continue;
      }
      if (c == ']') in_class = false;
    } else if (c == '[') {
      in_class = true;
    } else if (c == '(' && absl::StartsWith(regex.substr(i), "(?")) {
      const absl::string_view flags = regex.substr(i + 2, regex.substr(i + 2).find_first_of(":)"));
      if (!flags.empty() && (flags[0] == '-' || (flags[0] >= 'a' && flags[0] <= 'z')) && flags != "i" && flags != "-i") {
        return absl::InvalidArgumentError(absl::StrCat("regex: option (?", flags, " is not supported"));
      }
    } else if (c == '(' && absl::StartsWith(regex.substr(i), "(*")) {
      return absl::InvalidArgumentError("regex: (* is not supported");
    }
    out.push_back(c);
  }
  return out;
}

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
