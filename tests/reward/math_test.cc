// The math engine: a table a kind of answer. Each row: gold, answer, whether they are the same. A new case is one line.
#include <string>

#include "gtest/gtest.h"
#include "reward/math/check.h"
#include "tests/reward/rule_world.h"

namespace grouper::math {
namespace {

struct Case {
  const char* gold;
  const char* answer;
  bool same;
};

void Check(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    const CheckResult result = math::Check(c.gold, c.answer, {});
    EXPECT_NE(result.status, CheckResult::Status::kUnscorable) << c.gold << ": " << result.reason;
    EXPECT_EQ(result.status == CheckResult::Status::kRight, c.same)
        << c.gold << " | " << c.answer << " | " << result.extracted << " | " << result.reason;
  }
}

TEST(MathEngine, Integers) {
  Check({
      {"42", "42", true},
      {"42", "+42", true},
      {"42", "42.", true},
      {"42", "42.00", true},
      {"42", "042", true},
      {"042", "42", true},
      {"42", "$42$", true},
      {"42", "\\text{42}", true},
      {"42", "\\mathbf{42}", true},
      {"42", "\\(42\\)", true},
      {"42", "**42**", true},
      {"42", "6 \\cdot 7", true},
      {"42", "6\\times7", true},
      {"42", "40+2", true},
      {"42", "x = 42", true},
      {"x=42", "42", true},
      {"42", "43", false},
      {"42", "-42", false},
      {"42", "4 2", false},
      {"42", "4242", false},
      {"42", "42x", false},
      {"42", "42, 43", false},
      {"42", "42 \\text{ or } 43", false},
      {"42", "42 or 43", false},
      {"42", "y = 43", false},
      {"42", "", false},
      {"42", "\\text{none}", false},
      {"-5",
       "\xe2\x88\x92"
       "5",
       true},
      {"-5", "- 5", true},
      {"-5", "-(5)", true},
      {"-5", "5", false},
      {"123456789012345678901234567890", "123456789012345678901234567890", true},
      {"123456789012345678901234567890", "123456789012345678901234567891", false},
      {"2^{100}", "1267650600228229401496703205376", true},
      {"2^{100}", "1267650600228229401496703205377", false},
      {"120", "5!", true},
      {"10", "\\binom{5}{2}", true},
      {"10", "\\dbinom{5}{3}", true},
  });
}

TEST(MathEngine, ThousandsSeparators) {
  Check({
      {"1000000", "1,000,000", true},
      {"1000000", "1{,}000{,}000", true},
      {"1000000", "1,\\!000,\\!000", true},
      {"1000000", "1\\,000\\,000", true},
      {"1000000", "1 000 000", true},
      {"1000000", "1.000.000", true},
      {"10,080", "10080", true},
      {"32349", "32,\\! 349", true},
      {"1234.5", "1,234.5", true},
      {"1000000", "1,000,00", false},
      {"(100,200)", "(100, 200)", true},
      {"100,200", "100, 200", true},
      {"1000", "1, 000", false},
      {"12345", "12,345", true},
      {"12345", "123,45", false},
      {"1,2,3", "123", false},
  });
}

TEST(MathEngine, FractionsDecimalsMixedNumbers) {
  Check({
      {"\\frac{1}{2}", "1/2", true},
      {"\\frac{1}{2}", "0.5", true},
      {"\\frac{1}{2}", ".5", true},
      {"\\frac{1}{2}", "\\frac12", true},
      {"\\frac{1}{2}", "\\dfrac{2}{4}", true},
      {"\\frac{1}{2}", "2^{-1}", true},
      {"\\frac{1}{2}", "\xc2\xbd", true},
      {"\\frac{1}{2}", "1 \\div 2", true},
      {"\\frac{1}{2}", "\\frac{1}{3}", false},
      {"\\frac{1}{2}", "2", false},
      {"\\frac{1}{2}", "12", false},
      {"\\frac{14}{3}", "\\frac{14}3", true},
      {"\\frac{1}{72}", "\\frac1{72}", true},
      {"-\\frac{1}{2}", "\\frac{-1}{2}", true},
      {"-\\frac{1}{2}", "\\frac{1}{-2}", true},
      {"\\frac{1}{3}", "0.333333", false},
      {"\\frac{1}{3}", "0.\\overline{3}", true},
      {"\\frac{1}{6}", "0.1\\overline{6}", true},
      {"0.75", "3/4", true},
      {"1\\frac{4}{5}", "\\frac{9}{5}", true},
      {"1\\frac{4}{5}", "1.8", true},
      {"\\frac{9}{5}", "1 4/5", true},
      {"1\\frac{4}{5}", "\\frac{4}{5}", false},
      {"-1\\frac{1}{2}", "-1.5", true},
      {"-1\\frac{1}{2}", "-0.5", false},
      {"1\xc2\xbd", "1.5", true},
      {"\\frac{1}{2^{99}}", "\\frac{1}{2^{98}}", false},
      {"0.1", "0.10000000000000000001", false},
      {"1.5\\times10^{3}", "1500", true},
      {"1.5e-3", "0.0015", true},
      {"3", "\\frac{9}{3}", true},
      {"\\frac{\\frac{1}{2}}{3}", "1/6", true},
      {"1/0", "1/0", true},
      {"5", "1/0", false},
      {"\\frac59", "\\frac59 \\approx 0.556", true},
      {"\\frac59", "0.556", false},
      {"7.78", "\\frac{70}{9} \\approx 7.78", true},
      {"7", "5 \\approx 7", false},
      {"x", "x \\approx 2", false},
      {"4.5", "4,5", true},
      {"1,2", "1.2", false},
      {"4.5", "4,6", false},
  });
}

TEST(MathEngine, RootsPowersLogarithms) {
  Check({
      {"\\sqrt{8}", "2\\sqrt{2}", true},
      {"2\\sqrt{2}", "2*sqrt(2)", true},
      {"2\\sqrt{2}", "2^{3/2}", true},
      {"2\\sqrt2",
       "2\xe2\x88\x9a"
       "2",
       true},
      {"\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}", true},
      {"\\sqrt{2}", "1.414", false},
      {"\\sqrt{2}", "1.41421356237309504880", false},
      {"\\sqrt{2}+\\sqrt{3}", "\\sqrt{5+2\\sqrt{6}}", true},
      {"1+\\sqrt{2}", "\\sqrt{3+2\\sqrt{2}}", true},
      {"1+\\sqrt{2}", "\\sqrt{3+2\\sqrt{3}}", false},
      {"\\sqrt[3]{16}", "2\\sqrt[3]{2}", true},
      {"\\sqrt[3]{-8}", "-2", true},
      {"\\sqrt{-4}", "2i", true},
      {"\\frac{1}{1+\\sqrt2}", "\\sqrt2-1", true},
      {"\\frac{\\sqrt{21}}{5}", "\\sqrt{\\frac{21}{25}}", true},
      {"11\\sqrt2", "11 \\sqrt{2}", true},
      {"\\sqrt{1/7}", "\\frac{\\sqrt7}{7}", true},
      {"\\log_2 8", "3", true},
      {"\\ln 8", "3\\ln 2", true},
      {"\\log_{3}{5}", "\\frac{\\ln 5}{\\ln 3}", true},
      {"\\log 100", "2", true},
      {"\\ln 2", "\\ln 3", false},
      {"ln\\sqrt{5}", "\\frac{1}{2}\\ln 5", true},
      {"\\ln(6\\pi)", "\\ln 2 + \\ln 3 + \\ln \\pi", true},
      {"e^2", "e^{2}", true},
      {"e^{2}", "e^{3}", false},
      {"e^{x+1}", "e \\cdot e^x", true},
      {"2^{x+3}", "8\\cdot 2^x", true},
      {"4^x", "2^{2x}", true},
      {"4^x", "2^x", false},
      {"1-\\frac1e", "1+\\frac1e", false},
      {"\\sqrt{x^2}", "x", false},
      {"\\sqrt{x^2}", "|x|", true},
      {"x\\sqrt{x}", "x^{3/2}", true},
      {"\\sin 30^\\circ", "\\frac12", true},
      {"\\cos\\frac{\\pi}{3}", "0.5", true},
      {"\\sin^2 x + \\cos^2 x", "1", true},
      {"\\sin 2x", "2\\sin x\\cos x", true},
      {"\\tan x", "\\cot x", false},
      {"\\arctan 1", "\\frac{\\pi}{4}", true},
      {"\\lfloor 3.7 \\rfloor", "3", true},
      {"|{-3}|", "3", true},
  });
}

TEST(MathEngine, PiComplexInfinity) {
  Check({
      {"7\\pi", "7*pi", true},
      {"7\\pi", "\\pi \\cdot 7", true},
      {"7\\pi", "7\xcf\x80", true},
      {"7\\pi", "7", false},
      {"7\\pi", "21.99", false},
      {"\\frac{\\pi}{2}", "pi/2", true},
      {"6-5i", "6 - 5 i", true},
      {"6-5i", "-5i+6", true},
      {"6-5i", "6+5i", false},
      {"-1", "i^2", true},
      {"\\frac{1}{1+i}", "\\frac{1-i}{2}", true},
      {"\\infty", "inf", true},
      {"\\infty", "\xe2\x88\x9e", true},
      {"-\\infty", "\\infty", false},
      {"5+0i", "5", true},
  });
}

TEST(MathEngine, UnitsCurrencyPercentDegrees) {
  Check({
      {"5\\text{ cm}", "5 cm", true},
      {"5\\text{ cm}", "5", true},
      {"5", "5 \\mathrm{cm}", true},
      {"5\\text{ cm}", "5\\text{ km}", false},
      {"5 cm", "5 centimeters", true},
      {"864 \\mbox{ inches}^2", "864 square inches", true},
      {"864 \\mbox{ inches}^2", "864 inches", false},
      {"10\\text{ m/s}", "10 m/s", true},
      {"$18", "18", true},
      {"18", "\\$18", true},
      {"18", "18 dollars", true},
      {"18",
       "\xe2\x82\xac"
       "18",
       true},
      {"\\$1,234.50", "1234.5", true},
      {"18", "-\\$18", false},
      {"28\\%", "28", true},
      {"28\\%", "28 percent", true},
      {"28%", "0.28", false},
      {"0.5", "50\\%", false},
      {"36^\\circ", "36", true},
      {"36^\\circ", "36 degrees", true},
      {"36^\\circ", "36\xc2\xb0", true},
      {"36^{\\circ}", "63^\\circ", false},
      {"4", "4t", false},
      {"5\\text{ m}", "5", true},
      {"18", "18 eggs", true},
      {"\\text{east}", "\\text{west}", false},
      {"4", "\\text{four}", false},
  });
  EXPECT_EQ(CompareAnswers("28\\%", "0.28", Percent::kFraction), Verdict::kEqual);
  EXPECT_EQ(CompareAnswers("28\\%", "28", Percent::kFraction), Verdict::kDifferent);
  EXPECT_EQ(CompareAnswers("28\\%", "28", Percent::kEither), Verdict::kEqual);
}

TEST(MathEngine, TuplesListsSets) {
  Check({
      {"(1,2)", "(1, 2)", true},
      {"(1,2)", "\\left(1,2\\right)", true},
      {"(1,2)", "(2,1)", false},
      {"(1,2)", "\\{1,2\\}", false},
      {"(1,2)", "[1,2]", false},
      {"(1,2)", "${1,2}$", true},
      {"(1,2)", "(x,y) = (1,2)", true},
      {"(1,2)", "(1,2,3)", false},
      {"1,-2", "-2, 1", true},
      {"1,-2", "\\{1,-2\\}", true},
      {"1,-2", "x = 1, x = -2", true},
      {"1,-2", "x=1 \\text{ or } x=-2", true},
      {"1,-2", "1", false},
      {"1,-2", "1,-2,3", false},
      {"3 \\pm 2\\sqrt2", "3+2\\sqrt2, 3-2\\sqrt2", true},
      {"3 \\pm 2\\sqrt2", "3+2\\sqrt2", false},
      {"\\pm 3", "-3, 3", true},
      {"x=\\pm 3", "x = 3 or x = -3", true},
      {"\\{1\\pm\\sqrt5,-2\\}", "-2, 1-\\sqrt5, 1+\\sqrt5", true},
      {"n=1, 2, 3", "1,2,3", true},
      {"AB=4,CD=5", "4, 5", true},
      {"AB=4,CD=5", "5, 4", false},
      {"p=5,q=2;p=7,q=2", "(5,2),(7,2)", true},
      {"p=5,q=2;p=7,q=2", "(5,2),(2,7)", false},
      {"(0;1),(2;3)", "(2,3),(0,1)", true},
      {"\\emptyset", "\\{\\}", true},
      {"\\{3\\}", "3", true},
      {"12:00", "12:00", true},
      {"3:4", "4:3", false},
      {"1 and 2", "1, 2", true},
      {"(1,2),(3,4)", "(3,4),(1,2)", true},
      {"\\langle 1,2\\rangle", "\\langle 1, 2 \\rangle", true},
      {"\\{1\\}\\cup\\{2,3\\}", "\\{1,2,3\\}", true},
      {"7\\frac12\\%", "7.5%", true},
      {"1,1,2", "1,2", false},
      {"1,2", "1,2,2", true},
  });
}

TEST(MathEngine, IntervalsInequalities) {
  Check({
      {"(3,4]", "[3,4]", false},
      {"(3,4]", "(3, 4]", true},
      {"x \\in [-2,7]", "[-2,7]", true},
      {"[-2,7]", "-2 \\le x \\le 7", true},
      {"-793 < a < 10", "(-793, 10)", true},
      {"(2,12) \\cup (12,102)", "(12,102) \xe2\x88\xaa (2,12)", true},
      {"(2,12) \\cup (12,102)", "(2,12)", false},
      {"x<3", "(-\\infty,3)", true},
      {"x \\leq 5", "5 \\geq x", true},
      {"x < 3", "x \\le 3", false},
      {"x < 3", "x > 3", false},
      {"x<-1 or x>2", "(-\\infty,-1)\\cup(2,\\infty)", true},
      {"2x<6", "x<3", true},
      {"-x<3", "x>-3", true},
      {"-x<3", "x<-3", false},
      {"(-\\infty,\\infty)", "\\mathbb{R}", true},
      {"x \\ne 2", "(-\\infty,2)\\cup(2,\\infty)", true},
      {"k \\ge 2", "k>=2", true},
      {"(2,\\infty)", "(2, infinity)", true},
      {"(1,2)", "1<x<2", true},
      {"(-\\infty,0)\\cup(0,\\infty)", "\\mathbb{R}\\setminus\\{0\\}", true},
      {"(-\\infty,0)\\cup(0,\\infty)", "\\mathbb{R}", false},
  });
}

TEST(MathEngine, EquationsPolynomialsRationalFunctions) {
  Check({
      {"y=-2x", "2x+y=0", true},
      {"y=-2x", "2y=-2x", false},
      {"y=-2x", "y=2x", false},
      {"5x-7y+11z+4=0", "-5x+7y-11z=4", true},
      {"x^2/4+y^2/3=1", "3x^2+4y^2=12", true},
      {"a^2+b=0", "0", false},
      {"x^2+2x+1", "(x+1)^2", true},
      {"x^2+2x+1", "(x-1)^2", false},
      {"x^2+2x+1", "f(x) = (x+1)^2", true},
      {"x^8+x^7+x^6+x^5+x^4+x^3+x^2+x+1", "(x^2+x+1)(x^6+x^3+1)", true},
      {"\\frac{x^2-1}{x-1}", "x+1", true},
      {"\\frac{1}{x}+\\frac{1}{y}", "\\frac{x+y}{xy}", true},
      {"\\frac{x+2}{7}", "\\frac{x}{7}+\\frac{2}{7}", true},
      {"2k", "2*k", true},
      {"x+1", "w+1", false},
      {"f(x)", "f(y)", false},
      {"(a+5)(b+2)", "(+5)(b+2)", false},
      {"xy^2", "x y^2", true},
      {"x_1+x_2", "x_2+x_1", true},
      {"x_1", "x_2", false},
      {"n!", "n!", true},
      {"x^2y", "x^{2}y", true},
      {"x = 2 + 3 = 5", "5", true},
      {"-2x+3", "3-2x", true},
      {"y = x^2", "x^2", false},
      {"(x-2)(x+2)(x^2+4)", "x^4-16", true},
      {"\\theta", "\\theta", true},
  });
}

TEST(MathEngine, MatricesBasesTextChoices) {
  Check({
      {"\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}", true},
      {"\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\left[\\begin{array}{cc}1 & 2 \\\\ 3 & 4\\end{array}\\right]",
       true},
      {"\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1&2\\end{pmatrix}", false},
      {"\\begin{pmatrix}1/2\\\\2\\end{pmatrix}", "\\begin{pmatrix}\\frac12\\\\2\\\\\\end{pmatrix}", true},
      {"\\begin{pmatrix}1&0\\\\0&1\\end{pmatrix}",
       "\\begin{pmatrix}1&0\\\\0&1\\end{pmatrix}\\begin{pmatrix}1&0\\\\0&1\\end{pmatrix}", true},
      {"52_8", "52_9", false},
      {"4210_{5}", "4210_5", true},
      {"4210_5", "4210", false},
      {"1000_2", "8", true},
      {"12_2", "12_2", true},
      {"2BC_{16}", "700", true},
      {"2BC_{16}", "2BC_16", true},
      {"2BC_{16}", "2BD_{16}", false},
      {"m\\angle B = 40^\\circ", "40^\\circ", true},
      {"x \\equiv 3 \\pmod 5", "x \\equiv 3 \\pmod 5", true},
      {"\\text{(B)}", "B", true},
      {"\\text{(B)}", "\\mathrm{B}", true},
      {"\\text{B}", "(B)", true},
      {"B", "C", false},
      {"B", "B, E", false},
      {"\\text{B}", "\\text{B or C}", false},
      {"\\text{Even}", "even", true},
      {"\\text{Even}", "odd", false},
      {"\\text{4:30 p.m.}", "4:30 P.M.", true},
      {"\\text{4:30 p.m.}", "3:30 p.m.", false},
      {"x+y", "X+Y", false},
      {"\\text{June 5}", "June 5", true},
      {"\\text{Monday}", "\\text{Tuesday}", false},
      {"d", "\\text{E}", false},
      {"\\text{e}", "e", true},
  });
}

TEST(MathEngine, FreeText) {
  Check({
      {"$9$", "Answer \\( 9 \\)", true},
      {"120", "Final Answer: The volume of $ABCD$ is 120. I hope it is correct.", true},
      {"$x<3$", "We find that $x \\lt 3$.", true},
      {"3", "Final Answer: Jane started 3 hours ago. I hope", true},
      {"7", "The answer is not 7", false},
      {"8", "answer: 7 or 8", false},
      {"4", "\\boxed{4} or \\boxed{5}", false},
      {"4", "so \\boxed{4}, that is \\boxed{4.0}", true},
      {"1,2", "\\boxed{1} and \\boxed{2}", true},
      {"4", "\\boxed{4} then \\boxed{5", false},
      {"18", "work 3+4\nA: 18", true},
      {"18", "#### 18.", true},
      {"work\n#### 18", "\\boxed{18}", true},
      {"the answer is \\boxed{7} because", "$7$", true},
      {"4", "<think>4</think> It is $5$", false},
      {"4", "<think>5</think> It is $4$", true},
      {"4", "<think>\\boxed{4}", false},
      {"\\frac{3}{8}", "the fraction is:\n\\[\n\\boxed{\\frac{3}{8}}\n\\]", true},
      {"73", "**73**", true},
      {"5", "The answer is $x = 5$.", true},
      {"2", "<answer>2</answer>", true},
      {"2", "<answer>The result is $2$</answer>", true},
      {"2", "<answer>1, 2, 3, 4</answer>", false},
  });
}

TEST(MathEngine, UnscorableGoldsAreSaidSo) {
  for (const char* gold : {"", "  ", "\\frac{1}{", "\\boxed{", "{{{", "\\begin{pmatrix}1"}) {
    EXPECT_FALSE(CheckGold(gold).ok()) << gold;
    EXPECT_EQ(math::Check(gold, "5", {}).status, CheckResult::Status::kUnscorable) << gold;
  }
  EXPECT_TRUE(CheckGold("\\text{Monday}").ok());
  EXPECT_TRUE(CheckGold("42").ok());
}

TEST(MathEngine, HostileTextIsBoundedAndNeverEqual) {
  const auto repeat = [](const std::string& unit, size_t n) {
    std::string text;
    for (size_t i = 0; i < n; ++i) text += unit;
    return text;
  };
  const std::string texts[] = {
      "9**9**9**9",
      "9^9^9^9",
      "5^(5^(5^(5^5)))",
      "2^{2^{2^{2^{2^{2}}}}}",
      "(x+y+z+w)^{1000}",
      "(1+x)^{64}(1+y)^{64}(1+z)^{64}",
      repeat("{", 100000),
      repeat("(", 100000),
      repeat("9", 1000000),
      repeat("\\", 1000000),
      repeat("<", 1000000),
      repeat("$5$ and ", 125000),
      repeat("a", 1000000),
      repeat("\"", 1000000),
      repeat("\\frac{", 10000),
      repeat("\\frac{1}{1+", 3000),
      repeat("\\sqrt{", 5000),
      repeat("\\left", 20000),
      repeat("-", 100000),
      repeat("x!", 2000),
      "1000000!",
      "((((100!)!)!)!)",
      "\\frac{1}{" + repeat("7", 3900) + "}",
      repeat("1/3+", 1000) + "1",
      repeat("\\sqrt{2}+", 400) + "1",
      repeat("a+", 300) + "b",
      repeat("(a+b)", 300),
      repeat("1,", 5000),
      repeat("\\pm 1", 500),
      std::string(100000, '\0'),
      repeat("\xff\xfe", 50000),
      "\\boxed{" + repeat("9", 4000) + "}",
      repeat("\\boxed{", 50000),
      repeat("$", 100000),
      repeat("\xe2\x81\xbf", 3000),
      repeat("\\text{", 3000),
      "1e4000",
      "1e99999",
      "10^{4000}",
      "\\binom{1000}{500}^{9}",
      "\\sqrt[100]{" + repeat("7", 3000) + "}",
      repeat("e^{", 60) + "x" + repeat("}", 60),
      repeat("sin(", 60) + "1" + repeat(")", 60),
      "0^0",
      "0^{-1}",
      "1/0",
      "\\log 0",
      "x" + repeat("\xc2\xb2", 2000),
      "\\begin{pmatrix}" + repeat("1&", 2000) + "\\end{pmatrix}",
      "|" + repeat("|x|", 1000),
      repeat("\\sqrt{\\sqrt{2}+", 50) + "1" + repeat("}", 50),
      repeat("(1+\\sqrt{2}+\\sqrt{3}+\\sqrt{5}+\\sqrt{7})", 40),
  };
  for (const std::string& text : texts) {
    for (const char* gold : {"4", "x+1", "\\sqrt{\\pi+1}", "\\sin(1)"}) {
      CheckResult result;
      const double ms = 1e3 * LeastCpuSeconds([&] { result = math::Check(gold, text, {}); });
      EXPECT_EQ(result.status, CheckResult::Status::kWrong) << text.substr(0, 60);
      EXPECT_LT(ms, 10) << gold << " | " << text.substr(0, 60);
    }
  }
}

TEST(MathEngine, AgreesWithTheSharedCases) {
  const std::pair<const char*, double> files[] = {{"math_equivalence.jsonl", 0.99},
                                                  {"math_strings.jsonl", 0.97},
                                                  {"math_responses.jsonl", 0.995},
                                                  {"gsm8k_responses.jsonl", 0.995}};
  for (const auto& [file, bar] : files) {
    const std::vector<json::Json> cases = SharedCases(file);
    if (cases.empty()) GTEST_SKIP() << file << " is not there";
    int agree = 0, false_positives = 0;
    for (const json::Json& c : cases) {
      const std::string text = (c.contains("prediction") ? c["prediction"] : c["response"]).get<std::string>();
      const bool right = math::Check(c["gold"].get<std::string>(), text, {}).status == CheckResult::Status::kRight;
      agree += right == c["expect"].get<bool>();
      false_positives += right && !c["expect"].get<bool>();
    }
    EXPECT_GE(agree, bar * static_cast<double>(cases.size())) << file;
    EXPECT_EQ(false_positives, 0) << file;
  }
}

}  // namespace
}  // namespace grouper::math
