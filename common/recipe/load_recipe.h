// Recipes: read, overridden, checked.
//
// Errors name the file with line and column and the field ("my.textproto:12:10: stages[0].steps: Expected integer, got: \"x\"", "my.textproto:14:15:
// stages[rl].optimizer.lr: -1, expected more than 0"), or the override by its text.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/recipe/text_locations.h"
#include "google/protobuf/message.h"
#include "proto/recipe.pb.h"

namespace grouper {

// Reads a recipe, applies overrides ("stages[rl].steps=5"), makes the paths in it absolute (those of the file relative to the file's folder,
// those of overrides relative to the current folder; one file has one spelling, links are kept), fills in defaults that do not depend on the model, and checks every field's range.
// `locations` (may be null) is for errors that are found later: TextLocations::Locate.
absl::StatusOr<v1::Recipe> LoadRecipe(const std::string& path, const std::vector<std::string>& overrides, TextLocations* locations = nullptr);

// Reads one message from a text file; unknown fields and strings that are not UTF-8 are errors with line and column, depth is limited to 100.
// A byte order mark at the beginning is skipped.
absl::Status ParseTextProtoFile(const std::string& path, google::protobuf::Message* message, TextLocations* locations = nullptr);
absl::Status ParseTextProto(const std::string& text, const std::string& source, google::protobuf::Message* message, TextLocations* locations = nullptr);

// Sets one field through reflection: PATH=VALUE with PATH = field ('.' field)*, and field = NAME or NAME[INDEX] or NAME[ITEM_NAME] for a
// repeated message whose items have a `name`. Repeated scalars take comma-separated values (empty: none). A sub-message is created when absent;
// an alternative of a oneof (a stage's type, a rule's kind, a generator's task) only where no other is set.
absl::Status ApplyOverride(const std::string& override_text, google::protobuf::Message* message);

// Canonical text: same recipe, same text. What the run directory keeps and what the digest is taken of.
std::string RecipeText(const v1::Recipe& recipe);

// The recipe without the fields that may differ on resume (threads, placement, timeouts, logging, micro-batch sizes).
v1::Recipe ResultFields(const v1::Recipe& recipe);

// Lines that differ, as "-old" and "+new", for a refused resume. Where data, model and tokenizer lie is no difference: a checkpoint knows what they
// were (trainer/run_checkpoint.h).
std::string RecipeDifference(const v1::Recipe& old_recipe, const v1::Recipe& new_recipe);

absl::Status CheckRecipe(const v1::Recipe& recipe);

// A run's, a stage's or a rule's name goes into file names, metrics and lines of text: at most 200 bytes, no control characters. The error does not
// name the field.
absl::Status CheckName(absl::string_view name);

// Index of a stage by name; -1 when there is none.
int FindStage(const v1::Recipe& recipe, const std::string& name);

// A rule's kind as the recipe spells it ("format"), empty when it has none; its name: its own or else its kind; its weight: its own or else 1.
std::string RuleKind(const v1::Rule& rule);
std::string RuleName(const v1::Rule& rule);
double RuleWeight(const v1::Rule& rule);

// Whether a number can be a score, a weight or a reward: not NaN, and at most 1e30 in magnitude, so that it is a float too and the sums of squares
// that statistics are made of stay finite. Anything else is its rule's failure.
inline constexpr double kMaxScore = 1e30;
inline bool IsScore(double value) { return std::abs(value) <= kMaxScore; }

}  // namespace grouper
