#include "common/model/stored_weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/log.h"
#include "common/base/quote.h"
#include "common/base/status.h"

namespace grouper {
namespace {

// Bytes of a file that are read at once: they stay in a core's cache until they are decoded.
constexpr int64_t kPiece = 1 << 16;

std::string ShapeText(const Tensor& tensor) {
  return tensor.rank() == 1 ? absl::StrCat("[", tensor.dim(0), "]")
                            : absl::StrCat("[", tensor.dim(0), ", ", tensor.dim(1), "]");
}

bool SameShape(const StoredTensor& stored, const Tensor& value) {
  if (static_cast<int>(stored.shape.size()) != value.rank()) return false;
  for (int d = 0; d < value.rank(); ++d) {
    if (stored.shape[static_cast<size_t>(d)] != value.dim(d)) return false;
  }
  return true;
}

// OCP 8-bit floating point, E4M3: no infinities, 0x7f and 0xff are NaN.
float FromE4M3(uint8_t bits) {
  const int exponent = (bits >> 3) & 15, mantissa = bits & 7;
  float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  if ((bits & 0x7f) == 0x7f) value = std::nanf("");
  return bits & 0x80 ? -value : value;
}

// By the byte.
std::array<float, 256> E4M3Values() {
  std::array<float, 256> values;
  for (int bits = 0; bits < 256; ++bits) values[static_cast<size_t>(bits)] = FromE4M3(static_cast<uint8_t>(bits));
  return values;
}

// Which row of the file row `r` of the model comes from: inside a head, pair i lies in rows (2i, 2i + 1) there and (i,
// i + D/2) here.
int64_t SourceRow(int64_t r, int64_t rows, int64_t heads) {
  if (heads == 0) return r;
  const int64_t width = rows / heads, head = r / width, i = r % width;
  return head * width + (i < width / 2 ? 2 * i : 2 * (i - width / 2) + 1);
}

bool AllFinite(const float* values, int64_t n) {
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) finite &= std::isfinite(values[i]);
  return finite;
}

// Elements [begin, end) of a tensor in `file`, or in memory (null). REQUIRES: whole blocks of a type that can be decoded.
absl::Status ReadFloats(const StoredTensor& stored, const MappedFile* file, int64_t begin, int64_t end, float* out) {
  const int64_t elements = BlockElements(stored.type), bytes = BlockBytes(stored.type);
  const auto part = [&](int64_t first, int64_t last) {
    return stored.bytes.substr(static_cast<size_t>(first / elements * bytes), static_cast<size_t>((last - first) / elements * bytes));
  };
  if (file == nullptr) {
    DecodeToFloat(stored.type, part(begin, end).data(), end - begin, out);
    return absl::OkStatus();
  }
  if (stored.type == StorageType::kF32) return file->Read(part(begin, end), out);
  alignas(64) char piece[kPiece];
  const int64_t step = kPiece / bytes * elements;
  for (int64_t first = begin; first < end; first += step) {
    const int64_t last = std::min(end, first + step);
    RETURN_IF_ERROR(file->Read(part(first, last), piece));
    DecodeToFloat(stored.type, piece, last - first, out + (first - begin));
  }
  return absl::OkStatus();
}

// All of a list that people may read.
std::string Joined(std::vector<std::string>& names, const char* separator) {
  constexpr size_t kMost = 2000;
  const size_t count = names.size();
  names.resize(std::min(count, kMost));
  return absl::StrCat(absl::StrJoin(names, separator), count > kMost ? absl::StrCat(separator, "and ", count - kMost, " more") : "");
}

// What is wrong with one pair, or "".
std::string Problem(const NamedTensor& from, const LogicalTensor& to, Fp8Blocks blocks) {
  const StoredTensor& stored = *from.stored;
  if (!SameShape(stored, to.value))
    return absl::StrCat(QuoteName(stored.name), " is ", stored.ShapeString(), ", expected ", ShapeText(to.value));
  if (stored.type == StorageType::kF8E4M3) {
    if (from.scale == nullptr)
      return absl::StrCat(QuoteName(stored.name), " is F8_E4M3 without ", stored.name, "_scale_inv");
    const std::vector<int64_t> expected = {
        (to.value.dim(0) + blocks.rows - 1) / blocks.rows,
        to.value.rank() == 2 ? (to.value.dim(1) + blocks.columns - 1) / blocks.columns : 0};
    if (from.scale->shape != expected || !CanDecodeToFloat(from.scale->type)) {
      return absl::StrCat(QuoteName(from.scale->name), " is ", from.scale->ShapeString(), ", expected [",
                          absl::StrJoin(expected, ", "), "]");
    }
    return "";
  }
  if (!CanDecodeToFloat(stored.type))
    return absl::StrCat(QuoteName(stored.name), " is ", Name(stored.type), ", which is not a kind of weight");
  if (from.rotated_heads > 0 && ColumnsOf(to) % BlockElements(stored.type) != 0) {
    return absl::StrCat(QuoteName(stored.name), " has rows that are not whole blocks of ", Name(stored.type));
  }
  return "";
}

}  // namespace

