#include "common/text/jinja_parser.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/text/jinja_lexer.h"

namespace grouper::jinja {
namespace {

constexpr int kMaxDepth = 64;
constexpr size_t kMaxArguments = 64;

using ExpressionPtr = std::unique_ptr<Expression>;

ExpressionPtr Make(Expression::Kind kind, int line, std::string text = "") {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = line;
  node->text = std::move(text);
  return node;
}

ExpressionPtr Make(Expression::Kind kind, int line, std::string text, ExpressionPtr first, ExpressionPtr second = nullptr) {
  ExpressionPtr node = Make(kind, line, std::move(text));
  node->children.push_back(std::move(first));
  if (second != nullptr) node->children.push_back(std::move(second));
  return node;
}

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<std::vector<Statement>> Run() {
    ASSIGN_OR_RETURN(std::vector<Statement> body, Body({}));
    if (Peek().kind == Token::kBlockBegin) return Error(absl::StrCat("unexpected {% ", tokens_[at_ + 1].text, " %}"));
    return body;
  }

 private:
  // Counts nested constructs, so that a hostile template cannot use up the stack.
  struct Depth {
    explicit Depth(int* depth) : depth_(depth) { ++*depth_; }
    ~Depth() { --*depth_; }
    int* depth_;
  };

  const Token& Peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  Token Take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool Is(Token::Kind kind, absl::string_view text, size_t ahead = 0) const { return Peek(ahead).kind == kind && Peek(ahead).text == text; }
  bool IsOperator(absl::string_view text) const { return Is(Token::kOperator, text); }
  bool IsName(absl::string_view text, size_t ahead = 0) const { return Is(Token::kName, text, ahead); }
  bool TakeOperator(absl::string_view text) { return IsOperator(text) && (++at_, true); }
  bool TakeName(absl::string_view text) { return IsName(text) && (++at_, true); }

  absl::Status Error(absl::string_view message) const { return ErrorAt(Peek().line, message); }

  std::string Here() const {
    switch (Peek().kind) {
      case Token::kEnd:
        return "the end of the template";
      case Token::kBlockEnd:
        return "%}";
      case Token::kPrintEnd:
        return "}}";
      case Token::kString:
        return absl::StrCat("the string \"", Peek().text.substr(0, 40), "\"");
      default:
        return absl::StrCat("\"", Peek().text.substr(0, 40), "\"");
    }
  }

  absl::Status Expect(absl::string_view op) {
    if (TakeOperator(op)) return absl::OkStatus();
    return Error(absl::StrCat("expected \"", op, "\", not ", Here()));
  }

  absl::StatusOr<std::string> ExpectName() {
    static constexpr absl::string_view kReserved[] = {"if", "else", "in", "is", "not", "and", "or", "for"};
    if (Peek().kind != Token::kName || std::find(std::begin(kReserved), std::end(kReserved), Peek().text) != std::end(kReserved)) {
      return Error(absl::StrCat("expected a name, not ", Here()));
    }
    return Take().text;
  }

  absl::Status EndOfBlock() {
    if (Peek().kind != Token::kBlockEnd) return Error(absl::StrCat("expected %}, not ", Here()));
    ++at_;
    return absl::OkStatus();
  }

  // Statements up to a block that begins with one of `ends` (not taken).
  absl::StatusOr<std::vector<Statement>> Body(std::vector<absl::string_view> ends) {
    const Depth depth(&depth_);
    if (depth_ > kMaxDepth) return Error(absl::StrCat("nested deeper than ", kMaxDepth));
    std::vector<Statement> body;
    while (Peek().kind != Token::kEnd) {
      const Token& token = Peek();
      if (token.kind == Token::kText) {
        Statement text{Statement::kText, token.line, token.text, {}, nullptr, nullptr, {}, {}};
        body.push_back(std::move(text));
        ++at_;
      } else if (token.kind == Token::kPrintBegin) {
        Statement print{Statement::kPrint, token.line, "", {}, nullptr, nullptr, {}, {}};
        ++at_;
        ASSIGN_OR_RETURN(print.expression, Tuple());
        if (Peek().kind != Token::kPrintEnd) return Error(absl::StrCat("expected }}, not ", Here()));
        ++at_;
        body.push_back(std::move(print));
      } else {
        const Token& name = Peek(1);
        if (name.kind != Token::kName) return Error("expected a statement after {%");
        if (std::find(ends.begin(), ends.end(), name.text) != ends.end()) return body;
        if (name.text.rfind("end", 0) == 0 || name.text == "else" || name.text == "elif") return body;  // the caller says what is wrong
        RETURN_IF_ERROR(Block(&body));
      }
    }
    if (!ends.empty()) return Error(absl::StrCat("the template ends without {% ", ends.back(), " %}"));
    return body;
  }

