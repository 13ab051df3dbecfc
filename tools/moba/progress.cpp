#include "tools/moba/progress.h"

#include <spdlog/fmt/fmt.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "tools/moba/output.h"

namespace moba::cli {
namespace {

constexpr std::string_view kEraseLine = "\r\033[K";
constexpr auto kRedraw = std::chrono::milliseconds(100);

void write_stderr(std::string_view text) {
  [[maybe_unused]] const ssize_t n = ::write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace

TerminalLine::TerminalLine(bool enabled)
    : enabled_(enabled && ::isatty(STDERR_FILENO) == 1), last_(Clock::now()) {}

TerminalLine::~TerminalLine() { clear(); }

bool TerminalLine::due() const { return enabled_ && (!drawn_ || Clock::now() - last_ >= kRedraw); }

void TerminalLine::draw(const std::string& text) {
  if (!enabled_) return;
  write_stderr(std::string(kEraseLine) + text);
  drawn_ = true;
  last_ = Clock::now();
}

void TerminalLine::clear() {
  if (drawn_) write_stderr(kEraseLine);
  drawn_ = false;
}

int terminal_width() {
  struct winsize size {};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

std::string short_time(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::ceil(seconds));
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  return fmt::format("{}h{:02}m", whole / 3600, whole / 60 % 60);
}

ProgressBar::ProgressBar(std::string label, bool enabled)
    : label_(std::move(label)), line_(enabled), start_(Clock::now()) {}

void ProgressBar::update(std::int64_t done, std::int64_t total) {
  if (done >= total) return clear();
  if (!line_.due()) return;
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  line_.draw(progress_line(label_, done, total, seconds, terminal_width()));
}

std::string bar_line(const std::string& label, double part, const std::string& tail, int width) {
  constexpr int kMaxBar = 40;
  constexpr int kMinBar = 8;
  constexpr int kMargin = 3;  // room for the ^C that terminals show
  const int room = width - kMargin - static_cast<int>(label.size() + tail.size()) - 3;
  std::string line = label + tail;
  if (room >= kMinBar) {
    const int bar = std::min(room, kMaxBar);
    const int full = static_cast<int>(part * bar);
    line = label + " [" + std::string(static_cast<std::size_t>(full), '=') +
           (full < bar ? ">" : "") +
           std::string(static_cast<std::size_t>(std::max(bar - full - 1, 0)), ' ') + "]" + tail;
  }
  return line.substr(0, static_cast<std::size_t>(std::max(width - kMargin, 0)));
}

std::string progress_line(const std::string& label, std::int64_t done, std::int64_t total,
                          double seconds, int width) {
  const double part =
      std::clamp(ratio(static_cast<double>(done), static_cast<double>(total)), 0.0, 1.0);
  const double rate = ratio(static_cast<double>(done), seconds);
  std::string tail = fmt::format(" {:3.0f}%  {}/{} tokens", std::floor(part * 100),
                                 with_commas(done), with_commas(total));
  if (rate > 0) {
    tail += fmt::format("  {:.0f} tok/s  {} left", rate,
                        short_time(static_cast<double>(total - done) / rate));
  }
  return bar_line(label, part, tail, width);
}

}  // namespace moba::cli
