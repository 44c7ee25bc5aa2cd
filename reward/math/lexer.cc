#include "reward/math/lexer.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace grouper::math {
namespace {

using absl::string_view;

struct Symbol {
  string_view text;
  Tok kind;
  string_view name = {};
};

// LaTeX commands that are one token. Sorted by use, searched in order: the list is short and answers are too.
constexpr Symbol kCommands[] = {
    {"frac", Tok::kFrac},
    {"dfrac", Tok::kFrac},
    {"tfrac", Tok::kFrac},
    {"cfrac", Tok::kFrac},
    {"nicefrac", Tok::kFrac},
    {"sfrac", Tok::kFrac},
    {"xfrac", Tok::kFrac},
    {"flatfrac", Tok::kFrac},
    {"sqrt", Tok::kSqrt},
    {"binom", Tok::kBinom},
    {"dbinom", Tok::kBinom},
    {"tbinom", Tok::kBinom},
    {"cdot", Tok::kTimes},
    {"times", Tok::kTimes},
    {"ast", Tok::kTimes},
    {"cdotp", Tok::kTimes},
    {"div", Tok::kDivide},
    {"pm", Tok::kPlusMinus},
    {"mp", Tok::kMinusPlus},
    {"lt", Tok::kLess},
    {"gt", Tok::kGreater},
    {"le", Tok::kLessEqual},
    {"leq", Tok::kLessEqual},
    {"leqslant", Tok::kLessEqual},
    {"ge", Tok::kGreaterEqual},
    {"geq", Tok::kGreaterEqual},
    {"geqslant", Tok::kGreaterEqual},
    {"ne", Tok::kNotEqual},
    {"neq", Tok::kNotEqual},
    {"equiv", Tok::kEqual},
    {"pmod", Tok::kText, "mod"},
    {"bmod", Tok::kText, "mod"},
    {"mod", Tok::kText, "mod"},
    {"approx", Tok::kApprox},
    {"simeq", Tok::kApprox},
    {"in", Tok::kIn},
    {"cup", Tok::kUnion},
    {"cap", Tok::kIntersection},
    {"bigcup", Tok::kUnion},
    {"setminus", Tok::kWithout},
    {"backslash", Tok::kWithout},
    {"emptyset", Tok::kEmptySet},
    {"varnothing", Tok::kEmptySet},
    {"circ", Tok::kDegree},
    {"degree", Tok::kDegree},
    {"textdegree", Tok::kDegree},
    {"prime", Tok::kPrime},
    {"infty", Tok::kName, "\\infty"},
    {"langle", Tok::kOpenAngle},
    {"rangle", Tok::kCloseAngle},
    {"lvert", Tok::kBar},
    {"rvert", Tok::kBar},
    {"vert", Tok::kBar},
    {"mid", Tok::kSuchThat},
    {"lfloor", Tok::kFloorOpen},
    {"rfloor", Tok::kFloorClose},
    {"lceil", Tok::kCeilOpen},
    {"rceil", Tok::kCeilClose},
    {"lbrace", Tok::kOpenSet},
    {"rbrace", Tok::kCloseSet},
    {"lbrack", Tok::kOpenSquare},
    {"rbrack", Tok::kCloseSquare},
    {"lparen", Tok::kOpenRound},
    {"rparen", Tok::kCloseRound},
    {"lVert", Tok::kDoubleBar},
    {"rVert", Tok::kDoubleBar},
    {"Vert", Tok::kDoubleBar},
    {"land", Tok::kAnd},
    {"wedge", Tok::kAnd},
    {"lor", Tok::kOr},
    {"vee", Tok::kOr},
    {"overline", Tok::kOverline},
    {"bar", Tok::kOverline},
    {"vec", Tok::kOverline, "vec "},
    {"overrightarrow", Tok::kOverline, "vec "},
    {"cr", Tok::kRow},
    {"boxed", Tok::kBoxed},
    {"fbox", Tok::kBoxed},
    {"pounds", Tok::kCurrency, "pound"},
    {"euro", Tok::kCurrency, "euro"},
    {"colon", Tok::kColon},
    {"over", Tok::kOver},
    {"choose", Tok::kChoose},
};

// Commands without meaning for the value.
constexpr string_view kIgnored[] = {
    "left",        "right",  "big",      "Big",           "bigg",      "Bigg",      "bigl",         "bigr",
    "Bigl",        "Bigr",   "biggl",    "biggr",         "Biggl",     "Biggr",     "displaystyle", "textstyle",
    "scriptstyle", "limits", "nolimits", "quad",          "qquad",     "rm",        "bf",           "it",
    "mathstrut",   "strut",  "hfill",    "space",         "thinspace", "medspace",  "negthinspace", "boldmath",
    "nonumber",    "angle",  "triangle", "measuredangle", "therefore", "implies",   "Rightarrow",   "Longrightarrow",
    "middle",      "tiny",   "small",    "large",         "Large",     "checkmark", "qed",          "qedhere",
    "blacksquare",
};

constexpr string_view kWrappers[] = {
    "text",         "mbox",   "mathrm", "textbf", "mathbf", "textit",     "mathit",
    "operatorname", "textrm", "mathsf", "mathtt", "texttt", "textnormal", "boldsymbol",
    "underline",    "bm",     "hbox",   "emph",   "textsf", "ensuremath", "pmb",
};

constexpr string_view kGreek[] = {
    "alpha", "beta",   "gamma",  "delta", "epsilon", "varepsilon", "zeta",  "eta",   "theta",  "vartheta",
    "iota",  "kappa",  "lambda", "mu",    "nu",      "xi",         "rho",   "sigma", "tau",    "upsilon",
    "phi",   "varphi", "chi",    "psi",   "omega",   "Gamma",      "Delta", "Theta", "Lambda", "Xi",
    "Pi",    "Sigma",  "Phi",    "Psi",   "Omega",   "ell",        "hbar",
};

constexpr Symbol kUnicode[] = {
    {"\u2212", Tok::kMinus},
    {"\u2013", Tok::kMinus},
    {"\u2014", Tok::kMinus},
    {"\uFF0D", Tok::kMinus},
    {"\u00D7", Tok::kTimes},
    {"\u00B7", Tok::kTimes},
    {"\u22C5", Tok::kTimes},
    {"\u2217", Tok::kTimes},
    {"\u00F7", Tok::kDivide},
    {"\u2215", Tok::kSlash},
    {"\u2044", Tok::kSlash},
    {"\u00B1", Tok::kPlusMinus},
    {"\u2213", Tok::kMinusPlus},
    {"\u00B0", Tok::kDegree},
    {"\u221A", Tok::kSqrt},
    {"\u221B", Tok::kRoot, "3"},
    {"\u221C", Tok::kRoot, "4"},
    {"\u03C0", Tok::kName, "pi"},
    {"\u221E", Tok::kName, "\\infty"},
    {"\u2264", Tok::kLessEqual},
    {"\u2265", Tok::kGreaterEqual},
    {"\u2260", Tok::kNotEqual},
    {"\u2261", Tok::kEqual},
    {"\u2248", Tok::kApprox},
    {"\u2208", Tok::kIn},
    {"\u222A", Tok::kUnion, "plain"},
    {"\u2229", Tok::kIntersection},
    {"\u2216", Tok::kWithout},
    {"\u2205", Tok::kEmptySet},
    {"\u2032", Tok::kPrime},
    {"\u27E8", Tok::kOpenAngle},
    {"\u27E9", Tok::kCloseAngle},
    {"\u00A3", Tok::kCurrency, "pound"},
    {"\u20AC", Tok::kCurrency, "euro"},
    {"\u00A5", Tok::kCurrency, "yen"},
    {"\u20B9", Tok::kCurrency, "rupee"},
    {"\u00A2", Tok::kText, "cents"},
    {"\u211D", Tok::kReals},
    {"\u230A", Tok::kFloorOpen},
    {"\u230B", Tok::kFloorClose},
    {"\u2308", Tok::kCeilOpen},
    {"\u2309", Tok::kCeilClose},
    {"\uFF08", Tok::kOpenRound},
    {"\uFF09", Tok::kCloseRound},
    {"\uFF0C", Tok::kComma},
    {"\uFF1D", Tok::kEqual},
    {"\u2A7D", Tok::kLessEqual},
    {"\u2A7E", Tok::kGreaterEqual},
    {"\u03B1", Tok::kName, "alpha"},
    {"\u03B2", Tok::kName, "beta"},
    {"\u03B3", Tok::kName, "gamma"},
    {"\u03B8", Tok::kName, "theta"},
    {"\u03BB", Tok::kName, "lambda"},
    {"\u03BC", Tok::kName, "mu"},
    {"\u03C6", Tok::kName, "phi"},
    {"\u03C9", Tok::kName, "omega"},
    {"\u03C3", Tok::kName, "sigma"},
    {"\u03B4", Tok::kName, "delta"},
};
constexpr string_view kUnicodeSpaces[] = {"\u00A0", "\u2009", "\u202F", "\u2002", "\u2003",
                                          "\u2005", "\u200A", "\u200B", "\u3000", "\uFEFF"};

constexpr string_view kSuperscripts[] = {"\u2070", "\u00B9", "\u00B2", "\u00B3", "\u2074",
                                         "\u2075", "\u2076", "\u2077", "\u2078", "\u2079"};
constexpr string_view kSuperscriptMinus = "\u207B";
struct VulgarFraction {
  string_view text;
  int top, bottom;
};
constexpr VulgarFraction kVulgar[] = {{"\u00BD", 1, 2}, {"\u2153", 1, 3}, {"\u2154", 2, 3}, {"\u00BC", 1, 4},
                                      {"\u00BE", 3, 4}, {"\u2155", 1, 5}, {"\u215B", 1, 8}};

template <size_t N>
bool Contains(const string_view (&list)[N], string_view word) {
  return std::find(std::begin(list), std::end(list), word) != std::end(list);
}

// Content of a {...} group that begins at `at`, with its end; nothing when it is not closed within kMaxGroup bytes.
struct Group {
  string_view content;
  size_t end = 0;
};
std::optional<Group> BraceGroup(string_view text, size_t at) {
  constexpr size_t kMaxGroup = 4096;
  if (at >= text.size() || text[at] != '{') return std::nullopt;
  int depth = 0;
  for (size_t i = at; i < text.size() && i < at + kMaxGroup; ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == '{') {
      ++depth;
    } else if (text[i] == '}' && --depth == 0) {
      return Group{text.substr(at + 1, i - at - 1), i + 1};
    }
  }
  return std::nullopt;
}

}  // namespace

