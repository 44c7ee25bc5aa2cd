// A rule in a shared library.
//   c++ -shared -fPIC -O2 -I reward -o libshort_answer.so recipes/rules/examples/short_answer.cc
//   rules { name: "short" library { path: "libshort_answer.so" function: "short_answer" } }
#include "rule_plugin.h"

GROUPER_RULE(short_answer) {
  if (in->completion_size == 0) return grouper_not_applicable(out, "empty");
  grouper_score(out, in->completion_size < 200 ? 1.0 : 0.0, "length");
}
