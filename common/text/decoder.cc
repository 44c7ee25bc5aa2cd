#include "common/text/decoder.h"

#include <algorithm>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "common/base/status.h"
#include "common/text/byte_alphabet.h"
#include "common/text/json_fields.h"
#include "common/text/utf8.h"

namespace grouper::text {
namespace {

constexpr size_t kMaxSteps = 64;

absl::Status Read(const json::Json& json, const std::string& path, std::vector<DecoderStep>* steps) {
  ASSIGN_OR_RETURN(const std::string type, TypeOf(json, path));
  if (steps->size() >= kMaxSteps) return FieldError(path, "more than ", kMaxSteps, " decoders");
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const json::Json* const items, ArrayField(json, "decoders", path));
    for (size_t i = 0; i < items->size(); ++i) RETURN_IF_ERROR(Read((*items)[i], Item(At(path, "decoders"), i), steps));
    return absl::OkStatus();
  }
  const bool fused = std::any_of(steps->begin(), steps->end(), [](const DecoderStep& step) {
    return step.kind == DecoderStep::kFuse || step.kind == DecoderStep::kByteLevel;
  });
  DecoderStep step;
  if (type == "ByteLevel") {
    step.kind = DecoderStep::kByteLevel;
  } else if (type == "ByteFallback") {
    step.kind = DecoderStep::kByteFallback;
  } else if (type == "Fuse") {
    step.kind = DecoderStep::kFuse;
  } else if (type == "Metaspace") {
    step.kind = DecoderStep::kMetaspace;
    ASSIGN_OR_RETURN(step.content, CharacterField(json, "replacement", path));
    step.drops_first = true;
    if (json::Has(json, "prepend_scheme")) {
      ASSIGN_OR_RETURN(const std::string scheme, StringField(json, "prepend_scheme", path));
      if (scheme != "always" && scheme != "first" && scheme != "never") {
        return FieldError(At(path, "prepend_scheme"), "\"", scheme, "\"; expected always, first or never");
      }
      step.drops_first = scheme != "never";
    }
    ASSIGN_OR_RETURN(const bool add_prefix_space, BoolField(json, "add_prefix_space", path, step.drops_first));
    if (!add_prefix_space && step.drops_first) return FieldError(At(path, "add_prefix_space"), "false contradicts prepend_scheme");
  } else if (type == "Replace") {
    step.kind = DecoderStep::kReplace;
    ASSIGN_OR_RETURN(step.pattern, PatternField(json, path));
    if (json["pattern"].contains("String")) step.literal = json["pattern"]["String"].get<std::string>();
    ASSIGN_OR_RETURN(step.content, StringField(json, "content", path));
  } else if (type == "Strip") {
    step.kind = DecoderStep::kStrip;
    ASSIGN_OR_RETURN(step.content, CharacterField(json, "content", path));
    ASSIGN_OR_RETURN(step.start, IntField(json, "start", path, 0, 1 << 20));
    ASSIGN_OR_RETURN(step.stop, IntField(json, "stop", path, 0, 1 << 20));
  } else {
    return FieldError(At(path, "type"), "decoder \"", type, "\" is not supported");
  }
  if (fused && (step.kind == DecoderStep::kByteFallback || step.kind == DecoderStep::kMetaspace || step.kind == DecoderStep::kByteLevel)) {
    return FieldError(path, "decoder \"", type, "\" after Fuse or ByteLevel is not supported");
  }
  steps->push_back(std::move(step));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Decoder> Decoder::FromJson(const json::Json& json, const std::string& path) {
  Decoder decoder;
  if (!json.is_null()) {
    RETURN_IF_ERROR(Read(json, path, &decoder.steps_));
  } else {
    DecoderStep join;
    join.kind = DecoderStep::kJoinWithSpaces;
    decoder.steps_.push_back(join);
  }
  return decoder;
}

std::string Decoder::TokenBytes(absl::string_view token) const {
  std::string bytes(token);
  for (const DecoderStep& step : steps_) {
    switch (step.kind) {
      case DecoderStep::kByteLevel:
        if (std::optional<std::string> raw = FromByteAlphabet(bytes)) return *std::move(raw);
        return bytes;
      case DecoderStep::kByteFallback:
        if (const std::optional<uint8_t> byte = ByteOfFallbackToken(bytes)) return std::string(1, static_cast<char>(*byte));
        break;
      case DecoderStep::kMetaspace:
        bytes = absl::StrReplaceAll(bytes, {{step.content, " "}});
        break;
      case DecoderStep::kReplace:
        bytes = ReplaceAll(*step.pattern, bytes, step.content);
        break;
      case DecoderStep::kFuse:
        return bytes;
      case DecoderStep::kStrip:
      case DecoderStep::kJoinWithSpaces:
        break;
    }
  }
  return bytes;
}

DecodeStream::DecodeStream(const Decoder& decoder) : decoder_(&decoder), states_(decoder.steps().size()) {}

bool DecodeStream::takes_bytes() const {
  return !decoder_->steps().empty() && decoder_->steps()[0].kind == DecoderStep::kByteLevel;
}

void DecodeStream::Add(absl::string_view token, std::string* out) { Feed(0, token, true, out); }

void DecodeStream::AddBytes(absl::string_view bytes, std::string* out) { FeedBytes(0, bytes, out); }

void DecodeStream::FeedBytes(size_t index, absl::string_view bytes, std::string* out) {
  State& state = states_[index];
  if (state.held.empty() && IsValidUtf8(bytes)) {
    Feed(index + 1, bytes, false, out);
    return;
  }
  state.held.append(bytes.data(), bytes.size());
  std::string text;
  const size_t used = AppendLossy(state.held, true, &text);
  state.held.erase(0, used);
  if (!text.empty()) Feed(index + 1, text, false, out);
}

void DecodeStream::Feed(size_t index, absl::string_view fragment, bool last, std::string* out) {
  if (index == states_.size()) {
    out->append(fragment.data(), fragment.size());
    return;
  }
  const DecoderStep& step = decoder_->steps()[index];
  State& state = states_[index];
  switch (step.kind) {
    case DecoderStep::kByteLevel: {
      const std::optional<std::string> bytes = FromByteAlphabet(fragment);
      FeedBytes(index, bytes ? absl::string_view(*bytes) : fragment, out);
      break;
    }
    case DecoderStep::kFuse:
      Feed(index + 1, fragment, false, out);
      break;
    case DecoderStep::kJoinWithSpaces:
      if (!state.first_token) Feed(index + 1, " ", false, out);
      state.first_token = false;
      Feed(index + 1, fragment, last, out);
      break;
    case DecoderStep::kMetaspace:
      Feed(index + 1, absl::StrReplaceAll(fragment, {{step.content, state.first_token && step.drops_first ? "" : " "}}), last, out);
      state.first_token = false;
      break;
    case DecoderStep::kByteFallback:
      if (const std::optional<uint8_t> byte = ByteOfFallbackToken(fragment)) {
        state.held.push_back(static_cast<char>(*byte));
      } else {
        FlushByteRun(index, out);
        Feed(index + 1, fragment, last, out);
      }
      break;
    case DecoderStep::kReplace:
      FeedReplace(index, fragment, last, out);
      break;
    case DecoderStep::kStrip:
      FeedStrip(index, fragment, last, out);
      break;
  }
}

void DecodeStream::FlushByteRun(size_t index, std::string* out) {
  const std::string run = std::move(states_[index].held);
  states_[index].held.clear();
  if (run.empty()) return;
  if (IsValidUtf8(run)) {
    Feed(index + 1, run, true, out);
  } else {
    for (size_t i = 0; i < run.size(); ++i) Feed(index + 1, kReplacement, true, out);
  }
}

void DecodeStream::FeedReplace(size_t index, absl::string_view fragment, bool last, std::string* out) {
  const DecoderStep& step = decoder_->steps()[index];
  State& state = states_[index];
  state.held.append(fragment.data(), fragment.size());
  if (last) {
    const std::string token = std::move(state.held);
    state.held.clear();
    Feed(index + 1, ReplaceAll(*step.pattern, token, step.content), true, out);
    return;
  }
  if (step.literal.empty()) return;  // a regex may look anywhere: wait for the end
  // Replace what is complete; hold the longest end that may be the beginning of the literal.
  std::string ready;
  size_t pos = 0;
  for (size_t found; (found = state.held.find(step.literal, pos)) != std::string::npos; pos = found + step.literal.size()) {
    ready.append(state.held, pos, found - pos).append(step.content);
  }
  size_t keep = std::min(step.literal.size() - 1, state.held.size() - pos);
  while (keep > 0 && !absl::EndsWith(state.held, absl::string_view(step.literal).substr(0, keep))) --keep;
  ready.append(state.held, pos, state.held.size() - keep - pos);
  state.held.erase(0, state.held.size() - keep);
  if (!ready.empty()) Feed(index + 1, ready, false, out);
}

void DecodeStream::FeedStrip(size_t index, absl::string_view fragment, bool last, std::string* out) {
  const DecoderStep& step = decoder_->steps()[index];
  State& state = states_[index];
  while (state.stripping && !fragment.empty()) {
    if (state.stripped == step.start || !absl::StartsWith(fragment, step.content)) {
      state.stripping = false;
    } else {
      fragment.remove_prefix(step.content.size());
      ++state.stripped;
    }
  }
  state.held.append(fragment.data(), fragment.size());
  size_t tail = 0;  // bytes at the end that are, or may be, cut
  for (int64_t n = 0; n < step.stop; ++n) {
    if (!absl::EndsWith(absl::string_view(state.held).substr(0, state.held.size() - tail), step.content)) break;
    tail += step.content.size();
  }
  const std::string ready = state.held.substr(0, state.held.size() - tail);
  state.held.erase(0, ready.size());
  if (last) {
    state = State();
    Feed(index + 1, ready, true, out);
  } else if (!ready.empty()) {
    Feed(index + 1, ready, false, out);
  }
}

void DecodeStream::End(size_t index, std::string* out) {
  if (index == states_.size()) return;
  State& state = states_[index];
  switch (decoder_->steps()[index].kind) {
    case DecoderStep::kByteLevel: {
      std::string text;
      AppendLossy(state.held, false, &text);
      Feed(index + 1, text, true, out);
      break;
    }
    case DecoderStep::kByteFallback:
      FlushByteRun(index, out);
      break;
    case DecoderStep::kFuse:
      Feed(index + 1, "", true, out);
      break;
    case DecoderStep::kReplace:
    case DecoderStep::kStrip:
    case DecoderStep::kMetaspace:
    case DecoderStep::kJoinWithSpaces:
      break;  // tokens were ended by those who began them
  }
  state = State();
  End(index + 1, out);
}

void DecodeStream::Finish(std::string* out) { End(0, out); }

}  // namespace grouper::text
