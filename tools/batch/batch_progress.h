// How far a batch has come, for people.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "tools/moba/progress.h"

namespace moba::batch {

struct BatchCounts {
  std::int64_t total = -1;    // requests in all; -1: not known yet
  std::int64_t skipped = 0;   // had a result before this run
  std::int64_t finished = 0;  // in this run, failed ones too
  std::int64_t failed = 0;
  std::int64_t tokens = 0;  // computed in this run, of prompts and outputs
};

// "12,345/100,000 requests, 3 failed, 1,234 tok/s, 3m05s left"; done and total include what was
// done before, rates are those of this run.
std::string progress_text(const BatchCounts& counts, double seconds);

// A bar on a terminal; else a line in the log every ten seconds.
class BatchProgress {
 public:
  // Not enabled: shows nothing.
  explicit BatchProgress(bool enabled);

  bool due() const;
  void show(const BatchCounts& counts);
  // Before anything else is written to standard error.
  void clear() { line_.clear(); }
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;
  bool enabled_;
  bool terminal_;
  cli::TerminalLine line_;
  Clock::time_point start_;
  Clock::time_point last_;
};

}  // namespace moba::batch
