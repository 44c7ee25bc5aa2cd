#include "common/base/parse_double.h"

#include <gtest/gtest.h>

namespace grouper {
namespace {

TEST(ParseDouble, TakesNumbersAndRefusesWhatWouldBecomeAnotherOne) {
  const std::pair<const char*, double> numbers[] = {{"0", 0}, {"0.000", 0}, {"0e9", 0}, {"-0", 0}, {"1e-300", 1e-300}, {"-2.5e3", -2500}, {"1e308", 1e308}};
  for (const auto& [text, expected] : numbers) {
    double value = 7;
    EXPECT_TRUE(ParseDouble(text, &value)) << text;
    EXPECT_EQ(value, expected) << text;
  }
  for (const char* text : {"", "x", "1x", "nan", "inf", "-inf", "1e400", "1e-400", "-1e-400", "0.5e-999"}) {
    double value;
    EXPECT_FALSE(ParseDouble(text, &value)) << text;
  }
}

}  // namespace
}  // namespace grouper
