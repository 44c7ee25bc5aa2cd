#include "common/text/regex_translation.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"

namespace grouper::text {
namespace {

constexpr int kMaxNesting = 32;  // classes in classes
constexpr char kAnyCharacter[] = R"([\x{0}-\x{10FFFF}])";
constexpr char kSpaceMembers[] = R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

struct NewerRange {
  absl::string_view property;
  uint32_t first;
  uint32_t last;
};

constexpr NewerRange kNewer[] = {
#include "common/text/unicode_newer.inc"
};

// What to add to \p{name}: for "L" the new members of Lu, Ll, ...
std::string NewerMembers(absl::string_view name) {
  std::string ranges;
  for (const NewerRange& range : kNewer) {
    const bool in_group = name.size() == 1 && range.property.size() == 2 && range.property[0] == name[0];
    if (range.property == name || in_group) {
      absl::StrAppend(&ranges, "\\x{", absl::Hex(range.first), "}-\\x{", absl::Hex(range.last), "}");
    }
  }
  return ranges;
}

std::string Property(absl::string_view name) {
  return absl::StrCat("\\p{", name, "}", NewerMembers(absl::StripPrefix(name, "sc:")));
}

// A property's name in PCRE2. Oniguruma takes names without regard to case, spaces, hyphens and underscores, and a script's name is the
// script, where PCRE2 takes its extensions.
std::string ExactName(absl::string_view name) {
  static const auto* const names = new absl::flat_hash_map<std::string, std::string>{
      {"letter", "L"}, {"mark", "M"}, {"number", "N"}, {"punctuation", "P"}, {"symbol", "S"}, {"separator", "Z"}, {"any", "Any"},
      {"uppercaseletter", "Lu"}, {"lowercaseletter", "Ll"}, {"titlecaseletter", "Lt"}, {"modifierletter", "Lm"}, {"otherletter", "Lo"},
      {"nonspacingmark", "Mn"}, {"decimalnumber", "Nd"}, {"alpha", "Alphabetic"}, {"alphabetic", "Alphabetic"}, {"upper", "Uppercase"},
      {"uppercase", "Uppercase"}, {"lower", "Lowercase"}, {"lowercase", "Lowercase"}, {"whitespace", "White_Space"}, {"emoji", "Emoji"}};
  std::string plain = absl::AsciiStrToLower(absl::StrReplaceAll(name, {{" ", ""}, {"-", ""}, {"_", ""}}));
  if (const auto known = names->find(plain); known != names->end()) return known->second;
  if (plain.empty()) return plain;
  plain[0] = absl::ascii_toupper(static_cast<unsigned char>(plain[0]));
  return plain.size() <= 2 ? plain : absl::StrCat("sc:", plain);
}

const std::string& WordMembers() {
  static const std::string* const members =
      new std::string(absl::StrCat(Property("Alphabetic"), Property("M"), Property("Nd"), Property("Pc")));
  return *members;
}

const std::string& DigitMembers() {
  static const std::string* const members = new std::string(Property("Nd"));
  return *members;
}

absl::Status Unsupported(absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat("regex: ", what, " is not supported here")); }

// Some characters: members of a bracket without the brackets, or those that are not among them.
struct Members {
  std::string members;
  bool negated = false;
};

class Translation {
 public:
  explicit Translation(absl::string_view regex) : regex_(regex) {}

  absl::StatusOr<std::string> Run() {
    while (pos_ < regex_.size()) RETURN_IF_ERROR(Next());
    return std::move(out_);
  }

 private:
  absl::Status Next() {
    const char c = regex_[pos_];
    if (c == '{') return Interval();
    if (c == '(') return Open();
    if (c == ')') {
      atom_ = groups_.empty() ? out_.size() : groups_.back();
      if (!groups_.empty()) groups_.pop_back();
      return Copy(1);
    }
    if (c == '*' || c == '+' || c == '?' || c == '|') return Copy(1);
    atom_ = out_.size();
    if (c == '[') {
      ASSIGN_OR_RETURN(const std::string set, Class(0));
      out_ += set;
      return absl::OkStatus();
    }
    if (c == '\\') return Escape();
    size_t length = 1;  // with its continuation bytes: an atom is a character
    while (pos_ + length < regex_.size() && (static_cast<uint8_t>(regex_[pos_ + length]) & 0xC0) == 0x80) ++length;
    return Copy(length);
  }

  absl::Status Copy(size_t length) {
    out_.append(regex_.data() + pos_, length);
    pos_ += length;
    return absl::OkStatus();
  }

