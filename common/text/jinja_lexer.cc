#include "common/text/jinja_lexer.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/status.h"
#include "common/text/utf8.h"

namespace grouper::jinja {
namespace {

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v'; }
bool IsNameStart(char c) { return absl::ascii_isalpha(static_cast<unsigned char>(c)) || c == '_'; }
bool IsNamePart(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }

// Longest first.
constexpr absl::string_view kOperators[] = {"**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=",
                                            "(",  ")",  "[",  "]",  "{",  "}",  ".", ":", "|", ",", ";"};

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (pos_ < source_.size()) RETURN_IF_ERROR(TextAndTag());
    Push(Token::kEnd, "");
    return std::move(tokens_);
  }

 private:
  void Push(Token::Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  void Advance(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + pos_, source_.begin() + to, '\n'));
    pos_ = to;
  }

  // Text up to the next tag, then the tag.
  absl::Status TextAndTag() {
    size_t tag = pos_;
    while ((tag = source_.find('{', tag)) != std::string::npos) {
      const char next = tag + 1 < source_.size() ? source_[tag + 1] : ' ';
      if (next == '{' || next == '%' || next == '#') break;
      ++tag;
    }
    if (tag == std::string::npos) {
      AddText(source_.substr(pos_));
      Advance(source_.size());
      return absl::OkStatus();
    }
    std::string text = source_.substr(pos_, tag - pos_);
    const char kind = source_[tag + 1];
    size_t inside = tag + 2;
    const char mark = inside < source_.size() ? source_[inside] : ' ';
    if (mark == '-') {
      while (!text.empty() && IsSpace(text.back())) text.pop_back();
    } else if (mark != '+' && kind != '{') {  // lstrip_blocks: white space between the line's beginning and the tag
      size_t keep = text.size();
      while (keep > 0 && (text[keep - 1] == ' ' || text[keep - 1] == '\t')) --keep;
      const bool line_begins = keep > 0 ? text[keep - 1] == '\n' : line_start_;
      if (line_begins) text.resize(keep);
    }
    if (mark == '-' || (mark == '+' && kind != '{')) ++inside;
    AddText(std::move(text));
    Advance(inside);
    if (kind == '#') return Comment();
    Push(kind == '%' ? Token::kBlockBegin : Token::kPrintBegin, "");
    return Tag(kind == '%' ? "%}" : "}}");
  }

  void AddText(std::string text) {
    if (!text.empty()) Push(Token::kText, std::move(text));
  }

  // After a tag that ends at pos_: the white space that its end takes away. `strip`: it ended with -.
  void AfterTag(bool strip, bool trim_newline) {
    size_t to = pos_;
    if (strip) {
      while (to < source_.size() && IsSpace(source_[to])) ++to;
    } else if (trim_newline && to < source_.size() && source_[to] == '\n') {
      ++to;
    }
    line_start_ = to > 0 && source_[to - 1] == '\n';
    Advance(to);
  }

  absl::Status Comment() {
    const int line = line_;
    const size_t end = source_.find("#}", pos_);
    if (end == std::string::npos) return ErrorAt(line, "a comment that never ends");
    const char mark = end > pos_ ? source_[end - 1] : ' ';
    Advance(end + 2);
    AfterTag(mark == '-', mark != '+');
    return absl::OkStatus();
  }

  absl::Status Tag(absl::string_view end) {
    const bool block = end == "%}";
    const int line = line_;
    int brackets = 0;
    while (true) {
      while (pos_ < source_.size() && IsSpace(source_[pos_])) Advance(pos_ + 1);
      if (pos_ >= source_.size()) return ErrorAt(line, absl::StrCat("a tag that never ends with ", end));
      const absl::string_view rest = absl::string_view(source_).substr(pos_);
      const bool marked = rest.size() > 2 && (rest[0] == '-' || (rest[0] == '+' && block)) && absl::StartsWith(rest.substr(1), end);
      if (brackets == 0 && (marked || absl::StartsWith(rest, end))) {
        Advance(pos_ + end.size() + marked);
        Push(block ? Token::kBlockEnd : Token::kPrintEnd, "");
        AfterTag(marked && rest[0] == '-', block && !(marked && rest[0] == '+'));
        return absl::OkStatus();
      }
      const char c = rest[0];
      if (IsNameStart(c)) {
        size_t length = 1;
        while (length < rest.size() && IsNamePart(rest[length])) ++length;
        Push(Token::kName, std::string(rest.substr(0, length)));
        Advance(pos_ + length);
      } else if (c >= '0' && c <= '9') {
        RETURN_IF_ERROR(Number(rest));
      } else if (c == '\'' || c == '"') {
        RETURN_IF_ERROR(StringLiteral(c));
      } else {
        const auto* const op = std::find_if(std::begin(kOperators), std::end(kOperators),
                                            [&](absl::string_view candidate) { return absl::StartsWith(rest, candidate); });
        if (op == std::end(kOperators)) return ErrorAt(line_, absl::StrCat("unexpected character \"", rest.substr(0, 1), "\""));
        if (*op == "(" || *op == "[" || *op == "{") ++brackets;
        if ((*op == ")" || *op == "]" || *op == "}") && --brackets < 0) return ErrorAt(line_, absl::StrCat("unexpected \"", *op, "\""));
        Push(Token::kOperator, std::string(*op));
        Advance(pos_ + op->size());
      }
    }
  }

  absl::Status Number(absl::string_view rest) {
    size_t length = 0;
    bool is_float = false;
    while (length < rest.size() && (absl::ascii_isdigit(static_cast<unsigned char>(rest[length])) || rest[length] == '_')) ++length;
    if (length + 1 < rest.size() && rest[length] == '.' && absl::ascii_isdigit(static_cast<unsigned char>(rest[length + 1]))) {
      is_float = true;
      ++length;
      while (length < rest.size() && absl::ascii_isdigit(static_cast<unsigned char>(rest[length]))) ++length;
    }
    if (length > 18) return ErrorAt(line_, "a number with more than 18 digits");
    Push(is_float ? Token::kFloat : Token::kInteger, absl::StrReplaceAll(rest.substr(0, length), {{"_", ""}}));
    Advance(pos_ + length);
    return absl::OkStatus();
  }

  // Python's escapes; an unknown one stays as it is written.
  absl::Status StringLiteral(char quote) {
    const int line = line_;
    std::string value;
    size_t i = pos_ + 1;
    for (; i < source_.size() && source_[i] != quote; ++i) {
      if (source_[i] != '\\' || i + 1 >= source_.size()) {
        value.push_back(source_[i]);
        continue;
      }
      const char escaped = source_[++i];
      static constexpr absl::string_view kNames = "ntrabfv0\\'\"";
      static constexpr absl::string_view kValues("\n\t\r\a\b\f\v\0\\'\"", 11);
      const int digits = escaped == 'x' ? 2 : escaped == 'u' ? 4 : escaped == 'U' ? 8 : 0;
      if (digits > 0) {
        uint32_t code_point = 0;
        const std::string hex = source_.substr(i + 1, digits);
        if (hex.size() != static_cast<size_t>(digits) || !std::all_of(hex.begin(), hex.end(), [](unsigned char c) { return absl::ascii_isxdigit(c); })) {
          return ErrorAt(line, "a string with a broken escape");
        }
        for (const char c : hex) code_point = code_point * 16 + (c <= '9' ? c - '0' : absl::ascii_tolower(c) - 'a' + 10);
        if (code_point > 0x10FFFF || (code_point >= 0xD800 && code_point < 0xE000)) return ErrorAt(line, "a string with an invalid code point");
        text::AppendCodePoint(code_point, &value);
        i += digits;
      } else if (escaped == '\n') {
        continue;
      } else if (const size_t at = kNames.find(escaped); at != absl::string_view::npos) {
        value.push_back(kValues[at]);
      } else {
        value.push_back('\\');
        value.push_back(escaped);
      }
    }
    if (i >= source_.size()) return ErrorAt(line, "a string that never ends");
    Push(Token::kString, std::move(value));
    Advance(i + 1);
    return absl::OkStatus();
  }

  std::string source_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_start_ = true;  // pos_ was at the beginning of a line when the text began
  std::vector<Token> tokens_;
};

}  // namespace

absl::Status ErrorAt(int line, absl::string_view message) { return absl::InvalidArgumentError(absl::StrCat("line ", line, ": ", message)); }

absl::StatusOr<std::vector<Token>> Lex(absl::string_view source) {
  std::string text = absl::StrReplaceAll(source, {{"\r\n", "\n"}, {"\r", "\n"}});
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return Lexer(std::move(text)).Run();
}

}  // namespace grouper::jinja