bool IsEnglishWord(string_view word) {
  static constexpr string_view kWords[] = {
      "is",  "it",  "of",  "to",  "we",  "so",  "an",  "as",  "at",  "be",  "by",  "do",  "go",  "he",  "if",
      "me",  "my",  "no",  "on",  "up",  "us",  "the", "are", "was", "for", "has", "yes", "not", "now", "you",
      "all", "one", "two", "six", "ten", "can", "get", "its", "our", "any", "let", "odd", "sum", "set", "may",
      "red", "his", "her", "she", "who", "how", "but", "had", "put", "see", "say", "way", "too", "use", "mod",
      "gcd", "lcm", "max", "min", "sun", "mon", "day", "out", "off", "new", "old"};
  return std::find(std::begin(kWords), std::end(kWords), absl::AsciiStrToLower(word)) != std::end(kWords);
}

string_view FunctionName(string_view word) {
  struct Name {
    string_view word, name;
  };
  static constexpr Name kFunctions[] = {
      {"sin", "sin"},     {"cos", "cos"},       {"tan", "tan"},       {"cot", "cot"},       {"sec", "sec"},
      {"csc", "csc"},     {"arcsin", "arcsin"}, {"arccos", "arccos"}, {"arctan", "arctan"}, {"asin", "arcsin"},
      {"acos", "arccos"}, {"atan", "arctan"},   {"sinh", "sinh"},     {"cosh", "cosh"},     {"tanh", "tanh"},
      {"log", "log"},     {"ln", "ln"},         {"lg", "log"},        {"exp", "exp"},       {"abs", "abs"},
      {"Abs", "abs"},     {"floor", "floor"},   {"ceil", "ceil"},     {"cbrt", "cbrt"},
  };
  for (const Name& f : kFunctions) {
    if (f.word == word) return f.name;
  }
  return {};
}

