#include "reward/math/check.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "reward/math/parser.h"
#include "reward/math/phrase.h"

namespace grouper::math {
namespace {

using absl::string_view;

constexpr size_t kMaxBoxes = 16;
constexpr size_t kMaxWords = 256;  // of a sentence whose answer is words

// An answer of several boxes, or one text.
struct Candidate {
  std::vector<string_view> parts;
  bool bare = false;  // of a gold: one text, and it parses
  bool found() const { return !parts.empty(); }
  std::string Text() const { return parts.size() == 1 ? std::string(parts[0]) : absl::StrJoin(parts, ", "); }
};

struct Parsed {
  std::optional<Value> value;
  bool ambiguous_comma = false;
};

// LaTeX that was escaped twice, as "\\\\frac{1}{2}": every backslash doubled, so that no command has a single one.
bool IsEscapedTwice(string_view text) {
  bool twice = false;
  for (size_t i = text.find('\\'); i < text.size(); i = text.find('\\', i)) {
    const size_t end = std::min(text.find_first_not_of('\\', i), text.size());
    if (end < text.size() && absl::ascii_isalpha(static_cast<unsigned char>(text[end]))) {
      if ((end - i) % 2 == 1) return false;
      twice = true;
    }
    i = end;
  }
  return twice;
}

Parsed Parse(string_view text, bool join_commas, Algebra* algebra) {
  if (text.size() <= kMaxAnswerBytes && IsEscapedTwice(text)) {
    return Parse(absl::StrReplaceAll(text, {{"\\\\", "\\"}}), join_commas, algebra);
  }
  Parsed parsed;
  Parser parser(text, join_commas, false, algebra);
  parsed.value = parser.Parse();
  parsed.ambiguous_comma = parser.saw_ambiguous_comma();
  if (!parsed.value || !parser.saw_plus_minus()) return parsed;
  // "3 \pm 2" is two answers: the text once with each sign.
  Parser other(text, join_commas, true, algebra);
  std::optional<Value> minus = other.Parse();
  if (!minus) {
    parsed.value.reset();
    return parsed;
  }
  Value both;
  both.kind = Value::Kind::kList;
  const bool set = parsed.value->kind == Value::Kind::kSet || parsed.value->kind == Value::Kind::kList ||
                   parsed.value->kind == Value::Kind::kBraced;
  if (set && parsed.value->items.size() == minus->items.size()) {
    // A member without the sign, as -2 in {1 \pm \sqrt{5}, -2}, is one member.
    Comparison comparison(algebra, Percent::kUnit);
    for (size_t i = 0; i < minus->items.size(); ++i) {
      const bool same = comparison.Equal(parsed.value->items[i], minus->items[i]) == Verdict::kEqual;
      both.items.push_back(std::move(parsed.value->items[i]));
      if (!same) both.items.push_back(std::move(minus->items[i]));
    }
  } else {
    both.items.push_back(std::move(*parsed.value));
    both.items.push_back(std::move(*minus));
  }
  parsed.value = std::move(both);
  return parsed;
}

// Whether the text is an answer as it stands. What is too complex for a look is one too (*exhausted).
bool IsBareAnswer(string_view text, bool* exhausted = nullptr) {
  constexpr size_t kLook = 3000;
  if (text.empty() || text.size() > kMaxAnswerBytes) return false;
  Algebra algebra(kLook);
  const std::optional<Value> value = Parse(text, true, &algebra).value;
  if (exhausted != nullptr) *exhausted = algebra.exhausted();
  if (algebra.exhausted()) return true;
  if (!value || value->kind != Value::Kind::kList) return value.has_value();
  // "Therefore, x = 7" is a sentence.
  const auto is_text = [](const Value& item) { return item.kind == Value::Kind::kText; };
  const auto texts = static_cast<size_t>(std::count_if(value->items.begin(), value->items.end(), is_text));
  return texts == 0 || texts == value->items.size();
}

// Two letters or more, and nothing but letters and what stands between words.
bool IsWords(string_view text) {
  size_t letters = 0;
  for (const unsigned char c : text) {
    letters += absl::ascii_isalpha(c);
    if (!absl::ascii_isalpha(c) && string_view(" '-.,").find(static_cast<char>(c)) == string_view::npos) return false;
  }
  return letters > 1;
}

// Without formatting around the whole text: Markdown stars, quotes, a list's bullet, a final full stop or comma. What is
// wrapped deeper than kLayers is no answer's formatting.
string_view Undecorated(string_view text) {
  constexpr int kLayers = 64;
  text = absl::StripAsciiWhitespace(text);
  for (const string_view bullet : {"* ", "\u2022 "}) absl::ConsumePrefix(&text, bullet);
  bool changed = true;
  for (int layer = 0; changed && !text.empty() && layer < kLayers; ++layer) {
    changed = false;
    for (const string_view mark : {"**", "\"", "`", "\u201C", "\u201D"}) {
      if (absl::ConsumePrefix(&text, mark)) changed = true;
      if (absl::ConsumeSuffix(&text, mark)) changed = true;
    }
    for (const string_view mark : {".", ",", ";", ":", "\\\\"}) {
      if (absl::EndsWith(text, "..")) break;  // "0.333..." goes on
      if (text.size() > mark.size() && absl::ConsumeSuffix(&text, mark)) changed = true;
    }
    for (const char mark : {'*', '_'}) {
      if (text.size() > 2 && text.front() == mark && text.back() == mark) {
        text = text.substr(1, text.size() - 2);
        changed = true;
      }
    }
    if (text.size() > 1 && absl::ConsumePrefix(&text, "=")) changed = true;
    // "Evelyn!", but n! is a factorial.
    if (text.size() > 3 && text.back() == '!' && IsWords(text.substr(0, text.size() - 1))) {
      text.remove_suffix(1);
      changed = true;
    }
    text = absl::StripAsciiWhitespace(text);
  }
  return text;
}

// "\text{The answer is } 42": what follows the words that lead to it.
string_view WithoutLead(string_view text) {
  string_view rest = text;
  if (!absl::ConsumePrefix(&rest, "\\text{")) return text;
  const size_t close = rest.find('}');
  const string_view lead = absl::StripAsciiWhitespace(rest.substr(0, close));
  if (close == string_view::npos || lead.find_first_of("{\\$") != string_view::npos || Weighs(lead)) return text;
  rest = absl::StripAsciiWhitespace(rest.substr(close + 1));
  const bool leads = absl::EndsWith(lead, ":") || absl::EndsWith(lead, "=") || absl::EndsWith(lead, " is") ||
                     absl::EndsWith(lead, " are");
  return leads && !rest.empty() ? rest : text;
}

// "x &= 40 + 2 \\\\ &= 42": the right side of the last row of aligned equations.
string_view LastRow(string_view text) {
  for (const auto& [open, close] : {std::pair("\\[", "\\]"), std::pair("$$", "$$"), std::pair("$", "$")}) {
    if (absl::StartsWith(text, open) && absl::EndsWith(text, close) && absl::StrContains(text, "&=")) {
      absl::ConsumePrefix(&text, open);
      absl::ConsumeSuffix(&text, close);
      text = absl::StripAsciiWhitespace(text);
      break;
    }
  }
  for (const string_view name : {"align*", "aligned", "align", "gather*", "split", "eqnarray*"}) {
    if (!absl::ConsumePrefix(&text, absl::StrCat("\\begin{", name, "}"))) continue;
    text = absl::StripAsciiWhitespace(text);
    absl::ConsumeSuffix(&text, absl::StrCat("\\end{", name, "}"));
  }
  if (text.find("&=") == string_view::npos || absl::StrContains(text, "\\begin")) return text;
  text = absl::StripAsciiWhitespace(text);
  absl::ConsumeSuffix(&text, "\\\\");
  return Undecorated(text.substr(text.rfind("&=") + 1));
}

// "\boxed{17} or 18": the alternative beside the box, which says the same or makes it a hedge.
string_view BesideBox(string_view after) {
  after = after.substr(0, after.find('\n'));
  while (absl::ConsumePrefix(&after, "$") || absl::ConsumePrefix(&after, "\\)") || absl::ConsumePrefix(&after, ",") ||
         absl::ConsumePrefix(&after, " ") || absl::ConsumePrefix(&after, "*")) {
  }
  if (absl::ConsumePrefix(&after, "(")) after = after.substr(0, after.find(')'));
  if (!absl::ConsumePrefix(&after, "or ")) return {};
  for (const string_view word : {"maybe ", "perhaps ", "possibly "}) absl::ConsumePrefix(&after, word);
  const string_view other = Undecorated(LeadingAnswer(after));
  return absl::StrContains(other, "%") || !IsBareAnswer(other) ? string_view() : other;
}

Candidate Boxes(string_view text) {
  Candidate boxes;
  const std::vector<size_t> offsets = FindBoxes(text, kMaxBoxes);
  size_t covered = 0;
  for (const size_t offset : offsets) {
    if (offset < covered) continue;  // inside an earlier box
    const Box box = BoxAt(text, offset);
    if (!box.found) return {};  // the completion ended inside its box
    covered = box.end;
    const string_view content = WithoutLead(absl::StripAsciiWhitespace(box.content));
    if (!content.empty()) boxes.parts.push_back(content);
  }
  if (const string_view other = boxes.found() ? BesideBox(text.substr(covered)) : string_view(); !other.empty())
    boxes.parts.push_back(other);
  return boxes;
}

// "a parabola", "the parabola" as "parabola".
string_view WithoutArticle(string_view text) {
  text = absl::StripAsciiWhitespace(text);
  for (const string_view open : {"\\text{", "\\mbox{", "\\textbf{", "\\mathrm{"}) {
    if (absl::ConsumePrefix(&text, open)) absl::ConsumeSuffix(&text, "}");
  }
  for (const string_view article : {"a ", "an ", "the "}) {
    if (text.size() > article.size() && absl::StartsWithIgnoreCase(text, article)) return text.substr(article.size());
  }
  return text;
}

// The answer inside a sentence that says it: "the volume of $ABCD$ is 120", "Sphere 3 hours ago". A text that is the
// gold's, sign for sign, is taken as it stands.
Candidate FromPhrase(string_view text, string_view gold_form) {
  text = Undecorated(text);
  if (text.empty()) return {};
  if (!gold_form.empty() && text.size() <= kMaxAnswerBytes && TextForm(text) == gold_form) return {{text}};
  if (const Candidate boxes = Boxes(text); boxes.found()) return boxes;
  if (IsBareAnswer(text)) return {{text}};
  if (const string_view leading = Undecorated(LeadingAnswer(text)); IsBareAnswer(leading)) return {{leading}};
  if (std::any_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isdigit(c); })) {
    const string_view stated = LastRow(Undecorated(StatedAnswer(text)));
    return stated.empty() ? Candidate{} : Candidate{{stated}};
  }
  if (Weighs(text)) return {};
  for (const string_view verb : {" is ", " are ", " be ", " equals ", ": "}) {
    const size_t at = text.rfind(verb);
    if (at == string_view::npos) continue;
    const string_view rest = WithoutArticle(Undecorated(text.substr(at + verb.size())));
    if (IsBareAnswer(rest)) return {{rest}};
  }
  if (const string_view stated = Undecorated(StatedAnswer(text)); !stated.empty()) return {{stated}};
  return {{text}};
}

