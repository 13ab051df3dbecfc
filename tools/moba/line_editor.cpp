#include "tools/moba/line_editor.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>

#include "tools/moba/output.h"
#include "tools/moba/signals.h"

namespace moba::cli {
namespace {

class PlainLineEditor final : public LineEditor {
 public:
  Result read(const std::string& prompt, std::string& line) override {
    if (::isatty(STDIN_FILENO) == 1) write_stdout(prompt);
    for (;;) {
      const std::size_t end = pending_.find('\n');
      if (end != std::string::npos) {
        line = pending_.substr(0, end);
        pending_.erase(0, end + 1);
        if (!line.empty() && line.back() == '\r') line.pop_back();
        return Result::kLine;
      }
      // read() is restarted after a signal, poll() is not.
      pollfd input{STDIN_FILENO, POLLIN, 0};
      if (::poll(&input, 1, -1) < 0) {
        if (errno == EINTR && interrupt_signal() == 0) continue;
        return Result::kInterrupted;
      }
      char bytes[4096];
      const ssize_t count = ::read(STDIN_FILENO, bytes, sizeof(bytes));
      if (count > 0) {
        pending_.append(bytes, static_cast<std::size_t>(count));
      } else if (!pending_.empty()) {
        line.swap(pending_);
        pending_.clear();
        return Result::kLine;
      } else {
        return Result::kEnd;
      }
    }
  }

 private:
  std::string pending_;
};

}  // namespace

std::unique_ptr<LineEditor> make_plain_line_editor() { return std::make_unique<PlainLineEditor>(); }

}  // namespace moba::cli
