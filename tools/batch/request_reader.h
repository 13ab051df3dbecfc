// Turns the lines of the input into requests.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "server/openai/api_request.h"
#include "tools/batch/batch_item.h"
#include "tools/batch/done_index.h"
#include "tools/batch/line_reader.h"
#include "tools/batch/records.h"
#include "tools/batch/shard.h"

namespace moba::batch {

struct ReadOptions {
  Shard shard;
  std::uint64_t run = 0;  // of ResultId
  openai::ParseOptions parse;
};

// Not thread-safe but for num_skipped().
class RequestReader {
 public:
  // Borrows file and `stop` (see LineReader).
  RequestReader(const InputFile& input, DoneIndex done, ReadOptions options,
                const std::atomic<bool>& stop);

  // The next line that has no result yet; absent at the end. Blank lines are passed over. Throws
  // CommandError if the file cannot be read.
  std::optional<ReadLine> next();

  // Lines that had a result already.
  std::int64_t num_skipped() const { return num_skipped_.load(std::memory_order_relaxed); }

 private:
  void read_past(const Line& line);
  std::optional<ReadLine> read_line(const Line& line);
  std::optional<ReadLine> failed(const Line& line, const ResultId& id,
                                 const std::optional<std::string>& custom_id,
                                 const LineError& error);

  const InputFile& input_;
  DoneIndex done_;
  const ReadOptions options_;
  const std::int64_t begin_;
  const std::int64_t end_;
  LineReader lines_;
  Line line_;
  std::int64_t next_sequence_ = 0;
  std::atomic<std::int64_t> num_skipped_{0};
};

}  // namespace moba::batch
