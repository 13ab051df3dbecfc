// A group of ranks that are threads of this process, for tensors in host memory.
#pragma once

#include <memory>
#include <vector>

#include "device/collectives.h"

namespace moba::cpu {

// One communicator a rank, each for a thread of its own. Ranks that wait spin briefly where
// `may_spin` (no more threads than processors: a decode step has a wait every few tens of
// microseconds) and then sleep. Sums are taken in the order of ranks. An operation that does not
// fit what the other ranks call aborts the group with a line that says so. num_ranks >= 1.
std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int num_ranks, bool may_spin);

}  // namespace moba::cpu
