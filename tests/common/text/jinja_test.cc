#include "common/text/jinja.h"

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace grouper {
namespace {

absl::StatusOr<std::string> Render(absl::string_view source, const std::vector<ChatMessage>& messages = {{"user", "Hi"}},
                                   bool add_generation_prompt = true) {
  const auto parsed = JinjaTemplate::Parse(source);
  if (!parsed.ok()) return parsed.status();
  TemplateTokens tokens;
  tokens.bos_token = "<BOS>";
  tokens.eos_token = "<EOS>";
  return (*parsed)->RenderChat(messages, add_generation_prompt, tokens);
}

TEST(JinjaTest, ChatTemplatesRenderAsTransformersRendersThem) {
  const auto text = DefaultFileSystem().ReadFile(std::string(GROUPER_SOURCE_DIR) + "/tests/common/text/golden_chat_templates.json", 1 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  const auto golden = json::Parse(*text);
  ASSERT_TRUE(golden.ok()) << golden.status();
  for (const json::Json& row : (*golden)["templates"]) {
    size_t i = 0;
    for (const json::Json& turns : (*golden)["conversations"]) {
      std::vector<ChatMessage> messages;
      for (const json::Json& turn : turns) messages.push_back({turn[0], turn[1]});
      for (const bool generate : {true, false}) {
        const json::Json& expected = row["results"][i++];
        const auto rendered = Render(row["template"].get<std::string>(), messages, generate);
        EXPECT_EQ(rendered.ok(), !expected.is_null()) << row["name"] << " " << turns << rendered.status();
        if (rendered.ok() && !expected.is_null()) {
          EXPECT_EQ(*rendered, expected.get<std::string>()) << row["name"] << " " << turns;
        }
      }
    }
  }
}

TEST(JinjaTest, ExpressionsMeanWhatTheyMeanInJinja) {
  const std::pair<const char*, const char*> rows[] = {  // seen in jinja2 3.1.6
      {"{{ 1 + 2 * 3 - 1 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 5 }} {{ 1.5 + 1 }}", "6 3 -4 2 3.5 32 2.5"},
      {"{{ 'a' ~ 1 ~ none ~ true }}", "a1NoneTrue"},
      {"{{ [1, 'two', none, true, 2.0, {'k': 'v'}] }}", "[1, 'two', None, True, 2.0, {'k': 'v'}]"},
      {"{{ {'a': [1,2], 'b': {'c': \"d'e\"}} | tojson }}", "{\"a\": [1, 2], \"b\": {\"c\": \"d'e\"}}"},
      {"{{ {'a': [1,{}], 'b': []} | tojson(indent=2) }}", "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}"},
      {"{{ 'Hello World' | upper }} {{ 'hello wORLD' | title }} {{ 'hELLO' | capitalize }}", "HELLO WORLD Hello World Hello"},
      {"{{ 'a,b,c'.split(',') }} {{ 'a  b c'.split() }} {{ 'a,b,c'.split(',', 1) }}", "['a', 'b', 'c'] ['a', 'b', 'c'] ['a', 'b,c']"},
      {"{{ nothing }}|{{ nothing is defined }} {{ nothing | default('d') }} {{ '' | default('e', true) }}", "|False d e"},
      {"{{ 'yes' if messages else 'no' }} {{ 'nope' if false }}", "yes "},
      {"{{ 1 in [1,5] }} {{ 1 not in [1,5] }} {{ 'a' in 'abc' }} {{ not 1 == 2 }}", "True False True True"},
      {"{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}", "a=1;b=2;"},
      {"{% for c in 'a\u00f1' %}[{{ c }}]{% endfor %}{% for i in range(1, 10, 3) %}{{ i }}{% endfor %}", "[a][\u00f1]147"},
      {"{% for x in [1,2,3,4] if x != 2 %}{{ loop.index }}/{{ loop.length }} {% if x == 3 %}{% break %}{% endif %}{% endfor %}", "1/3 2/3 "},
      {"{% for x in [] %}{% else %}none{% endfor %}", "none"},
      {"{% set x = 0 %}{% for a in [1,2] %}{% set x = a %}{% endfor %}{{ x }}", "0"},
      {"{% set ns = namespace(x=0) %}{% for a in [1,2] %}{% set ns.x = ns.x + a %}{% endfor %}{{ ns.x }}", "3"},
      {"{% set b %}\ncaptured {{ 1 }}\n{% endset %}[{{ b }}]", "[captured 1\n]"},
      {"{{ 'tab\\tnl\\\\n \\x41 \\u00e9 \\q' }}", "tab\tnl\\n A \u00e9 \\q"},
      {"{{ 'abcdef'[1:4] }} {{ 'abc'[::-1] }} {{ [1,2,3][-1] }} {{ 'abc'[9] }}", "bcd cba 3 "},
      {"{{ messages | map(attribute='role') | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "user 1"},
      {"{{ 'x' is string }} {{ {} is mapping }} {{ 1 is number }} {{ true is boolean }} {{ none is none }} {{ 3 is odd }}", "True True True True True True"},
      {"{% generation %}x{% endgeneration %}", "x"},
      {"{% macro f(a, b='x') %}[{{ a }}{{ b }}]{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}", "[1x][12][43]"},
      {"{% macro f(a, b=a) %}{{ b is defined }}{% endmacro %}{{ f(1) }}{{ f() }}", "TrueFalse"},
      {"{% set g = 1 %}{% macro f() %}{{ g }}{{ x is defined }}{{ loop is defined }}{% endmacro %}{% for x in [7] %}{{ f() }}{% endfor %}", "1FalseFalse"},
      {"{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) | length }}{{ f(2) | upper }}", "4210"},
      {"{% macro f() %}{% set z = 5 %}{{ z }}{% endmacro %}{{ f() }}{{ z is defined }}", "5False"},
      {"{% macro f(a) %}{% for i in a %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}{% endmacro %}{% for j in [0, 1] %}{{ f([j, 2, 3]) }}{% endfor %}", "01"},
  };
  for (const auto& [source, expected] : rows) {
    const auto rendered = Render(source);
    ASSERT_TRUE(rendered.ok()) << source << ": " << rendered.status();
    EXPECT_EQ(*rendered, expected) << source;
  }
}

TEST(JinjaTest, WhiteSpaceFollowsTrimBlocksAndLstripBlocks) {
  const std::pair<const char*, const char*> rows[] = {
      {"a\n{% if true %}\nb\n{% endif %}\nc", "a\nb\nc"},
      {"a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc"},
      {"a  {%- if true -%}  b  {%- endif -%}  c", "abc"},
      {"  {%+ if true %}x{% endif +%}\ny", "  x\ny"},
      {"a {# comment #}\nb", "a b"},
      {"a\n  {#- comment -#}  \n b", "ab"},
      {"{{ 1 }}\n{{ 2 }}\n\n", "1\n2\n"},
      {"  {{ 1 }}", "  1"},
      {"a\r\nb\rc", "a\nb\nc"},
  };
  for (const auto& [source, expected] : rows) EXPECT_EQ(Render(source).value_or("error"), expected) << source;
}

TEST(JinjaTest, WhatIsOutsideTheSubsetIsAnErrorThatShowsItAndItsLine) {
  const std::pair<const char*, const char*> rows[] = {
      {"\n\n{% call f() %}{% endcall %}", "line 3: {% call %} is not supported"},
      {"{% macro f(a=1, b) %}{% endmacro %}", "a parameter without a default"},
      {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "f(): 2 arguments, expected at most 1"},
      {"{% macro f(a) %}{% endmacro %}{{ f(1, a=2) }}", "f(): unexpected argument \"a\""},
      {"{% for i in [1] %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}", "{% break %} outside a loop"},
      {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "macros call each other deeper than 16"},
      {"{% include 'x' %}", "{% include %} is not supported"},
      {"{{ x | nosuch }}", "filter \"nosuch\" is not supported"},
      {"{{ 1 is nosuch }}", "test \"nosuch\" is not supported"},
      {"{{ strftime_now('%d') }}", "\"strftime_now\" is undefined"},
      {"{{ nothing.x }}", "\"nothing\" is undefined"},
      {"{{ 'a' + 1 }}", "\"+\" of a string and an integer"},
      {"{{ raise_exception('no tools') }}", "no tools"},
      {"{% if true %}", "without {% endif %}"},
      {"{% endif %}", "unexpected {% endif %}"},
      {"{{ 'open", "a string that never ends"},
      {"{{ 1", "never ends with }}"},
      {"{# open", "a comment that never ends"},
      {"{{ 1 + }}", "expected an expression"},
      {"{{ a b }}", "expected }}"},
      {"{{ 1 // 0 }}", "division by zero"},
      {"{{ 9223372036854775807 }}", "18 digits"},
      {"{{ 999999999999999999 * 999 }}", "integer overflow"},
      {"{% break %}", "outside a loop"},
      {"{% set a.b = 1 %}", "is not a namespace"},
      {"{{ ) }}", "unexpected \")\""},
      {"{{ ? }}", "unexpected character"},
      {"{% for a, b in [[1]] %}{% endfor %}", "1 values for 2 names"},
  };
  for (const auto& [source, error] : rows) {
    const auto rendered = Render(source);
    EXPECT_FALSE(rendered.ok()) << source;
    EXPECT_THAT(std::string(rendered.status().message()), testing::AllOf(testing::HasSubstr(error), testing::StartsWith("line "))) << source;
  }
}

TEST(JinjaTest, HostileTemplatesEndWithAnError) {
  std::string deep, operators, elifs;
  for (int i = 0; i < 5000; ++i) deep += "{% if 1 %}";
  for (int i = 0; i < 5000; ++i) operators += "+1";
  for (int i = 0; i < 5000; ++i) elifs += "{% elif 0 %}";
  const std::string rows[] = {
      deep,
      "{{ " + std::string(100'000, '(') + "1" + std::string(100'000, ')') + " }}",
      "{{ " + std::string(50'000, '-') + "1 }}",
      "{{ 1" + operators + " }}",
      "{% if 0 %}" + elifs + "{% endif %}",
      std::string(300'000, 'x'),
      "\xFF",
      "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
      "{% set ns = namespace(s='x') %}{% for a in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
      "{{ 'x' * 999999999999 }}",
      "{% set ns = namespace(l=[]) %}{% for a in range(90000) %}{% set ns.l = [ns.l] %}{% endfor %}",
      "{% set ns = namespace() %}{% set ns.me = [ns] %}{{ ns.me | tojson }}{{ 1 // 0 }}",
      "{% macro f() %}" + std::string(40 * 10, ' ') + "{{ f() ~ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(n) %}{% for i in range(n) %}{% for j in range(n) %}{{ f(n) }}{% endfor %}{% endfor %}{% endmacro %}{{ f(9) }}",
      "{% macro f(n) %}{% if n < 14 %}{{ f(n + 1) }}{{ f(n + 1) }}{{ f(n + 1) }}{% endif %}{% endmacro %}{{ f(0) }}",
      "{{ range(999999999999) }}",
      "{{ 2 ** 999999999999 }}",
      "{% for a in range(90000) %}{{ messages * 2 }}{% endfor %}",
  };
  for (const std::string& source : rows) EXPECT_FALSE(Render(source).ok()) << source.substr(0, 80);
}

}  // namespace
}  // namespace grouper
