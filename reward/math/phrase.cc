#include "reward/math/phrase.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "reward/bytes.h"
#include "reward/extraction.h"
#include "reward/math/lexer.h"

namespace grouper::math {
namespace {

using absl::string_view;

constexpr size_t kMaxSentence = 4096;

struct Word {
  string_view text;   // without the punctuation around it
  size_t begin, end;  // of `text`, in the sentence
  bool math = false;  // a formula, a number, an operator, a letter beside an operator
  bool digit = false;
  bool formula = false;     // $...$
  bool sign = false;        // operators only
  bool clause = false;      // a mark that ends a clause follows
  bool colon = false;       // "Step 2:"
  bool emphasized = false;  // Markdown's ** before it
};

bool IsOperator(char c) { return absl::string_view("+-*/=^<>").find(c) != string_view::npos; }

bool HasDigit(string_view text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isdigit(c); });
}

// Two letters in a row, unless they are a command or the name of a function.
bool HasPlainWord(string_view text) {
  for (size_t i = 0; i < text.size();) {
    if (!absl::ascii_isalpha(static_cast<unsigned char>(text[i]))) {
      ++i;
      continue;
    }
    const size_t begin = i;
    while (i < text.size() && absl::ascii_isalpha(static_cast<unsigned char>(text[i]))) ++i;
    const string_view word = text.substr(begin, i - begin);
    if (word.size() > 1 && (begin == 0 || text[begin - 1] != '\\') && word != "pi" && word != "sqrt" &&
        FunctionName(word).empty())
      return true;
  }
  return false;
}

// The end of the formula that begins at `at`, or `at`.
size_t FormulaEnd(string_view text, size_t at) {
  string_view close;
  if (absl::StartsWith(text.substr(at), "\\(")) {
    close = "\\)";
  } else if (absl::StartsWith(text.substr(at), "\\[")) {
    close = "\\]";
  } else if (absl::StartsWith(text.substr(at), "$$")) {
    close = "$$";
  } else if (text[at] == '$') {
    close = "$";
  } else {
    return at;
  }
  const size_t open = text[at] == '$' ? close.size() : 2;
  const size_t end = close[0] == '\\' ? FindClose(text, close[1], at + open) : text.find(close, at + open);
  return end == string_view::npos ? at : end + close.size();
}

// "negative 5", "minus 5".
bool IsMinus(string_view word) {
  return absl::EqualsIgnoreCase(word, "negative") || absl::EqualsIgnoreCase(word, "minus");
}

// "72 clips (48 in April, 24 in May)": what words in parentheses say is beside the point, unless it is an alternative.
void SkipAsides(std::vector<Word>& words) {
  for (size_t first = 1; first < words.size(); ++first) {
    if (words[first].formula || words[first].text.front() != '(') continue;
    size_t last = first;
    bool plain = false;
    while (last < words.size()) {
      plain |= !words[last].formula && HasPlainWord(words[last].text);
      if (!words[last].formula && words[last].text.back() == ')') break;
      ++last;
    }
    if (last == words.size()) return;
    const std::string begin = absl::AsciiStrToLower(words[first].text.substr(1));
    const bool alternative = begin == "or" || begin == "maybe" || begin == "possibly" || begin == "perhaps";
    for (size_t k = first; plain && !alternative && k <= last; ++k) {
      words[k].math = words[k].sign = words[k].digit = words[k].colon = false;
      words[k].text = words[k].text.substr(0, 0);
    }
    first = last;
  }
}

