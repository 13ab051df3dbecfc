// Lines of a file of any size.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

namespace moba::batch {

// A line that is longer is an error of that line. Larger than any prompt that a model can take.
inline constexpr std::size_t kMaxLineBytes = std::size_t{32} << 20;

// An open file descriptor for reading; "-" is standard input.
class InputFile {
 public:
  // Throws CommandError naming the file.
  explicit InputFile(const std::string& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& name() const { return name_; }  // for people
  int fd() const { return fd_; }
  // Whether it can be read again from its start; then size() is in bytes.
  bool is_regular() const { return is_regular_; }
  std::int64_t size() const { return size_; }

 private:
  std::string name_;
  int fd_ = -1;
  bool is_regular_ = false;
  std::int64_t size_ = 0;
};

struct Line {
  std::string text;         // without its end; of a line that is too long the beginning
  std::int64_t number = 0;  // from 1
  std::int64_t offset = 0;  // of its first byte in the file
  bool too_long = false;
  bool complete = true;  // ended by a newline; false for a last line without one

  bool is_blank() const { return text.find_first_not_of(" \t\r\v\f") == std::string::npos; }
};

// Reads line after line, at most one of them in memory. Ends are "\n" or "\r\n"; a byte order mark
// at the start is left out. Not thread-safe.
class LineReader {
 public:
  // Borrows both. Reading ends early, as if the file did, when `stop` becomes true, within a
  // fraction of a second also where nothing comes. A regular file is read from its start by
  // offsets, so that several readers may share one InputFile.
  LineReader(const InputFile& file, const std::atomic<bool>& stop,
             std::size_t max_line_bytes = kMaxLineBytes);

  // False at the end. Throws CommandError if the file cannot be read.
  bool next(Line& line);

 private:
  bool fill();

  const InputFile& file_;
  const std::atomic<bool>& stop_;
  const std::size_t max_line_bytes_;
  std::string buffer_;
  std::string_view rest_;  // of the buffer
  std::int64_t read_offset_ = 0;
  std::int64_t line_offset_ = 0;
  std::int64_t line_number_ = 0;
};

}  // namespace moba::batch
