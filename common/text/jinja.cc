#include "common/text/jinja.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status.h"
#include "common/text/jinja_functions.h"
#include "common/text/jinja_lexer.h"
#include "common/text/jinja_parser.h"
#include "common/text/utf8.h"

namespace grouper {
namespace {

using jinja::Arguments;
using jinja::Dict;
using jinja::Expression;
using jinja::List;
using jinja::Statement;
using jinja::Value;

constexpr size_t kMaxSourceBytes = 256 << 10;
constexpr int64_t kMaxSteps = 1'000'000;
constexpr size_t kMaxOutputBytes = 64 << 20;
constexpr int kMaxDepth = 64;
constexpr int64_t kMaxRange = 100'000;
constexpr int kMaxMacroDepth = 16;

constexpr absl::string_view kFunctions[] = {"raise_exception", "namespace", "range", "dict"};

// One rendering. Names are looked up from the innermost loop outwards.
class Renderer {
 public:
  explicit Renderer(Dict globals) { scopes_.push_back(std::move(globals)); }
  ~Renderer() {  // namespaces may hold each other
    for (const std::shared_ptr<Dict>& dict : namespaces_) dict->clear();
  }

  absl::Status Run(const std::vector<Statement>& body, std::string* out) {
    for (const Statement& statement : body) {
      RETURN_IF_ERROR(Step(statement, out));
      if (flow_ != Flow::kOn) break;
    }
    return absl::OkStatus();
  }

 private:
  enum class Flow { kOn, kBreak, kContinue };

  absl::Status Charge(int line, int64_t steps = 1) {
    steps_ += steps;
    if (steps_ > kMaxSteps) return jinja::ErrorAt(line, "the template takes too long");
    return absl::OkStatus();
  }

  absl::Status Located(int line, const absl::Status& status) {
    if (status.ok()) return status;
    return jinja::ErrorAt(line, status.message());
  }
  template <typename T>
  absl::StatusOr<T> Located(int line, absl::StatusOr<T> value) {
    if (value.ok()) return value;
    return jinja::ErrorAt(line, value.status().message());
  }

  absl::Status Step(const Statement& statement, std::string* out) {
    RETURN_IF_ERROR(Charge(statement.line));
    switch (statement.kind) {
      case Statement::kText:
        *out += statement.text;
        break;
      case Statement::kPrint: {
        ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expression));
        *out += ToText(value);
        break;
      }
      case Statement::kIf: {
        ASSIGN_OR_RETURN(const Value condition, Evaluate(*statement.expression));
        return Run(IsTrue(condition) ? statement.body : statement.otherwise, out);
      }
      case Statement::kFor:
        return For(statement, out);
      case Statement::kSet: {
        ASSIGN_OR_RETURN(Value value, Evaluate(*statement.expression));
        return Set(statement, std::move(value));
      }
      case Statement::kSetBlock: {
        std::string text;
        RETURN_IF_ERROR(Run(statement.body, &text));
        return Set(statement, Value::String(std::move(text)));
      }
      case Statement::kMacro: {
        macros_.push_back(&statement);
        Value macro = Value::Method(Value::None(), statement.text);
        macro.integer = static_cast<int64_t>(macros_.size());  // of a function that is no macro: 0
        Assign(statement.text, std::move(macro));
        break;
      }
      case Statement::kBreak:
        flow_ = Flow::kBreak;
        break;
      case Statement::kContinue:
        flow_ = Flow::kContinue;
        break;
    }
    if (out->size() > kMaxOutputBytes) return jinja::ErrorAt(statement.line, "the output grows too long");
    return absl::OkStatus();
  }

  void Assign(const std::string& name, Value value) {
    for (auto& [key, old] : scopes_.back()) {
      if (key == name) {
        old = std::move(value);
        return;
      }
    }
    scopes_.back().emplace_back(name, std::move(value));
  }