std::vector<Word> Words(string_view sentence) {
  std::vector<Word> words;
  bool dollars = true;  // a dollar that closes nothing is money
  for (size_t i = 0; i < sentence.size();) {
    if (absl::ascii_isspace(static_cast<unsigned char>(sentence[i]))) {
      ++i;
      continue;
    }
    Word word;
    size_t end = sentence[i] == '$' && !dollars ? i : FormulaEnd(sentence, i);
    if (end > i && sentence[i] == '$' && sentence.substr(i, end - i).find('\n') != string_view::npos) end = i;
    word.formula = end > i;
    dollars &= word.formula || sentence[i] != '$';
    // A formula takes what hangs on it along: "$5$," and "**$5$**".
    if (!word.formula) end = i;
    while (end < sentence.size() && !absl::ascii_isspace(static_cast<unsigned char>(sentence[end]))) {
      const size_t inner = end > i ? FormulaEnd(sentence, end) : end;
      if (inner > end && (sentence[end] != '$' || dollars)) {
        word.formula = true;
        end = inner;
      } else {
        ++end;
      }
    }
    word.text = sentence.substr(i, end - i);
    i = end;
    word.emphasized = absl::StartsWith(word.text, "**") && word.text.size() > 2;
    while (!word.text.empty() && string_view("*_\"'`").find(word.text.front()) != string_view::npos &&
           word.text.size() > 1)
      word.text.remove_prefix(1);
    while (word.text.size() > 1 && string_view(".,;:!?*_\"'`").find(word.text.back()) != string_view::npos) {
      word.colon |= word.text.back() == ':';
      word.clause |= word.text.back() == ',' || word.text.back() == ';' || word.text.back() == ':';
      word.text.remove_suffix(1);
    }
    word.begin = static_cast<size_t>(word.text.data() - sentence.data());
    word.end = word.begin + word.text.size();
    word.digit = HasDigit(word.text);
    word.sign = std::all_of(word.text.begin(), word.text.end(), IsOperator) || word.text == "\u2212" ||
                word.text == "\u00D7" || word.text == "\u00F7" || word.text == "\\times" || word.text == "\\cdot";
    word.math = word.formula || word.sign || (word.digit && !HasPlainWord(word.text)) || word.text[0] == '\\' ||
                word.text[0] == '(' || std::any_of(word.text.begin(), word.text.end(), IsOperator);
    if (HasPlainWord(word.text) && !word.formula) word.math = false;
    words.push_back(word);
  }
  for (size_t k = 0; k + 1 < words.size(); ++k) {
    if (words[k + 1].digit && words[k + 1].math && IsMinus(words[k].text)) words[k].math = words[k].sign = true;
  }
  if (!words.empty() && words[0].sign && absl::EndsWith(words[0].text, ">") && words[0].text.size() > 1) {
    words[0].math = words[0].sign = false;  // "=> 42"
  }
  SkipAsides(words);
  // A letter beside an operator: "x = 7".
  for (size_t k = 0; k < words.size(); ++k) {
    if (words[k].math || words[k].text.size() != 1) continue;
    words[k].math = (k > 0 && words[k - 1].sign) || (k + 1 < words.size() && words[k + 1].sign);
  }
  return words;
}

bool Joins(const Word& word) {
  return absl::EqualsIgnoreCase(word.text, "and") || absl::EqualsIgnoreCase(word.text, "or") || word.text == "&";
}

bool Denies(string_view word) {
  static constexpr string_view kWords[] = {"not",      "either", "neither",   "nor",     "none",     "isn't",
                                           "cannot",   "can't",  "maybe",     "perhaps", "possibly", "might",
                                           "could",    "wrong",  "incorrect", "unless",  "doesn't",  "isnt",
                                           "unlikely", "guess",  "between",   "or"};
  const std::string lower = absl::AsciiStrToLower(word);
  return std::find(std::begin(kWords), std::end(kWords), lower) != std::end(kWords);
}

// "at least 3", "more than 3", "about 3".
bool Bounds(const std::vector<Word>& words, size_t run) {
  if (run == 0) return false;
  const std::string last = absl::AsciiStrToLower(words[run - 1].text);
  if (last == "but") return run > 1 && (words[run - 2].text == "anything" || words[run - 2].text == "all");
  // "maximum of 3", "half of 3", "square root of 3".
  if (last == "of" && run > 1) {
    const std::string before = absl::AsciiStrToLower(words[run - 2].text);
    for (const char* word : {"maximum", "minimum", "excess", "half", "third", "quarter", "root", "square", "cube",
                             "upwards", "multiple", "reciprocal"}) {
      if (before == word) return run < 4 || !absl::EqualsIgnoreCase(words[run - 3].text, "the");
    }
  }
  for (const char* word :
       {"than",   "about", "around",   "roughly", "nearly", "almost",    "least",     "most",          "or",
        "to",     "no.",   "except",   "besides", "never",  "excluding", "without",   "approximately", "over",
        "under",  "above", "below",    "beyond",  "approx", "circa",     "exceeding", "exceeds",       "instance",
        "\u2248", "~",     "\\approx", "example", "e.g",    "twice",     "double",    "half",          "triple",
        "thrice", "within"}) {
    if (last == word) return last != "to" || (run > 1 && (words[run - 2].math || words[run - 2].text == "up"));
  }
  return false;
}

