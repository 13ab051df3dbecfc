// A file of results, one JSON object a line, that only grows.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace moba::batch {

// Whole lines are appended with one write each, so that whatever ends the process leaves whole
// lines and at most one torn one at the end. While it is open no other process can open it so.
// Every failure throws CommandError naming the file. Not thread-safe.
class ResultFile {
 public:
  // "-" is standard output. Opens the file if it exists; it is made with the first append(), or by
  // create().
  explicit ResultFile(std::string path);
  ~ResultFile();
  ResultFile(const ResultFile&) = delete;
  ResultFile& operator=(const ResultFile&) = delete;

  const std::string& name() const { return name_; }  // for people
  // A pipe or a device cannot be read again: what it got is not known.
  bool is_regular() const { return is_regular_; }
  // Whether the two are the same file.
  bool is_same(const ResultFile& other) const;
  bool is_same_fd(int fd) const;

  // Calls `each` with every whole line and its number, from 1. A line that `each` does not know
  // makes it throw. `torn` is what stands after the last newline, cut to 4 KiB; empty if nothing
  // does.
  struct Contents {
    std::int64_t num_lines = 0;
    std::string torn;
  };
  Contents read(const std::function<void(std::string_view line, std::int64_t number)>& each);
  // Removes what stands after the last newline, as read() found it.
  void cut_torn();

  void create();
  // `line` without its end.
  void append(std::string_view line);
  // Waits until the system has everything on its disk.
  void sync();

  std::int64_t num_appended() const { return num_appended_; }

 private:
  void open(int extra_flags);
  [[noreturn]] void fail(const char* what, int error) const;

  const std::string path_;
  const std::string name_;
  int fd_ = -1;
  bool is_regular_ = true;
  std::int64_t whole_bytes_ = 0;  // up to the last newline
  std::int64_t num_appended_ = 0;
  std::string buffer_;
};

}  // namespace moba::batch
