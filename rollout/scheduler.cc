#include "rollout/scheduler.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "kernels/attention.h"

namespace grouper {
namespace {
constexpr int32_t kPage = kernels::kPageTokens;
int32_t PagesFor(int32_t tokens) { return (tokens + kPage - 1) / kPage; }
}  // namespace

Scheduler::Scheduler(KvPool& kv, Stream& stream, const EngineOptions& options, int64_t max_context, int32_t places_kept_free)
    : kv_(kv), stream_(stream), options_(options), max_context_(max_context), places_kept_free_(places_kept_free) {}

void Scheduler::Add(std::shared_ptr<Sequence> sequence) {
  waiting_.push_back(std::move(sequence));
  admission_tried_ = false;
}

bool Scheduler::AllocatePages(Sequence& sequence, int32_t tokens) {
  const int32_t wanted = PagesFor(tokens), had = static_cast<int32_t>(sequence.pages.size());
  if (wanted - had > kv_.free_pages()) return false;
  for (int32_t i = had; i < wanted; ++i) sequence.pages.push_back(kv_.Allocate());
  return true;
}

void Scheduler::FreePages(Sequence& sequence) {
  for (int32_t page : sequence.pages) kv_.Release(page);
  sequence.pages.clear();
  sequence.computed = 0;
}

void Scheduler::ReleasePrefix(Group& group) {
  if (!group.prefix_pages.empty()) admission_tried_ = false;
  for (int32_t page : group.prefix_pages) kv_.Release(page);
  group.prefix_pages.clear();
  if (group.prefix == Group::Prefix::kReady) group.prefix = Group::Prefix::kNone;
}

void Scheduler::MarkStarted(Sequence& sequence) {
  if (sequence.started) return;
  sequence.started = true;
  if (--sequence.group->unstarted == 0) ReleasePrefix(*sequence.group);
}

void Scheduler::Preempt(std::list<std::shared_ptr<Sequence>>::iterator victim) {
  std::shared_ptr<Sequence> sequence = *victim;
  running_.erase(victim);
  FreePages(*sequence);
  if (sequence->computes_prefix) {
    sequence->computes_prefix = false;
    sequence->group->prefix = Group::Prefix::kNone;
  }
  waiting_.push_front(std::move(sequence));
  admission_tried_ = false;
  ++preemptions_;
}

bool Scheduler::ReleaseWaitingPrefixes() {
  bool released = false;
  for (const std::shared_ptr<Sequence>& waiting : waiting_) {
    released |= !waiting->group->prefix_pages.empty();
    ReleasePrefix(*waiting->group);
  }
  return released;
}

bool Scheduler::PrefixesWait() const {
  return std::any_of(waiting_.begin(), waiting_.end(), [](const auto& waiting) { return !waiting->group->prefix_pages.empty(); });
}

// Makes room for `sequence` by preempting those behind it, then by dropping prompt prefixes that are only kept for later samples.
bool Scheduler::AllocateOrPreempt(Sequence& sequence, int32_t tokens) {
  while (!AllocatePages(sequence, tokens)) {
    auto last = std::prev(running_.end());
    if (last->get() != &sequence) {
      Preempt(last);
    } else if (!ReleaseWaitingPrefixes()) {
      return false;
    }
  }
  return true;
}

bool Scheduler::MayUsePrefix(const Sequence& sequence) const { return options_.share_prefix && sequence.computed == 0; }

void Scheduler::Start(Sequence& sequence) {
  Group& group = *sequence.group;
  if (!MayUsePrefix(sequence)) return;
  if (group.prefix == Group::Prefix::kNone) {
    // Only worth it when another sample will take it.
    if (group.unstarted > (sequence.started ? 0 : 1)) {
      group.prefix = Group::Prefix::kComputing;
      sequence.computes_prefix = true;
    }
    return;
  }
  // Share the pages before the one that holds the prompt's last token, copy that one, and feed the last token again for its logits.
  const int32_t prompt = static_cast<int32_t>(group.prompt.size());
  const int32_t shared = (prompt - 1) / kPage, copied = prompt - 1 - shared * kPage;
  for (int32_t i = 0; i < shared; ++i) {
    kv_.Retain(group.prefix_pages[i]);
    sequence.pages.push_back(group.prefix_pages[i]);
  }
  const int32_t own = kv_.Allocate();
  kv_.CopyPage(stream_, group.prefix_pages[shared], own, copied);
  sequence.pages.push_back(own);
  sequence.computed = prompt - 1;
  MarkStarted(sequence);
}

void Scheduler::Run(std::shared_ptr<Sequence> sequence) {
  Group& group = *sequence->group;
  if (group.turn < 0) group.turn = turns_++;
  auto place = running_.end();
  while (place != running_.begin() && (*std::prev(place))->group->turn > group.turn) --place;
  running_.insert(place, std::move(sequence));
}

bool Scheduler::Ends(const Sequence& sequence) const {
  const int64_t sampled = static_cast<int64_t>(sequence.logprobs.size()) + sequence.ahead;
  return sequence.ahead > 0 && (sampled >= sequence.group->request.sampling().max_new_tokens() || sequence.length() >= max_context_);
}

bool Scheduler::Decode(int32_t& budget, bool under_way) {
  // A preemption takes from the end of the list, so what was scheduled before stays.
  for (auto it = running_.begin(); it != running_.end() && budget > 0; ++it) {
    Sequence& sequence = **it;
    if (sequence.remaining() != 1 || Ends(sequence)) continue;
    if (under_way && !AllocatePages(sequence, sequence.length())) {
      // The last one has nobody to preempt: it waits for pages, and the others go on.
      if (std::next(it) != running_.end() || PrefixesWait()) return false;
      continue;
    }
    if (!under_way && !AllocateOrPreempt(sequence, sequence.length())) continue;
    work_.push_back({*it, 1});
    --budget;
  }
  return true;
}

bool Scheduler::Prefill(int32_t& budget) {
  bool all = true;
  for (auto it = running_.begin(); it != running_.end() && budget > 0; ++it) {
    Sequence& sequence = **it;
    if (sequence.remaining() <= 1) continue;
    const int32_t tokens = std::min(budget, sequence.remaining());
    if (!AllocatePages(sequence, sequence.computed + tokens)) {
      all = false;
      continue;
    }
    work_.push_back({*it, tokens});
    budget -= tokens;
  }
  return all;
}

void Scheduler::Admit(int32_t& budget) {
  for (auto it = waiting_.begin(); it != waiting_.end() && budget > 0 && running() < options_.max_sequences;) {
    Sequence& sequence = **it;
    const Group& group = *sequence.group;
    if (MayUsePrefix(sequence) && group.prefix == Group::Prefix::kComputing) {
      ++it;  // waits for its group's prompt
      continue;
    }
    // What it will start from and need, before anything is taken.
    const bool takes_prefix = MayUsePrefix(sequence) && group.prefix == Group::Prefix::kReady;
    const int32_t computed = takes_prefix ? static_cast<int32_t>(group.prompt.size()) - 1 : sequence.computed;
    const int32_t tokens = std::min(budget, sequence.size() - computed);
    const int32_t needed = PagesFor(computed + tokens) - (takes_prefix ? computed / kPage : 0);
    // Leave a page for each running sequence's next one, so that admission does not preempt at once.
    const int32_t reserve = std::min(running(), kv_.num_pages() / 8);
    if (needed + reserve > kv_.free_pages()) return;
    Start(sequence);
    CHECK(AllocatePages(sequence, computed + tokens));
    work_.push_back({*it, tokens});
    Run(std::move(*it));
    it = waiting_.erase(it);
    budget -= tokens;
  }
}

std::vector<Scheduler::Work> Scheduler::Schedule(bool under_way) {
  work_.clear();
  int32_t budget = options_.max_batch_tokens;
  if (!Decode(budget, under_way)) return {};
  const size_t decode = work_.size();
  const bool all = Prefill(budget);
  // A pass that only decodes is faster for those in it: with many sequences, places are filled several at a time.
  const bool interrupts = decode > 0 && work_.size() == decode;
  if (!admission_tried_ && !(interrupts && options_.max_sequences - running() <= places_kept_free_)) {
    if (all) Admit(budget);
    admission_tried_ = budget > 0;
  }
  if (!work_.empty() || under_way) return std::move(work_);
  // Nothing fits: prompts kept for later samples go, then all but the oldest sequence. One alone always fits.
  if (running_.empty()) {
    if (waiting_.empty()) return std::move(work_);
    ReleaseWaitingPrefixes();
    Admit(budget);
  } else {
    while (running_.size() > 1) Preempt(std::prev(running_.end()));
    const std::shared_ptr<Sequence>& sequence = running_.front();
    const int32_t tokens = std::min(options_.max_batch_tokens, sequence->remaining());
    CHECK(AllocateOrPreempt(*sequence, sequence->computed + tokens)) << "the cache is too small for one sequence";
    work_.push_back({sequence, tokens});
  }
  CHECK(!work_.empty()) << "the cache is too small for one sequence";
  return std::move(work_);
}

void Scheduler::Computed(const std::vector<Work>& work) {
  for (const Work& w : work) {
    Sequence& sequence = *w.sequence;
    sequence.computed += w.tokens;
    const int32_t prompt = static_cast<int32_t>(sequence.group->prompt.size());
    if (sequence.computes_prefix && sequence.computed >= prompt) {
      Group& group = *sequence.group;
      sequence.computes_prefix = false;
      admission_tried_ = false;
      group.prefix = Group::Prefix::kReady;
      for (int32_t i = 0; i < PagesFor(prompt); ++i) {
        kv_.Retain(sequence.pages[i]);
        group.prefix_pages.push_back(sequence.pages[i]);
      }
    }
    if (sequence.computed >= prompt) MarkStarted(sequence);
  }
}

void Scheduler::Finish(Sequence* sequence) {
  auto it = std::find_if(running_.begin(), running_.end(), [&](const auto& s) { return s.get() == sequence; });
  CHECK(it != running_.end());
  const std::shared_ptr<Sequence> keep = *it;
  keep->over = true;
  running_.erase(it);
  admission_tried_ = false;
  FreePages(*keep);
  MarkStarted(*keep);
}

void Scheduler::DropIf(const std::function<bool(const Group&)>& drop) {
  admission_tried_ = false;
  auto release = [&](Sequence& sequence) {
    sequence.over = true;
    FreePages(sequence);
    ReleasePrefix(*sequence.group);
  };
  for (auto it = running_.begin(); it != running_.end();) {
    const bool gone = drop(*(*it)->group);
    if (gone) release(**it);
    it = gone ? running_.erase(it) : std::next(it);
  }
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    const bool gone = drop(*(*it)->group);
    if (gone) release(**it);
    it = gone ? waiting_.erase(it) : std::next(it);
  }
}

}  // namespace grouper