// "3 or so", "3 to 5", "3 at most", "3 or more".
bool GoesOn(const std::vector<Word>& words, size_t next) {
  if (next >= words.size() || words[next - 1].clause) return false;
  const std::string after = absl::AsciiStrToLower(words[next].text);
  if (after == "at")
    return next + 1 < words.size() && (words[next + 1].text == "most" || words[next + 1].text == "least");
  if (after == "if" || after == "unless") {  // "3 if n is even and 4 if it is odd"
    for (size_t k = next + 1; k < words.size(); ++k) {
      if (words[k].digit && words[k].math) return true;
    }
  }
  return after == "or" || after == "to" || after == "(or" || after == "squared" || after == "cubed";
}

// "Step 2", "Problem 5": the number is a name.
bool IsLabel(string_view word) {
  const std::string lower = absl::AsciiStrToLower(word);
  for (const char* label :
       {"step", "problem", "question", "case", "part", "example", "exercise", "figure", "equation"}) {
    if (lower == label) return true;
  }
  return false;
}

// "2.5 million"
bool IsScale(string_view word) {
  for (const char* scale : {"hundred", "thousand", "million", "billion", "trillion"}) {
    if (absl::EqualsIgnoreCase(word, scale)) return true;
  }
  return false;
}

struct Run {
  size_t first, last;  // words
};

// Neighbouring words of mathematics, and what joins two of them.
std::vector<Run> Runs(const std::vector<Word>& words) {
  std::vector<Run> runs;
  for (size_t k = 0; k < words.size(); ++k) {
    if (!words[k].math) continue;
    Run run{k, k};
    while (!words[run.last].colon) {
      const size_t next = run.last + 1;
      if (next < words.size() && (words[next].math || (words[run.last].digit && IsScale(words[next].text)))) {
        run.last = next;
      } else if (next + 1 < words.size() && Joins(words[next]) && words[next + 1].math && !words[next + 1].sign) {
        run.last = next + 1;
      } else {
        break;
      }
    }
    k = run.last;
    if (run.first == run.last && run.first > 0 && IsLabel(words[run.first - 1].text)) continue;
    runs.push_back(run);
  }
  return runs;
}

bool HasDigit(const std::vector<Word>& words, const Run& run) {
  return std::any_of(words.begin() + static_cast<ptrdiff_t>(run.first),
                     words.begin() + static_cast<ptrdiff_t>(run.last) + 1, [](const Word& word) { return word.digit; });
}

// Of "5 + 2 = **7**" what is emphasized: the marks would stand inside the formula.
string_view TextOf(string_view sentence, const std::vector<Word>& words, Run run) {
  for (size_t k = run.last; k > run.first; --k) {
    if (words[k].emphasized && words[k - 1].text == "=") run.first = k;
  }
  return sentence.substr(words[run.first].begin, words[run.last].end - words[run.first].begin);
}

}  // namespace

bool HasWord(string_view text, string_view word) {
  for (size_t at = 0; (at = text.find(word, at)) != string_view::npos; ++at) {
    const bool left = at == 0 || !absl::ascii_isalpha(static_cast<unsigned char>(text[at - 1]));
    const size_t end = at + word.size();
    const bool right = end == text.size() || !absl::ascii_isalpha(static_cast<unsigned char>(text[end]));
    if (left && right) return true;
  }
  return false;
}

bool Weighs(string_view text) {
  for (const char* word : {"not", "or", "either", "neither", "isn't", "cannot", "could", "might", "maybe", "perhaps",
                           "possibly", "approximately", "about", "least", "most", "between"}) {
    if (HasWord(text, word)) return true;
  }
  return false;
}

bool GivesUp(string_view text) {
  for (const char* words : {"cannot", "can't", "unable to", "don't know", "do not know", "not sure", "unsure",
                            "not enough", "guess", "no idea"}) {
    if (HasWord(text, words)) return true;
  }
  return false;
}

