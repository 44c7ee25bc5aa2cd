#include "common/recipe/load_recipe.h"

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/address.h"
#include "common/base/file.h"
#include "common/base/quote.h"
#include "common/base/status.h"
#include "common/tensor/cuda.h"
#include "google/protobuf/text_format.h"
#include "kernels/sampling.h"

namespace grouper {
namespace {

std::string CurrentFolder() {
  std::string buffer(4096, '\0');
  return getcwd(buffer.data(), buffer.size()) == nullptr ? "." : std::string(buffer.c_str());
}

// One spelling a file: "/a/./b/../c" is "/a/c". Where b is a symbolic link that would be another file, and the path stays as it is.
std::string ShortestSpelling(const std::string& path) {
  const std::filesystem::path given(path), normal = given.lexically_normal();
  std::error_code error;
  const bool same = std::filesystem::weakly_canonical(given, error) == std::filesystem::weakly_canonical(normal, error);
  return same && !error ? normal.string() : path;
}

void MakeAbsolute(std::string* path, const std::string& base) {
  if (!path->empty()) *path = ShortestSpelling(JoinPath(base, *path));
}

template <typename F>
void ForEachPath(v1::Recipe& recipe, F&& visit) {
  visit(recipe.mutable_model()->mutable_path());
  visit(recipe.mutable_model()->mutable_config());
  visit(recipe.mutable_model()->mutable_tokenizer());
  for (v1::Stage& stage : *recipe.mutable_stages()) {
    if (!stage.has_data()) continue;
    visit(stage.mutable_data()->mutable_train());
    visit(stage.mutable_data()->mutable_eval());
  }
  for (v1::Rule& rule : *recipe.mutable_reward()->mutable_rules()) {
    if (rule.has_library()) visit(rule.mutable_library()->mutable_path());
    if (rule.has_code()) visit(rule.mutable_code()->mutable_checker());
    if (!rule.has_process() || rule.process().command_size() == 0) continue;
    // A program without a slash is looked up in PATH.
    std::string* program = rule.mutable_process()->mutable_command(0);
    if (absl::StrContains(*program, "/")) visit(program);
    // Arguments that name a file beside the recipe, such as a script.
    for (int i = 1; i < rule.process().command_size(); ++i) {
      if (absl::StartsWith(rule.process().command(i), "./")) visit(rule.mutable_process()->mutable_command(i));
    }
  }
  auto credentials = [&](v1::Credentials* tls) {
    visit(tls->mutable_certificate());
    visit(tls->mutable_key());
    visit(tls->mutable_ca());
  };
  if (recipe.rollout().has_tls()) credentials(recipe.mutable_rollout()->mutable_tls());
  if (recipe.reward().has_tls()) credentials(recipe.mutable_reward()->mutable_tls());
}

// Gives `recipe` the paths of `old_recipe` where both have one and a checkpoint knows what lay there: the rows, the tokenizer, the model. A file that
// is read anew and known to nobody (a checker, a library) stays under its own name.
void KeepGuardedPaths(const v1::Recipe& old_recipe, v1::Recipe* recipe) {
  const auto keep = [](const std::string& old_path, std::string* path) {
    if (!old_path.empty() && !path->empty()) *path = old_path;
  };
  keep(old_recipe.model().path(), recipe->mutable_model()->mutable_path());
  keep(old_recipe.model().config(), recipe->mutable_model()->mutable_config());
  keep(old_recipe.model().tokenizer(), recipe->mutable_model()->mutable_tokenizer());
  for (int i = 0; i < std::min(old_recipe.stages_size(), recipe->stages_size()); ++i) {
    if (!old_recipe.stages(i).has_data() || !recipe->stages(i).has_data()) continue;
    v1::Data* data = recipe->mutable_stages(i)->mutable_data();
    keep(old_recipe.stages(i).data().train(), data->mutable_train());
    keep(old_recipe.stages(i).data().eval(), data->mutable_eval());
  }
}

void FillSampling(v1::Sampling* sampling, double temperature) {
  if (!sampling->has_temperature()) sampling->set_temperature(temperature);
  if (!sampling->has_top_p()) sampling->set_top_p(1);
  if (sampling->max_new_tokens() == 0) sampling->set_max_new_tokens(256);
}

void FillDefaults(v1::Recipe& recipe, const std::string& path) {
  if (recipe.name().empty()) {
    recipe.set_name(Basename(path));
    if (absl::EndsWith(recipe.name(), ".textproto")) recipe.set_name(recipe.name().substr(0, recipe.name().size() - 10));
  }
  if (!recipe.has_exact_on_policy()) recipe.set_exact_on_policy(true);
  v1::ModelSource* model = recipe.mutable_model();
  // Written down as what it is on this machine: a run that is resumed elsewhere must not change its numbers silently.
  if (model->device().empty() || model->device() == "auto") model->set_device(AutoDevice().is_cuda() ? "cuda" : "cpu");
  const bool on_cpu = model->device() == "cpu";
  if (model->dtype().empty()) model->set_dtype(on_cpu ? "float32" : "bfloat16");
  if (model->gradients().empty()) model->set_gradients("float32");
  if (recipe.prompt().template_().empty()) recipe.mutable_prompt()->set_template_("plain");
  for (v1::Stage& stage : *recipe.mutable_stages()) {
    v1::Optimizer* optimizer = stage.mutable_optimizer();
    if (optimizer->schedule().empty()) optimizer->set_schedule("constant");
    if (!optimizer->has_beta1()) optimizer->set_beta1(0.9);
    if (!optimizer->has_beta2()) optimizer->set_beta2(0.95);
    if (!optimizer->has_eps()) optimizer->set_eps(1e-8);
    if (!optimizer->has_max_grad_norm()) optimizer->set_max_grad_norm(1);
    if (!optimizer->has_max_skipped_steps()) optimizer->set_max_skipped_steps(2);
    if (optimizer->micro_batch_tokens() == 0) optimizer->set_micro_batch_tokens(on_cpu ? 4096 : 16384);
    if (stage.data().too_long().empty()) stage.mutable_data()->set_too_long("error");
    if (stage.has_sft() && stage.sft().batch_size() == 0) stage.mutable_sft()->set_batch_size(32);
    if (stage.has_grpo()) {
      v1::Grpo* grpo = stage.mutable_grpo();
      if (grpo->prompts_per_step() == 0) grpo->set_prompts_per_step(32);
      if (grpo->group_size() == 0) grpo->set_group_size(8);
      FillSampling(grpo->mutable_sampling(), 1);
      if (grpo->advantage_std().empty()) grpo->set_advantage_std("group");
      if (grpo->loss_reduction().empty()) grpo->set_loss_reduction("token_mean");
      if (grpo->policy_loss().empty()) grpo->set_policy_loss("ppo_clip");
      if (!grpo->has_clip_low()) grpo->set_clip_low(0.2);
      if (!grpo->has_clip_high()) grpo->set_clip_high(grpo->clip_low());
      if (grpo->updates_per_batch() == 0) grpo->set_updates_per_batch(1);
      if (grpo->truncated().empty()) grpo->set_truncated("keep");
      if (grpo->failed_reward().empty()) grpo->set_failed_reward("exclude");
    }
    if (stage.has_eval() || stage.has_evaluate()) {
      v1::Evaluation* eval = stage.mutable_eval();
      if (eval->samples() == 0) eval->set_samples(1);
      if (stage.has_grpo() && eval->sampling().max_new_tokens() == 0) {
        eval->mutable_sampling()->set_max_new_tokens(stage.grpo().sampling().max_new_tokens());
      }
      FillSampling(eval->mutable_sampling(), 0);
    }
  }
  v1::Rollout* rollout = recipe.mutable_rollout();
  if (rollout->max_batch_tokens() == 0) rollout->set_max_batch_tokens(on_cpu ? 2048 : 16384);
  if (rollout->max_sequences() == 0) rollout->set_max_sequences(256);
  if (rollout->timeout_seconds() == 0) rollout->set_timeout_seconds(120);
  if (recipe.reward().timeout_seconds() == 0) recipe.mutable_reward()->set_timeout_seconds(60);
  if (recipe.checkpoint().keep_last() == 0) recipe.mutable_checkpoint()->set_keep_last(2);
}

// --- ranges ----------------------------------------------------------------------------------------------------------------

class Checker {
 public:
  explicit Checker(std::string prefix) : prefix_(std::move(prefix)) {}

