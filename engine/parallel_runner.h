// The model runners of several ranks, as one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device/context.h"
#include "device/socket_group.h"
#include "engine/model_runner.h"
#include "engine/worker.h"

namespace moba {

// What a rank owns; the runner goes before the context.
struct Rank {
  std::unique_ptr<DeviceContext> context;
  std::unique_ptr<ModelRunner> runner;
};

// Runs a step on all ranks at once, each on its thread, and gives rank 0's result. On GPUs that
// threads of this process run, steps are launched and collected as ModelRunner does. An error of
// any rank, or a rank that stalls, ends the group: this step and all later ones throw RankFailure
// with the line that names rank and step. Not thread-safe.
class ParallelRunner : public StepRunner {
 public:
  // The ranks were built on the group's threads, whose watch is set. `processes`: the other ranks
  // are in other processes, which get each batch from this one (serve_batches()); null if all
  // are here.
  ParallelRunner(std::unique_ptr<WorkerGroup> workers, std::vector<Rank> ranks,
                 std::shared_ptr<SocketGroup> processes);
  // Takes the ranks down on their threads.
  ~ParallelRunner() override;

  StepResult& run(const Batch& batch) override;
  bool is_asynchronous() const override { return asynchronous_; }
  void launch(const Batch& batch) override;
  StepResult& collect() override;

 private:
  // Runs body(a rank's index) on its thread, for all ranks.
  void on_ranks(std::int64_t step, const std::function<void(std::size_t)>& body);

  std::unique_ptr<WorkerGroup> workers_;
  std::vector<Rank> ranks_;
  std::shared_ptr<SocketGroup> processes_;
  std::vector<StepResult*> results_;
  std::vector<std::byte> message_;
  bool asynchronous_ = false;
  std::int64_t num_launched_ = 0;
  std::int64_t num_collected_ = 0;
  std::string lost_;  // why the group is lost; empty: it is not
};

// What a rank in another process than rank 0 does: runs the batches that come until the end is
// said. Throws Error if this rank fails, after it has told the others, or if another one did.
void serve_batches(const Rank& rank, SocketGroup& processes, std::int64_t vocab_size);

}  // namespace moba
