// grouper_rule_host LIBRARY FUNCTION: calls a rule in a shared library (rule_plugin.h) for each JSON line on stdin, in
// the protocol of rules/process_rule.cc. Small on purpose: it is what dies when a library crashes.
#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <string>

#include "common/base/json.h"
#include "reward/rule_plugin.h"

namespace {

using grouper::json::Json;

std::string Field(const char* text, size_t size) { return std::string(text, strnlen(text, size)); }

Json Answer(const Json& request, GrouperRuleFunction rule) {
  const std::string completion = request.value("completion", "");
  const std::string prompt = request.value("prompt", "");
  const std::string row = grouper::json::Dump(request.contains("row") ? request["row"] : Json::object());
  GrouperRuleInput input = {};
  input.abi = GROUPER_RULE_ABI;
  input.num_tokens = request.value("num_tokens", 0u);
  input.completion = completion.data();
  input.completion_size = completion.size();
  input.prompt = prompt.data();
  input.prompt_size = prompt.size();
  input.row_json = row.data();
  input.row_json_size = row.size();
  input.max_new_tokens = request.value("max_new_tokens", 0u);
  input.truncated = request.value("truncated", false);
  GrouperRuleResult result = {};
  result.status = 2;
  std::snprintf(result.reason, sizeof result.reason, "the rule gave no result");
  Json answer = {{"id", request["id"]}};
  try {
    rule(&input, &result);
  } catch (const std::exception& e) {
    answer["error"] = std::string("the rule threw: ") + e.what();
    return answer;
  } catch (...) {
    answer["error"] = "the rule threw";
    return answer;
  }
  const std::string reason = Field(result.reason, sizeof result.reason);
  if (result.status == 0 && !(result.score - result.score == 0)) {
    answer["error"] = "the rule's score is not finite";
  } else if (result.status == 0 || result.status == 1) {
    answer["score"] = result.status == 0 ? Json(result.score) : Json();
    answer["reason"] = reason;
    answer["extracted"] = Field(result.extracted, sizeof result.extracted);
  } else {
    answer["error"] = reason;
  }
  return answer;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: grouper_rule_host LIBRARY FUNCTION\n");
    return 2;
  }
  // The answers' descriptor is ours alone; what the library prints goes to stderr.
  const int answers = fcntl(1, F_DUPFD_CLOEXEC, 10);
  if (answers < 0 || dup2(2, 1) < 0) {
    std::fprintf(stderr, "cannot duplicate stdout: %s\n", std::strerror(errno));
    return 1;
  }
  void* const library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    std::fprintf(stderr, "cannot load the library: %s\n", dlerror());
    return 1;
  }
  const auto rule = reinterpret_cast<GrouperRuleFunction>(dlsym(library, argv[2]));
  if (rule == nullptr) {
    std::fprintf(stderr, "the library has no function \"%s\"\n", argv[2]);
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);) {
    const auto request = grouper::json::Parse(line);
    if (!request.ok() || !request->is_object() || !request->contains("id")) return 1;
    Json answer = {{"id", (*request)["id"]}, {"score", nullptr}};
    if (request->contains("completion")) answer = Answer(*request, rule);
    const std::string text = grouper::json::Dump(answer) + "\n";
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t n = write(answers, text.data() + sent, text.size() - sent);
      if (n <= 0) return 1;
      sent += static_cast<size_t>(n);
    }
  }
  return 0;
}