Token Lexer::Make(Tok kind, size_t length, string_view name) {
  Token token;
  token.kind = kind;
  token.name = name;
  at_ += length;
  return token;
}

bool Lexer::SkipSpace() {
  const size_t begin = at_;
  while (at_ < text_.size()) {
    const char c = text_[at_];
    if (absl::ascii_isspace(static_cast<unsigned char>(c)) || c == '~') {
      ++at_;
    } else if (c == '\\' && at_ + 1 < text_.size() &&
               (absl::ascii_isspace(static_cast<unsigned char>(text_[at_ + 1])) || text_[at_ + 1] == ',' ||
                text_[at_ + 1] == '!' || text_[at_ + 1] == ';' || text_[at_ + 1] == ':' || text_[at_ + 1] == '>' ||
                text_[at_ + 1] == '/' || text_[at_ + 1] == '(' || text_[at_ + 1] == ')' || text_[at_ + 1] == '[' ||
                text_[at_ + 1] == ']')) {
      at_ += 2;  // also \( \) \[ \]: the delimiters of mathematics
    } else if (c == '$') {
      // A dollar before a number that no other dollar closes is money; otherwise it delimits mathematics.
      ++at_;
    } else if (c == '*' && at_ + 1 < text_.size() && text_[at_ + 1] == '*') {
      break;
    } else if (static_cast<unsigned char>(c) >= 0x80) {
      size_t length = 0;
      for (const string_view space : kUnicodeSpaces) {
        if (absl::StartsWith(text_.substr(at_), space)) length = space.size();
      }
      if (length == 0) break;
      at_ += length;
    } else {
      break;
    }
  }
  return at_ > begin;
}