  absl::Status Set(const Statement& statement, Value value) {
    if (statement.text.empty()) return AssignTargets(statement, std::move(value));
    Value* const target = FindName(statement.targets[0]);
    if (target == nullptr || target->kind != Value::kNamespace) {
      return jinja::ErrorAt(statement.line, absl::StrCat("\"", statement.targets[0], "\" is not a namespace"));
    }
    for (auto& [key, old] : *target->dict) {
      if (key == statement.text) {
        old = std::move(value);
        return absl::OkStatus();
      }
    }
    target->dict->emplace_back(statement.text, std::move(value));
    return absl::OkStatus();
  }

  absl::Status AssignTargets(const Statement& statement, Value value) {
    if (statement.targets.size() == 1) {
      Assign(statement.targets[0], std::move(value));
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(List parts, Located(statement.line, Iterate(value)));
    if (parts.size() != statement.targets.size()) {
      return jinja::ErrorAt(statement.line, absl::StrCat(parts.size(), " values for ", statement.targets.size(), " names"));
    }
    for (size_t i = 0; i < parts.size(); ++i) Assign(statement.targets[i], std::move(parts[i]));
    return absl::OkStatus();
  }

  absl::Status For(const Statement& statement, std::string* out) {
    ASSIGN_OR_RETURN(const Value iterated, Evaluate(*statement.expression));
    ASSIGN_OR_RETURN(List items, Located(statement.line, Iterate(iterated)));
    RETURN_IF_ERROR(Charge(statement.line, static_cast<int64_t>(items.size())));
    if (statement.filter != nullptr) {
      List kept;
      for (const Value& item : items) {
        scopes_.emplace_back();
        absl::Status status = AssignTargets(statement, item);
        absl::StatusOr<Value> holds = status.ok() ? Evaluate(*statement.filter) : status;
        scopes_.pop_back();
        if (!holds.ok()) return holds.status();
        if (IsTrue(*holds)) kept.push_back(item);
      }
      items = std::move(kept);
    }
    if (items.empty()) return Run(statement.otherwise, out);
    const int64_t length = static_cast<int64_t>(items.size());
    for (int64_t i = 0; i < length; ++i) {
      scopes_.emplace_back();
      absl::Status status = AssignTargets(statement, items[i]);
      Dict loop = {{"index", Value::Int(i + 1)},       {"index0", Value::Int(i)},
                   {"revindex", Value::Int(length - i)}, {"revindex0", Value::Int(length - i - 1)},
                   {"first", Value::Bool(i == 0)},     {"last", Value::Bool(i + 1 == length)},
                   {"length", Value::Int(length)}};
      if (i > 0) loop.emplace_back("previtem", items[i - 1]);
      if (i + 1 < length) loop.emplace_back("nextitem", items[i + 1]);
      Assign("loop", Value::Of(std::move(loop)));
      if (status.ok()) status = Run(statement.body, out);
      scopes_.pop_back();
      RETURN_IF_ERROR(status);
      const bool stop = flow_ == Flow::kBreak;
      flow_ = Flow::kOn;
      if (stop) break;
    }
    return absl::OkStatus();
  }

  Value* FindName(absl::string_view name) {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      for (auto& [key, value] : *scope) {
        if (key == name) return &value;
      }
    }
    return nullptr;
  }

