// From a configuration to the ranks of a tensor parallel group.
#pragma once

#include <cstdint>
#include <memory>

#include "device/collectives.h"
#include "engine/engine_setup.h"
#include "engine/memory_plan.h"
#include "engine/model_runner.h"

namespace moba {

struct ParallelParts {
  RankParts first;  // rank 0's, without its runner, and where there are several its context
  std::unique_ptr<StepRunner> runner;  // of all ranks
};

// Builds config.parallel.tensor_parallel_size ranks, each on a thread of its own, or the one rank
// there is on the calling thread. Throws StatusError as set_up_engine().
ParallelParts set_up_ranks(const EngineConfig& config);

// A rank of a process that is not rank 0's: builds it and runs it until rank 0's engine ends.
void run_remote_rank(const EngineConfig& config);

// The plan that all ranks can follow: the fewest pages and the shortest sequences of any rank's.
MemoryPlan agree(MemoryPlan plan, std::int64_t page_bytes, Communicator& group);

}  // namespace moba
