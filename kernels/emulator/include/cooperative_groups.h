// What the kernels use of cooperative groups, in an emulated build (kernels/emulator/emulator.h).
#pragma once

#include "kernels/emulator/emulator.h"

namespace cooperative_groups {

struct Cluster {
  unsigned block_rank() const { return grouper::emulator::BlockInCluster(); }
  unsigned num_blocks() const { return grouper::emulator::BlocksInCluster(); }
  void sync() const { grouper::emulator::ClusterBarrier(); }
  template <typename T>
  T* map_shared_rank(T* own, unsigned block) const {
    return static_cast<T*>(grouper::emulator::InBlock(own, block));
  }
};

inline Cluster this_cluster() { return {}; }

}  // namespace cooperative_groups
