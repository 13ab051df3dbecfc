// Ranks in several processes, as mpirun, srun and the like start them.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "moba/config.h"
#include "moba/engine.h"
#include "tools/moba/settings.h"

namespace moba::cli {

// Reads an environment variable; null if it is not set.
using Environment = std::function<const char*(const char* name)>;

// Where tensor_parallel_size is above 1 and the environment says that this is one of several
// processes (RANK and WORLD_SIZE; Open MPI; PMI; Slurm steps), sets which one it is and where
// process 0 is found (MASTER_ADDR, MASTER_PORT; on one host by default 127.0.0.1 and a port that
// follows from the job's id). Throws UsageError for values that make no sense, and if the processes
// are on several hosts and nothing says where process 0 is.
void read_launch(const Environment& environment, ParallelOptions& options);

// The engine of these settings. In a process other than the first of a group it computes with the
// others until their engine ends, and then throws RankEnded.
std::unique_ptr<Engine> open_engine(Settings& settings);

// Not an error: this process was there for another one's sake.
struct RankEnded {};

}  // namespace moba::cli
