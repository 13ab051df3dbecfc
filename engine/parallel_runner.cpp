#include "engine/parallel_runner.h"

#include <exception>
#include <utility>

#include "device/check.h"
#include "engine/batch_wire.h"

namespace moba {

ParallelRunner::ParallelRunner(std::unique_ptr<WorkerGroup> workers, std::vector<Rank> ranks,
                               std::shared_ptr<SocketGroup> processes)
    : workers_(std::move(workers)),
      ranks_(std::move(ranks)),
      processes_(std::move(processes)),
      results_(ranks_.size(), nullptr) {}

ParallelRunner::~ParallelRunner() {
  try {
    workers_->call([this](int rank) {
      Rank& mine = ranks_[static_cast<std::size_t>(rank)];
      // An empty message is the end. Before the devices: ranks take their groups down together.
      if (processes_ != nullptr && lost_.empty()) processes_->send_message({});
      mine.runner.reset();
      mine.context.reset();
    });
  } catch (const std::exception&) {
    // Nobody is left to be told; what is there goes with the members.
  }
}

StepResult& ParallelRunner::run(const Batch& batch) {
  if (!lost_.empty()) throw RankFailure(lost_);
  ++num_steps_;
  if (processes_ != nullptr) encode_batch(batch, message_);
  try {
    workers_->step(concat("step ", num_steps_), [&](int rank) {
      const auto index = static_cast<std::size_t>(rank);
      if (processes_ != nullptr) processes_->send_message(message_);
      results_[index] = &ranks_[index].runner->run(batch);
    });
  } catch (const RankFailure& failure) {
    lost_ = failure.what();
    throw;
  }
  return *results_.front();
}

void serve_batches(ModelRunner& runner, SocketGroup& processes, std::int64_t vocab_size) {
  std::int64_t num_steps = 0;
  ReceivedBatch received;
  for (;;) {
    const std::vector<std::byte> message = processes.receive_message(0);
    if (message.empty()) return;
    ++num_steps;
    try {
      decode_batch(message, vocab_size, received);
      runner.run(received.batch);
    } catch (const GroupLost&) {
      throw;
    } catch (const std::exception& error) {
      processes.abort(
          concat("rank ", processes.rank(), " failed in step ", num_steps, ": ", error.what()));
      throw GroupLost(processes.why_aborted());
    }
  }
}

}  // namespace moba