// "(C)", "C.", "Option C", "\\textbf{(C)}\\ 12": a letter of a multiple choice and what stands beside it.
struct Choice {
  char letter = 0;     // upper case; 0: the text is no choice
  bool bare = false;   // the letter alone, which may be a variable too
  bool lower = false;  // written in lower case
  std::string content;
};

Choice ReadChoice(string_view text) {
  if (text.size() > 256) return {};
  // One letter only: "A, B", "A) or B)" name two.
  size_t letters = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto alnum = [&](size_t k) {
      return k < text.size() && absl::ascii_isalnum(static_cast<unsigned char>(text[k]));
    };
    letters += text[i] >= 'A' && text[i] <= 'J' && !alnum(i + 1) && (i == 0 || !alnum(i - 1));
  }
  for (const char* word : {"or", "and", "not", "either"}) letters += HasWord(text, word) ? 2 : 0;
  if (letters > 1) return {};
  const std::string form = TextForm(text);
  string_view rest = form;
  Choice choice;
  for (const string_view word : {"option", "choice", "answer", "Option", "Choice", "Answer"})
    absl::ConsumePrefix(&rest, word);
  const bool named = rest.size() < form.size(), open = absl::ConsumePrefix(&rest, "(");
  if (rest.empty()) return {};
  const char letter = absl::ascii_toupper(static_cast<unsigned char>(rest[0]));
  choice.lower = letter != rest[0];
  rest.remove_prefix(1);
  const bool closed = absl::ConsumePrefix(&rest, ")");
  if (letter < 'A' || letter > 'J' || (open && !closed) || (choice.lower && !open)) return {};
  if (!closed && !rest.empty() && !absl::ConsumePrefix(&rest, ".") && !absl::ConsumePrefix(&rest, ":")) return {};
  choice.letter = letter;
  choice.content = std::string(rest);
  choice.bare = !named && !open && !closed && rest.empty() && text.find('\\') == string_view::npos;
  return choice;
}