  absl::Status ExpectEnd(absl::string_view name) {
    if (Peek().kind != Token::kBlockBegin || !IsName(name, 1)) {
      return Error(absl::StrCat("expected {% ", name, " %}, not {% ", Peek(1).text, " %}"));
    }
    at_ += 2;
    return EndOfBlock();
  }

  absl::Status Block(std::vector<Statement>* out) {
    ++at_;  // {%
    const int line = Peek().line;
    const std::string name = Take().text;
    Statement statement{Statement::kIf, line, "", {}, nullptr, nullptr, {}, {}};
    if (name == "if") {
      ASSIGN_OR_RETURN(statement, If(line));
    } else if (name == "for") {
      ASSIGN_OR_RETURN(statement, For(line));
    } else if (name == "set") {
      ASSIGN_OR_RETURN(statement, Set(line));
    } else if (name == "macro") {
      ASSIGN_OR_RETURN(statement, Macro(line));
    } else if (name == "generation") {
      RETURN_IF_ERROR(EndOfBlock());
      ASSIGN_OR_RETURN(std::vector<Statement> body, Body({"endgeneration"}));
      std::move(body.begin(), body.end(), std::back_inserter(*out));
      return ExpectEnd("endgeneration");
    } else if (name == "break" || name == "continue") {
      if (loops_ == 0) return ErrorAt(line, absl::StrCat("{% ", name, " %} outside a loop"));
      statement.kind = name == "break" ? Statement::kBreak : Statement::kContinue;
      RETURN_IF_ERROR(EndOfBlock());
    } else {
      return ErrorAt(line, absl::StrCat("{% ", name, " %} is not supported"));
    }
    out->push_back(std::move(statement));
    return absl::OkStatus();
  }

  absl::StatusOr<Statement> If(int line) {
    Statement statement{Statement::kIf, line, "", {}, nullptr, nullptr, {}, {}};
    ASSIGN_OR_RETURN(statement.expression, Tuple());
    RETURN_IF_ERROR(EndOfBlock());
    ASSIGN_OR_RETURN(statement.body, Body({"elif", "else", "endif"}));
    Statement* tail = &statement;
    int length = 0;
    while (IsName("elif", 1)) {
      at_ += 2;
      Statement next{Statement::kIf, Peek().line, "", {}, nullptr, nullptr, {}, {}};
      ASSIGN_OR_RETURN(next.expression, Tuple());
      RETURN_IF_ERROR(EndOfBlock());
      ASSIGN_OR_RETURN(next.body, Body({"elif", "else", "endif"}));
      if (++length > 200) return Error("more than 200 elif in a row");
      tail->otherwise.push_back(std::move(next));
      tail = &tail->otherwise.back();
    }
    if (IsName("else", 1)) {
      at_ += 2;
      RETURN_IF_ERROR(EndOfBlock());
      ASSIGN_OR_RETURN(tail->otherwise, Body({"endif"}));
    }
    RETURN_IF_ERROR(ExpectEnd("endif"));
    return statement;
  }

