#include "common/text/jinja.h"

namespace grouper {

struct JinjaTemplate::Program {};

JinjaTemplate::JinjaTemplate(std::unique_ptr<const Program> program) : program_(std::move(program)) {}
JinjaTemplate::~JinjaTemplate() = default;

absl::StatusOr<std::shared_ptr<const JinjaTemplate>> JinjaTemplate::Parse(absl::string_view) {
  return absl::UnimplementedError("Jinja templates are not supported");
}

absl::StatusOr<std::string> JinjaTemplate::RenderChat(const std::vector<ChatMessage>&, bool, const TemplateTokens&) const {
  return absl::UnimplementedError("Jinja templates are not supported");
}

}  // namespace grouper