// "24+48 = <<24+48=72>>72 clips": what follows GSM8K's last calculator note, which says again what stands beside it.
string_view AfterCalculatorNote(string_view text) {
  const size_t close = text.rfind(">>"), open = text.rfind("<<", close);
  if (close == string_view::npos || open == string_view::npos) return text;
  const string_view after = absl::StripAsciiWhitespace(text.substr(close + 2));
  if (!after.empty() && absl::ascii_isdigit(static_cast<unsigned char>(after[0]))) return after;
  const string_view note = text.substr(open + 2, close - open - 2);
  return note.find('=') == string_view::npos ? text : note.substr(note.rfind('=') + 1);
}

// A completion that was cut off where its answer would have followed.
bool EndsInMarker(string_view text) {
  text = absl::StripTrailingAsciiWhitespace(text);
  return absl::EndsWith(text, "####") || absl::EndsWith(text, "\nA:") || absl::EndsWithIgnoreCase(text, "answer:") ||
         absl::EndsWithIgnoreCase(text, "answer is") || absl::EndsWithIgnoreCase(text, "answer is:");
}

Candidate FindAnswer(string_view completion, const std::vector<Place>& places, string_view gold_form) {
  const string_view text = AfterThink(completion);
  for (const Place place : places) {
    switch (place) {
      case Place::kBoxed: {
        if (FindBoxes(text, 1).empty()) break;
        return Boxes(text);  // an unfinished box is no answer, and nothing else is looked for
      }
      case Place::kWhole: {
        if (EndsInMarker(text)) return {};
        const string_view whole = Undecorated(text);
        if (IsBareAnswer(whole)) return {{whole}};
        if (!gold_form.empty() && whole.size() <= kMaxAnswerBytes && TextForm(whole) == gold_form) return {{whole}};
        // "The graph is an ellipse.", where words are asked for.
        if (whole.size() <= kMaxWords && absl::EqualsIgnoreCase(TextForm(whole), gold_form)) return {{whole}};
        // "C) 12", where a letter is asked for.
        if (ReadChoice(gold_form).letter != 0 && ReadChoice(whole).letter != 0) return {{whole}};
        if (IsWords(gold_form) && IsWords(whole) && whole.size() <= kMaxWords && absl::StrContains(whole, " is "))
          return FromPhrase(whole, gold_form);
        // One short line that is not a sentence about a number may be words, or a form that only its twin can match.
        const bool sentence =
            !whole.empty() && absl::ascii_isalpha(static_cast<unsigned char>(whole[0])) &&
            whole.find('\\') == string_view::npos &&
            std::any_of(whole.begin(), whole.end(), [](unsigned char c) { return absl::ascii_isdigit(c); });
        if (!whole.empty() && !sentence && whole.size() <= 64 && std::count(whole.begin(), whole.end(), ' ') < 4 &&
            !ExtractFrom(text, Place::kLastMath).found) {
          return {{whole}};
        }
        break;
      }
      case Place::kAnswerTag:
      case Place::kAnswerIs:
      case Place::kHash: {
        const Extracted found = ExtractFrom(text, place);
        if (!found.found) break;
        // "The answer is 17. Or is it 18?"
        if (place == Place::kAnswerIs) {
          string_view next = text.substr(static_cast<size_t>(found.text.data() + found.text.size() - text.data()));
          next.remove_prefix(std::min(next.find_first_not_of(".!? *\n"), next.size()));
          if (absl::StartsWith(next, "Or ")) return {};
        }
        return FromPhrase(AfterCalculatorNote(found.text), gold_form);
      }
      case Place::kLastMath:
      case Place::kLastNumber: {
        // The last formula or number, but as the sentence around it means it.
        if (EndsInMarker(text)) return {};
        const Extracted found = ExtractFrom(text, place);
        if (!found.found) break;
        const string_view sentence = LastMathSentence(text);
        if (found.text.data() < sentence.data() || found.text.data() > sentence.data() + sentence.size()) break;
        if (GivesUp(text.substr(static_cast<size_t>(sentence.data() + sentence.size() - text.data())))) return {};
        const string_view stated = LastRow(Undecorated(StatedAnswer(sentence)));
        return stated.empty() ? Candidate{} : Candidate{{stated}};
      }
    }
  }
  return {};
}