  absl::StatusOr<Statement> For(int line) {
    Statement statement{Statement::kFor, line, "", {}, nullptr, nullptr, {}, {}};
    const bool parenthesis = TakeOperator("(");
    do {
      ASSIGN_OR_RETURN(std::string target, ExpectName());
      statement.targets.push_back(std::move(target));
    } while (TakeOperator(","));
    if (parenthesis) RETURN_IF_ERROR(Expect(")"));
    if (!TakeName("in")) return Error(absl::StrCat("expected \"in\", not ", Here()));
    ASSIGN_OR_RETURN(statement.expression, Or());
    if (TakeName("if")) {
      ASSIGN_OR_RETURN(statement.filter, Ternary());
    }
    if (IsName("recursive")) return Error("a recursive loop is not supported");
    RETURN_IF_ERROR(EndOfBlock());
    ++loops_;
    ASSIGN_OR_RETURN(statement.body, Body({"else", "endfor"}));
    --loops_;
    if (IsName("else", 1)) {
      at_ += 2;
      RETURN_IF_ERROR(EndOfBlock());
      ASSIGN_OR_RETURN(statement.otherwise, Body({"endfor"}));
    }
    RETURN_IF_ERROR(ExpectEnd("endfor"));
    return statement;
  }

  absl::StatusOr<Statement> Set(int line) {
    Statement statement{Statement::kSet, line, "", {}, nullptr, nullptr, {}, {}};
    do {
      ASSIGN_OR_RETURN(std::string target, ExpectName());
      statement.targets.push_back(std::move(target));
      if (statement.targets.size() == 1 && TakeOperator(".")) {
        ASSIGN_OR_RETURN(statement.text, ExpectName());
        break;
      }
    } while (TakeOperator(","));
    if (TakeOperator("=")) {
      ASSIGN_OR_RETURN(statement.expression, Tuple());
      RETURN_IF_ERROR(EndOfBlock());
      return statement;
    }
    if (Peek().kind != Token::kBlockEnd || statement.targets.size() != 1) return Error(absl::StrCat("expected \"=\", not ", Here()));
    ++at_;
    statement.kind = Statement::kSetBlock;
    ASSIGN_OR_RETURN(statement.body, Body({"endset"}));
    RETURN_IF_ERROR(ExpectEnd("endset"));
    return statement;
  }

  // {% macro name(a, b=default) %} ... {% endmacro %}
  absl::StatusOr<Statement> Macro(int line) {
    Statement statement{Statement::kMacro, line, "", {}, nullptr, nullptr, {}, {}};
    ASSIGN_OR_RETURN(statement.text, ExpectName());
    statement.expression = Make(Expression::kList, line);
    RETURN_IF_ERROR(Expect("("));
    while (!TakeOperator(")")) {
      if (!statement.targets.empty()) RETURN_IF_ERROR(Expect(","));
      if (statement.targets.size() >= kMaxArguments) return Error(absl::StrCat("more than ", kMaxArguments, " parameters"));
      ASSIGN_OR_RETURN(std::string parameter, ExpectName());
      statement.targets.push_back(std::move(parameter));
      if (TakeOperator("=")) {
        ASSIGN_OR_RETURN(ExpressionPtr value, Ternary());
        statement.expression->children.push_back(std::move(value));
      } else if (!statement.expression->children.empty()) {
        return Error("a parameter without a default behind one that has one");
      }
    }
    RETURN_IF_ERROR(EndOfBlock());
    const int loops = std::exchange(loops_, 0);
    ASSIGN_OR_RETURN(statement.body, Body({"endmacro"}));
    loops_ = loops;
    RETURN_IF_ERROR(ExpectEnd("endmacro"));
    return statement;
  }

  // a, b: a list.
  absl::StatusOr<ExpressionPtr> Tuple() {
    const int line = Peek().line;
    ASSIGN_OR_RETURN(ExpressionPtr first, Ternary());
    if (!IsOperator(",")) return first;
    ExpressionPtr list = Make(Expression::kList, line);
    list->children.push_back(std::move(first));
    while (TakeOperator(",")) {
      if (Peek().kind == Token::kBlockEnd || Peek().kind == Token::kPrintEnd || IsOperator(")")) break;
      ASSIGN_OR_RETURN(ExpressionPtr next, Ternary());
      list->children.push_back(std::move(next));
    }
    return list;
  }