  absl::Status Open() {
    const absl::string_view rest = regex_.substr(pos_);
    if (absl::StartsWith(rest, "(*")) return Unsupported("(*");
    if (absl::StartsWith(rest, "(?#")) return Unsupported("(?#");
    if (absl::StartsWith(rest, "(?")) {
      const absl::string_view flags = rest.substr(2, rest.substr(2).find_first_of(":)"));
      if (!flags.empty() && absl::string_view("R&P+0123456789|'").find(flags[0]) != absl::string_view::npos) {
        return Unsupported(absl::StrCat("(?", flags.substr(0, 1)));  // recursion and names in Perl's or Python's spelling
      }
      if (!flags.empty() && (flags[0] == '-' || absl::ascii_islower(flags[0])) && flags != "i" && flags != "-i") {
        return Unsupported(absl::StrCat("option (?", flags));
      }
      const size_t option_end = rest.find_first_not_of("(?-i");
      if (option_end != absl::string_view::npos && rest[option_end] == ')') {  // (?i) is no group; in the middle its reach differs
        return pos_ == 0 ? Copy(option_end + 1) : Unsupported("an option without a group, not at the beginning");
      }
    }
    groups_.push_back(out_.size());
    return Copy(1);
  }

  // {n} {n,} {,m} {n,m}, or a literal brace.
  absl::Status Interval() {
    const absl::string_view rest = regex_.substr(pos_);
    const size_t close = rest.find('}');
    const absl::string_view bounds = close == absl::string_view::npos ? "" : rest.substr(1, close - 1);
    const size_t comma = bounds.find(',');
    if (bounds.empty() || bounds == "," || bounds.find_first_not_of("0123456789,") != absl::string_view::npos ||
        (comma != absl::string_view::npos && bounds.find(',', comma + 1) != absl::string_view::npos)) {
      atom_ = out_.size();
      out_ += "\\{";
      ++pos_;
      return absl::OkStatus();
    }
    pos_ += close + 1;
    const char next = pos_ < regex_.size() ? regex_[pos_] : '\0';
    const bool again = next == '+' || next == '*' || (next == '?' && comma == absl::string_view::npos);
    if (again) out_.insert(atom_, "(?:");
    absl::StrAppend(&out_, "{", comma == 0 ? "0" : "", bounds, "}", again ? ")" : "");
    return absl::OkStatus();
  }

  // A backslash outside of brackets.
  absl::Status Escape() {
    if (pos_ + 1 >= regex_.size()) return Copy(1);
    const char escaped = regex_[pos_ + 1];
    if (escaped == 'b' || escaped == 'B') {
      const std::string& w = WordMembers();
      absl::StrAppend(&out_, "(?:(?<=[", w, escaped == 'b' ? "])(?![" : "])(?=[", w, "])|(?<![", w,
                      escaped == 'b' ? "])(?=[" : "])(?![", w, "]))");
      pos_ += 2;
      return absl::OkStatus();
    }
    absl::optional<Members> set;
    RETURN_IF_ERROR(SetEscape(&set));
    if (set) absl::StrAppend(&out_, set->negated ? "[^" : "[", set->members, "]");
    return set ? absl::OkStatus() : CharacterEscape(false, &out_);
  }

  // \s \w \d \p{...} and their opposites: sets *set, and moves past it.
  absl::Status SetEscape(absl::optional<Members>* set) {
    const char escaped = pos_ + 1 < regex_.size() ? regex_[pos_ + 1] : '\0';
    const char lower = absl::ascii_tolower(static_cast<unsigned char>(escaped));
    if (lower != 's' && lower != 'w' && lower != 'd' && lower != 'p') return absl::OkStatus();
    Members members;
    members.negated = escaped != lower;
    if (lower != 'p') {
      members.members = lower == 's' ? kSpaceMembers : lower == 'w' ? WordMembers() : DigitMembers();
      pos_ += 2;
    } else {
      const size_t end = regex_.find('}', pos_);
      if (pos_ + 2 >= regex_.size() || regex_[pos_ + 2] != '{' || end == absl::string_view::npos) return Unsupported("\\p without {name}");
      absl::string_view name = regex_.substr(pos_ + 3, end - pos_ - 3);
      if (absl::StartsWith(name, "^")) {
        members.negated = !members.negated;
        name.remove_prefix(1);
      }
      members.members = Property(ExactName(name));
      pos_ = end + 1;
    }
    *set = std::move(members);
    return absl::OkStatus();
  }

  // A backslash before anything else, appended to *out.
  absl::Status CharacterEscape(bool in_class, std::string* out) {
    if (pos_ + 1 >= regex_.size()) return Unsupported("a backslash at the end");
    const char escaped = regex_[pos_ + 1];
    if (escaped == 'v') {
      *out += "\\x{B}";
    } else if (escaped == 'u') {
      const absl::string_view digits = regex_.substr(pos_ + 2, 4);
      if (digits.size() != 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != absl::string_view::npos) {
        return Unsupported("\\u without four digits");
      }
      absl::StrAppend(out, "\\x{", digits, "}");
      pos_ += 4;
    } else if (absl::ascii_isalpha(static_cast<unsigned char>(escaped)) &&
               !absl::StrContains(in_class ? "tnrfaexb" : "tnrfaexAzZGk", absl::string_view(&escaped, 1))) {
      return Unsupported(absl::StrCat("\\", absl::string_view(&escaped, 1)));
    } else {
      out->append(regex_.data() + pos_, 2);
    }
    pos_ += 2;
    return absl::OkStatus();
  }

