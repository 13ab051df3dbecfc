#include "tools/batch/line_reader.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "tools/moba/errors.h"

namespace moba::batch {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{256} << 10;
constexpr int kPollMs = 200;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

[[noreturn]] void cannot_read(const std::string& name, const std::string& reason) {
  throw cli::CommandError("cannot read " + name + ": " + reason);
}

}  // namespace

InputFile::InputFile(const std::string& path)
    : name_(path == "-" ? "standard input" : path),
      fd_(path == "-" ? ::dup(STDIN_FILENO) : ::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (fd_ < 0) cannot_read(name_, std::strerror(errno));
  struct stat info {};
  std::string reason;
  if (::fstat(fd_, &info) != 0) reason = std::strerror(errno);
  if (S_ISDIR(info.st_mode)) reason = "it is a directory";
  if (!reason.empty()) {
    ::close(fd_);
    cannot_read(name_, reason);
  }
  is_regular_ = S_ISREG(info.st_mode);
  size_ = is_regular_ ? static_cast<std::int64_t>(info.st_size) : 0;
}

InputFile::~InputFile() { ::close(fd_); }

LineReader::LineReader(const InputFile& file, const std::atomic<bool>& stop,
                       std::size_t max_line_bytes)
    : file_(file), stop_(stop), max_line_bytes_(max_line_bytes), buffer_(kBufferBytes, '\0') {}

bool LineReader::fill() {
  for (;;) {
    if (stop_.load()) return false;
    ssize_t n = 0;
    if (file_.is_regular()) {
      n = ::pread(file_.fd(), buffer_.data(), buffer_.size(), read_offset_);
    } else {
      struct pollfd ready {
        file_.fd(), POLLIN, 0
      };
      if (::poll(&ready, 1, kPollMs) <= 0) continue;
      n = ::read(file_.fd(), buffer_.data(), buffer_.size());
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) cannot_read(file_.name(), std::strerror(errno));
    const bool first = read_offset_ == 0;
    read_offset_ += n;
    rest_ = std::string_view(buffer_).substr(0, static_cast<std::size_t>(n));
    if (first && rest_.substr(0, kByteOrderMark.size()) == kByteOrderMark) {
      rest_.remove_prefix(kByteOrderMark.size());
      line_offset_ += static_cast<std::int64_t>(kByteOrderMark.size());
    }
    return n > 0;
  }
}

bool LineReader::next(Line& line) {
  line.text.clear();
  line.too_long = false;
  line.complete = false;
  line.offset = line_offset_;
  bool any = false;
  while (!line.complete && (!rest_.empty() || fill())) {
    any = true;
    const std::size_t end = rest_.find('\n');
    line.complete = end != std::string_view::npos;
    const std::string_view piece = rest_.substr(0, end);
    const std::size_t room = max_line_bytes_ - line.text.size();
    line.text.append(piece.substr(0, room));
    line.too_long = line.too_long || piece.size() > room;
    const std::size_t used = piece.size() + (line.complete ? 1 : 0);
    rest_.remove_prefix(used);
    line_offset_ += static_cast<std::int64_t>(used);
  }
  if (!any || stop_.load()) return false;
  if (!line.text.empty() && line.text.back() == '\r') line.text.pop_back();
  line.number = ++line_number_;
  return true;
}

}  // namespace moba::batch
