// A progress bar on standard error.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace moba::cli {

// Draws only where standard error is a terminal, only for work of more than one step, and at most
// ten times a second. The bar is gone when it is done.
class ProgressBar {
 public:
  // `label` stands before the bar. Disabled bars draw nothing.
  ProgressBar(std::string label, bool enabled);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(std::int64_t done, std::int64_t total);
  // Removes the bar from the screen. May be called again.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_;
  bool enabled_;
  bool drawn_ = false;
  Clock::time_point start_;
  Clock::time_point last_;
};

// The bar's line for a terminal of `width` columns; never longer than width - 3.
std::string progress_line(const std::string& label, std::int64_t done, std::int64_t total,
                          double seconds, int width);

}  // namespace moba::cli