  // [...] from its bracket: a regex that matches one character. [a&&b] is a lookahead for a before b; classes inside are alternatives.
  absl::StatusOr<std::string> Class(int depth) {
    if (depth > kMaxNesting) return Unsupported(absl::StrCat("classes nested deeper than ", kMaxNesting));
    ++pos_;
    const bool negated = pos_ < regex_.size() && regex_[pos_] == '^';
    if (negated) ++pos_;
    std::vector<std::string> operands;           // of &&, but the last
    std::string members;                         // what stands between one pair of brackets
    std::vector<std::string> others;             // what does not
    for (bool first = true;; first = false) {
      if (pos_ >= regex_.size()) return absl::InvalidArgumentError("regex: unclosed [");
      const char c = regex_[pos_];
      if (c == ']' && !first) break;
      if (c == ']') {
        members += "\\]";
        ++pos_;
      } else if (absl::StartsWith(regex_.substr(pos_), "&&")) {
        ASSIGN_OR_RETURN(std::string operand, Union(members, others));
        operands.push_back(std::move(operand));
        members.clear();
        others.clear();
        pos_ += 2;
      } else if (c == '[') {
        RETURN_IF_ERROR(Bracket(depth, &members, &others));
      } else if (c == '\\') {
        absl::optional<Members> set;
        RETURN_IF_ERROR(SetEscape(&set));
        if (!set) {
          RETURN_IF_ERROR(CharacterEscape(true, &members));
        } else if (set->negated) {
          others.push_back(absl::StrCat("[^", set->members, "]"));
        } else {
          members += set->members;
        }
      } else {
        members += c == '^' ? "\\^" : std::string(1, c);
        ++pos_;
      }
    }
    ++pos_;
    if (operands.empty() && others.empty()) return absl::StrCat(negated ? "[^" : "[", members, "]");
    ASSIGN_OR_RETURN(const std::string last, Union(members, others));
    std::string all;
    for (const std::string& operand : operands) absl::StrAppend(&all, "(?=", operand, ")");
    absl::StrAppend(&all, last);
    return negated ? absl::StrCat("(?:(?!", all, ")", kAnyCharacter, ")") : absl::StrCat("(?:", all, ")");
  }

  // [ inside of brackets: a class, or [:name:].
  absl::Status Bracket(int depth, std::string* members, std::vector<std::string>* others) {
    const absl::string_view rest = regex_.substr(pos_);
    const size_t end = rest.find(":]");
    if (!absl::StartsWith(rest, "[:") || end == absl::string_view::npos || end > 20) {
      ASSIGN_OR_RETURN(std::string inner, Class(depth + 1));
      others->push_back(std::move(inner));
      return absl::OkStatus();
    }
    absl::string_view name = rest.substr(2, end - 2);
    const bool negated = absl::StartsWith(name, "^");
    if (negated) name.remove_prefix(1);
    const std::string set = name == "alpha"    ? Property("Alphabetic")
                            : name == "alnum"  ? absl::StrCat(Property("Alphabetic"), DigitMembers())
                            : name == "upper"  ? Property("Uppercase")
                            : name == "lower"  ? Property("Lowercase")
                            : name == "digit"  ? DigitMembers()
                            : name == "space"  ? std::string(kSpaceMembers)
                            : name == "word"   ? WordMembers()
                            : name == "punct"  ? absl::StrCat(Property("P"), R"($+<=>\^`|~)")
                            : name == "xdigit" ? std::string("0-9A-Fa-f")
                            : name == "ascii"  ? std::string(R"(\x{0}-\x{7F})")
                                               : std::string();
    if (set.empty()) return Unsupported(absl::StrCat("[:", name, ":]"));
    if (negated) {
      others->push_back(absl::StrCat("[^", set, "]"));
    } else {
      *members += set;
    }
    pos_ += end + 2;
    return absl::OkStatus();
  }

  static absl::StatusOr<std::string> Union(absl::string_view members, const std::vector<std::string>& others) {
    if (members.empty() && others.empty()) return Unsupported("an empty side of &&");
    if (members.empty() && others.size() == 1) return others[0];
    std::string all;
    if (!members.empty()) absl::StrAppend(&all, "[", members, "]");
    for (const std::string& other : others) absl::StrAppend(&all, all.empty() ? "" : "|", other);
    return others.empty() ? all : absl::StrCat("(?:", all, ")");
  }

  const absl::string_view regex_;
  size_t pos_ = 0;
  std::string out_;
  size_t atom_ = 0;              // where the last atom begins in out_
  std::vector<size_t> groups_;   // where the open groups begin in out_
};

}  // namespace

absl::StatusOr<std::string> TranslateRegex(absl::string_view regex) { return Translation(regex).Run(); }

}  // namespace grouper::text
