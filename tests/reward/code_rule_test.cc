// The code rule's judgements: which block is the program, what a test is, what counts as passed.
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "reward/code/code_block.h"
#include "reward/code/code_tests.h"
#include "reward/code/sandbox.h"
#include "tests/reward/rule_world.h"

namespace grouper {
namespace {

using code::Language;

TEST(CodeBlock, IsTheLastFencedProgram) {
  struct Case {
    const char* text;
    const char* block;  // null: none
  };
  for (const Case& c : {
           Case{"```python\nprint(1)\n```", "print(1)\n"},
           Case{"a\n```py\nx\n```\nb\n```python\ny\n```\nc", "y\n"},
           Case{"```\nx\n```", "x\n"},
           Case{"```python\nx\n```\nIt prints:\n```\n3\n```", "x\n"},
           Case{"```python\nx\n```\n```text\n3\n```", "x\n"},
           Case{"```\nx\n```\n```\ny\n```", "y\n"},
           Case{"````python\nx\n```\ny\n````", "x\n```\ny\n"},
           Case{"~~~cpp\nx\n~~~", "x\n"},
           Case{"  ```python\n  x\n  ```", "  x\n"},
           Case{"```python\r\nx\r\n```\r\n", "x\r\n"},
           Case{"```python title=\"a.py\"\nx\n```", "x\n"},
           Case{"<think>\n```python\nx\n```\n</think>\n```python\ny\n```", "y\n"},
           Case{"<think>\n```python\nx\n```\n</think>\nno", nullptr},
           Case{"```python\nx", nullptr},
           Case{"```python\nx\n```\nbetter:\n```python\ny", nullptr},
           Case{"```python x```", nullptr},
           Case{"print(1)", nullptr},
           Case{"```json\n{}\n```", nullptr},
           Case{"", nullptr},
       }) {
    const code::CodeBlock block = code::LastCodeBlock(c.text);
    EXPECT_EQ(block.found, c.block != nullptr) << c.text;
    if (c.block != nullptr) {
      EXPECT_EQ(block.text, c.block) << c.text;
    }
  }
}

TEST(CodeBlock, LanguagesByTheirNames) {
  for (const char* python : {"python", "py", "Python3", "python {linenos}"}) EXPECT_EQ(code::LanguageOf(python), Language::kPython) << python;
  for (const char* cpp : {"cpp", "C++", "cc", "cxx"}) EXPECT_EQ(code::LanguageOf(cpp), Language::kCpp) << cpp;
  for (const char* other : {"", "rust", "json", "pythonic"}) EXPECT_EQ(code::LanguageOf(other), Language::kUnknown) << other;
}

TEST(CodeTests, OutputsAreComparedLineByLine) {
  struct Case {
    const char *expected, *output;
    bool same;
  };
  for (const Case& c : {
           Case{"5\n", "5", true}, Case{"5", "5\n\n\n", true}, Case{"1 2 \n3", "1 2\n3\n", true}, Case{"a\r\nb\r\n", "a\nb\n", true}, Case{"", "\n", true},
           Case{"5", "6", false}, Case{"5", "", false}, Case{"1\n2", "1", false}, Case{"2", "1\n2", false}, Case{"1\n2", "1\n2\n3", false},
           Case{"1 2", "1  2", false}, Case{"a b", "ab", false}, Case{"1\n\n2", "1\n2", false}, Case{" 1", "1", false}, Case{"5", "5.0", false},
       }) {
    EXPECT_EQ(code::SameOutput(c.expected, c.output), c.same) << c.expected << " / " << c.output;
  }
}

TEST(CodeTests, ReadsTheFieldsForms) {
  struct Case {
    const char* row;
    size_t count;       // 0: refused
    const char* error;
  };
  for (const Case& c : {
           Case{R"({"tests": [{"input": "1", "output": "2"}]})", 1, ""},
           Case{R"({"tests": [{"input": "1", "expected_output": "2"}, {"output": "3"}]})", 2, ""},
           Case{R"({"tests": {"inputs": ["1", "2"], "outputs": ["1", "2"]}})", 2, ""},
           Case{R"({"tests": {"inputs": [["1", "2"]], "outputs": [["3"]]}})", 1, ""},
           Case{R"({"tests": "[{\"input\": \"1\", \"output\": \"2\"}]"})", 1, ""},
           Case{R"({"tests": ["assert f(1) == 2", "assert f(2) == 3"]})", 2, ""},
           Case{R"({"tests": "assert f(1) == 2"})", 1, ""},
           Case{R"({})", 0, "no column \"tests\""},
           Case{R"({"tests": []})", 0, "no tests"},
           Case{R"({"tests": [{}]})", 0, "test 0: neither"},
           Case{R"({"tests": [{"input": "1", "output": {}}]})", 0, "test 0: \"output\": is object"},
           Case{R"({"tests": ["assert 1", {"input": "1"}]})", 0, "test 1: assertions and stdin/stdout pairs are mixed"},
           Case{R"({"tests": {"inputs": ["1"], "outputs": []}})", 0, "two lists of one length"},
           Case{R"({"tests": 7})", 0, "expected a list of tests"},
       }) {
    const auto tests = code::ReadTests(*json::Parse(c.row), "tests");
    EXPECT_EQ(tests.ok() ? tests->size() : 0, c.count) << c.row << tests.status();
    if (c.count == 0) {
      EXPECT_TRUE(absl::StrContains(tests.status().message(), c.error)) << tests.status();
    }
  }
}

TEST(CodeTests, SplitsCppAssertions) {
  struct Case {
    const char *assertion, *left, *right;  // null: refused
  };
  for (const Case& c : {
           Case{"assert(add(2, 3) == 5);", "add(2, 3)", "5"},
           Case{"add(2, 3) == 5", "add(2, 3)", "5"},
           Case{"assert(f({1, 2}) == std::vector<int>{2, 1});", "f({1, 2})", "std::vector<int>{2, 1}"},
           Case{"assert(f(\"a==b\") == \"c&&d\");", "f(\"a==b\")", "\"c&&d\""},
           Case{"assert(prime(7));", "prime(7)", "true"},
           Case{"assert(!prime(8));", "prime(8)", "false"},
           Case{"assert(f(a == b) == 1);", "f(a == b)", "1"},
           Case{"assert(f(1) == 1 && f(2) == 2);", nullptr, nullptr},
           Case{"assert(f(1) == 1 || true);", nullptr, nullptr},
           Case{"assert(f(1) != 1);", nullptr, nullptr},
           Case{"assert(f(1) < 2);", nullptr, nullptr},
           Case{"assert(f(1) == g(1) == 1);", nullptr, nullptr},
           Case{"int x = f(1); assert(x == 1);", nullptr, nullptr},
           Case{"assert(f(1) == 1", nullptr, nullptr},
           Case{"", nullptr, nullptr},
       }) {
    const code::Halves halves = code::SplitAssertion(c.assertion);
    EXPECT_EQ(halves.ok, c.left != nullptr) << c.assertion;
    if (c.left == nullptr || !halves.ok) continue;
    EXPECT_EQ(halves.left, c.left);
    EXPECT_EQ(halves.right, c.right);
  }
}

class CodeRule : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto sandbox = code::Sandbox::Create();
    if (!sandbox.ok()) GTEST_SKIP() << sandbox.status();
  }
  static std::string Python(const std::string& source) { return absl::StrCat("Here it is.\n```python\n", source, "\n```\nDone."); }
  static std::string Cpp(const std::string& source) { return absl::StrCat("```cpp\n", source, "\n```"); }
  static std::string Assertions(const std::vector<std::string>& assertions) { return json::Dump(json::Json{{"tests", assertions}}); }
};

const char kSum[] = R"({"tests": [{"input": "2 3\n", "output": "5\n"}, {"input": "10 -4\n", "output": "6"}]})";

TEST_F(CodeRule, RunsProgramsAgainstPairs) {
  RuleWorld all("rules { code {} }"), share("rules { code { score: 'share' } }");
  const std::string right = Python("a, b = map(int, input().split())\nprint(a + b)");
  EXPECT_EQ(all.Score(right, kSum), "1") << all.last().reason();
  EXPECT_EQ(all.last().reason(), "2 of 2 passed: passed, passed");
  EXPECT_EQ(share.Score(right, kSum), "1");
  const std::string half = Python("print(5)");
  EXPECT_EQ(all.Score(half, kSum), "0");
  EXPECT_EQ(share.Score(half, kSum), "0.5");
  EXPECT_EQ(share.last().reason(), "1 of 2 passed: passed, wrong; test 2: printed \"5\n\", expected \"6\"");
  EXPECT_EQ(all.Score(Cpp("#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }"), kSum), "1") << all.last().reason();
  EXPECT_EQ(all.Score(Cpp("int main() { return oops; }"), kSum), "0");
  EXPECT_TRUE(absl::StrContains(all.last().reason(), "compile error")) << all.last().reason();
  EXPECT_EQ(share.Score(Python("print(1"), kSum), "0");
  EXPECT_TRUE(absl::StrContains(share.last().reason(), "compile error, compile error")) << share.last().reason();
  EXPECT_EQ(all.Score(Python("raise ValueError('no')"), kSum), "0");
  EXPECT_TRUE(absl::StrContains(all.last().reason(), "run-time error; test 1: exit status 1: ValueError: no")) << all.last().reason();
  EXPECT_EQ(all.Score("no code", kSum), "0");
  EXPECT_EQ(all.Score(right, "{}"), "not_applicable");
  EXPECT_FALSE(all.rules().CheckRow(*json::Parse("{}")).ok());
  EXPECT_TRUE(all.rules().CheckRow(*json::Parse(kSum)).ok());
}

TEST_F(CodeRule, TakesTheLanguageFromFenceRowAndRecipe) {
  RuleWorld any("rules { code {} }"), python("rules { code { language: 'python' } }");
  const std::string row = R"({"language": "cpp", "tests": [{"output": "7"}]})";
  EXPECT_EQ(any.Score("```\n#include <cstdio>\nint main() { puts(\"7\"); }\n```", row), "1") << any.last().reason();
  EXPECT_EQ(any.Score("```\nprint(7)\n```", R"({"tests": [{"output": "7"}]})"), "1") << any.last().reason();
  EXPECT_EQ(python.Score(Cpp("int main() {}"), R"({"tests": [{"output": ""}]})"), "0");
}

TEST_F(CodeRule, RunsPythonAssertionsApartFromTheProgram) {
  RuleWorld all("rules { code {} }"), share("rules { code { score: 'share' } }");
  const std::string add = Python("import math\ndef add(a, b):\n    return a + b");
  struct Case {
    const char* assertion;
    const char* source;
    const char* score;
  };
  for (const Case& c : {
           Case{"assert add(2, 3) == 5", "def add(a, b): return a + b", "1"},
           Case{"assert add(2, 3) == 6", "def add(a, b): return a + b", "0"},
           Case{"assert f(3) == [(1, 'a'), {2}, {'k': 1.5}, None, 10**30, b'x']", "def f(n): return [(1, 'a'), {2}, {'k': 1.5}, None, 10**30, b'x']", "1"},
           Case{"assert set(f([1, 1, 2])) == {1, 2}", "def f(x): return x", "1"},
           Case{"import math\nassert math.isclose(f(), 0.3)", "def f(): return 0.1 + 0.2", "1"},
           Case{"assert math.isclose(f(), 0.3)", "import math\ndef f(): return 0.1 + 0.2", "1"},
           Case{"def check(c):\n    assert c(2) == 4\n    assert c(3) == 9\ncheck(square)", "def square(x): return x * x", "1"},
           Case{"x = [3, 1, 2]\nsort_it(x)\nassert x == [1, 2, 3]", "def sort_it(x): x.sort()", "1"},
           Case{"s = Stack()\ns.push(4)\nassert s.pop() == 4 and len(s) == 0",
                "class Stack:\n    def __init__(self): self.x = []\n    def push(self, v): self.x.append(v)\n    def pop(self): return self.x.pop()\n    def __len__(self): return len(self.x)", "1"},
           Case{"try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass", "def f(x): raise ValueError('negative')", "1"},
           Case{"try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass", "def f(x): return 0", "0"},
           Case{"assert f(2) is True", "def f(x): return True", "1"},
           Case{"assert f(2) is True", "def f(x): return 1", "0"},
           Case{"assert list(f(3)) == [0, 1, 2]", "def f(n):\n    for i in range(n): yield i", "1"},
           Case{"assert f(1) == 1", "def g(x): return 1", "0"},
           Case{"assert f(1) == 1", "def f(x: return 1", "0"},
           // --- attempts to forge
           Case{"assert f(1) == 1", "class E:\n    def __eq__(s, o): return True\ndef f(x): return E()", "0"},
           Case{"assert f(1) == 1", "class E(int):\n    def __eq__(s, o): return True\ndef f(x): return E(7)", "0"},
           Case{"assert abs(f(1) - 4) < 1e-9", "class E:\n    def __sub__(s, o): return s\n    def __abs__(s): return s\n    def __lt__(s, o): return True\ndef f(x): return E()", "0"},
           Case{"assert f(1) == 1", "import os\nos._exit(0)", "0"},
           Case{"assert f(1) == 1", "import sys\nsys.exit(0)", "0"},
           Case{"assert f(1) == 1", "import os\ndef f(x): os._exit(0)", "0"},
           Case{"assert f(1) == 1", "def f(x): raise SystemExit(0)", "0"},
           Case{"assert f(1) == 1", "import atexit, os\natexit.register(lambda: os.write(2, b'\\x010\\n'))\ndef f(x): return 0", "0"},
           Case{"assert f(1) == 1", "import os\nos.write(2, b'\\x010000\\n')\ndef f(x): return 0", "0"},
           Case{"assert f(1) == 1", "import os\nfor d in range(3, 10):\n    try: os.write(d, b'{\"v\": 7, \"m\": []}\\n' * 9)\n    except OSError: pass\ndef f(x): return 0", "0"},
           Case{"assert f(1) == 1", "import builtins\nbuiltins.AssertionError = KeyError\nbuiltins.all = lambda x: True\ndef f(x): return 0", "0"},
           Case{"assert f(1) == 1", "import os\nfor d in range(3, 10):\n    try: os.write(d, b'[' * 100000 + b'\\n')\n    except OSError: pass\ndef f(x): return 1", "0"},
           Case{"assert f(1) == 1", "def f(x):\n    while True: pass", "0"},
       }) {
    EXPECT_EQ(all.Score(Python(c.source), Assertions({c.assertion})), c.score) << c.assertion << "\n" << c.source << "\n" << all.last().reason();
  }
  EXPECT_EQ(share.Score(add, Assertions({"assert add(1, 1) == 2", "assert add(1, 1) == 3", "assert add(0, 0) == 0", "assert sub(1, 1) == 0"})), "0.5");
  EXPECT_EQ(share.last().reason(), "2 of 4 passed: passed, wrong, passed, run-time error; test 2: AssertionError: ");
  EXPECT_EQ(share.Score(add, Assertions({"assert add(1, 1) =="})), "error");  // the row's fault, not the program's
}

TEST_F(CodeRule, ComparesCppAssertionsByValue) {
  RuleWorld share("rules { code { score: 'share' } }");
  const std::string source = "#include <string>\n#include <vector>\nusing namespace std;\n"
                             "int add(int a, int b) { return a + b; }\nbool even(int x) { return x % 2 == 0; }\n"
                             "vector<string> twice(string s) { return {s, s}; }\ndouble half(int x) { return x / 2.0; }\nint main() { return 0; }";
  EXPECT_EQ(share.Score(Cpp(source), Assertions({"assert(add(2, 3) == 5);", "assert(even(4));", "assert(!even(3));", "assert(half(3) == 1.5);",
                                                 "assert(twice(\"a\") == vector<string>({\"a\", \"a\"}));"})), "1") << share.last().reason();
  EXPECT_EQ(share.Score(Cpp(source), Assertions({"assert(add(2, 3) == 6);", "assert(even(3));"})), "0") << share.last().reason();
  // Ends before it is asked, prints what it likes, or makes == true: nothing is earned.
  EXPECT_EQ(share.Score(Cpp("#include <cstdlib>\nint add(int, int) { exit(0); }"), Assertions({"assert(add(2, 3) == 5);"})), "0");
  EXPECT_EQ(share.Score(Cpp("struct E { template <class T> bool operator==(const T&) const { return true; } };\nE add(int, int) { return {}; }"),
                        Assertions({"assert(add(2, 3) == 5);"})), "0");
  EXPECT_EQ(share.Score(Cpp(source), Assertions({"assert(add(1, 1) == 2 && true);"})), "error");
}

TEST_F(CodeRule, ACheckerDecides) {
  RuleWorld world("rules { code {} }");
  // Any two numbers whose sum is the input.
  const char checker[] =
      "import sys\ninput, output, expected = (open(p).read() for p in sys.argv[1:4])\n"
      "try: a, b = map(int, output.split())\nexcept ValueError: sys.exit(2)\nsys.exit(0 if a + b == int(input) else 1)\n";
  const auto row = [&](const std::string& source) { return json::Dump(json::Json{{"tests", {{{"input", "7"}}}}, {"checker", source}}); };
  EXPECT_EQ(world.Score(Python("n = int(input())\nprint(3, n - 3)"), row(checker)), "1") << world.last().reason();
  EXPECT_EQ(world.Score(Python("print(1, 1)"), row(checker)), "0");
  EXPECT_EQ(world.Score(Python("print('x')"), row(checker)), "0");
  EXPECT_EQ(world.Score(Python("print(1, 6)"), row("import sys\nraise ValueError('broken checker')\n")), "error");  // a crash is no verdict
  EXPECT_EQ(world.Score(Python("print(1, 6)"), row("import os\nos.abort()\n")), "error");
  EXPECT_EQ(world.Score(Python("print(7)"), R"({"tests": [{"input": "7"}]})"), "error");  // nothing to compare with
}

TEST_F(CodeRule, FieldsAreChecked) {
  for (const char* bad : {"language: 'rust'", "score: 'some'", "cpu_seconds: -1", "memory_mb: -5", "checker: 'absent.py'", "parallel: 99999"}) {
    EXPECT_FALSE(MakeRules(absl::StrCat("rules { code { ", bad, " } }")).ok()) << bad;
  }
}

TEST_F(CodeRule, ManyCompletionsAtOnceAreJudgedEachByItself) {
  RuleWorld world("rules { code { parallel: 4 } }");
  v1::ScoreRequest request;
  v1::ScoreGroup* group = request.add_groups();
  group->set_row_json(R"({"tests": [{"output": "7"}]})");
  for (int i = 0; i < 24; ++i) group->add_completions()->set_text(Python(i % 3 == 0 ? "print(7)" : i % 3 == 1 ? "print(8)" : "import os\nos.abort()"));
  const auto response = world.rules().Score(request, nullptr);
  ASSERT_TRUE(response.ok());
  for (int i = 0; i < 24; ++i) EXPECT_EQ(response->groups(0).completions(i).reward(), i % 3 == 0) << response->groups(0).completions(i).rules(0).reason();
}

}  // namespace
}  // namespace grouper