absl::StatusOr<std::unique_ptr<StoredWeights>> StoredWeights::Create(const ModelConfig& config, std::vector<NamedTensor> tensors,
                                                                     const std::string& source, Fp8Blocks blocks,
                                                                     std::shared_ptr<const void> owner, std::vector<const MappedFile*> files) {
  std::unique_ptr<StoredWeights> weights(new StoredWeights);
  ASSIGN_OR_RETURN(weights->shapes_, Model::Create(config, DType::kF32, {}, WeightUse::kShapes));
  std::vector<NamedTensor>& found = weights->found_;
  found.resize(weights->tensors().size());
  std::vector<std::string> missing, unknown, wrong;
  for (NamedTensor& tensor : tensors) {
    const int index = weights->Find(tensor.name);
    if (index < 0) {
      unknown.push_back(QuoteName(tensor.stored->name));
    } else if (found[static_cast<size_t>(index)].stored != nullptr) {
      wrong.push_back(absl::StrCat(QuoteName(tensor.stored->name), " is there twice"));
    } else {
      found[static_cast<size_t>(index)] = std::move(tensor);
    }
  }
  for (size_t i = 0; i < found.size(); ++i) {
    const LogicalTensor& to = weights->tensors()[i];
    if (found[i].stored == nullptr) {
      missing.push_back(QuoteName(to.name));
      continue;
    }
    const std::string problem = Problem(found[i], to, blocks);
    if (!problem.empty()) wrong.push_back(problem);
  }
  std::vector<std::string> problems;
  if (!missing.empty()) problems.push_back(absl::StrCat(missing.size(), " tensors are missing: ", Joined(missing, ", ")));
  if (!unknown.empty()) problems.push_back(absl::StrCat(unknown.size(), " tensors are not of this model: ", Joined(unknown, ", ")));
  if (!wrong.empty()) problems.push_back(Joined(wrong, "; "));
  if (!problems.empty()) return absl::InvalidArgumentError(absl::StrCat(source, ": ", absl::StrJoin(problems, "; ")));
  weights->blocks_ = blocks;
  weights->owner_ = std::move(owner);
  weights->files_ = std::move(files);
  std::vector<std::string> paths;
  for (const MappedFile* file : weights->files_) {
    file->DropPages();  // the header's
    paths.push_back(file->path());
  }
  if (!paths.empty()) weights->ahead_ = std::make_unique<ReadAhead>(std::move(paths));
  return weights;
}

absl::Status StoredWeights::ReadRows(const NamedTensor& from, int64_t columns, int64_t begin, int64_t end, float* out) const {
  const StoredTensor& stored = *from.stored;
  const MappedFile* const file = FileAt(FileOf(stored));
  if (stored.type != StorageType::kF8E4M3) return ReadFloats(stored, file, begin * columns, end * columns, out);
  static const std::array<float, 256> kValues = E4M3Values();
  const int64_t scale_columns = (columns + blocks_.columns - 1) / blocks_.columns;
  std::vector<float> scales(static_cast<size_t>(scale_columns));
  std::string row_bytes(file == nullptr ? 0 : static_cast<size_t>(columns), '\0');
  int64_t block = -1;  // whose scales these are
  for (int64_t row = begin; row < end; ++row) {
    if (row / blocks_.rows != block) {
      block = row / blocks_.rows;
      RETURN_IF_ERROR(ReadFloats(*from.scale, FileAt(FileOf(*from.scale)), block * scale_columns, (block + 1) * scale_columns, scales.data()));
    }
    const absl::string_view part = stored.bytes.substr(static_cast<size_t>(row * columns), static_cast<size_t>(columns));
    if (file != nullptr) RETURN_IF_ERROR(file->Read(part, row_bytes.data()));
    const char* const bytes = file == nullptr ? part.data() : row_bytes.data();
    for (int64_t b = 0; b < scale_columns; ++b) {
      const float scale = scales[static_cast<size_t>(b)];
      const int64_t last = std::min(columns, (b + 1) * blocks_.columns);
      for (int64_t j = b * blocks_.columns; j < last; ++j) *out++ = kValues[static_cast<uint8_t>(bytes[j])] * scale;
    }
  }
  return absl::OkStatus();
}

