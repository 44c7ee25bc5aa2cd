// What an answer is: a scalar, or scalars arranged.
#pragma once

#include <string>
#include <vector>

#include "reward/math/algebra.h"
#include "reward/math/lexer.h"

namespace grouper::math {

struct Value {
  enum class Kind : uint8_t {
    kScalar,
    kTuple,     // items in open..close: ( ), [ ], ( ], [ ), < >; ':' for a ratio. Of two items also an interval
    kSet,       // \{ \}, order-free
    kList,      // bare "1, 2" or "1 and 2", order-free
    kBraced,    // TeX's { } around a list: whatever bracket the gold has
    kMatrix,    // items row by row
    kRelation,  // items[0] ops[0] items[1] ...
    kUnion,     // of intervals and sets: items[0] ops[0] items[1] ..., with kIntersection and kWithout too
    kReals,
    kText,  // words
  };
  Kind kind = Kind::kScalar;
  Scalar scalar;
  std::vector<Value> items;
  std::vector<Tok> ops;
  char open = 0, close = 0;
  size_t rows = 0, columns = 0;
  std::string unit;  // of a scalar: canonical ("inch^2"), empty: none
  bool percent = false;
  bool alternatives = false;  // a list joined by "or"
  bool conjunction = false;   // a list joined by "and"
  std::string text;           // kText; for a relation: its left side as written, white space removed
};

}  // namespace grouper::math
