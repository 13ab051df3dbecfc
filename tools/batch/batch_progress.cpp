#include "tools/batch/batch_progress.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>

#include "tools/moba/output.h"

namespace moba::batch {
namespace {

constexpr auto kLogInterval = std::chrono::seconds(10);

double part_done(const BatchCounts& counts) {
  const auto done = static_cast<double>(counts.skipped + counts.finished);
  return std::clamp(cli::ratio(done, static_cast<double>(counts.total)), 0.0, 1.0);
}

}  // namespace

std::string progress_text(const BatchCounts& counts, double seconds) {
  const std::int64_t done = counts.skipped + counts.finished;
  const bool known = counts.total >= 0;
  std::string text = cli::with_commas(done);
  if (known) text += fmt::format("/{}", cli::with_commas(std::max(counts.total, done)));
  text += " requests";
  if (counts.failed > 0) text += fmt::format(", {} failed", cli::with_commas(counts.failed));
  text += fmt::format(", {:.0f} tok/s", cli::ratio(static_cast<double>(counts.tokens), seconds));
  const std::int64_t left = counts.total - done;
  if (known && counts.finished > 0 && left > 0) {
    const double more = static_cast<double>(left) * seconds / static_cast<double>(counts.finished);
    text += fmt::format(", {} left", cli::short_time(more));
  }
  return text;
}

BatchProgress::BatchProgress(bool enabled)
    : enabled_(enabled),
      terminal_(::isatty(STDERR_FILENO) == 1),
      line_(enabled),
      start_(Clock::now()),
      last_(start_) {}

double BatchProgress::seconds() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

bool BatchProgress::due() const {
  return enabled_ && (terminal_ ? line_.due() : Clock::now() - last_ >= kLogInterval);
}

void BatchProgress::show(const BatchCounts& counts) {
  const std::string text = progress_text(counts, seconds());
  last_ = Clock::now();
  if (!terminal_) {
    spdlog::info("batch: {}", text);
    return;
  }
  const std::string tail = counts.total >= 0
                               ? fmt::format(" {:3.0f}%  {}", part_done(counts) * 100, text)
                               : fmt::format("  {}", text);
  line_.draw(cli::bar_line("batch", part_done(counts), tail, cli::terminal_width()));
}

}  // namespace moba::batch
