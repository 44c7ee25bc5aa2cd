// A rule library for tests: the completion says how to misbehave.
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "reward/rule_plugin.h"

GROUPER_RULE(misbehave) {
  const std::string text(in->completion, in->completion_size);
  if (text == "throw") throw std::runtime_error("thrown on purpose");
  if (text == "abort") std::abort();
  if (text == "segfault") std::raise(SIGSEGV);
  if (text == "loop") {
    const volatile bool forever = true;
    while (forever) {
    }
  }
  if (text == "exit") _exit(0);
  if (text == "print") std::printf("{\"id\": 1, \"score\": 99}\n");
  if (text == "nan") return grouper_score(out, std::nan(""), "");
  if (text == "silent") return;
  if (text == "skip") return grouper_not_applicable(out, "nothing to say");
  if (text == "row") return grouper_score(out, static_cast<double>(in->row_json_size), "row");
  grouper_score(out, static_cast<double>(in->completion_size), "length");
}
