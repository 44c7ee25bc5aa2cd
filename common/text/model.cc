#include "common/text/model.h"

#include <limits>
#include <optional>

#include "common/base/status.h"
#include "common/text/bpe.h"
#include "common/text/json_fields.h"
#include "common/text/unigram.h"

namespace grouper::text {
namespace {

// A vocabulary of whole pieces.
class WordLevelModel final : public Model {
 public:
  WordLevelModel(const Vocabulary& vocabulary, std::optional<int32_t> unk_id) : vocabulary_(vocabulary), unk_id_(unk_id) {}
  bool Encode(absl::string_view piece, std::vector<int32_t>* ids, std::vector<std::string>* unknown) const override {
    const std::optional<int32_t> id = vocabulary_.Find(piece);
    if (id || unk_id_) ids->push_back(id ? *id : *unk_id_);
    if (!id && unknown != nullptr) unknown->emplace_back(piece);
    return id.has_value();
  }
  std::optional<int32_t> unk_id() const override { return unk_id_; }

 private:
  const Vocabulary& vocabulary_;
  std::optional<int32_t> unk_id_;
};

// Files from before the "type" field: told apart by their fields, as Hugging Face does.
absl::StatusOr<std::string> ModelType(const json::Json& model, const std::string& path) {
  if (!model.is_object()) return FieldError(path, "expected an object");
  if (json::Has(model, "type")) return TypeOf(model, path);
  if (model.contains("merges")) return std::string("BPE");
  return FieldError(At(path, "type"), "missing; expected BPE, Unigram or WordLevel");
}

}  // namespace

absl::Status ReadVocabulary(const json::Json& model, const std::string& path, Vocabulary* vocabulary) {
  ASSIGN_OR_RETURN(const std::string type, ModelType(model, path));
  const std::string here = At(path, "vocab");
  const auto it = model.find("vocab");
  if (it == model.end()) return FieldError(here, "missing");
  vocabulary->Expect(it->size());
  if (type == "Unigram") {
    if (!it->is_array() || it->empty()) return FieldError(here, "expected an array of [token, score]");
    for (size_t i = 0; i < it->size(); ++i) {
      const json::Json& item = (*it)[i];
      if (!item.is_array() || item.size() != 2 || !item[0].is_string() || !item[1].is_number()) {
        return FieldError(Item(here, i), "expected [token, score]");
      }
      RETURN_IF_ERROR(Annotate(vocabulary->AddAgain(item[0].get_ref<const std::string&>(), static_cast<int64_t>(i)), here));
    }
    return absl::OkStatus();
  }
  if (!it->is_object()) return FieldError(here, "expected an object of token: id");
  for (const auto& [token, value] : it->items()) {
    ASSIGN_OR_RETURN(const int64_t id, AsInt(value, absl::StrCat(here, "[\"", token, "\"]"), 0, std::numeric_limits<int32_t>::max()));
    RETURN_IF_ERROR(Annotate(vocabulary->Add(token, id), here));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<const Model>> ModelFromJson(const json::Json& model, const std::string& path, const Vocabulary& vocabulary,
                                                           bool byte_level) {
  ASSIGN_OR_RETURN(const std::string type, ModelType(model, path));
  if (type == "BPE") return BpeModel::FromJson(model, path, vocabulary, byte_level);
  if (byte_level) return FieldError(At(path, "type"), "\"", type, "\" with a ByteLevel pre-tokenizer is not supported; expected BPE");
  if (type == "Unigram") return UnigramModel::FromJson(model, path, vocabulary);
  if (type != "WordLevel") return FieldError(At(path, "type"), "model \"", type, "\" is not supported; expected BPE, Unigram or WordLevel");
  ASSIGN_OR_RETURN(const std::string unk, StringField(model, "unk_token", path));
  return std::make_unique<WordLevelModel>(vocabulary, vocabulary.Find(unk));
}

}  // namespace grouper::text