  void Require(bool fine, const std::string& field, const std::string& expected) {
    if (!fine && status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(prefix_, field, ": expected ", expected));
  }
  void Range(const std::string& field, double value, double min, double max) {
    if (!(value >= min && value <= max) && status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(prefix_, field, ": ", Number(value), ", expected ", Number(min), "..", Number(max)));
    }
  }
  void RequireNumber(bool fine, const std::string& field, double value, const std::string& expected) {
    if (!fine && status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(prefix_, field, ": ", Number(value), ", expected ", expected));
  }
  void OneOf(const std::string& field, const std::string& value, const std::vector<std::string>& allowed) {
    for (const std::string& name : allowed) {
      if (value == name) return;
    }
    if (status_.ok()) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat(prefix_, field, ": \"", value, "\", expected one of: ", absl::StrJoin(allowed, ", ")));
    }
  }
  const absl::Status& status() const { return status_; }

 private:
  // Integers in full: 1073741824, not 1.07374e+09.
  static std::string Number(double value) {
    const bool whole = std::abs(value) < 1e15 && value == std::floor(value);
    return whole ? absl::StrCat(static_cast<int64_t>(value)) : absl::StrCat(value);
  }

  std::string prefix_;
  absl::Status status_;
};

constexpr double kMany = 1 << 30;
constexpr size_t kMaxNameBytes = 200;  // a file's name has 255, and ours gets a suffix

