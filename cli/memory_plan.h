// What a run will take of memory, part by part and with the recipe's field that changes each part: for `run --dry-run`, and for refusing a run
// or a rollout worker that cannot fit before it starts. docs/gpu_runs.md has predictions beside measurements.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cli/stage_lengths.h"
#include "common/model/model.h"
#include "proto/recipe.pb.h"

namespace grouper::cli {

// One memory: the host's, or a device's.
struct MemoryUse {
  struct Part {
    std::string what;
    int64_t bytes = 0;
    std::string field;  // what to change for less; empty: nothing in the recipe
  };
  std::string where;     // "host", "cuda:0"
  std::string stage;     // whose parts these are: the stage that takes most
  std::vector<Part> parts;
  int64_t limit = 0;     // what the run may take
  int64_t total() const;
};

struct MemoryPlan {
  std::vector<MemoryUse> uses;
  std::string Text() const;
  // ResourceExhausted: a memory would run out; the message names the largest parts and their fields. who: "the run".
  absl::Status Check(const std::string& who) const;
};

// What is there when the plan is made: the model is loaded, nothing else.
struct MachineMemory {
  int64_t host_resident = 0;  // of this process
  int64_t host_limit = 0;     // that it may reach
  Device device;              // of the model
  int64_t device_taken = 0;   // by this process' allocations
  int64_t device_free = 0;
};
MachineMemory MeasureMachine(const Model& model);

// `model`: of the recipe; its own device does not matter, machine.device does.
MemoryPlan PlanMemory(const v1::Recipe& recipe, const Model& model, const std::vector<StageLengths>& stages, const MachineMemory& machine);

// Of `serve rollout`: nothing is known of prompts, so the cache is full, and a pass the largest that the engine makes: on a
// CPU, whose pages are taken as they are filled, an upper bound.
MemoryPlan PlanWorkerMemory(const v1::Recipe& recipe, const Model& model, const MachineMemory& machine);

// "memory: cuda:0 19.71 GB at most, predicted 20.02 GB (+1.6%); host ...", after a run.
std::string MemoryReport(const MemoryPlan& plan, Device device);

}  // namespace grouper::cli