Candidate FindGold(string_view gold) {
  gold = absl::StripAsciiWhitespace(gold);
  if (Candidate boxes = Boxes(gold); boxes.found()) {
    // A worked solution repeats its box: the same text twice is one answer.
    std::vector<string_view> distinct;
    for (const string_view part : boxes.parts) {
      if (std::find(distinct.begin(), distinct.end(), part) == distinct.end()) distinct.push_back(part);
    }
    return {distinct};
  }
  const string_view whole = Undecorated(gold);
  if (whole.empty()) return {};
  bool exhausted = false;
  if (IsBareAnswer(whole, &exhausted)) return {{whole}, !exhausted};
  for (const Place place : {Place::kHash, Place::kAnswerIs}) {
    const Extracted found = ExtractFrom(gold, place);
    if (found.found) return FromPhrase(found.text, "");
  }
  // A sentence that says it: "So x = 7.", "The area is 12."
  for (const string_view verb : {" is ", " are ", " equals ", "="}) {
    if (!absl::StrContains(whole, verb) || !absl::ascii_isalpha(static_cast<unsigned char>(whole[0]))) continue;
    const string_view stated = Undecorated(StatedAnswer(LastMathSentence(whole)));
    if (IsBareAnswer(stated)) return {{stated}};
  }
  const Extracted math = ExtractFrom(gold, Place::kLastMath);
  // Words around mathematics: a solution. Without words it is one formula that does not parse.
  if (math.found && whole.size() > math.text.size() + 40 && IsBareAnswer(math.text)) return {{math.text}};
  return {{whole}};
}