  absl::StatusOr<Value> Evaluate(const Expression& node) {
    RETURN_IF_ERROR(Charge(node.line));
    switch (node.kind) {
      case Expression::kConstant:
        return node.value;
      case Expression::kName: {
        if (const Value* const value = FindName(node.text)) return *value;
        if (std::find(std::begin(kFunctions), std::end(kFunctions), node.text) != std::end(kFunctions)) {
          return Value::Method(Value::None(), node.text);
        }
        return Value::Undefined(node.text);
      }
      case Expression::kList: {
        List items;
        for (const auto& child : node.children) {
          ASSIGN_OR_RETURN(Value item, Evaluate(*child));
          items.push_back(std::move(item));
        }
        return ChargeValue(node.line, Value::Of(std::move(items)));
      }
      case Expression::kDict: {
        Dict items;
        for (size_t i = 0; i + 1 < node.children.size(); i += 2) {
          ASSIGN_OR_RETURN(const Value key, Evaluate(*node.children[i]));
          ASSIGN_OR_RETURN(Value value, Evaluate(*node.children[i + 1]));
          if (!key.is_string()) return jinja::ErrorAt(node.line, "a key that is not a string is not supported");
          items.emplace_back(*key.string, std::move(value));
        }
        return ChargeValue(node.line, Value::Of(std::move(items)));
      }
      case Expression::kAttribute: {
        ASSIGN_OR_RETURN(const Value object, Evaluate(*node.children[0]));
        return Located(node.line, GetAttribute(object, node.text));
      }
      case Expression::kItem: {
        ASSIGN_OR_RETURN(const Value object, Evaluate(*node.children[0]));
        ASSIGN_OR_RETURN(const Value key, Evaluate(*node.children[1]));
        return Located(node.line, GetItem(object, key));
      }
      case Expression::kSlice: {
        Value parts[4];
        for (size_t i = 0; i < 4; ++i) {
          parts[i] = Value::None();
          if (node.children[i] == nullptr) continue;
          ASSIGN_OR_RETURN(parts[i], Evaluate(*node.children[i]));
        }
        return Located(node.line, GetSlice(parts[0], parts[1], parts[2], parts[3]));
      }
      case Expression::kCall:
        return Call(node);
      case Expression::kFilter:
      case Expression::kTest: {
        ASSIGN_OR_RETURN(const Value input, Evaluate(*node.children[0]));
        ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(node));
        if (node.kind == Expression::kFilter) return ChargeValue(node.line, Located(node.line, ApplyFilter(node.text, input, arguments)));
        ASSIGN_OR_RETURN(const bool holds, Located(node.line, ApplyTest(node.text, input, arguments)));
        return Value::Bool(holds);
      }
      case Expression::kNot: {
        ASSIGN_OR_RETURN(const Value operand, Evaluate(*node.children[0]));
        return Value::Bool(!IsTrue(operand));
      }
      case Expression::kNegative: {
        ASSIGN_OR_RETURN(const Value operand, Evaluate(*node.children[0]));
        return Located(node.line, jinja::Arithmetic("-", Value::Int(0), operand));
      }
      case Expression::kAnd:
      case Expression::kOr: {
        ASSIGN_OR_RETURN(Value left, Evaluate(*node.children[0]));
        if (IsTrue(left) == (node.kind == Expression::kOr)) return left;
        return Evaluate(*node.children[1]);
      }
      case Expression::kIf: {
        ASSIGN_OR_RETURN(const Value condition, Evaluate(*node.children[1]));
        if (IsTrue(condition)) return Evaluate(*node.children[0]);
        if (node.children[2] == nullptr) return Value::Undefined("else");
        return Evaluate(*node.children[2]);
      }
      case Expression::kBinary: {
        ASSIGN_OR_RETURN(const Value left, Evaluate(*node.children[0]));
        ASSIGN_OR_RETURN(const Value right, Evaluate(*node.children[1]));
        return ChargeValue(node.line, Located(node.line, jinja::Arithmetic(node.text, left, right)));
      }
      case Expression::kCompare: {
        ASSIGN_OR_RETURN(const Value left, Evaluate(*node.children[0]));
        ASSIGN_OR_RETURN(const Value right, Evaluate(*node.children[1]));
        ASSIGN_OR_RETURN(const bool holds, Located(node.line, jinja::Compare(node.text, left, right)));
        return Value::Bool(holds);
      }
    }
    return jinja::ErrorAt(node.line, "an expression that is not supported");
  }

  // Long texts and lists cost as many steps as work; deep ones are refused.
  absl::StatusOr<Value> ChargeValue(int line, absl::StatusOr<Value> value) {
    if (!value.ok()) return value;
    const size_t size = value->is_string() ? value->string->size() / 1024 : value->kind == Value::kList ? value->list->size() : 0;
    RETURN_IF_ERROR(Charge(line, static_cast<int64_t>(size)));
    if (value->depth > kMaxDepth) return jinja::ErrorAt(line, absl::StrCat("a list nested deeper than ", kMaxDepth));
    return value;
  }

  absl::StatusOr<Arguments> EvaluateArguments(const Expression& node) {
    Arguments arguments;
    const size_t positional = node.children.size() - node.keywords.size();
    for (size_t i = 1; i < node.children.size(); ++i) {
      ASSIGN_OR_RETURN(Value value, Evaluate(*node.children[i]));
      if (i < positional) {
        arguments.positional.push_back(std::move(value));
      } else {
        arguments.named.emplace_back(node.keywords[i - positional], std::move(value));
      }
    }
    return arguments;
  }

  absl::StatusOr<Value> Call(const Expression& node) {
    ASSIGN_OR_RETURN(const Value callee, Evaluate(*node.children[0]));
    if (callee.kind == Value::kUndefined) return jinja::ErrorAt(node.line, absl::StrCat("\"", *callee.string, "\" is undefined and cannot be called"));
    if (callee.kind != Value::kMethod) return jinja::ErrorAt(node.line, absl::StrCat(KindName(callee), " cannot be called"));
    ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(node));
    const std::string& name = *callee.string;
    if (callee.integer > 0) return CallMacro(node.line, *macros_[static_cast<size_t>(callee.integer - 1)], arguments);
    if (callee.self->kind != Value::kNone) return ChargeValue(node.line, Located(node.line, CallMethod(*callee.self, name, arguments)));
    if (name == "raise_exception") {
      const Value* const message = arguments.Get(0, "message");
      return jinja::ErrorAt(node.line, absl::StrCat("the template refuses the conversation: ", message != nullptr ? ToText(*message) : ""));
    }
    if (name == "namespace" || name == "dict") {
      Dict items;
      for (const Value& value : arguments.positional) {
        if (value.dict != nullptr) items.insert(items.end(), value.dict->begin(), value.dict->end());
      }
      items.insert(items.end(), arguments.named.begin(), arguments.named.end());
      Value made = Value::Of(std::move(items));
      if (name == "dict") return ChargeValue(node.line, std::move(made));
      made.kind = Value::kNamespace;
      made.depth = 0;
      namespaces_.push_back(made.dict);
      return made;
    }
    return Range(node.line, arguments);
  }

  // The text of a macro's body, which sees its arguments and the template's own names, not those of the loops around the call.
  absl::StatusOr<Value> CallMacro(int line, const Statement& macro, const Arguments& arguments) {
    if (macro_depth_ >= kMaxMacroDepth) return jinja::ErrorAt(line, absl::StrCat("macros call each other deeper than ", kMaxMacroDepth));
    if (arguments.positional.size() > macro.targets.size()) {
      return jinja::ErrorAt(line, absl::StrCat(macro.text, "(): ", arguments.positional.size(), " arguments, expected at most ", macro.targets.size()));
    }
    for (const auto& [name, value] : arguments.named) {
      const auto at = std::find(macro.targets.begin(), macro.targets.end(), name);
      if (at == macro.targets.end() || at - macro.targets.begin() < static_cast<int64_t>(arguments.positional.size())) {
        return jinja::ErrorAt(line, absl::StrCat(macro.text, "(): unexpected argument \"", name, "\""));
      }
    }
    std::vector<Dict> around(std::make_move_iterator(scopes_.begin() + 1), std::make_move_iterator(scopes_.end()));
    scopes_.resize(1);
    scopes_.emplace_back();
    ++macro_depth_;
    std::string text;
    const absl::Status status = RunMacro(macro, arguments, &text);
    --macro_depth_;
    scopes_.resize(1);
    scopes_.insert(scopes_.end(), std::make_move_iterator(around.begin()), std::make_move_iterator(around.end()));
    RETURN_IF_ERROR(status);
    return ChargeValue(line, Value::String(std::move(text)));
  }

  absl::Status RunMacro(const Statement& macro, const Arguments& arguments, std::string* text) {
    const size_t first_default = macro.targets.size() - macro.expression->children.size();
    for (size_t i = 0; i < macro.targets.size(); ++i) {
      if (const Value* const given = arguments.Get(i, macro.targets[i])) {
        Assign(macro.targets[i], *given);
      } else if (i < first_default) {
        Assign(macro.targets[i], Value::Undefined(macro.targets[i]));
      } else {
        ASSIGN_OR_RETURN(Value value, Evaluate(*macro.expression->children[i - first_default]));
        Assign(macro.targets[i], std::move(value));
      }
    }
    return Run(macro.body, text);
  }

  absl::StatusOr<Value> Range(int line, const Arguments& arguments) {
    const size_t n = arguments.positional.size();
    for (const Value& value : arguments.positional) {
      if (!value.is_integer()) return jinja::ErrorAt(line, "range: expected integers");
    }
    if (n == 0 || n > 3) return jinja::ErrorAt(line, "range: expected one to three integers");
    const int64_t begin = n == 1 ? 0 : arguments.positional[0].integer;
    const int64_t end = arguments.positional[n == 1 ? 0 : 1].integer;
    const int64_t step = n == 3 ? arguments.positional[2].integer : 1;
    if (step == 0) return jinja::ErrorAt(line, "range: step 0");
    List items;
    for (int64_t i = begin; step > 0 ? i < end : i > end;) {
      if (static_cast<int64_t>(items.size()) >= kMaxRange) return jinja::ErrorAt(line, absl::StrCat("range: more than ", kMaxRange, " numbers"));
      items.push_back(Value::Int(i));
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    return ChargeValue(line, Value::Of(std::move(items)));
  }

  std::vector<Dict> scopes_;
  std::vector<std::shared_ptr<Dict>> namespaces_;
  std::vector<const Statement*> macros_;  // in the order in which their definitions were met
  int macro_depth_ = 0;
  int64_t steps_ = 0;
  Flow flow_ = Flow::kOn;
};

