#include "tools/batch/result_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "tools/batch/line_reader.h"
#include "tools/moba/errors.h"

namespace moba::batch {
namespace {

constexpr std::size_t kMaxTorn = 4096;

// A result may be longer than any line of the input: log probabilities, many samples.
constexpr std::size_t kMaxResultBytes = std::size_t{1} << 30;

bool same_inode(int a, int b) {
  struct stat info_a {};
  struct stat info_b {};
  return a >= 0 && b >= 0 && ::fstat(a, &info_a) == 0 && ::fstat(b, &info_b) == 0 &&
         info_a.st_dev == info_b.st_dev && info_a.st_ino == info_b.st_ino;
}

}  // namespace

ResultFile::ResultFile(std::string path)
    : path_(std::move(path)), name_(path_ == "-" ? "standard output" : path_) {
  open(0);
}

ResultFile::~ResultFile() {
  if (fd_ >= 0) ::close(fd_);
}

void ResultFile::fail(const char* what, int error) const {
  throw cli::CommandError(std::string("cannot ") + what + " " + name_ + ": " +
                          std::strerror(error));
}

void ResultFile::open(int extra_flags) {
  if (path_ == "-") {
    fd_ = ::dup(STDOUT_FILENO);
    is_regular_ = false;
    return;
  }
  struct stat info {};
  const bool exists = ::stat(path_.c_str(), &info) == 0;
  if (!exists && errno != ENOENT) fail("write", errno);
  if (!exists && extra_flags == 0) return;
  if (exists && S_ISDIR(info.st_mode)) fail("write", EISDIR);
  is_regular_ = !exists || S_ISREG(info.st_mode);
  const int access = is_regular_ ? O_RDWR : O_WRONLY;
  fd_ = ::open(path_.c_str(), access | O_APPEND | O_CLOEXEC | O_NOCTTY | extra_flags, 0666);
  if (fd_ < 0) fail("write", errno);
  if (is_regular_ && ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    throw cli::CommandError("another process is writing " + name_);
  }
}

bool ResultFile::is_same(const ResultFile& other) const { return same_inode(fd_, other.fd_); }
bool ResultFile::is_same_fd(int fd) const { return same_inode(fd_, fd); }

ResultFile::Contents ResultFile::read(
    const std::function<void(std::string_view line, std::int64_t number)>& each) {
  Contents contents;
  whole_bytes_ = 0;
  if (fd_ < 0 || !is_regular_) return contents;
  const InputFile file(path_);
  const std::atomic<bool> stop{false};
  LineReader reader(file, stop, kMaxResultBytes);
  Line line;
  while (reader.next(line)) {
    if (!line.complete) {
      contents.torn = line.text.substr(0, kMaxTorn);
      // A lone carriage return is something too.
      if (contents.torn.empty()) contents.torn += ' ';
      break;
    }
    each(line.text, line.number);
    contents.num_lines = line.number;
  }
  if (contents.torn.empty()) {
    whole_bytes_ = file.size();
  } else {
    whole_bytes_ = line.offset;
  }
  return contents;
}

void ResultFile::cut_torn() {
  if (::ftruncate(fd_, whole_bytes_) != 0) fail("write", errno);
}

void ResultFile::create() {
  if (fd_ < 0) open(O_CREAT);
}

void ResultFile::append(std::string_view line) {
  create();
  buffer_.assign(line);
  buffer_ += '\n';
  std::string_view left = buffer_;
  while (!left.empty()) {
    const ssize_t n = ::write(fd_, left.data(), left.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error = errno;
      // A part of a line is of no use; what cannot be taken back the next start repairs.
      if (is_regular_ && left.size() < buffer_.size()) {
        const off_t end = ::lseek(fd_, 0, SEEK_END);
        const auto written = static_cast<off_t>(buffer_.size() - left.size());
        [[maybe_unused]] const int ignored = ::ftruncate(fd_, end - written);
      }
      if (path_ == "-") {
        throw cli::OutputError("cannot write " + name_ + ": " + std::strerror(error),
                               error == EPIPE);
      }
      fail("write", error);
    }
    left.remove_prefix(static_cast<std::size_t>(n));
  }
  ++num_appended_;
}

void ResultFile::sync() {
  // Devices and pipes have nothing to wait for.
  if (fd_ >= 0 && is_regular_ && ::fdatasync(fd_) != 0) fail("write", errno);
}

}  // namespace moba::batch
