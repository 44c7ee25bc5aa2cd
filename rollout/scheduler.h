// Scheduler: decides which sequences take part in the next forward pass and with how many tokens, and keeps their pages.
//
//   waiting ──admit──► running ──finish──►
//      ▲                  │
//      └────preempt───────┘   (of the youngest group first; its pages are freed, it starts again from its tokens)
//
// Decode comes first: every running sequence that lacks one token. Then prefill: running sequences that lack more, then waiting ones, oldest
// first, in chunks, as far as max_batch_tokens, max_sequences and pages allow; none begins while one that runs waits for pages. While one sample computes its group's prompt the others of
// the group wait for its pages. The samples of a group run side by side in a batch, where attention reads the pages that they share once
// (kernels/attention_cuda.h).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <vector>

#include "common/model/kv_pool.h"
#include "rollout/sequence.h"

namespace grouper {

class Scheduler {
 public:
  // `kv` and `stream` must outlive the scheduler.
  Scheduler(KvPool& kv, Stream& stream, const EngineOptions& options);

  void Add(std::shared_ptr<Sequence> sequence);

  struct Work {
    Sequence* sequence;
    int32_t tokens;  // to feed now, from sequence->computed on; their pages are there
  };
  // The next pass; empty when nothing waits or runs. A single sequence always fits (Engine::Create checked the cache's size).
  const std::vector<Work>& Schedule();

  // The next pass while all that runs decodes and nothing that waits could start: the sequences to be given one token more, oldest group first,
  // counting those still being sampled (Sequence::ahead); sequences that certainly end with these are left out. Pages are there. Empty: bring
  // in what is being sampled, then ask Schedule.
  const std::vector<std::shared_ptr<Sequence>>& ScheduleAhead(int64_t max_context);

  // After the pass: the fed tokens are in the cache. A sequence that has computed its group's prompt hands it to the group.
  void Computed(const std::vector<Work>& work);
  // Takes a finished sequence out and frees its pages.
  void Finish(Sequence* sequence);
  void DropIf(const std::function<bool(const Group&)>& drop);

  int32_t running() const { return static_cast<int32_t>(running_.size()); }
  int32_t waiting() const { return static_cast<int32_t>(waiting_.size()); }
  uint64_t preemptions() const { return preemptions_; }

 private:
  bool AllocatePages(Sequence& sequence, int32_t tokens);  // so that positions [0, tokens) have pages
  bool AllocateOrPreempt(Sequence& sequence, int32_t tokens);
  bool MayUsePrefix(const Sequence& sequence) const;
  void Start(Sequence& sequence);  // takes the group's prefix, or becomes the one that computes it
  bool Prefill(int32_t& budget);   // running sequences that lack more than one token; false: one waits for pages
  void Admit(int32_t& budget);     // waiting ones
  void Run(std::shared_ptr<Sequence> sequence);  // into running_
  bool ReleaseWaitingPrefixes();   // prompts kept only for samples that have not started; true when there were any
  void Preempt(std::list<std::shared_ptr<Sequence>>::iterator victim);
  void FreePages(Sequence& sequence);
  void MarkStarted(Sequence& sequence);
  void ReleasePrefix(Group& group);

  KvPool& kv_;
  Stream& stream_;
  EngineOptions options_;
  std::deque<std::shared_ptr<Sequence>> waiting_;
  std::list<std::shared_ptr<Sequence>> running_;  // oldest group first, its samples together
  int64_t turns_ = 0;                             // groups that have run
  std::vector<Work> work_;
  std::vector<std::shared_ptr<Sequence>> ahead_;
  // Since Schedule last tried, nothing has changed for those that wait.
  bool admission_tried_ = false;
  uint64_t preemptions_ = 0;
};

}  // namespace grouper