Token Lexer::NextDigit() {
  Lexer probe = *this;
  const bool space = probe.SkipSpace();
  if (probe.at_ < text_.size() && absl::ascii_isalpha(static_cast<unsigned char>(text_[probe.at_]))) {
    at_ = probe.at_;
    Token token = Make(Tok::kName, 1, text_.substr(at_, 1));  // \frac ab
    token.space_before = space;
    return token;
  }
  if (probe.at_ < text_.size() && absl::ascii_isdigit(static_cast<unsigned char>(text_[probe.at_]))) {
    at_ = probe.at_;
    Token token = Make(Tok::kNumber, 1);
    token.space_before = space;
    token.digits = text_.substr(at_ - 1, 1);
    token.value = Rational(text_[at_ - 1] - '0');
    token.integer = true;
    return token;
  }
  return Next();
}

Token Lexer::Superscript() {
  std::string digits;
  const bool negative = absl::StartsWith(text_.substr(at_), kSuperscriptMinus);
  if (negative) at_ += kSuperscriptMinus.size();
  for (bool found = true; found && digits.size() < 9;) {
    found = false;
    for (size_t d = 0; d < std::size(kSuperscripts) && !found; ++d) {
      if (!absl::StartsWith(text_.substr(at_), kSuperscripts[d])) continue;
      at_ += kSuperscripts[d].size();
      digits.push_back(static_cast<char>('0' + d));
      found = true;
    }
  }
  Token token;
  token.kind = digits.empty() ? Tok::kBad : Tok::kNumber;
  if (!digits.empty()) token.value = Rational(BigInt::FromDecimal(digits));
  if (negative) token.value = -token.value;
  token.integer = true;
  return token;
}

