/* A reward rule of yours in a shared library. This header stands alone: copy it, no other file of grouper is needed.
 *
 *   #include "rule_plugin.h"
 *   GROUPER_RULE(short_answer) {
 *     if (in->completion_size == 0) return grouper_not_applicable(out, "empty");
 *     grouper_score(out, in->completion_size < 200 ? 1.0 : 0.0, "length");
 *   }
 *
 *   c++ -shared -fPIC -O2 -o libshort_answer.so short_answer.cc
 *   rules { name: "short" library { path: "libshort_answer.so" function: "short_answer" } }
 *
 * The library runs in a process of its own (grouper_rule_host), one call at a time in each. An exception, a crash, an
 * endless loop or too much memory costs that completion its score and nothing else; the process is started again. What
 * it prints to stdout goes to stderr.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define GROUPER_RULE_ABI 1

typedef struct GrouperRuleInput {
  uint32_t abi; /* GROUPER_RULE_ABI of the host; fields are only ever added at the end */
  uint32_t num_tokens;
  const char* completion; /* UTF-8: bytes that are not were replaced by U+FFFD; may hold NUL */
  size_t completion_size;
  const char* prompt;
  size_t prompt_size;
  const char* row_json; /* the data row, a JSON object: answer and every other column */
  size_t row_json_size;
  uint32_t max_new_tokens; /* 0: unknown */
  uint32_t truncated;      /* 1: ended by length */
} GrouperRuleInput;

typedef struct GrouperRuleResult {
  int32_t status; /* 0: scored, 1: not applicable, 2: error (the initial value) */
  double score;
  char reason[512];
  char extracted[512];
} GrouperRuleResult;

typedef void (*GrouperRuleFunction)(const GrouperRuleInput* in, GrouperRuleResult* out);

#ifdef __cplusplus
#define GROUPER_RULE(name) \
  extern "C" __attribute__((visibility("default"))) void name(const GrouperRuleInput* in, GrouperRuleResult* out)
#else
#define GROUPER_RULE(name) \
  __attribute__((visibility("default"))) void name(const GrouperRuleInput* in, GrouperRuleResult* out)
#endif

static inline void grouper_score(GrouperRuleResult* out, double score, const char* reason) {
  out->status = 0;
  out->score = score;
  snprintf(out->reason, sizeof out->reason, "%s", reason);
}

static inline void grouper_not_applicable(GrouperRuleResult* out, const char* reason) {
  out->status = 1;
  snprintf(out->reason, sizeof out->reason, "%s", reason);
}

static inline void grouper_error(GrouperRuleResult* out, const char* reason) {
  out->status = 2;
  snprintf(out->reason, sizeof out->reason, "%s", reason);
}
