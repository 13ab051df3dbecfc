// Finds out what an earlier run of the same command has finished.
#pragma once

#include <atomic>
#include <cstdint>

#include "tools/batch/done_index.h"
#include "tools/batch/line_reader.h"
#include "tools/batch/result_file.h"
#include "tools/batch/shard.h"

namespace moba::batch {

struct Finished {
  DoneIndex done;
  std::int64_t num_failed = 0;  // of those
};

// Reads the result files (`errors` may be null) and holds each result against the input: every one
// must be of the run `run` and of a line that the input still has, each once. Then a torn last line
// is cut off. Throws CommandError, with nothing changed, if a file holds anything else.
Finished find_finished(const InputFile& input, const Shard& shard, std::uint64_t run,
                       ResultFile& output, ResultFile* errors, const std::atomic<bool>& stop);

}  // namespace moba::batch