// \text{...} and its kin. Letters only: a kText token (one letter: a name). Anything else is mathematics in another
// font: only the command and its braces vanish, which the lexer does by treating "\text" as nothing and the braces as a
// group.
bool Lexer::Wrapper(string_view command, Token* token) {
  if (!Contains(kWrappers, command)) return false;
  size_t i = at_ + 1 + command.size();
  if (i < text_.size() && text_[i] == '*') ++i;
  while (i < text_.size() && text_[i] == ' ') ++i;
  const std::optional<Group> group = BraceGroup(text_, i);
  if (!group) {
    at_ = i;  // "\mathrm 5": the font alone
    *token = Next();
    return true;
  }
  string_view content = absl::StripAsciiWhitespace(group->content);
  while (absl::ConsumePrefix(&content, "\\ ")) {
  }
  while (absl::ConsumeSuffix(&content, "\\ ")) {
  }
  while (content.size() > 1 && (content.back() == '.' || content.back() == ',')) content.remove_suffix(1);
  if (absl::EqualsIgnoreCase(content, "and")) {
    *token = Make(Tok::kAnd, group->end - at_);
    return true;
  }
  if (absl::EqualsIgnoreCase(content, "or")) {
    *token = Make(Tok::kOr, group->end - at_);
    return true;
  }
  if (content == "\u00A2") {
    *token = Make(Tok::kText, group->end - at_, "cents");
    return true;
  }
  if (absl::EqualsIgnoreCase(content, "infinity")) {
    *token = Make(Tok::kName, group->end - at_, "\\infty");
    return true;
  }
  string_view word = content;  // "cm\u00B2"
  if (!absl::ConsumeSuffix(&word, "\u00B2")) absl::ConsumeSuffix(&word, "\u00B3");
  const bool letters = std::all_of(word.begin(), word.end(), [](unsigned char c) {
    return absl::ascii_isalpha(c) || c == ' ' || c == '-' || c == '\'' || c == '.' || c == '/';
  });
  const bool first_is_letter = !content.empty() && absl::ascii_isalpha(static_cast<unsigned char>(content[0]));
  if (content.empty()) {
    at_ = group->end;
    *token = Next();
    return true;
  }
  if (letters && first_is_letter) {
    const string_view function = FunctionName(content);
    if (!function.empty()) {
      *token = Make(Tok::kFunction, group->end - at_, function);
    } else {
      *token = Make(content.size() == 1 ? Tok::kName : Tok::kText, group->end - at_, content);
      token->upright = true;
    }
    return true;
  }
  at_ = i;  // the group follows as { ... }
  *token = Next();
  return true;
}

Token Lexer::Command() {
  const string_view rest = text_.substr(at_ + 1);
  if (rest.empty()) {  // "4\ ", whose space was trimmed
    ++at_;
    return Next();
  }
  switch (rest[0]) {
    case '{': return Make(Tok::kOpenSet, 2);
    case '}': return Make(Tok::kCloseSet, 2);
    case '%': return Make(Tok::kPercent, 2);
    case '$': return Make(Tok::kCurrency, 2, "dollar");
    case '\\': {
      // A row end with its space, as in "[4pt]".
      const string_view after = rest.substr(1);
      const size_t close = after.substr(0, 12).find(']');
      const bool length = !after.empty() && after[0] == '[' && close != string_view::npos && close > 2 &&
                          absl::ascii_isalpha(static_cast<unsigned char>(after[close - 1]));
      return Make(Tok::kRow, 2 + (length ? close + 1 : 0));
    }
    case '|': return Make(Tok::kDoubleBar, 2);
    case '&': return Make(Tok::kAnd, 2);
    case '#':
    case '_': return Make(Tok::kBad, 2);
    default: break;
  }
  size_t length = 0;
  while (length < rest.size() && length < 24 && absl::ascii_isalpha(static_cast<unsigned char>(rest[length]))) ++length;
  if (length == 0) return Make(Tok::kBad, 2);
  string_view name = rest.substr(0, length);
  if (Contains(kIgnored, name)) {
    at_ += 1 + length;
    // \left. and \right. are no brackets.
    if ((name == "left" || name == "right") && at_ < text_.size() && text_[at_] == '.') ++at_;
    return Next();
  }
  Token token;
  if (Wrapper(name, &token)) return token;
  for (const Symbol& symbol : kCommands) {
    if (symbol.text == name) return Make(symbol.kind, 1 + length, symbol.name);
  }
  if (name == "pi") return Make(Tok::kName, 3, "pi");
  if (const string_view function = FunctionName(name); !function.empty())
    return Make(Tok::kFunction, 1 + length, function);
  if (Contains(kGreek, name)) return Make(Tok::kName, 1 + length, name);
  if (name == "begin" || name == "end") {
    const std::optional<Group> group = BraceGroup(text_, at_ + 1 + length);
    if (!group) return Make(Tok::kBad, 1 + length);
    return Make(name == "begin" ? Tok::kBegin : Tok::kEnvironmentEnd, group->end - at_, group->content);
  }
  if (name == "mathbb" || name == "mathds" || name == "Bbb") {
    string_view after = text_.substr(at_ + 1 + length);
    const size_t spaces = after.size() - absl::StripLeadingAsciiWhitespace(after).size();
    after.remove_prefix(spaces);
    if (absl::StartsWith(after, "{R}")) return Make(Tok::kReals, 1 + length + spaces + 3);
    if (absl::StartsWith(after, "R")) return Make(Tok::kReals, 1 + length + spaces + 1);
    return Make(Tok::kBad, 1 + length);
  }
  if (name == "color" || name == "textcolor") {  // \\textcolor{blue}{7}
    const std::optional<Group> group = BraceGroup(text_, at_ + 1 + length);
    if (!group) return Make(Tok::kBad, 1 + length);
    at_ = group->end;
    return Next();
  }
  if (name == "phantom" || name == "hspace" || name == "vspace" || name == "hskip" || name == "kern") {
    at_ += 1 + length;
    if (at_ < text_.size() && text_[at_] == '*') ++at_;
    if (const std::optional<Group> group = BraceGroup(text_, at_)) at_ = group->end;
    return Next();
  }
  // "\cdotx" is TeX's error and people's habit: a known command before more letters.
  for (const Symbol& symbol : kCommands) {
    if (symbol.text.size() >= 3 && absl::StartsWith(name, symbol.text) && symbol.text != "circ")
      return Make(symbol.kind, 1 + symbol.text.size(), symbol.name);
  }
  if (absl::StartsWith(name, "pi")) return Make(Tok::kName, 3, "pi");
  if (absl::StartsWith(name, "quad")) {
    at_ += 5;
    return Next();
  }
  return Make(Tok::kBad, 1 + length);
}

