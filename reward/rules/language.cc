// Language consistency (DeepSeek-R1): the share of the reasoning's words that are in the target language.
//
// Words are maximal runs of letters; in scripts without spaces each character is a word. What is between $...$,
// \(...\), ``` fences or after a backslash is no word, nor are single Latin letters (variables). A Latin-script
// language is told from its neighbours by diacritics and stop words: a word with a letter that the language does not
// use, or one that is a stop word of another language only, is foreign.
//
// To add a language: one row in kLanguages (its script, its letters beyond a-z, its stop words), one name in the proto
// comment, rows in the test.
#include <algorithm>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "reward/rules/rules.h"

namespace grouper {
namespace {

using absl::string_view;

enum class Script { kNone, kLatin, kHan, kKana, kHangul, kCyrillic, kOther };

struct Language {
  const char* name;
  Script script;
  const char* stop_words;  // lower case; empty for scripts without spaces
};

// Besides the languages that a recipe can ask for, those whose stop words mark a Latin-script word as foreign.
constexpr Language kLanguages[] = {
    {"en", Script::kLatin,
     "the of and to in is that it was for on are as with his they at be this have from or had by not but what all were "
     "we when your can said "
     "there an each which she do how their if will so then need find let first now i a me no on me all also as an he "
     "has her our us am"},
    {"zh", Script::kHan, ""},
};
constexpr const char* kForeignStopWords =
    "der die das und ist nicht ein eine mit auf von zu den dem wir dass auch sich es wird durch "  // German
    "le la les des et est une pas que pour dans qui sur avec nous donc alors aux du "              // French
    "el los las una que para con por del es como pero entonces se lo y "                           // Spanish
    "il che di un per non sono della con quindi "                                                  // Italian
    "o os as um uma para com por mas do da em";                                                    // Portuguese

struct Character {
  uint32_t code = 0;  // 0xFFFD for a byte that is not UTF-8
  size_t length = 1;
};

Character Decode(string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char c = byte(0);
  if (c < 0x80) return {c, 1};
  const size_t length = c >= 0xC2 && c < 0xE0 ? 2 : c >= 0xE0 && c < 0xF0 ? 3 : c >= 0xF0 && c < 0xF5 ? 4 : 0;
  if (length == 0 || length > text.size()) return {0xFFFD, 1};
  uint32_t code = c & (0xFF >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {0xFFFD, 1};
    code = code << 6 | (byte(i) & 0x3F);
  }
  return {code, length};
}

Script ScriptOf(uint32_t c) {
  if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return Script::kLatin;
  if ((c >= 0xC0 && c <= 0x24F && c != 0xD7 && c != 0xF7) || (c >= 0x1E00 && c <= 0x1EFF)) return Script::kLatin;
  if ((c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2FA1F) ||
      (c >= 0xF900 && c <= 0xFAFF))
    return Script::kHan;
  if (c >= 0x3040 && c <= 0x30FF) return Script::kKana;
  if ((c >= 0xAC00 && c <= 0xD7AF) || (c >= 0x1100 && c <= 0x11FF)) return Script::kHangul;
  if (c >= 0x400 && c <= 0x52F) return Script::kCyrillic;
  // Greek letters are mostly variables in a derivation.
  if ((c >= 0x590 && c <= 0x6FF) || (c >= 0x900 && c <= 0x10FF)) return Script::kOther;
  return Script::kNone;
}

class LanguageRule : public Rule {
 public:
  LanguageRule(const Language& language, std::string tag) : language_(language), tag_(std::move(tag)) {
    for (const string_view word : absl::StrSplit(language.stop_words, ' ', absl::SkipEmpty()))
      own_.insert(std::string(word));
    for (const string_view word : absl::StrSplit(kForeignStopWords, ' ', absl::SkipEmpty())) {
      if (!own_.contains(word)) foreign_.insert(std::string(word));
    }
  }

  RuleResult Score(const RuleInput& input) const override {
    string_view text = input.text;
    if (tag_ != "whole") {
      const std::string open = absl::StrCat("<", tag_, ">"), close = absl::StrCat("</", tag_, ">");
      const size_t begin = text.find(open);
      if (begin == string_view::npos) return RuleResult::NotApplicable(absl::StrCat("no ", open));
      text.remove_prefix(begin + open.size());
      text = text.substr(0, text.find(close));
    }
    int64_t words = 0, matching = 0;
    CountWords(text, &words, &matching);
    if (words == 0) return RuleResult::NotApplicable("no words");
    return RuleResult::Scored(static_cast<double>(matching) / static_cast<double>(words));
  }

 private:
  void CountWords(string_view text, int64_t* words, int64_t* matching) const;

  const Language& language_;
  const std::string tag_;
  absl::flat_hash_set<std::string> own_, foreign_;
};

void LanguageRule::CountWords(string_view text, int64_t* words, int64_t* matching) const {
  size_t line_end = 0;  // the newline at or after i; looked for once a line
  for (size_t i = 0; i < text.size();) {
    if (absl::StartsWith(text.substr(i), "```")) {
      const size_t close = text.find("```", i + 3);
      if (close == string_view::npos) return;
      i = close + 3;
      continue;
    }
    if (text[i] == '$') {
      const size_t close = text.find('$', i + 1);
      if (line_end <= i) line_end = std::min(text.find('\n', i), text.size());
      // Money, not mathematics, when the line ends first.
      i = close < line_end ? close + 1 : i + 1;
      continue;
    }
    if (text[i] == '\\') {  // a LaTeX command
      ++i;
      while (i < text.size() && absl::ascii_isalpha(static_cast<unsigned char>(text[i]))) ++i;
      continue;
    }
    const Character first = Decode(text.substr(i));
    const Script script = ScriptOf(first.code);
    i += first.length;
    if (script == Script::kNone) continue;
    if (script == Script::kHan || script == Script::kKana) {
      ++*words;
      *matching += script == language_.script;
      continue;
    }
    std::string word;
    bool plain = first.code < 0x80;
    size_t letters = 1;
    if (plain) word.push_back(static_cast<char>(absl::ascii_tolower(static_cast<unsigned char>(first.code))));
    while (i < text.size()) {
      const Character next = Decode(text.substr(i));
      if (ScriptOf(next.code) != script && next.code != '\'' && next.code != 0x2019) break;
      if (next.code >= 0x80 && next.code != 0x2019) plain = false;
      if (next.code < 0x80 && word.size() < 32)
        word.push_back(static_cast<char>(absl::ascii_tolower(static_cast<unsigned char>(next.code))));
      i += next.length;
      ++letters;
    }
    if (script == Script::kLatin && letters == 1 && !own_.contains(word)) continue;                // a variable
    if (script == Script::kLatin && language_.script != Script::kLatin && letters <= 3) continue;  // cm, sin, GCD
    ++*words;
    *matching += script == language_.script && plain && !foreign_.contains(word);
  }
}

}  // namespace

RuleOr CreateLanguageRule(const v1::LanguageRule& config) {
  const std::string name = config.language().empty() ? "en" : config.language();
  for (const Language& language : kLanguages) {
    if (name == language.name)
      return std::make_unique<LanguageRule>(language, config.tag().empty() ? "think" : config.tag());
  }
  return absl::InvalidArgumentError(absl::StrCat("language: \"", name, "\", expected en or zh"));
}

}  // namespace grouper
