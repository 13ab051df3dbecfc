#include "engine/parallel_runner.h"

#include <exception>
#include <utility>

#include "device/check.h"
#include "engine/batch_wire.h"

namespace moba {
namespace {

// A step of a rank whose others are processes. Who waits for a GPU does not hear that another rank
// failed: they all meet when the step is issued, so that no GPU waits for one that never comes.
StepResult& run_beside_processes(ModelRunner& runner, const Batch& batch, Communicator& group) {
  runner.launch(batch);
  if (runner.is_asynchronous()) group.barrier();
  return runner.collect();
}

}  // namespace

ParallelRunner::ParallelRunner(std::unique_ptr<WorkerGroup> workers, std::vector<Rank> ranks,
                               std::shared_ptr<SocketGroup> processes)
    : workers_(std::move(workers)),
      ranks_(std::move(ranks)),
      processes_(std::move(processes)),
      results_(ranks_.size(), nullptr),
      asynchronous_(processes_ == nullptr && ranks_.front().runner->is_asynchronous()) {}

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

void ParallelRunner::on_ranks(std::int64_t step, const std::function<void(std::size_t)>& body) {
  if (!lost_.empty()) throw RankFailure(lost_);
  try {
    workers_->step(concat("step ", step), [&](int rank) { body(static_cast<std::size_t>(rank)); });
  } catch (const RankFailure& failure) {
    lost_ = failure.what();
    throw;
  }
}

void ParallelRunner::launch(const Batch& batch) {
  if (!asynchronous_) return StepRunner::launch(batch);
  on_ranks(++num_launched_, [&](std::size_t rank) { ranks_[rank].runner->launch(batch); });
}

StepResult& ParallelRunner::collect() {
  if (!asynchronous_) return StepRunner::collect();
  on_ranks(++num_collected_,
           [&](std::size_t rank) { results_[rank] = &ranks_[rank].runner->collect(); });
  return *results_.front();
}

StepResult& ParallelRunner::run(const Batch& batch) {
  if (asynchronous_) {
    launch(batch);
    return collect();
  }
  if (processes_ != nullptr) encode_batch(batch, message_);
  on_ranks(++num_launched_, [&](std::size_t rank) {
    if (processes_ == nullptr) {
      results_[rank] = &ranks_[rank].runner->run(batch);
    } else {
      processes_->send_message(message_);
      results_[rank] = &run_beside_processes(*ranks_[rank].runner, batch,
                                             ranks_[rank].context->host_communicator());
    }
  });
  return *results_.front();
}

void serve_batches(const Rank& rank, SocketGroup& processes, std::int64_t vocab_size) {
  std::int64_t num_steps = 0;
  ReceivedBatch received;
  for (;;) {
    const std::vector<std::byte> message = processes.receive_message(0);
    if (message.empty()) return;
    ++num_steps;
    try {
      decode_batch(message, vocab_size, received);
      run_beside_processes(*rank.runner, received.batch, rank.context->host_communicator());
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
