#include "trainer/progress_watch.h"

#include <chrono>
#include <utility>

#include "common/rpc/context.h"

namespace grouper {

struct ProgressWatch::Question {
  std::unique_ptr<grpc::ClientContext> context;
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1::RolloutStatus>> call;
  v1::RolloutStatus answer;
  grpc::Status status;
};

ProgressWatch::ProgressWatch(size_t workers) : open_(workers), seen_(workers) {}

ProgressWatch::~ProgressWatch() {
  for (const std::unique_ptr<Question>& question : open_) {
    if (question != nullptr) question->context->TryCancel();
  }
  queue_.Shutdown();
  void* tag;
  bool ok;
  while (queue_.Next(&tag, &ok)) {  // what was cancelled ends at once
  }
}

void ProgressWatch::Ask(size_t worker, v1::RolloutService::Stub& stub, absl::Duration timeout) {
  if (open_[worker] != nullptr) return;
  auto question = std::make_unique<Question>();
  question->context = MakeClientContext(timeout);
  question->call = stub.AsyncGetStatus(question->context.get(), {}, &queue_);
  question->call->Finish(&question->answer, &question->status, &open_[worker]);
  open_[worker] = std::move(question);
  ++num_open_;
}

std::vector<size_t> ProgressWatch::Moved() {
  std::vector<size_t> moved;
  void* tag;
  bool ok;
  while (num_open_ > 0 && queue_.AsyncNext(&tag, &ok, std::chrono::system_clock::now()) == grpc::CompletionQueue::GOT_EVENT) {
    const size_t worker = static_cast<size_t>(static_cast<std::unique_ptr<Question>*>(tag) - open_.data());
    if (Close(worker)) moved.push_back(worker);
  }
  return moved;
}

bool ProgressWatch::Close(size_t worker) {
  const std::unique_ptr<Question> question = std::exchange(open_[worker], nullptr);
  --num_open_;
  if (!question->status.ok()) return false;
  const Seen before = std::exchange(seen_[worker], {question->answer.process_id(), question->answer.engine_steps()});
  return seen_[worker].process_id == before.process_id && seen_[worker].engine_steps > before.engine_steps;
}

}  // namespace grouper
