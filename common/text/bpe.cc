#include "common/text/bpe.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "absl/hash/hash.h"
#include "common/base/check.h"
#include "common/base/status.h"
#include "common/text/byte_alphabet.h"
#include "common/text/json_fields.h"
#include "common/text/utf8.h"

namespace grouper::text {
namespace {

constexpr size_t kShortSymbols = 48;

// Pieces that this thread encoded lately. Direct-mapped: a newcomer takes the place of whoever was there. 1 MiB a thread at most: pages of it that no
// piece falls into are never touched.
class PieceCache {
 public:
  static constexpr size_t kMaxBytes = 30;
  static constexpr size_t kMaxIds = 6;

  struct Entry {
    uint64_t serial;  // 0: empty
    uint8_t length;
    uint8_t count;
    char bytes[kMaxBytes];
    int32_t ids[kMaxIds];

    bool Holds(uint64_t model, absl::string_view piece) const {
      return serial == model && length == piece.size() && std::memcmp(bytes, piece.data(), piece.size()) == 0;
    }
    void Store(uint64_t model, absl::string_view piece, const int32_t* first, size_t n) {
      serial = model;
      length = static_cast<uint8_t>(piece.size());
      count = static_cast<uint8_t>(n);
      std::memcpy(bytes, piece.data(), piece.size());
      std::copy(first, first + n, ids);
    }
  };

  PieceCache() {
    void* const fresh = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(fresh != MAP_FAILED) << "out of memory: " << kBytes << " bytes";
    entries_ = static_cast<Entry*>(fresh);
  }
  ~PieceCache() { munmap(entries_, kBytes); }
  PieceCache(const PieceCache&) = delete;
  PieceCache& operator=(const PieceCache&) = delete;
  Entry& At(absl::string_view piece) { return entries_[absl::Hash<absl::string_view>()(piece) & (kEntries - 1)]; }

 private:
  static constexpr size_t kEntries = 1 << 14, kBytes = kEntries * sizeof(Entry);
  Entry* entries_;
};

PieceCache& ThreadCache() {
  thread_local PieceCache cache;
  return cache;
}

uint64_t NextSerial() {
  static std::atomic<uint64_t> next{1};
  return next.fetch_add(1);
}

int Log2AtLeast(size_t n) {
  int bits = 4;
  while ((size_t{1} << bits) < n) ++bits;
  return bits;
}

// "left right", or ["left", "right"].
absl::Status MergeParts(const json::Json& merge, const std::string& path, absl::string_view* left, absl::string_view* right) {
  if (merge.is_array()) {
    if (merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) return FieldError(path, "expected two strings");
    *left = merge[0].get_ref<const std::string&>();
    *right = merge[1].get_ref<const std::string&>();
    return absl::OkStatus();
  }
  if (!merge.is_string()) return FieldError(path, "expected \"left right\" or [\"left\", \"right\"]");
  const absl::string_view text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == absl::string_view::npos || text.find(' ', space + 1) != absl::string_view::npos) {
    return FieldError(path, "\"", text, "\" is not two tokens with one space between them");
  }
  *left = text.substr(0, space);
  *right = text.substr(space + 1);
  return absl::OkStatus();
}

}  // namespace

MergeTable::MergeTable(size_t merges) : shift_(64 - Log2AtLeast(2 * merges)), slots_(size_t{1} << (64 - shift_)) {}

void MergeTable::Set(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  size_t i = Home(key);
  while (slots_[i].key != key && slots_[i].key != UINT64_MAX) i = (i + 1) & (slots_.size() - 1);
  slots_[i] = {key, merge};
}

MergeTable::Merge MergeTable::Find(int32_t left, int32_t right) const {
  const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  for (size_t i = Home(key);; i = (i + 1) & (slots_.size() - 1)) {
    if (slots_[i].key == key) return slots_[i].merge;
    if (slots_[i].key == UINT64_MAX) return {kNone, -1};
  }
}

BpeModel::BpeModel(const Vocabulary& vocabulary, size_t merges) : vocabulary_(vocabulary), serial_(NextSerial()), merges_(merges) {
  byte_ids_.fill(-1);
}

