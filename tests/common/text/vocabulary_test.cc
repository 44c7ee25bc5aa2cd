#include "common/text/vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/text/unigram.h"

namespace grouper::text {
namespace {

// Over an alphabet of many and of few bytes, so that nodes have one child and hundreds.
std::string RandomPiece(std::mt19937& random, int letters) {
  std::string piece(random() % 6, '\0');
  for (char& c : piece) c = static_cast<char>(random() % letters);
  return piece;
}

TEST(VocabularyTest, FindsEveryTokenAndNoOther) {
  Vocabulary vocabulary(3000);
  for (int id = 0; id < 3000; ++id) ASSERT_TRUE(vocabulary.Add(absl::StrCat("token ", id), 3000 - id).ok());
  EXPECT_EQ(vocabulary.size(), 3000);
  EXPECT_EQ(vocabulary.limit(), 3001);
  for (int id = 0; id < 3000; ++id) {
    EXPECT_EQ(vocabulary.Find(absl::StrCat("token ", id)), 3000 - id);
    EXPECT_EQ(vocabulary.TokenOf(3000 - id), absl::StrCat("token ", id));
  }
  EXPECT_EQ(vocabulary.Find("token 3000"), std::nullopt);
  EXPECT_EQ(vocabulary.Find(""), std::nullopt);
  EXPECT_FALSE(vocabulary.Has(0));
  EXPECT_EQ(vocabulary.TokenOf(0), "");
  EXPECT_EQ(vocabulary.TokenOf(-1), "");
  EXPECT_EQ(vocabulary.TokenOf(5000), "");
}

TEST(VocabularyTest, ATokenThatComesAgainIsFoundUnderItsLastId) {
  Vocabulary vocabulary;
  ASSERT_TRUE(vocabulary.Add("a", 0).ok());
  EXPECT_FALSE(vocabulary.Add("a", 1).ok());
  ASSERT_TRUE(vocabulary.AddAgain("a", 1).ok());
  ASSERT_TRUE(vocabulary.Add("", 2).ok());
  EXPECT_FALSE(vocabulary.Add("b", 2).ok());
  EXPECT_EQ(vocabulary.Find("a"), 1);
  EXPECT_EQ(vocabulary.Find(""), 2);
  EXPECT_EQ(vocabulary.TokenOf(0), "a");
  EXPECT_EQ(vocabulary.size(), 2);
}

TEST(PieceTrieTest, FindsWhatAMapFinds) {
  std::mt19937 random(1);
  for (const int letters : {2, 15, 16, 17, 40, 256}) {
    std::vector<std::string> pieces(4000);
    std::map<std::string, int32_t> expected;
    std::vector<std::pair<absl::string_view, int32_t>> items;
    for (size_t i = 0; i < pieces.size(); ++i) {
      pieces[i] = RandomPiece(random, letters);
      expected[pieces[i]] = static_cast<int32_t>(i);
      items.emplace_back(pieces[i], static_cast<int32_t>(i));
    }
    const PieceTrie trie(items);
    for (int n = 0; n < 20000; ++n) {
      const std::string piece = n < 4000 ? pieces[n] : RandomPiece(random, letters);
      if (piece.empty()) continue;
      uint32_t node = trie.First(static_cast<uint8_t>(piece[0]));
      for (size_t i = 1; i < piece.size() && node != PieceTrie::kNone; ++i) node = trie.Child(node, static_cast<uint8_t>(piece[i]));
      const auto it = expected.find(piece);
      EXPECT_EQ(node == PieceTrie::kNone ? -1 : trie.IdAt(node), it == expected.end() ? -1 : it->second);
    }
  }
  const std::vector<std::pair<absl::string_view, int32_t>> none;
  const PieceTrie nothing(none);
  EXPECT_EQ(nothing.First('a'), PieceTrie::kNone);
}

}  // namespace
}  // namespace grouper::text
