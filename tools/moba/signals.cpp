#include "tools/moba/signals.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <initializer_list>

namespace moba::cli {
namespace {

std::atomic<int> asked_signal{0};
std::atomic<bool> may_ask{false};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

static_assert(kInterrupt == SIGINT);

extern "C" void on_signal(int signal) {
  int none = 0;
  if (may_ask.load() && asked_signal.compare_exchange_strong(none, signal)) return;
  ::_exit(128 + signal);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGINT, SIGTERM}) {
    struct sigaction old {};
    if (::sigaction(signal, nullptr, &old) == 0 && old.sa_handler != SIG_IGN) {
      ::sigaction(signal, &action, nullptr);
    }
  }
  action.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &action, nullptr);
  ::sigaction(SIGXFSZ, &action, nullptr);
}

int interrupt_signal() { return asked_signal.load(); }

void clear_interrupt() { asked_signal.store(0); }

InterruptScope::InterruptScope() { may_ask.store(true); }
InterruptScope::~InterruptScope() { may_ask.store(false); }

}  // namespace moba::cli