Token Lexer::Letters() {
  size_t length = 0;
  while (at_ + length < text_.size() && absl::ascii_isalpha(static_cast<unsigned char>(text_[at_ + length]))) ++length;
  const string_view word = text_.substr(at_, length);
  if (length == 1) return Make(Tok::kName, 1, word);
  if (absl::EqualsIgnoreCase(word, "and")) return Make(Tok::kAnd, length);
  if (absl::EqualsIgnoreCase(word, "or")) return Make(Tok::kOr, length);
  if (word == "USD") return Make(Tok::kCurrency, length, "dollar");
  if (word == "EUR") return Make(Tok::kCurrency, length, "euro");
  if (word == "union") return Make(Tok::kUnion, length, "plain");
  if (absl::EqualsIgnoreCase(word, "minus") || absl::EqualsIgnoreCase(word, "negative"))
    return Make(Tok::kMinus, length);
  if (word == "pi" || word == "Pi" || word == "PI") return Make(Tok::kName, length, "pi");
  if (absl::EqualsIgnoreCase(word, "sqrt")) return Make(Tok::kSqrt, length);
  if (absl::EqualsIgnoreCase(word, "inf") || absl::EqualsIgnoreCase(word, "infinity") || word == "infty" ||
      word == "oo") {
    return Make(Tok::kName, length, "\\infty");
  }
  if (const string_view function = FunctionName(word); !function.empty()) return Make(Tok::kFunction, length, function);
  if (absl::EqualsIgnoreCase(word, "degrees") || absl::EqualsIgnoreCase(word, "degree") || word == "deg")
    return Make(Tok::kDegree, length);
  if (absl::EqualsIgnoreCase(word, "percent") || absl::EqualsIgnoreCase(word, "percentage") ||
      absl::EqualsIgnoreCase(word, "pct"))
    return Make(Tok::kPercent, length);
  if (length >= 4 && Contains(kGreek, word)) return Make(Tok::kName, length, word);  // theta
  // "sqrt5", "pir": a known word at the front.
  if (absl::StartsWith(word, "pi") && length == 3) return Make(Tok::kName, 2, "pi");
  return Make(Tok::kWord, length, word);
}

