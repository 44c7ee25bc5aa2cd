#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "common/model/layers.h"

namespace grouper {
namespace {

ModelConfig LongContext() {
  ModelConfig config;
  config.head_dim = 16;
  config.max_position_embeddings = 1000;
  return config;
}

// Every row below `positions` has the whole table's bits.
void ExpectRows(const kernels::RopeTable& table, const kernels::RopeTable& whole, int64_t positions) {
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < 8; ++i) {
      ASSERT_EQ(table.cos.row<float>(p)[i], whole.cos.row<float>(p)[i]) << p;
      ASSERT_EQ(table.sin.row<float>(p)[i], whole.sin.row<float>(p)[i]) << p;
    }
  }
}

TEST(RotaryTablesTest, RowsAreTheSameHoweverFarAPassGetsAtOnce) {
  Arena arena;
  RotaryTables whole(LongContext(), DType::kF32, arena), pieces(LongContext(), DType::kF32, arena);
  whole.Fill(1000);
  for (const int64_t positions : {1, 256, 257, 200, 999, 1000}) {
    pieces.Fill(positions);
    ExpectRows(pieces.table(), whole.table(), positions);
  }
}

TEST(RotaryTablesTest, ThreadsMayAskAtOnce) {
  Arena arena;
  RotaryTables whole(LongContext(), DType::kF32, arena), shared(LongContext(), DType::kF32, arena);
  whole.Fill(1000);
  std::vector<std::thread> threads;
  for (int64_t t = 1; t <= 4; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t positions = t; positions <= 1000; positions += 7) {
        shared.Fill(positions);
        ExpectRows(shared.table(), whole.table(), positions);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace grouper