  absl::StatusOr<ExpressionPtr> Ternary() {
    const Depth depth(&depth_);
    if (depth_ > kMaxDepth) return Error(absl::StrCat("nested deeper than ", kMaxDepth));
    const int line = Peek().line;
    ASSIGN_OR_RETURN(ExpressionPtr value, Or());
    while (TakeName("if")) {
      ASSIGN_OR_RETURN(ExpressionPtr condition, Or());
      ExpressionPtr otherwise;
      if (TakeName("else")) {
        ASSIGN_OR_RETURN(otherwise, Ternary());
      }
      ExpressionPtr node = Make(Expression::kIf, line, "", std::move(value), std::move(condition));
      node->children.push_back(std::move(otherwise));
      value = std::move(node);
      RETURN_IF_ERROR(Chain());
    }
    return value;
  }

  // A long chain of operators makes a deep tree, and evaluating goes as deep.
  absl::Status Chain() {
    if (++chained_ > 10000) return Error("too many operators");
    return absl::OkStatus();
  }

  template <typename Next, typename Operator>
  absl::StatusOr<ExpressionPtr> LeftAssociative(Next next, Operator take_operator) {
    const int line = Peek().line;
    ASSIGN_OR_RETURN(ExpressionPtr left, (this->*next)());
    int length = 0;
    while (const auto found = take_operator()) {
      if (++length > 200) return Error("more than 200 operators in a row");
      RETURN_IF_ERROR(Chain());
      ASSIGN_OR_RETURN(ExpressionPtr right, (this->*next)());
      left = Make(found->first, line, found->second, std::move(left), std::move(right));
    }
    return left;
  }

  using Found = std::optional<std::pair<Expression::Kind, std::string>>;

  Found TakeAny(Expression::Kind kind, std::initializer_list<absl::string_view> operators) {
    for (const absl::string_view op : operators) {
      if (TakeOperator(op)) return std::make_pair(kind, std::string(op));
    }
    return std::nullopt;
  }

  absl::StatusOr<ExpressionPtr> Or() {
    return LeftAssociative(&Parser::And, [&]() -> Found { return TakeName("or") ? Found({Expression::kOr, "or"}) : std::nullopt; });
  }

  absl::StatusOr<ExpressionPtr> And() {
    return LeftAssociative(&Parser::Not, [&]() -> Found { return TakeName("and") ? Found({Expression::kAnd, "and"}) : std::nullopt; });
  }

  absl::StatusOr<ExpressionPtr> Not() {
    const Depth depth(&depth_);
    if (depth_ > kMaxDepth) return Error(absl::StrCat("nested deeper than ", kMaxDepth));
    const int line = Peek().line;
    if (!TakeName("not")) return Compare();
    ASSIGN_OR_RETURN(ExpressionPtr operand, Not());
    return Make(Expression::kNot, line, "not", std::move(operand));
  }

  absl::StatusOr<ExpressionPtr> Compare() {
    int comparisons = 0;
    ASSIGN_OR_RETURN(ExpressionPtr node, LeftAssociative(&Parser::Sum, [&]() -> Found {
      Found found = TakeAny(Expression::kCompare, {"==", "!=", "<=", ">=", "<", ">"});
      if (!found && TakeName("in")) found = {Expression::kCompare, "in"};
      if (!found && IsName("not") && IsName("in", 1)) {
        at_ += 2;
        found = {Expression::kCompare, "not in"};
      }
      comparisons += found.has_value();
      return found;
    }));
    if (comparisons > 1) return Error("a chain of comparisons is not supported");
    return node;
  }

  absl::StatusOr<ExpressionPtr> Sum() {
    return LeftAssociative(&Parser::Concatenation, [&] { return TakeAny(Expression::kBinary, {"+", "-"}); });
  }

  absl::StatusOr<ExpressionPtr> Concatenation() {
    return LeftAssociative(&Parser::Product, [&] { return TakeAny(Expression::kBinary, {"~"}); });
  }

  absl::StatusOr<ExpressionPtr> Product() {
    return LeftAssociative(&Parser::Power, [&] { return TakeAny(Expression::kBinary, {"*", "//", "/", "%"}); });
  }