absl::Status CheckFieldNames(const v1::Data& data, const std::string& prefix) {
  for (const auto& [name, column] : data.fields()) {
    const std::string field = absl::StrCat(prefix, "data.fields");
    if (name.empty()) return absl::InvalidArgumentError(absl::StrCat(field, ": an empty key, expected our name for the column"));
    if (column.empty()) return absl::InvalidArgumentError(absl::StrCat(field, "[", Printable(name), "]: empty, expected the file's column"));
  }
  return absl::OkStatus();
}

// `greedy`: temperature 0 is allowed.
void CheckSampling(Checker& check, const std::string& field, const v1::Sampling& sampling, bool greedy) {
  const double temperature = sampling.temperature();
  check.Range(field + ".temperature", temperature, 0, 100);
  check.RequireNumber(temperature == 0 || temperature >= static_cast<double>(kernels::kMinTemperature), field + ".temperature", temperature,
                      greedy ? "0 (greedy) or at least 1e-6" : "at least 1e-6");
  check.Require(greedy || temperature > 0, field + ".temperature", "more than 0 (greedy samples of a group are all equal)");
  check.Range(field + ".top_k", sampling.top_k(), 0, kMany);
  check.RequireNumber(sampling.top_p() >= 1e-9 && sampling.top_p() <= 1, field + ".top_p", sampling.top_p(), "at least 1e-9 and at most 1");
  check.Range(field + ".max_new_tokens", sampling.max_new_tokens(), 1, kMany);
  for (const std::string& stop : sampling.stop_strings()) check.Require(!stop.empty(), field + ".stop_strings", "no empty string");
}