// Texts from outside may be ill-formed; templates work on characters.
std::string Repaired(const std::string& content) {
  if (text::IsValidUtf8(content)) return content;
  std::string out;
  text::AppendLossy(content, false, &out);
  return out;
}

}  // namespace

struct JinjaTemplate::Program {
  std::vector<Statement> body;
};

JinjaTemplate::JinjaTemplate(std::unique_ptr<const Program> program) : program_(std::move(program)) {}
JinjaTemplate::~JinjaTemplate() = default;

absl::StatusOr<std::shared_ptr<const JinjaTemplate>> JinjaTemplate::Parse(absl::string_view source) {
  if (source.size() > kMaxSourceBytes) return absl::InvalidArgumentError(absl::StrCat("longer than ", kMaxSourceBytes, " bytes"));
  if (!text::IsValidUtf8(source)) return absl::InvalidArgumentError("not UTF-8");
  auto program = std::make_unique<Program>();
  ASSIGN_OR_RETURN(program->body, jinja::ParseTemplate(source));
  return std::make_shared<const JinjaTemplate>(std::move(program));
}

absl::StatusOr<std::string> JinjaTemplate::RenderChat(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                                                      const TemplateTokens& tokens) const {
  List list;
  for (const ChatMessage& message : messages) {
    list.push_back(Value::Of(Dict{{"role", Value::String(message.role)}, {"content", Value::String(Repaired(message.content))}}));
  }
  // transformers passes tools and documents as None when there are none.
  Dict globals = {{"messages", Value::Of(std::move(list))},
                  {"tools", Value::None()},
                  {"documents", Value::None()},
                  {"add_generation_prompt", Value::Bool(add_generation_prompt)}};
  const std::pair<const char*, const std::string*> specials[] = {{"bos_token", &tokens.bos_token},
                                                                 {"eos_token", &tokens.eos_token},
                                                                 {"pad_token", &tokens.pad_token},
                                                                 {"unk_token", &tokens.unk_token}};
  for (const auto& [name, token] : specials) {
    if (!token->empty()) globals.emplace_back(name, Value::String(*token));
  }
  std::string out;
  RETURN_IF_ERROR(Renderer(std::move(globals)).Run(program_->body, &out));
  return out;
}

}  // namespace grouper
