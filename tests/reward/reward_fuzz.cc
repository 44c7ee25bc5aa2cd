// libFuzzer target for everything in reward/ that reads a model's text (cmake -DGROUPER_FUZZ=ON with clang++). The
// input is gold '\n' completion. Beside "no crash": the math check is reflexive on what it can read, and every rule
// answers with a finite score.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "google/protobuf/text_format.h"
#include "reward/math/check.h"
#include "reward/rule.h"

namespace {

const grouper::RuleSet& Rules() {
  static const grouper::RuleSet* const rules = [] {
    grouper::v1::Reward config;
    const bool parsed = google::protobuf::TextFormat::ParseFromString(R"(
        rules { format {} } rules { tag_count {} } rules { exact {} } rules { numeric {} } rules { countdown {} } rules { choice {} }
        rules { json_fields {} } rules { repetition {} } rules { language { tag: 'whole' } } rules { math {} } rules { regex { pattern: 'a+' } })",
                                                                      &config);
    auto set = grouper::RuleSet::Create(config, ".");
    if (!parsed || !set.ok()) std::abort();
    return set->release();
  }();
  return *rules;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t newline = std::min(input.find('\n'), input.size());
  const std::string gold = input.substr(0, newline), completion = input.substr(std::min(newline + 1, input.size()));
  if (grouper::math::CheckGold(gold).ok() &&
      grouper::math::CompareAnswers(gold, gold, grouper::math::Percent::kUnit) == grouper::math::Verdict::kDifferent) {
    std::abort();
  }
  grouper::v1::ScoreRequest request;
  auto* group = request.add_groups();
  group->set_row_json(
      grouper::json::Dump(grouper::json::Json{{"answer", gold}, {"numbers", {1, 2, 3}}, {"target", 6}}));
  group->add_completions()->set_text(completion);
  const auto response = Rules().Score(request, nullptr);
  if (!response.ok()) std::abort();
  for (const auto& result : response->groups(0).completions(0).rules()) {
    if (!std::isfinite(result.score()) || result.status() == grouper::v1::RULE_STATUS_ERROR) std::abort();
  }
  return 0;
}