Value ListOf(std::vector<Value> items) {
  Value list;
  list.kind = Value::Kind::kList;
  for (Value& item : items) {
    if (item.kind == Value::Kind::kList) {
      for (Value& inner : item.items) list.items.push_back(std::move(inner));
    } else {
      list.items.push_back(std::move(item));
    }
  }
  return list;
}

// Words that stand for a symbol.
string_view InSymbols(string_view text) {
  if (text.size() > 40 || text.empty() || text.find_first_of("0123456789^_=<>") != string_view::npos) return text;
  const std::string form = absl::AsciiStrToLower(TextForm(text));
  for (const char* words : {"allrealnumbers", "allreals", "realnumbers", "therealnumbers"}) {
    if (form == words) return "\\mathbb{R}";
  }
  for (const char* words : {"nosolution", "nosolutions", "emptyset", "theemptyset"}) {
    if (form == words) return "\\emptyset";
  }
  return text;
}

// East Asian full-width digits, brackets and signs as ASCII.
std::string WithoutFullWidth(string_view text) {
  std::string out(text);
  if (text.find("\xEF\xBC") == string_view::npos && text.find("\xEF\xBD") == string_view::npos) return out;
  out.clear();
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = [&](size_t k) { return static_cast<unsigned char>(text[k]); };
    const int code = i + 2 < text.size() && byte(i) == 0xEF && (byte(i + 1) == 0xBC || byte(i + 1) == 0xBD)
                         ? (byte(i + 1) - 0xBC) * 64 + (byte(i + 2) & 0x3F)
                         : -1;
    if (code >= 1 && code <= 0x5E) {  // U+FF01 is '!'
      out.push_back(static_cast<char>(' ' + code));
      i += 2;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

std::optional<Value> ParseCandidate(const Candidate& candidate, bool join_commas, Algebra* algebra, bool* ambiguous) {
  std::vector<Value> items;
  for (const string_view part : candidate.parts) {
    const std::string ascii = WithoutFullWidth(InSymbols(Undecorated(part)));
    Parsed parsed = Parse(Undecorated(ascii), join_commas, algebra);
    *ambiguous |= parsed.ambiguous_comma;
    if (!parsed.value) return std::nullopt;
    items.push_back(std::move(*parsed.value));
  }
  if (items.size() == 1) return std::move(items[0]);
  return ListOf(std::move(items));
}

bool LooksLikeWords(string_view form) {
  if (form.empty()) return false;
  size_t letters = 0;
  for (const unsigned char c : form) {
    letters += absl::ascii_isalpha(c) || c >= 0x80;
    if (c == '\\' || c == '{' || c == '}' || c == '^' || c == '_' || c == '&' || c < 0x20) return false;
  }
  return letters > 0;
}

// "p.m." as "pm".
std::string WithoutAbbreviation(string_view form) {
  std::string out;
  for (size_t i = 0; i < form.size(); ++i) {
    if (form[i] != '.' || i == 0 || !absl::ascii_isalpha(static_cast<unsigned char>(form[i - 1])))
      out.push_back(form[i]);
  }
  return out;
}

// [-] digits mark digits; after a comma not three digits, which would be a thousands group.
bool IsDecimal(string_view form, char mark) {
  absl::ConsumePrefix(&form, "-");
  const size_t at = form.find(mark);
  if (at == string_view::npos || at == 0 || at + 1 == form.size() || (mark == ',' && form.size() - at == 4))
    return false;
  for (size_t i = 0; i < form.size(); ++i) {
    if (i != at && !absl::ascii_isdigit(static_cast<unsigned char>(form[i]))) return false;
  }
  return true;
}

// Three capitals or more and nothing else.
bool IsPointNames(string_view form) {
  return form.size() >= 3 &&
         std::all_of(form.begin(), form.end(), [](unsigned char c) { return absl::ascii_isupper(c); });
}

// The verdict where the gold is a choice and the answer one too, or the gold's content.
std::optional<Verdict> CompareChoices(string_view gold, string_view answer, Percent percent) {
  const Choice wanted = ReadChoice(gold);
  if (wanted.letter == 0 || wanted.lower) return std::nullopt;
  const Choice given = ReadChoice(answer);
  const bool both_contents = !wanted.content.empty() && !given.content.empty();
  if (given.letter == wanted.letter && !(wanted.bare && given.lower)) {
    return both_contents ? CompareAnswers(wanted.content, given.content, percent) : Verdict::kEqual;
  }
  if (given.letter == 0 && !wanted.content.empty()) return CompareAnswers(wanted.content, answer, percent);
  return std::nullopt;
}

Verdict CompareCandidates(const Candidate& gold, const Candidate& answer, Percent percent) {
  // "~4" is about 4.
  if (answer.parts.size() == 1 && absl::StartsWith(Undecorated(answer.parts[0]), "~") &&
      (gold.parts.size() != 1 || !absl::StartsWith(Undecorated(gold.parts[0]), "~"))) {
    return Verdict::kDifferent;
  }
  const std::string gold_form = TextForm(gold.Text()), answer_form = TextForm(answer.Text());
  if (!gold_form.empty() && gold_form == answer_form) return Verdict::kEqual;
  if (gold_form.size() > 2 && LooksLikeWords(gold_form) &&
      (absl::EqualsIgnoreCase(WithoutAbbreviation(gold_form), WithoutAbbreviation(answer_form)) ||
       absl::EqualsIgnoreCase(TextForm(WithoutArticle(gold.Text())), TextForm(WithoutArticle(answer.Text()))))) {
    // Words; but x + y and X + Y are other variables.
    Algebra algebra;
    bool ambiguous = false;
    const std::optional<Value> value = ParseCandidate(gold, true, &algebra, &ambiguous);
    const bool clock = value && value->kind == Value::Kind::kTuple && value->open == ':';  // 6:30 PM
    if (!value || clock || value->kind == Value::Kind::kText) return Verdict::kEqual;
  }
  // Points in their order: triangle ABC, the ranking BCA. Not the product of three variables.
  if (IsPointNames(gold_form) && IsPointNames(answer_form)) return Verdict::kDifferent;
  if (gold.parts.size() == 1 && answer.parts.size() == 1) {
    const std::optional<Verdict> choice = CompareChoices(gold.parts[0], answer.parts[0], percent);
    if (choice) return *choice;
  }
  // A decimal comma, where the gold is a decimal fraction: "4,5" for 4.5.
  if (IsDecimal(gold_form, '.') && IsDecimal(answer_form, ',')) {
    std::string pointed = answer_form;
    std::replace(pointed.begin(), pointed.end(), ',', '.');
    return CompareAnswers(gold_form, pointed, percent);
  }
  // A gold "1000,99", which is no list of two numbers.
  if (IsDecimal(gold_form, ',') && gold_form.find(',') > 3 && IsDecimal(answer_form, '.')) {
    std::string pointed = gold_form;
    std::replace(pointed.begin(), pointed.end(), ',', '.');
    return CompareAnswers(pointed, answer_form, percent);
  }
  Verdict best = Verdict::kDifferent;
  for (const bool join_commas : {true, false}) {
    Algebra algebra;
    bool ambiguous = false;
    const std::optional<Value> wanted = ParseCandidate(gold, join_commas, &algebra, &ambiguous);
    if (!wanted) return best;
    Comparison comparison(&algebra, percent);
    // Several boxes: all say the same, or together they are the list.
    if (answer.parts.size() > 1) {
      bool all = true;
      for (const string_view part : answer.parts) {
        bool ignored = false;
        const std::optional<Value> value = ParseCandidate({{part}}, join_commas, &algebra, &ignored);
        all &= value && comparison.Equal(*wanted, *value) == Verdict::kEqual;
      }
      if (all) return Verdict::kEqual;
    }
    const std::optional<Value> value = ParseCandidate(answer, join_commas, &algebra, &ambiguous);
    if (value) {
      const Verdict verdict = comparison.Equal(*wanted, *value);
      if (verdict == Verdict::kEqual) return verdict;
      if (verdict == Verdict::kUnknown) best = verdict;
    }
    if (!ambiguous) break;
  }
  return best;
}

}  // namespace

std::string TextForm(string_view text) {
  std::string form;
  std::vector<bool> wrapper_braces;  // for each open brace: whether it belongs to a \text{} that vanished
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (absl::ascii_isspace(static_cast<unsigned char>(c)) || c == '$' || c == '~') {
      // "4 2" is not 42, and "1, 234" not 1,234.
      const size_t next = text.find_first_not_of(" \t\r\n", i);
      const bool comma = form.size() > 1 && form.back() == ',' && i > 0 && text[i - 1] == ',';
      const size_t last = form.size() - (comma ? 2 : 1);
      if (!form.empty() && absl::ascii_isdigit(static_cast<unsigned char>(form[last])) && next != string_view::npos &&
          absl::ascii_isdigit(static_cast<unsigned char>(text[next]))) {
        form.push_back(' ');
        i = next - 1;
      }
      continue;
    }
    if (c == '\\') {
      const string_view rest = text.substr(i + 1);
      if (!rest.empty() && (rest[0] == ' ' || rest[0] == ',' || rest[0] == '!' || rest[0] == ';' || rest[0] == ':')) {
        ++i;
        continue;
      }
      size_t length = 0;
      while (length < rest.size() && absl::ascii_isalpha(static_cast<unsigned char>(rest[length]))) ++length;
      const string_view name = rest.substr(0, length);
      if (name == "dfrac" || name == "tfrac") form.append("\\frac");
      if (name == "left" || name == "right" || name == "displaystyle" || name == "dfrac" || name == "tfrac") {
        i += length;
        continue;
      }
      size_t brace = length;
      while (brace < rest.size() && rest[brace] == ' ') ++brace;
      if ((name == "text" || name == "mbox" || name == "mathrm" || name == "textbf" || name == "mathbf" ||
           name == "textit" || name == "operatorname") &&
          brace < rest.size() && rest[brace] == '{') {
        wrapper_braces.push_back(true);
        i += brace + 1;
        continue;
      }
      if (length == 0 && !rest.empty()) {
        form.push_back(c);
        form.push_back(rest[0]);
        ++i;
        continue;
      }
    } else if (c == '{') {
      wrapper_braces.push_back(false);
    } else if (c == '}' && !wrapper_braces.empty()) {
      const bool wrapper = wrapper_braces.back();
      wrapper_braces.pop_back();
      if (wrapper) continue;
    }
    form.push_back(c);
  }
  while (!form.empty() && form.back() == '.') form.pop_back();
  return form;
}