absl::Status CheckStage(const v1::Stage& stage, const std::string& prefix) {
  Checker check(prefix);
  check.Require(stage.type_case() != v1::Stage::TYPE_NOT_SET, "type", "one of: sft {}, grpo {}, evaluate {}");
  check.Range("steps", stage.steps(), 0, kMany);
  const v1::Data& data = stage.data();
  check.OneOf("data.too_long", data.too_long(), {"error", "skip"});
  check.Range("data.max_rows", data.max_rows(), 0, kMany);
  check.Require(data.fields().empty() || !data.train().empty() || !data.eval().empty(), "data.fields", "none without a file (train or eval) whose columns they name");
  if (stage.has_sft() || stage.has_grpo()) {
    check.Require(!data.train().empty() || data.has_generator(), "data", "train: a file of JSON lines, or generator {...}");
    check.Require(stage.steps() > 0 || !data.train().empty(), "steps", "at least 1 (a generator has no epochs)");
    const v1::Optimizer& optimizer = stage.optimizer();
    check.RequireNumber(optimizer.lr() > 0 && optimizer.lr() <= 1, "optimizer.lr", optimizer.lr(), "more than 0 and at most 1");
    check.Range("optimizer.warmup_steps", optimizer.warmup_steps(), 0, kMany);
    check.OneOf("optimizer.schedule", optimizer.schedule(), {"constant", "linear", "cosine"});
    check.Range("optimizer.min_lr_ratio", optimizer.min_lr_ratio(), 0, 1);
    check.RequireNumber(optimizer.beta1() >= 0 && optimizer.beta1() < 1, "optimizer.beta1", optimizer.beta1(), "at least 0 and less than 1");
    check.RequireNumber(optimizer.beta2() >= 0 && optimizer.beta2() < 1, "optimizer.beta2", optimizer.beta2(), "at least 0 and less than 1");
    check.RequireNumber(optimizer.eps() > 0 && optimizer.eps() <= 1, "optimizer.eps", optimizer.eps(), "more than 0 and at most 1");
    check.Range("optimizer.weight_decay", optimizer.weight_decay(), 0, 10);
    check.Range("optimizer.max_grad_norm", optimizer.max_grad_norm(), 0, 1e9);
    check.Range("optimizer.micro_batch_tokens", optimizer.micro_batch_tokens(), 1, kMany);
    check.Range("optimizer.max_skipped_steps", optimizer.max_skipped_steps(), 0, kMany);
  }
  if (stage.has_sft()) {
    check.Range("sft.batch_size", stage.sft().batch_size(), 1, 1 << 20);
    check.Range("sft.expert_bias_rate", stage.sft().expert_bias_rate(), 0, 1);
  }
  if (stage.has_grpo()) {
    const v1::Grpo& grpo = stage.grpo();
    check.Range("grpo.prompts_per_step", grpo.prompts_per_step(), 1, 1 << 20);
    check.Range("grpo.group_size", grpo.group_size(), 1, 1 << 16);
    CheckSampling(check, "grpo.sampling", grpo.sampling(), /*greedy=*/false);
    check.OneOf("grpo.advantage_std", grpo.advantage_std(), {"group", "batch", "none"});
    check.OneOf("grpo.loss_reduction", grpo.loss_reduction(), {"token_mean", "sequence_mean", "constant"});
    check.OneOf("grpo.policy_loss", grpo.policy_loss(), {"ppo_clip", "gspo", "cispo"});
    check.Range("grpo.clip_low", grpo.clip_low(), 0, 1);
    check.Range("grpo.clip_high", grpo.clip_high(), 0, 100);
    check.Range("grpo.kl_coef", grpo.kl_coef(), 0, 100);
    check.Range("grpo.updates_per_batch", grpo.updates_per_batch(), 1, grpo.prompts_per_step());
    check.Range("grpo.dynamic_sampling_max_batches", grpo.dynamic_sampling_max_batches(), 0, 1000);
    check.OneOf("grpo.truncated", grpo.truncated(), {"keep", "mask"});
    check.OneOf("grpo.failed_reward", grpo.failed_reward(), {"exclude", "retry"});
    check.Range("grpo.expert_bias_rate", grpo.expert_bias_rate(), 0, 1);
  }
  if (stage.has_evaluate()) {
    check.Require(!data.eval().empty() || data.has_generator(), "data", "eval: a file of JSON lines, or generator {...}");
  }
  if (stage.has_eval()) {
    const v1::Evaluation& eval = stage.eval();
    check.Range("eval.every", eval.every(), 0, kMany);
    check.Range("eval.max_problems", eval.max_problems(), 0, kMany);
    check.Range("eval.samples", eval.samples(), 1, 1 << 16);
    CheckSampling(check, "eval.sampling", eval.sampling(), /*greedy=*/true);
    check.Require(eval.samples() == 1 || eval.sampling().temperature() > 0, "eval.samples", "1 with temperature 0 (all samples are equal)");
    const bool evaluates = eval.every() > 0 || eval.at_start() || eval.at_end();
    check.Require(!evaluates || !data.eval().empty() || data.has_generator(), "data.eval", "a file of held-out rows, since eval is on");
  }
  return check.status();
}

}  // namespace

absl::Status CheckName(absl::string_view name) {
  if (name.size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a name of ", name.size(), " bytes, expected at most ", kMaxNameBytes));
  }
  if (!HasControlCharacter(name)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(QuoteName(name), ", expected a name without control characters"));
}

