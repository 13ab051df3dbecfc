// Runs the real program as a child process.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace moba::test {

// A fresh folder that goes away with its contents.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  // Writes a file and returns its path.
  std::string write(const std::string& name, const std::string& bytes) const;

 private:
  std::filesystem::path path_;
};

struct RunResult {
  int exit_code = -1;  // -1 if a signal ended it
  int signal = 0;
  std::string out;
  std::string err;

  // The lines of `err` that report an error.
  std::vector<std::string> errors() const;
};

struct RunOptions {
  std::string input;              // standard input
  bool closed_stdout = false;     // standard output is a pipe nobody reads
  std::string stdout_path;        // standard output goes to this file instead
  int signal = 0;                 // sent once ...
  std::string signal_after;       // ... this text is in the log, ...
  std::size_t signal_output = 0;  // ... this many bytes are in the output, ...
  int signal_count = 1;
  std::chrono::milliseconds signal_delay{0};  // ... and it has run that long
  std::int64_t max_file_bytes = 0;  // no file may grow larger, 0: as it is for the test itself
};

// Runs `moba` with these arguments and waits for its end. Fails the test if it takes minutes.
RunResult run_moba(const std::vector<std::string>& arguments, const RunOptions& options = {});

// The embedded model, and a path within the repository.
std::string embedded_model();
std::string repo_path(const std::string& path);

std::string read_file(const std::string& path);

}  // namespace moba::test