namespace {

std::string TooLong() { return absl::StrCat("the gold answer is longer than ", kMaxAnswerBytes, " bytes"); }

absl::Status CheckGold(const Candidate& candidate) {
  if (candidate.bare) return absl::OkStatus();
  if (!candidate.found()) return absl::InvalidArgumentError("the gold answer is empty");
  Algebra algebra;
  bool ambiguous = false;
  if (candidate.Text().size() > kMaxAnswerBytes) return absl::InvalidArgumentError(TooLong());
  if (ParseCandidate(candidate, true, &algebra, &ambiguous) || LooksLikeWords(TextForm(candidate.Text())))
    return absl::OkStatus();
  if (algebra.exhausted()) return absl::InvalidArgumentError("the gold answer is too complex");
  return absl::InvalidArgumentError(
      absl::StrCat("\"", candidate.Text().substr(0, 80), "\" is neither mathematics that can be read nor words"));
}

}  // namespace

absl::Status CheckGold(string_view gold) { return CheckGold(FindGold(gold)); }

Verdict CompareAnswers(string_view gold, string_view answer, Percent percent) {
  return CompareCandidates({{Undecorated(gold)}}, {{Undecorated(answer)}}, percent);
}

CheckResult Check(string_view gold, string_view completion, const CheckOptions& options) {
  const Candidate wanted = FindGold(gold);
  if (!wanted.found()) return {CheckResult::Status::kUnscorable, "the gold answer is empty", ""};
  const std::string gold_text = wanted.Text();
  if (gold_text.size() > kMaxAnswerBytes) return {CheckResult::Status::kUnscorable, TooLong(), ""};
  const Candidate answer = FindAnswer(completion, options.places, TextForm(gold_text));
  CheckResult result;
  result.extracted = answer.found() ? answer.Text() : "";
  Verdict verdict = Verdict::kDifferent;
  if (answer.found() && result.extracted.size() <= kMaxAnswerBytes)
    verdict = CompareCandidates(wanted, answer, options.percent);
  if (verdict == Verdict::kEqual) {
    result.status = CheckResult::Status::kRight;
    return result;
  }
  if (const absl::Status scorable = CheckGold(wanted); !scorable.ok()) {
    result.status = CheckResult::Status::kUnscorable;
    result.reason = std::string(scorable.message());
  } else if (!answer.found()) {
    result.reason = "no answer found";
  } else if (verdict == Verdict::kUnknown) {
    result.reason = "too complex to be decided";
  } else {
    result.reason = "not the gold";
  }
  return result;
}

}  // namespace grouper::math
