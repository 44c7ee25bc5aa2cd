// Tokens of a mathematical answer, LaTeX or plain text, on demand: the parser asks for the next token, or for the
// single-digit argument that TeX gives to \frac without braces. Spacing commands, \left, \right, $ and font commands
// vanish here; number formats (thousands separators of all kinds, repeating decimals, base-n subscripts) are read here
// and nowhere else.
//
// Any bytes; every call consumes at least one byte or returns kEnd; numbers longer than kMaxDigits are kBad. A lexer is
// a small value: the parser copies it to look ahead.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "reward/math/rational.h"

namespace grouper::math {

enum class Tok : uint8_t {
  kEnd,
  kBad,       // kBad: something that no answer holds
  kNumber,    // value; digits: as written, for base-n and mixed numbers
  kName,      // one letter, a Greek letter, \infty, pi: name
  kWord,      // two or more letters of plain text: name
  kText,      // what \text{} holds, letters only: name
  kFunction,  // sin, \log, ...: name
  kFrac,
  kBinom,
  kSqrt,
  kRoot,  // kRoot: unicode cube and fourth roots
  kPlus,
  kMinus,
  kTimes,
  kDivide,
  kSlash,
  kPower,
  kSubscript,
  kPlusMinus,
  kMinusPlus,
  kFactorial,
  kPercent,
  kDegree,
  kPrime,
  kOpenRound,
  kCloseRound,
  kOpenSquare,
  kCloseSquare,
  kOpenBrace,
  kCloseBrace,  // braces: TeX's { }
  kOpenSet,
  kCloseSet,  // \{ \}
  kOpenAngle,
  kCloseAngle,
  kBar,
  kDoubleBar,
  kFloorOpen,
  kFloorClose,
  kCeilOpen,
  kCeilClose,
  kComma,
  kSemicolon,
  kColon,
  kAnd,
  kOr,
  kEqual,
  kLess,
  kGreater,
  kLessEqual,
  kGreaterEqual,
  kNotEqual,
  kApprox,
  kIn,
  kUnion,
  kIntersection,
  kWithout,
  kEmptySet,
  kReals,
  kSuchThat,
  kBegin,
  kEnvironmentEnd,
  kCell,
  kRow,       // \begin{pmatrix}: name; & and double backslash
  kCurrency,  // $ before a number, pounds, euros
  kOverline,
  kBoxed,
  kOver,
  kChoose,  // TeX's infix {a \over b}, {n \choose k}
};

struct Token {
  Tok kind = Tok::kEnd;
  bool space_before = false;
  absl::string_view name;    // into the text, or static
  absl::string_view digits;  // kNumber
  Rational value;            // kNumber
  bool integer = false;      // kNumber: written without point, separators or exponent
  bool upright = false;      // kName: from \text{} or \mathrm{}, so that "5\text{ m}" is a unit
};

class Lexer {
 public:
  // join_commas: "1,000" is one number; else a comma between digits always separates.
  Lexer(absl::string_view text, bool join_commas) : text_(text), join_commas_(join_commas) {}

  Token Next();
  // The next token, but of a run of digits only the first: \frac12.
  Token NextDigit();
  // The number that a run of superscript digits stands for; after a kPower token named "superscript".
  Token Superscript();

  // Whether a comma was read where "1,000" and a list "1, 000" are both possible.
  bool saw_ambiguous_comma() const { return saw_ambiguous_comma_; }
  // Significant digits of the longest decimal fraction read.
  size_t longest_decimal() const { return longest_decimal_; }
  size_t position() const { return at_; }
  absl::string_view text() const { return text_; }

 private:
  bool SkipSpace();
  Token Command();
  Token Number();
  Token Letters();
  std::optional<Token> BaseLiteral();
  std::optional<Token> BracketedBaseLiteral();
  Token Unicode();
  bool Wrapper(absl::string_view command, Token* token);
  std::optional<size_t> GroupSeparator(size_t at, bool* comma) const;
  Token Make(Tok kind, size_t length, absl::string_view name = {});

  absl::string_view text_;
  size_t at_ = 0;
  bool join_commas_;
  bool saw_ambiguous_comma_ = false;
  size_t longest_decimal_ = 0;
};

// Two or three letters that are a word ("is", "the") and not a product of variables.
bool IsEnglishWord(absl::string_view word);

// The name under which the parser and the algebra know a function, or empty.
absl::string_view FunctionName(absl::string_view word);

}  // namespace grouper::math
