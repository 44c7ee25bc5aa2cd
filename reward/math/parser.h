// An answer's text to a Value, in one pass without a tree:
//
//   answer   = item { (',' | ';' | "and" | "or") item }
//   item     = union { relation-sign union }                     x = 3, 2 < x <= 5, x \in [1, 2]
//   union    = set { ('\cup' | '\cap' | '\setminus') set }        set = ratio | ']' sum ',' sum ('[' | ']')
//   ratio    = sum { ':' sum }
//   sum      = [sign] term { ('+' | '-' | '\pm') term }
//   term     = factor { ['*' | '/' | ...] factor } [unit]        implicit products; "1 \frac{2}{3}" is a mixed number
//   factor   = base { '^' exponent | '!' | '%' | '^\circ' }
//   base     = number | name | \frac | \sqrt | function | '(' answer ')' | '[' answer ')' | '\{' answer '\}' | matrix |
//   '|' sum '|' | text
//
// A row of relations in a cases or array environment is the list of them. \pm reads as plus; saw_plus_minus() tells the
// caller to read again with the other sign. Depth is bounded by kMaxDepth; a text that is not an answer gives nothing
// and never an error message: whoever asked then compares it as text.
#pragma once

#include <optional>

#include "reward/math/value.h"

namespace grouper::math {

inline constexpr size_t kMaxAnswerBytes = 4096;

class Parser {
 public:
  static constexpr int kMaxDepth = 64;
  static constexpr size_t kMaxItems = 256;

  Parser(absl::string_view text, bool join_commas, bool minus_first, Algebra* algebra)
      : lexer_(text, join_commas), minus_first_(minus_first), algebra_(*algebra) {}

  std::optional<Value> Parse();

  bool saw_plus_minus() const { return saw_plus_minus_; }
  bool saw_ambiguous_comma() const { return lexer_.saw_ambiguous_comma(); }

 private:
  using Result = std::optional<Value>;

  void Advance();
  bool At(Tok kind) const { return token_.kind == kind; }
  bool Take(Tok kind);

  Result Sequence();
  Result Item();
  Result Union();
  Result ReversedInterval();
  Result Ratio();
  Result Sum();
  Result Term();
  Result FactorWithPowers();
  Result Base();
  Result Number();
  Result Name();
  Result Fraction();
  Result Binomial();
  Result Infix(Value top);
  Result Choose(const Scalar& top, const Scalar& bottom);
  Result SquareRoot();
  Result FunctionCall();
  Result Bracketed();
  Result Matrix();
  Result System();
  Result Determinant(const Value& matrix);
  Result MatrixPower(Value base);
  Result TexArgument();  // {..} or one digit or one token
  Result Exponent(bool* degree);
  std::string SubscriptText();
  bool SquareMeters() const;
  bool Unit(Value* value);
  bool UnitFraction(Value* value);
  bool TakeDegree();
  bool TakeModulus(Value* value);
  bool StartsFactor() const;
  bool EndsItem() const;

  static Value FromScalar(Scalar scalar);
  Result Product(Value a, Value b);

  Lexer lexer_;
  Lexer before_{absl::string_view(), false};  // the state before token_
  Token token_;
  const bool minus_first_;
  Algebra& algebra_;
  int depth_ = 0;
  int bars_ = 0;
  int in_fraction_ = 0;
  bool colon_ends_ = false;  // a colon here means "such that"
  int in_angle_ = 0;         // inside the argument of a trigonometric function
  bool saw_plus_minus_ = false;
  bool lost_variable_ = false;  // "0x": a number in value, but nobody's answer to a question for one
  bool closed_factor_ = false;  // the last factor ended in '!' or '^{..}', so that digits may follow: 2^{3}5^{2}, 2!3!
};

}  // namespace grouper::math