Token Lexer::Unicode() {
  const string_view rest = text_.substr(at_);
  for (const Symbol& symbol : kUnicode) {
    if (absl::StartsWith(rest, symbol.text)) return Make(symbol.kind, symbol.text.size(), symbol.name);
  }
  for (const VulgarFraction& fraction : kVulgar) {
    if (!absl::StartsWith(rest, fraction.text)) continue;
    Token token = Make(Tok::kNumber, fraction.text.size());
    token.value = Rational(fraction.top, fraction.bottom);
    return token;
  }
  // x\u00B2\u00B3: a superscript run is read as ^ by the parser, which then asks for its number.
  for (const string_view digit : kSuperscripts) {
    if (absl::StartsWith(rest, digit)) return Make(Tok::kPower, 0, "superscript");
  }
  if (absl::StartsWith(rest, kSuperscriptMinus)) return Make(Tok::kPower, 0, "superscript");
  return Make(Tok::kBad, 1);
}

Token Lexer::Next() {
  const bool space = SkipSpace();
  if (at_ >= text_.size()) {
    Token end;
    end.space_before = space;
    return end;
  }
  const char c = text_[at_];
  const char next = at_ + 1 < text_.size() ? text_[at_ + 1] : '\0';
  Token token;
  if (std::optional<Token> literal;
      (absl::ascii_isdigit(static_cast<unsigned char>(c)) || absl::ascii_isupper(static_cast<unsigned char>(c))) &&
      (literal = BaseLiteral())) {
    token = std::move(*literal);
  } else if (std::optional<Token> bracketed; c == '(' && (bracketed = BracketedBaseLiteral())) {
    token = std::move(*bracketed);
  } else if (absl::ascii_isdigit(static_cast<unsigned char>(c)) ||
             (c == '.' && absl::ascii_isdigit(static_cast<unsigned char>(next))) ||
             absl::StartsWith(text_.substr(at_), ".\\overline{")) {
    token = Number();
  } else if (absl::ascii_isalpha(static_cast<unsigned char>(c))) {
    token = Letters();
  } else if (c == '\\') {
    token = Command();
  } else if (static_cast<unsigned char>(c) >= 0x80) {
    token = Unicode();
  } else {
    switch (c) {
      case '+':
        token = next == '-'                                  ? Make(Tok::kPlusMinus, 2)
                : absl::StartsWith(text_.substr(at_), "+/-") ? Make(Tok::kPlusMinus, 3)
                                                             : Make(Tok::kPlus, 1);
        break;
      case '-': token = Make(Tok::kMinus, 1); break;
      case '*': token = next == '*' ? Make(Tok::kPower, 2) : Make(Tok::kTimes, 1); break;
      case '/': token = Make(Tok::kSlash, 1); break;
      case '^': token = Make(Tok::kPower, 1); break;
      case '_': token = Make(Tok::kSubscript, 1); break;
      case '!': token = next == '=' ? Make(Tok::kNotEqual, 2) : Make(Tok::kFactorial, 1); break;
      case '%': token = Make(Tok::kPercent, 1); break;
      case '\'': token = Make(Tok::kPrime, 1); break;
      case '(': token = Make(Tok::kOpenRound, 1); break;
      case ')': token = Make(Tok::kCloseRound, 1); break;
      case '[': token = Make(Tok::kOpenSquare, 1); break;
      case ']': token = Make(Tok::kCloseSquare, 1); break;
      case '{':
        token = absl::StartsWith(text_.substr(at_), "{:}") ? Make(Tok::kColon, 3) : Make(Tok::kOpenBrace, 1);
        break;
      case '}': token = Make(Tok::kCloseBrace, 1); break;
      case '|': token = Make(Tok::kBar, 1); break;
      case ',': token = Make(Tok::kComma, 1); break;
      case ';': token = Make(Tok::kSemicolon, 1); break;
      case ':': token = next == '=' ? Make(Tok::kEqual, 2) : Make(Tok::kColon, 1); break;
      case '=': token = next == '=' ? Make(Tok::kEqual, 2) : Make(Tok::kEqual, 1); break;
      case '<': token = next == '=' ? Make(Tok::kLessEqual, 2) : Make(Tok::kLess, 1); break;
      case '>': token = next == '=' ? Make(Tok::kGreaterEqual, 2) : Make(Tok::kGreater, 1); break;
      case '&': token = Make(Tok::kCell, 1); break;
      case '.': token = Make(Tok::kBad, 1, "."); break;
      default: token = Make(Tok::kBad, 1); break;
    }
  }
  token.space_before |= space;
  return token;
}

}  // namespace grouper::math
