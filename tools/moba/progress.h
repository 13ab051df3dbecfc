// A progress bar on standard error.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace moba::cli {

// One line on standard error that is drawn over and over, at most ten times a second. Draws only
// where standard error is a terminal.
class TerminalLine {
 public:
  // Disabled lines draw nothing.
  explicit TerminalLine(bool enabled);
  ~TerminalLine();
  TerminalLine(const TerminalLine&) = delete;
  TerminalLine& operator=(const TerminalLine&) = delete;

  // Whether it is time to draw.
  bool due() const;
  void draw(const std::string& text);
  // Removes the line from the screen. May be called again.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  bool enabled_;
  bool drawn_ = false;
  Clock::time_point last_;
};

// Columns of the terminal on standard error; 80 if it does not say.
int terminal_width();

// "59s", "3m05s", "2h10m".
std::string short_time(double seconds);

// For work of more than one step. The bar is gone when it is done.
class ProgressBar {
 public:
  // `label` stands before the bar. Disabled bars draw nothing.
  ProgressBar(std::string label, bool enabled);

  void update(std::int64_t done, std::int64_t total);
  // Removes the bar from the screen. May be called again.
  void clear() { line_.clear(); }

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_;
  TerminalLine line_;
  Clock::time_point start_;
};

// `label`, a bar that is filled by `part` of 0 to 1, and `tail`, for a terminal of `width` columns;
// never longer than width - 3.
std::string bar_line(const std::string& label, double part, const std::string& tail, int width);

// The line of a ProgressBar.
std::string progress_line(const std::string& label, std::int64_t done, std::int64_t total,
                          double seconds, int width);

}  // namespace moba::cli