  absl::StatusOr<ExpressionPtr> Power() {
    return LeftAssociative(&Parser::UnaryWithFilters, [&] { return TakeAny(Expression::kBinary, {"**"}); });
  }

  absl::StatusOr<ExpressionPtr> UnaryWithFilters() {
    ASSIGN_OR_RETURN(ExpressionPtr node, Unary());
    return Filters(std::move(node));
  }

  absl::StatusOr<ExpressionPtr> Unary() {
    const Depth depth(&depth_);
    if (depth_ > kMaxDepth) return Error(absl::StrCat("nested deeper than ", kMaxDepth));
    const int line = Peek().line;
    if (TakeOperator("+")) return Unary();
    if (TakeOperator("-")) {
      ASSIGN_OR_RETURN(ExpressionPtr operand, Unary());
      return Make(Expression::kNegative, line, "-", std::move(operand));
    }
    ASSIGN_OR_RETURN(ExpressionPtr node, Primary());
    return Postfix(std::move(node));
  }

  absl::StatusOr<ExpressionPtr> Primary() {
    const Token token = Peek();
    if (token.kind == Token::kString) {
      std::string value;
      while (Peek().kind == Token::kString) value += Take().text;  // neighbours join
      return Constant(token.line, Value::String(std::move(value)));
    }
    if (token.kind == Token::kInteger) {
      int64_t value = 0;
      if (!absl::SimpleAtoi(Take().text, &value)) return ErrorAt(token.line, "a number out of range");
      return Constant(token.line, Value::Int(value));
    }
    if (token.kind == Token::kFloat) {
      double value = 0;
      if (!absl::SimpleAtod(Take().text, &value)) return ErrorAt(token.line, "a number out of range");
      return Constant(token.line, Value::Float(value));
    }
    if (token.kind == Token::kName) {
      ASSIGN_OR_RETURN(const std::string name, ExpectName());
      if (name == "true" || name == "True") return Constant(token.line, Value::Bool(true));
      if (name == "false" || name == "False") return Constant(token.line, Value::Bool(false));
      if (name == "none" || name == "None") return Constant(token.line, Value::None());
      return Make(Expression::kName, token.line, name);
    }
    if (TakeOperator("(")) {
      if (TakeOperator(")")) return Make(Expression::kList, token.line);
      ASSIGN_OR_RETURN(ExpressionPtr inner, Tuple());
      RETURN_IF_ERROR(Expect(")"));
      return inner;
    }
    if (TakeOperator("[")) {
      ExpressionPtr list = Make(Expression::kList, token.line);
      while (!TakeOperator("]")) {
        if (!list->children.empty()) RETURN_IF_ERROR(Expect(","));
        if (TakeOperator("]")) break;
        ASSIGN_OR_RETURN(ExpressionPtr item, Ternary());
        list->children.push_back(std::move(item));
      }
      return list;
    }
    if (TakeOperator("{")) {
      ExpressionPtr dict = Make(Expression::kDict, token.line);
      while (!TakeOperator("}")) {
        if (!dict->children.empty()) RETURN_IF_ERROR(Expect(","));
        if (TakeOperator("}")) break;
        for (const bool is_key : {true, false}) {
          ASSIGN_OR_RETURN(ExpressionPtr part, Ternary());
          dict->children.push_back(std::move(part));
          if (is_key) RETURN_IF_ERROR(Expect(":"));
        }
      }
      return dict;
    }
    return Error(absl::StrCat("expected an expression, not ", Here()));
  }

  static ExpressionPtr Constant(int line, Value value) {
    ExpressionPtr node = Make(Expression::kConstant, line);
    node->value = std::move(value);
    return node;
  }

