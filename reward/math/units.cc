#include "reward/math/units.h"

#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace grouper::math {
namespace {

using absl::string_view;

// Canonical name first, then its other spellings.
constexpr const char* kUnits[] = {
    "mm millimeter millimeters millimetre millimetres",
    "cm centimeter centimeters centimetre centimetres",
    "meter meters metre metres m",
    "km kilometer kilometers kilometre kilometres",
    "inch inches in",
    "foot feet ft",
    "yard yards yd yds",
    "mile miles mi",
    "gram grams g",
    "kg kilogram kilograms kilo kilos",
    "mg milligram milligrams",
    "pound pounds lb lbs",
    "ounce ounces oz",
    "ton tons tonnes",
    "liter liters litre litres l",
    "ml milliliter milliliters millilitre",
    "gallon gallons gal",
    "quart quarts",
    "pint pints",
    "cup cups",
    "second seconds sec secs s",
    "minute minutes min mins",
    "hour hours hr hrs h",
    "day days",
    "week weeks",
    "month months",
    "year years yr yrs",
    "dollar dollars usd bucks",
    "cent cents",
    "euro euros",
    "rupee rupees rs",
    "yen",
    "rpm",
    "unit units",
    "degree degrees deg",
    "radian radians rad",
    "percent",
    "hectare hectares",
    "acre acres",
    "joule joules",
    "newton newtons",
    "watt watts",
    "volt volts",
    "hz hertz",
    "point points pts",
    "square",
    "cubic",
    "sq",
    "cu",
    "per",
};

const absl::flat_hash_map<string_view, string_view>& Table() {
  static const auto* const table = [] {
    auto* map = new absl::flat_hash_map<string_view, string_view>;
    for (const char* row : kUnits) {
      const std::vector<string_view> names = absl::StrSplit(row, ' ');
      for (const string_view name : names) map->emplace(name, names[0]);
    }
    return map;
  }();
  return *table;
}

}  // namespace

bool IsUnitWord(string_view word) {
  // Single letters and words that are also English or a product of variables need \text{} around them.
  const std::string lower = absl::AsciiStrToLower(word);
  return word.size() >= 2 && (lower == "mph" || lower == "kph" || lower == "kmh" || Table().contains(lower));
}

bool IsUnitLetter(string_view letter) {
  return letter.size() == 1 && string_view("msglhNJWVAKLCF").find(letter[0]) != string_view::npos;
}

std::string CanonicalUnit(string_view words) {
  std::vector<std::string> names;
  std::string power;
  bool unknown = false;
  if (absl::EqualsIgnoreCase(words, "per cent")) return "percent";
  for (string_view word : absl::StrSplit(words, absl::ByAnyChar(" ./-"), absl::SkipEmpty())) {
    const size_t caret = word.find('^');
    string_view exponent = caret == string_view::npos ? string_view() : word.substr(caret);
    if (absl::ConsumeSuffix(&word, "\u00B2")) exponent = "^2";
    if (absl::ConsumeSuffix(&word, "\u00B3")) exponent = "^3";
    const std::string lower = absl::AsciiStrToLower(word.substr(0, caret));
    const auto it = Table().find(lower);
    if (lower == "square" || lower == "sq") {
      power = "^2";
    } else if (lower == "cubic" || lower == "cu") {
      power = "^3";
    } else if (lower == "per") {
    } else if (lower == "mph" || lower == "kph" || lower == "kmh") {
      names.push_back(lower == "mph" ? "mile" : "km");
      names.push_back("hour");
    } else if (it != Table().end()) {
      names.push_back(absl::StrCat(it->second, exponent.empty() ? power : std::string(exponent)));
      power.clear();
    } else {
      unknown = true;
      names.push_back(std::string(absl::StripSuffix(lower, "s")));
    }
  }
  std::string canonical = unknown ? "?" : "";
  for (const std::string& name : names)
    absl::StrAppend(&canonical, canonical.empty() || canonical == "?" ? "" : " ", name);
  return canonical;
}

bool UnitsAgree(string_view a, string_view b) {
  if (a.empty() || b.empty() || a == b) return true;
  if ((a == "degree" && absl::StartsWith(b, "degree ")) || (b == "degree" && absl::StartsWith(a, "degree ")))
    return true;  // 20 degrees, 20 degrees C
  return absl::StartsWith(a, "?") || absl::StartsWith(b, "?");
}

}  // namespace grouper::math