absl::StatusOr<std::unique_ptr<const BpeModel>> BpeModel::FromJson(const json::Json& model, const std::string& path,
                                                                   const Vocabulary& vocabulary, bool byte_level) {
  ASSIGN_OR_RETURN(const json::Json* const merges, ArrayField(model, "merges", path));
  std::unique_ptr<BpeModel> bpe(new BpeModel(vocabulary, merges->size()));
  bpe->byte_level_ = byte_level;
  ASSIGN_OR_RETURN(bpe->fuse_unk_, BoolField(model, "fuse_unk", path, false));
  ASSIGN_OR_RETURN(bpe->byte_fallback_, BoolField(model, "byte_fallback", path, false));
  ASSIGN_OR_RETURN(bpe->ignore_merges_, BoolField(model, "ignore_merges", path, false));
  if (json::Has(model, "dropout") && !(model["dropout"].is_number() && model["dropout"] == 0)) {
    return FieldError(At(path, "dropout"), "not supported: encoding must be the same each time; expected null");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (json::Has(model, key) && model[key] != "") return FieldError(At(path, key), "not supported; expected null");
  }
  if (json::Has(model, "unk_token")) {
    ASSIGN_OR_RETURN(const std::string unk, StringField(model, "unk_token", path));
    if (!unk.empty()) {
      bpe->unk_id_ = vocabulary.Find(unk);
      if (!bpe->unk_id_) return FieldError(At(path, "unk_token"), "\"", unk, "\" is not in model.vocab");
    }
  }

  const std::string merges_path = At(path, "merges");
  uint32_t rank = 0;
  std::string joined;
  for (size_t i = 0; i < merges->size(); ++i) {
    const json::Json& merge = (*merges)[i];
    if (merge.is_string() && merge.get_ref<const std::string&>().rfind("#version", 0) == 0) continue;
    absl::string_view left, right;
    RETURN_IF_ERROR(MergeParts(merge, Item(merges_path, i), &left, &right));
    joined.assign(left.data(), left.size());
    joined.append(right.data(), right.size());
    int32_t ids[3];
    int n = 0;
    for (const absl::string_view token : {left, right, absl::string_view(joined)}) {
      const std::optional<int32_t> id = vocabulary.Find(token);
      if (!id) return FieldError(Item(merges_path, i), "token \"", token, "\" is not in model.vocab");
      ids[n++] = *id;
    }
    bpe->merges_.Set(ids[0], ids[1], {rank++, ids[2]});
  }

  for (int byte = 0; byte < 256; ++byte) {
    // Vocabularies made without a full alphabet (SmolLM2's) lack control characters and the first bytes of planes that have no
    // characters: those bytes are dropped, as everywhere else. Any other is a damaged file.
    const bool needed = byte == '\t' || byte == '\n' || (byte >= 0x20 && byte < 0x7F) || (byte >= 0x80 && byte < 0xC0) || (byte >= 0xC2 && byte < 0xF1);
    if (!byte_level && !bpe->byte_fallback_) break;
    const std::string token = byte_level ? CharacterOfByte(static_cast<uint8_t>(byte)) : absl::StrCat("<0x", absl::Hex(byte, absl::kZeroPad2), ">");
    std::string upper = token;
    if (!byte_level) std::transform(upper.begin() + 3, upper.begin() + 5, upper.begin() + 3, ::toupper);
    const std::optional<int32_t> id = vocabulary.Find(upper);
    if (id) {
      bpe->byte_ids_[byte] = *id;
    } else if (needed && !bpe->unk_id_) {
      return FieldError(At(path, "vocab"), "no token \"", upper, "\" for byte ", byte, ", and no unk_token: the byte would be lost");
    }
  }
  if (bpe->ignore_merges_ && byte_level) {
    for (int32_t id = 0; id < vocabulary.limit(); ++id) {
      if (!vocabulary.Has(id)) continue;
      if (std::optional<std::string> bytes = FromByteAlphabet(vocabulary.TokenOf(id))) bpe->whole_.emplace(*std::move(bytes), id);
    }
  }
  return bpe;
}

// The piece's first symbols: bytes or characters. Unknown ones as Hugging Face's merge_word does it, including that a pending unk token
// stays behind the byte tokens that follow it.
bool BpeModel::Symbols(absl::string_view piece, std::vector<int32_t>* symbols, std::vector<std::string>* unknown) const {
  bool complete = true;
  bool pending_unk = false;
  for (size_t pos = 0; pos < piece.size();) {
    int length = 1;
    std::optional<int32_t> id;
    if (byte_level_) {
      const int32_t byte_id = byte_ids_[static_cast<uint8_t>(piece[pos])];
      if (byte_id >= 0) id = byte_id;
    } else {
      CodePointAt(piece, pos, &length);
      id = vocabulary_.Find(piece.substr(pos, length));
    }
    const absl::string_view character = piece.substr(pos, length);
    pos += length;
    if (id) {
      if (pending_unk) symbols->push_back(*unk_id_);
      pending_unk = false;
      symbols->push_back(*id);
      continue;
    }
    if (!byte_level_ && byte_fallback_ &&
        std::all_of(character.begin(), character.end(), [&](char c) { return byte_ids_[static_cast<uint8_t>(c)] >= 0; })) {
      for (const char c : character) symbols->push_back(byte_ids_[static_cast<uint8_t>(c)]);
      continue;
    }
    complete = false;
    if (unknown != nullptr) unknown->emplace_back(character);
    if (!unk_id_) continue;
    if (pending_unk && !fuse_unk_) symbols->push_back(*unk_id_);
    pending_unk = true;
  }
  if (pending_unk) symbols->push_back(*unk_id_);
  return complete;
}

