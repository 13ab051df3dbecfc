// What the program throws; main() turns it into one line on standard error and an exit code.
#pragma once

#include <stdexcept>
#include <string>

namespace moba::cli {

// Exit codes beside 0. A signal ends the program with 128 + its number.
inline constexpr int kExitFailure = 1;  // a file, a checkpoint or a request was refused, or failed
inline constexpr int kExitUsage = 2;    // the command line was not understood

// Refused input: the message is one line that names the thing and the reason.
class CommandError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A command line that was not understood.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Standard output cannot be written. `closed`: the reader went away, which is no error to report.
class OutputError : public std::runtime_error {
 public:
  OutputError(const std::string& message, bool closed)
      : std::runtime_error(message), closed_(closed) {}
  bool closed() const { return closed_; }

 private:
  bool closed_;
};

}  // namespace moba::cli
