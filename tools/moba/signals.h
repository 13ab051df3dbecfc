// Ctrl-C and termination. The handlers and their state belong to the process, so this is a set of
// functions.
#pragma once

namespace moba::cli {

// SIGINT and SIGTERM end the program with 128 + the signal's number: at once, or, while an
// InterruptScope lives, by asking; a second signal always ends it at once. A SIGINT that was
// ignored stays ignored. SIGPIPE and SIGXFSZ are ignored, so that a closed output and a file that
// may not grow are errors of write().
void install_signal_handlers();

// The first signal that came while an InterruptScope was alive, or 0.
int interrupt_signal();

// SIGINT's number, for who compares.
inline constexpr int kInterrupt = 2;

// Forgets that signal: the next one asks again.
void clear_interrupt();

// While it lives the first signal only asks: the work polls interrupt_signal() and ends cleanly.
// Made on the main thread, one at a time.
class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;
};

}  // namespace moba::cli