bool BpeModel::Encode(absl::string_view piece, std::vector<int32_t>* ids, std::vector<std::string>* unknown) const {
  PieceCache::Entry* entry = nullptr;
  if (piece.size() <= PieceCache::kMaxBytes) {
    entry = &ThreadCache().At(piece);
    if (entry->Holds(serial_, piece)) {
      ids->insert(ids->end(), entry->ids, entry->ids + entry->count);
      return true;
    }
  }
  if (ignore_merges_) {
    std::optional<int32_t> id;
    if (byte_level_) {
      const auto it = whole_.find(piece);
      if (it != whole_.end()) id = it->second;
    } else {
      id = vocabulary_.Find(piece);
    }
    if (id) {
      ids->push_back(*id);
      if (entry != nullptr) entry->Store(serial_, piece, &*id, 1);
      return true;
    }
  }
  thread_local std::vector<int32_t> symbols;
  symbols.clear();
  const bool complete = Symbols(piece, &symbols, unknown);
  const size_t before = ids->size();
  if (symbols.size() <= kShortSymbols) {
    MergeShort(&symbols, ids);
  } else {
    MergeLong(symbols, ids);
  }
  const size_t count = ids->size() - before;
  if (entry != nullptr && complete && count <= PieceCache::kMaxIds) entry->Store(serial_, piece, ids->data() + before, count);
  if (symbols.capacity() > (size_t{1} << 20)) std::vector<int32_t>().swap(symbols);
  return complete;
}

void BpeModel::MergeShort(std::vector<int32_t>* symbols, std::vector<int32_t>* ids) const {
  int32_t* const s = symbols->data();
  int n = static_cast<int>(symbols->size());
  MergeTable::Merge pairs[kShortSymbols];
  for (int i = 0; i + 1 < n; ++i) pairs[i] = merges_.Find(s[i], s[i + 1]);
  while (n > 1) {
    int best = 0;
    for (int i = 1; i + 1 < n; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == MergeTable::kNone) break;
    s[best] = pairs[best].id;
    std::copy(s + best + 2, s + n, s + best + 1);
    if (best + 2 < n) std::copy(pairs + best + 2, pairs + n - 1, pairs + best + 1);
    --n;
    if (best > 0) pairs[best - 1] = merges_.Find(s[best - 1], s[best]);
    if (best + 1 < n) pairs[best] = merges_.Find(s[best], s[best + 1]);
  }
  ids->insert(ids->end(), s, s + n);
}

void BpeModel::MergeLong(const std::vector<int32_t>& symbols, std::vector<int32_t>* ids) const {
  struct Node {
    int32_t id;  // -1: merged into the one before
    uint32_t previous;
    uint32_t next;
  };
  struct Candidate {
    uint32_t rank;
    uint32_t position;
    int32_t id;
    bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : position > other.position; }
  };
  constexpr uint32_t kEnd = UINT32_MAX;
  const uint32_t n = static_cast<uint32_t>(symbols.size());
  std::vector<Node> nodes(n);
  std::vector<Candidate> heap;
  heap.reserve(n);
  for (uint32_t i = 0; i < n; ++i) {
    nodes[i] = {symbols[i], i == 0 ? kEnd : i - 1, i + 1 == n ? kEnd : i + 1};
    if (i + 1 == n) break;
    const MergeTable::Merge merge = merges_.Find(symbols[i], symbols[i + 1]);
    if (merge.rank != MergeTable::kNone) heap.push_back({merge.rank, i, merge.id});
  }
  const auto later = [](const Candidate& a, const Candidate& b) { return a > b; };
  std::make_heap(heap.begin(), heap.end(), later);
  const auto push = [&](uint32_t left, uint32_t right) {
    const MergeTable::Merge merge = merges_.Find(nodes[left].id, nodes[right].id);
    if (merge.rank == MergeTable::kNone) return;
    heap.push_back({merge.rank, left, merge.id});
    std::push_heap(heap.begin(), heap.end(), later);
  };
  while (!heap.empty()) {
    const Candidate top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), later);
    heap.pop_back();
    Node& left = nodes[top.position];
    if (left.id < 0 || left.next == kEnd) continue;
    Node& right = nodes[left.next];
    const MergeTable::Merge now = merges_.Find(left.id, right.id);
    if (now.rank == MergeTable::kNone || now.id != top.id) continue;  // the pair has changed since
    left.id = top.id;
    right.id = -1;
    left.next = right.next;
    if (left.next != kEnd) nodes[left.next].previous = top.position;
    if (left.previous != kEnd) push(left.previous, top.position);
    if (left.next != kEnd) push(top.position, left.next);
  }
  for (uint32_t i = 0; i != kEnd; i = nodes[i].next) ids->push_back(nodes[i].id);
}

}  // namespace grouper::text