absl::Status CheckRecipe(const v1::Recipe& recipe) {
  RETURN_IF_ERROR(Annotate(CheckName(recipe.name()), "name"));
  Checker check("");
  // The run directory's default name is made of it.
  check.Require(!absl::StrContains(recipe.name(), '/') && recipe.name() != "." && recipe.name() != "..", "name", "a name without /");
  check.Range("threads", recipe.threads(), 0, 4096);
  check.Require(recipe.model().path().empty() != recipe.model().config().empty(), "model", "one of: path (a model), config (random weights)");
  check.OneOf("model.dtype", recipe.model().dtype(), {"float32", "bfloat16"});
  check.OneOf("model.gradients", recipe.model().gradients(), {"float32", "bfloat16"});
  check.Require(recipe.model().gradients() != "bfloat16" || (recipe.model().dtype() == "bfloat16" && recipe.model().device() != "cpu"),
                "model.gradients", "\"float32\", or model.dtype \"bfloat16\" on a GPU");
  check.Require(ParseDevice(recipe.model().device()).ok(), "model.device", "\"auto\", \"cpu\", \"cuda\" or \"cuda:N\"");
  check.Range("model.max_context", recipe.model().max_context(), 0, kMany);
  check.OneOf("prompt.template", recipe.prompt().template_(), {"plain", "r1_zero", "chatml", "tokenizer", "custom"});
  check.Require((recipe.prompt().template_() == "custom") == !recipe.prompt().text().empty(), "prompt.text",
                "a text with {question} for template \"custom\", and none otherwise");
  check.Require(recipe.prompt().text().empty() || absl::StrContains(recipe.prompt().text(), "{question}"), "prompt.text",
                "a text with {question}");
  check.Require(recipe.stages_size() > 0, "stages", "at least one stage");
  check.Range("rollout.max_batch_tokens", recipe.rollout().max_batch_tokens(), 1, kMany);
  check.Range("rollout.max_sequences", recipe.rollout().max_sequences(), 1, 1 << 20);
  check.Range("rollout.cache_pages", recipe.rollout().cache_pages(), 0, kMany);
  check.Range("rollout.timeout_seconds", recipe.rollout().timeout_seconds(), 0.1, 1e6);
  check.Range("reward.timeout_seconds", recipe.reward().timeout_seconds(), 0.1, 1e6);
  check.Range("checkpoint.every", recipe.checkpoint().every(), 0, kMany);
  check.Range("checkpoint.keep_last", recipe.checkpoint().keep_last(), 1, 1 << 20);
  RETURN_IF_ERROR(check.status());
  for (int i = 0; i < recipe.rollout().addresses_size(); ++i) {
    RETURN_IF_ERROR(Annotate(CheckPeerAddress(recipe.rollout().addresses(i)), absl::StrCat("rollout.addresses[", i, "]")));
  }
  if (!recipe.reward().address().empty()) RETURN_IF_ERROR(Annotate(CheckPeerAddress(recipe.reward().address()), "reward.address"));
  if (!recipe.logging().trainer_address().empty()) {
    RETURN_IF_ERROR(Annotate(CheckListenAddress(recipe.logging().trainer_address()), "logging.trainer_address"));
  }

  std::set<std::string> names;
  for (int i = 0; i < recipe.stages_size(); ++i) {
    const v1::Stage& stage = recipe.stages(i);
    RETURN_IF_ERROR(Annotate(CheckName(stage.name()), absl::StrCat("stages[", i, "].name")));
    const std::string prefix = stage.name().empty() ? absl::StrCat("stages[", i, "].") : absl::StrCat("stages[", stage.name(), "].");
    if (!stage.name().empty() && !names.insert(stage.name()).second) {
      return absl::InvalidArgumentError(absl::StrCat(prefix, "name: two stages have it, expected distinct names"));
    }
    RETURN_IF_ERROR(CheckStage(stage, prefix));
    RETURN_IF_ERROR(CheckFieldNames(stage.data(), prefix));
    const bool scores = stage.has_grpo() || stage.has_evaluate() || (stage.has_eval() && (stage.eval().every() > 0 ||
                        stage.eval().at_start() || stage.eval().at_end()));
    // A remote service has rules of its own.
    const bool own_rules = recipe.reward().address().empty();
    if (scores && own_rules && recipe.reward().rules_size() == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("reward.rules: none, but ", prefix, "type scores completions; expected at least one rule, or reward.address"));
    }
    if (own_rules && !stage.eval().rule().empty()) {
      bool found = false;
      for (const v1::Rule& rule : recipe.reward().rules()) found |= RuleName(rule) == stage.eval().rule();
      if (!found) {
        return absl::InvalidArgumentError(absl::StrCat(prefix, "eval.rule: no rule named ", QuoteName(stage.eval().rule()), " in reward.rules"));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Recipe> LoadRecipe(const std::string& path, const std::vector<std::string>& overrides, TextLocations* locations) {
  v1::Recipe recipe;
  TextLocations own;
  if (locations == nullptr) locations = &own;
  RETURN_IF_ERROR(ParseTextProtoFile(path, &recipe, locations));
  const std::string here = CurrentFolder();
  const std::string folder = JoinPath(here, Dirname(path));
  ForEachPath(recipe, [&](std::string* file) { MakeAbsolute(file, folder); });
  for (const std::string& text : overrides) {
    RETURN_IF_ERROR(ApplyOverride(text, &recipe));
    locations->AddOverride(text);
  }
  ForEachPath(recipe, [&](std::string* file) { MakeAbsolute(file, here); });
  FillDefaults(recipe, path);
  RETURN_IF_ERROR(locations->Locate(recipe, CheckRecipe(recipe), /*least_depth=*/0));
  return recipe;
}

std::string RecipeText(const v1::Recipe& recipe) {
  std::string text;
  google::protobuf::TextFormat::PrintToString(recipe, &text);
  return text;
}

v1::Recipe ResultFields(const v1::Recipe& recipe) {
  v1::Recipe results = recipe;
  results.clear_name();
  results.clear_threads();
  results.mutable_model()->clear_recompute();
  if (results.model().device() != "cpu") results.mutable_model()->set_device("cuda");  // whichever
  results.clear_rollout();
  results.clear_logging();
  results.clear_checkpoint();
  results.mutable_reward()->clear_address();
  results.mutable_reward()->clear_timeout_seconds();
  results.mutable_reward()->clear_tls();
  // bfloat16 sums of weight gradients on a GPU depend on where micro-batches are cut (kernels/README.md).
  const bool cut_counts = recipe.model().device() != "cpu" && recipe.model().dtype() == "bfloat16";
  for (v1::Stage& stage : *results.mutable_stages()) {
    if (!cut_counts) stage.mutable_optimizer()->clear_micro_batch_tokens();
  }
  return results;
}

std::string RecipeDifference(const v1::Recipe& old_recipe, const v1::Recipe& new_recipe) {
  const v1::Recipe old_results = ResultFields(old_recipe);
  v1::Recipe new_results = ResultFields(new_recipe);
  KeepGuardedPaths(old_results, &new_results);
  const std::vector<std::string> a = absl::StrSplit(RecipeText(old_results), '\n');
  const std::vector<std::string> b = absl::StrSplit(RecipeText(new_results), '\n');
  // Longest common subsequence of lines; recipes are short.
  std::vector<std::vector<int>> common(a.size() + 1, std::vector<int>(b.size() + 1, 0));
  for (size_t i = a.size(); i-- > 0;) {
    for (size_t j = b.size(); j-- > 0;) {
      common[i][j] = a[i] == b[j] ? common[i + 1][j + 1] + 1 : std::max(common[i + 1][j], common[i][j + 1]);
    }
  }
  std::string out;
  size_t i = 0, j = 0;
  while (i < a.size() || j < b.size()) {
    if (i < a.size() && j < b.size() && a[i] == b[j]) {
      ++i, ++j;
    } else if (i < a.size() && (j == b.size() || common[i + 1][j] >= common[i][j + 1])) {
      absl::StrAppend(&out, "-", a[i++], "\n");
    } else {
      absl::StrAppend(&out, "+", b[j++], "\n");
    }
  }
  return out;
}

int FindStage(const v1::Recipe& recipe, const std::string& name) {
  for (int i = 0; i < recipe.stages_size(); ++i) {
    if (recipe.stages(i).name() == name) return i;
  }
  return -1;
}

std::string RuleKind(const v1::Rule& rule) {
  const auto* oneof = rule.GetDescriptor()->FindOneofByName("kind");
  const auto* field = rule.GetReflection()->GetOneofFieldDescriptor(rule, oneof);
  return field == nullptr ? "" : field->name();
}

std::string RuleName(const v1::Rule& rule) { return rule.name().empty() ? RuleKind(rule) : rule.name(); }

double RuleWeight(const v1::Rule& rule) { return rule.has_weight() ? rule.weight() : 1; }

}  // namespace grouper