  // (a, b=c) after a callee, filter or test; the opening parenthesis is taken.
  absl::Status Arguments(Expression* call) {
    while (!TakeOperator(")")) {
      if (call->children.size() > 1) RETURN_IF_ERROR(Expect(","));
      if (TakeOperator(")")) break;
      if (call->children.size() > kMaxArguments) return Error("too many arguments");
      if (Peek().kind == Token::kName && Is(Token::kOperator, "=", 1)) {
        call->keywords.push_back(Take().text);
        ++at_;
      } else if (!call->keywords.empty()) {
        return Error("a positional argument after a named one");
      }
      ASSIGN_OR_RETURN(ExpressionPtr argument, Ternary());
      call->children.push_back(std::move(argument));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<ExpressionPtr> Postfix(ExpressionPtr node) {
    for (int length = 0;; ++length) {
      if (length > 100) return Error("more than 100 accesses in a row");
      const int line = Peek().line;
      if (TakeOperator(".")) {
        if (Peek().kind == Token::kInteger) return Error("an index after a dot is not supported");
        if (Peek().kind != Token::kName) return Error(absl::StrCat("expected a name, not ", Here()));
        node = Make(Expression::kAttribute, line, Take().text, std::move(node));
      } else if (TakeOperator("[")) {
        ASSIGN_OR_RETURN(node, Subscript(line, std::move(node)));
      } else if (TakeOperator("(")) {
        node = Make(Expression::kCall, line, "", std::move(node));
        RETURN_IF_ERROR(Arguments(node.get()));
      } else {
        return node;
      }
    }
  }

  absl::StatusOr<ExpressionPtr> Subscript(int line, ExpressionPtr node) {
    ExpressionPtr parts[3];
    int part = 0;
    bool is_slice = false;
    while (!IsOperator("]")) {
      if (TakeOperator(":")) {
        is_slice = true;
        if (++part > 2) return Error("too many \":\"");
        continue;
      }
      if (parts[part] != nullptr) return Error(absl::StrCat("expected \"]\", not ", Here()));
      ASSIGN_OR_RETURN(parts[part], Ternary());
    }
    ++at_;
    if (!is_slice) {
      if (parts[0] == nullptr) return ErrorAt(line, "an empty subscript");
      return Make(Expression::kItem, line, "", std::move(node), std::move(parts[0]));
    }
    ExpressionPtr slice = Make(Expression::kSlice, line, "", std::move(node));
    for (ExpressionPtr& p : parts) slice->children.push_back(std::move(p));
    return slice;
  }

  absl::StatusOr<ExpressionPtr> Filters(ExpressionPtr node) {
    for (int length = 0;; ++length) {
      if (length > 100) return Error("more than 100 filters in a row");
      const int line = Peek().line;
      if (TakeOperator("|")) {
        ASSIGN_OR_RETURN(std::string name, ExpectName());
        node = Make(Expression::kFilter, line, std::move(name), std::move(node));
        if (TakeOperator("(")) RETURN_IF_ERROR(Arguments(node.get()));
      } else if (IsName("is")) {
        ++at_;
        const bool negated = TakeName("not");
        std::string name = IsName("in") ? Take().text : "";
        if (name.empty()) {
          ASSIGN_OR_RETURN(name, ExpectName());
        }
        node = Make(Expression::kTest, line, std::move(name), std::move(node));
        if (TakeOperator("(")) {
          RETURN_IF_ERROR(Arguments(node.get()));
        } else if (TestArgumentFollows()) {
          ASSIGN_OR_RETURN(ExpressionPtr argument, Primary());
          ASSIGN_OR_RETURN(argument, Postfix(std::move(argument)));
          node->children.push_back(std::move(argument));
        }
        if (negated) node = Make(Expression::kNot, line, "not", std::move(node));
      } else {
        return node;
      }
    }
  }

  bool TestArgumentFollows() const {
    const Token& token = Peek();
    if (token.kind == Token::kString || token.kind == Token::kInteger || token.kind == Token::kFloat) return true;
    if (token.kind == Token::kOperator) return token.text == "[" || token.text == "{";
    static constexpr absl::string_view kNot[] = {"else", "or", "and", "is", "if", "in", "not"};
    return token.kind == Token::kName && std::find(std::begin(kNot), std::end(kNot), token.text) == std::end(kNot);
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0;
  int chained_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<Statement>> ParseTemplate(absl::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Lex(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace grouper::jinja
