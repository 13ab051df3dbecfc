// Counts lines beside the work.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

#include "tools/batch/line_reader.h"
#include "tools/batch/shard.h"

namespace moba::batch {

// Counts the lines of a shard that are not blank, on a thread of its own, for the progress. Of a
// file that cannot be read twice it never gets to know. Thread-safe.
class LineCounter {
 public:
  // Borrows the file.
  LineCounter(const InputFile& input, const Shard& shard);
  ~LineCounter();
  LineCounter(const LineCounter&) = delete;
  LineCounter& operator=(const LineCounter&) = delete;

  // -1 while it is not known.
  std::int64_t total() const { return total_.load(); }

 private:
  void count(const InputFile& input, std::int64_t begin, std::int64_t end);

  std::atomic<bool> stop_{false};
  std::atomic<std::int64_t> total_{-1};
  std::thread thread_;
};

}  // namespace moba::batch
