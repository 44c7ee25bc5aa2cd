// Scheduler: decides which sequences take part in the next forward pass and with how many tokens, and keeps their pages.
//
//   waiting ──admit──► running ──finish──►
//      ▲                  │
//      └────preempt───────┘   (of the youngest group first; its pages are freed, it starts again from its tokens)
//
// Decode comes first: every running sequence that lacks one token. Then prefill: running sequences that lack more, then waiting ones, oldest
// first, in chunks, as far as max_batch_tokens, max_sequences and pages allow; none begins while one that runs waits for pages. While one sample
// computes its group's prompt the others of the group wait for its pages. The samples of a group run side by side in a batch, where attention
// reads the pages that they share once (kernels/attention_cuda.h).
//
// A pass may be scheduled before the tokens of the one before are known (pass_queue.h): a token that is being sampled counts (Sequence::ahead).
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
  // `kv` and `stream` must outlive the scheduler. max_context: tokens, of a sequence. `places_kept_free`: as long as no more places than that are
  // free, none who waits interrupts those who decode.
  Scheduler(KvPool& kv, Stream& stream, const EngineOptions& options, int64_t max_context, int32_t places_kept_free = 0);

  void Add(std::shared_ptr<Sequence> sequence);

  struct Work {
    std::shared_ptr<Sequence> sequence;
    int32_t tokens;  // to feed now, from sequence->computed on; their pages are there
  };
  // The next pass; sequences that certainly end with what is being sampled for them are left out. Empty when nothing waits or runs, or when
  // the tokens under way must be known first: `under_way` says whether there are any; sequences are preempted only when there are none.
  // A single sequence always fits (Engine::Create checked the cache's size).
  std::vector<Work> Schedule(bool under_way = false);

  // After the pass was launched: the fed tokens are in the cache for all passes after it. A sequence that has computed its group's prompt hands
  // it to the group.
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
  bool Ends(const Sequence& sequence) const;  // with the token that is being sampled, if not before
  bool Decode(int32_t& budget, bool under_way);  // running sequences that lack one token; false: pages lack, and may not be taken from others
  bool Prefill(int32_t& budget);   // those that lack more; false: one waits for pages
  void Admit(int32_t& budget);     // waiting ones
  void Run(std::shared_ptr<Sequence> sequence);  // into running_
  bool PrefixesWait() const;       // prompts kept only for samples that have not started
  bool ReleaseWaitingPrefixes();   // true when there were any
  void Preempt(std::list<std::shared_ptr<Sequence>>::iterator victim);
  void FreePages(Sequence& sequence);
  void MarkStarted(Sequence& sequence);
  void ReleasePrefix(Group& group);

  KvPool& kv_;
  Stream& stream_;
  const EngineOptions options_;
  const int64_t max_context_;
  const int32_t places_kept_free_;
  std::deque<std::shared_ptr<Sequence>> waiting_;
  std::list<std::shared_ptr<Sequence>> running_;  // oldest group first, its samples together
  int64_t turns_ = 0;                             // groups that have run
  std::vector<Work> work_;  // being scheduled
  // Since Schedule last tried, or left it because one that runs waits for pages, nothing has changed for those that wait: no page, place or
  // prompt has come.
  bool admission_tried_ = false;
  uint64_t preemptions_ = 0;
};

}  // namespace grouper