string_view StatedAnswer(string_view sentence) {
  sentence = absl::StripAsciiWhitespace(sentence);
  if (sentence.size() > kMaxSentence || absl::EndsWith(sentence, "?") || GivesUp(sentence)) return {};
  for (const string_view contrast : {", not ", ", rather than ", " rather than ", " instead of "}) {
    sentence = sentence.substr(0, sentence.find(contrast));
  }
  const std::vector<Word> words = Words(sentence);
  const std::vector<Run> runs = Runs(words);
  const Run* stated = nullptr;
  for (const Run& run : runs) {
    if (HasDigit(words, run) || stated == nullptr || !HasDigit(words, *stated)) stated = &run;
  }
  if (stated == nullptr || Bounds(words, stated->first)) return {};
  if (GoesOn(words, stated->last + 1)) return {};
  // "42 if n is even and 43 if n is odd"
  if (std::count_if(words.begin(), words.end(), [](const Word& word) { return word.text == "if"; }) > 1) return {};
  // The clause that it stands in, from the number before it: "not 10, 7", "not 10 which is 7" say 7.
  size_t first = stated->first, last = stated->last;
  while (first > 0 && !words[first - 1].clause && !words[first - 1].math) --first;
  while (last + 1 < words.size() && !words[last].clause) ++last;
  for (size_t k = first; k <= last; ++k) {
    if (!words[k].math && Denies(words[k].text)) return {};
  }
  return TextOf(sentence, words, *stated);
}

string_view LeadingAnswer(string_view text) {
  text = absl::StripAsciiWhitespace(text);
  if (text.size() > kMaxSentence || absl::EndsWith(text, "?") || GivesUp(text)) return {};
  const std::vector<Word> words = Words(text);
  const std::vector<Run> runs = Runs(words);
  if (runs.empty() || runs[0].first != 0) return {};
  // A single letter is an article as often as a variable.
  if (!HasDigit(words, runs[0]) && !words[0].formula) return {};
  if (GoesOn(words, runs[0].last + 1)) return {};
  if (const size_t next = runs[0].last + 1; next < words.size()) {
    const std::string after = absl::AsciiStrToLower(words[next].text);
    for (const char* word : {"times", "multiplied", "divided", "plus", "minus", "out", "more", "less", "of"}) {
      if (after == word) return {};
    }
  }
  return TextOf(text, words, runs[0]);
}

string_view LastMathSentence(string_view text) {
  // Ends of sentences, from the back; each piece is looked at once.
  size_t end = text.size();
  const auto holds_math = [](string_view piece) {
    return HasDigit(piece) || piece.find("$") != string_view::npos || piece.find("\\(") != string_view::npos ||
           piece.find("\\[") != string_view::npos;
  };
  // Formulas may hold full stops and line ends: one forward pass marks where sentences end.
  string_view last;
  size_t begin = 0;
  bool open_ended[3] = {false, false, false};  // no closing mark from here on: it is not looked for again
  const auto marks = [](char c) {
    return (c == '$') | (c == '\\') | (c == '\n') | (c == '.') | (c == '!') | (c == '?');
  };
  for (size_t i = 0; (i = FindByte(text, i, marks)) != string_view::npos; ++i) {
    const char c = text[i];
    if (c == '$' || (c == '\\' && i + 1 < end && (text[i + 1] == '(' || text[i + 1] == '['))) {
      bool& open = open_ended[c == '$' ? 0 : text[i + 1] == '(' ? 1 : 2];
      const size_t close = open ? i : FormulaEnd(text, i);
      if (close > i) {
        i = close - 1;
      } else {
        open = true;
      }
      continue;
    }
    const bool blank_next =
        i + 1 == end || absl::ascii_isspace(static_cast<unsigned char>(text[i + 1])) || text[i + 1] == '*';
    if (c != '\n' && !((c == '.' || c == '!' || c == '?') && blank_next)) continue;
    const string_view piece = text.substr(begin, i + 1 - begin);
    if (holds_math(piece)) last = piece;
    begin = i + 1;
  }
  if (const string_view piece = text.substr(begin); holds_math(piece)) last = piece;
  return absl::StripAsciiWhitespace(last);
}

}  // namespace grouper::math