size_t StoredWeights::FileOf(const StoredTensor& stored) const {
  const auto holds = [&](const MappedFile* file) { return file->Holds(stored.bytes); };
  return static_cast<size_t>(std::find_if(files_.begin(), files_.end(), holds) - files_.begin());
}

std::vector<size_t> StoredWeights::FileOrder() const {
  using Place = std::pair<size_t, uintptr_t>;
  std::vector<std::pair<Place, size_t>> places;
  for (size_t i = 0; i < found_.size(); ++i) places.push_back({{FileOf(stored(i)), reinterpret_cast<uintptr_t>(stored(i).bytes.data())}, i});
  std::sort(places.begin(), places.end());
  std::vector<size_t> order;
  for (const auto& [place, i] : places) order.push_back(i);
  return order;
}

absl::Status StoredWeights::Read(size_t i, int64_t begin, int64_t end, float* out) const {
  const NamedTensor& from = found_[i];
  const Tensor& shape = tensors()[i].value;
  const int64_t columns = ColumnsOf(tensors()[i]), heads = from.rotated_heads;
  if (BlockElements(from.stored->type) > 1 && shape.rank() == 1 && (begin != 0 || end != shape.dim(0))) {  // a vector is decoded whole
    std::vector<float> whole(static_cast<size_t>(shape.dim(0)));
    RETURN_IF_ERROR(Read(i, 0, shape.dim(0), whole.data()));
    std::copy(whole.begin() + begin, whole.begin() + end, out);
    return absl::OkStatus();
  }
  absl::Status read;
  if (heads == 0) {
    read = ReadRows(from, columns, begin, end, out);
  } else {
    for (int64_t row = begin; row < end && read.ok(); ++row) {
      const int64_t source = SourceRow(row, shape.dim(0), heads);
      read = ReadRows(from, columns, source, source + 1, out + (row - begin) * columns);
    }
  }
  RETURN_IF_ERROR(Annotate(read, absl::StrCat("tensor ", QuoteName(from.stored->name))));
  if (ahead_ != nullptr) ahead_->Took((end - begin) * columns * BlockBytes(from.stored->type) / BlockElements(from.stored->type));
  if (!AllFinite(out, (end - begin) * columns)) {
    return absl::InvalidArgumentError(
        absl::StrCat(from.stored->file, ": tensor ", QuoteName(from.stored->name), " has values that are not finite"));
  }
  return absl::OkStatus();
}

std::vector<NamedTensor> HuggingFaceTensors(const ModelConfig& config, absl::Span<const StoredTensor> tensors,
                                            const std::string& source) {
  constexpr absl::string_view kScale = "_scale_inv";
  std::map<absl::string_view, const StoredTensor*> by_name;
  for (const StoredTensor& tensor : tensors) by_name[tensor.name] = &tensor;
  std::vector<NamedTensor> result;
  int64_t prediction = 0;
  for (const StoredTensor& tensor : tensors) {
    absl::string_view rest = tensor.name;
    if (absl::EndsWith(rest, ".rotary_emb.inv_freq")) continue;  // a buffer that old versions of transformers saved
    if (absl::ConsumePrefix(&rest, "model.layers.")) {
      int64_t layer = -1;
      if (absl::SimpleAtoi(rest.substr(0, rest.find('.')), &layer) && layer >= config.num_hidden_layers &&
          layer < config.num_hidden_layers + config.num_nextn_predict_layers) {
        ++prediction;
        continue;
      }
    }
    if (config.tie_word_embeddings && tensor.name == "lm_head.weight") continue;
    if (absl::EndsWith(tensor.name, kScale) &&
        by_name.count(absl::string_view(tensor.name).substr(0, tensor.name.size() - kScale.size())) > 0) {
      continue;
    }
    NamedTensor named{tensor.name, &tensor};
    if (auto scale = by_name.find(absl::StrCat(tensor.name, kScale)); scale != by_name.end())
      named.scale = scale->second;
    result.push_back(std::move(named));
  }
  if (prediction > 0)
    LOG(INFO) << source << ": " << prediction << " tensors of multi-token prediction layers are left aside";
  return result;
}

}  // namespace grouper
