#include "tools/moba/input.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iostream>
#include <stdexcept>

#include "tools/moba/errors.h"
#include "tools/moba/parse.h"

namespace moba::cli {
namespace {

constexpr int kStdin = 0;

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ > kStdin) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

[[noreturn]] void cannot_read(const std::string& name, const std::string& reason) {
  throw CommandError("cannot read " + name + ": " + reason);
}

std::string display_name(const std::string& path) { return path == "-" ? "standard input" : path; }

}  // namespace

std::string read_input(const std::string& path, std::int64_t max_bytes) {
  const std::string name = display_name(path);
  const FileDescriptor file(path == "-" ? kStdin : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) cannot_read(name, std::strerror(errno));
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) cannot_read(name, std::strerror(errno));
  if (S_ISDIR(info.st_mode)) cannot_read(name, "it is a directory");
  if (path == "-" && ::isatty(kStdin) == 1) {
    std::cerr << "moba: reading from the terminal; end with Ctrl-D on an empty line\n";
  }
  std::string bytes;
  if (S_ISREG(info.st_mode)) {
    bytes.reserve(static_cast<std::size_t>(std::min<std::int64_t>(info.st_size, max_bytes)));
  }
  std::string chunk(std::size_t{1} << 16, '\0');
  for (;;) {
    const ssize_t n = ::read(file.get(), chunk.data(), chunk.size());
    if (n == 0) return bytes;
    if (n < 0) {
      if (errno == EINTR) continue;
      cannot_read(name, std::strerror(errno));
    }
    bytes.append(chunk.data(), static_cast<std::size_t>(n));
    if (static_cast<std::int64_t>(bytes.size()) > max_bytes) {
      cannot_read(name, "it is larger than " + std::to_string(max_bytes) + " bytes");
    }
  }
}

std::vector<std::int32_t> read_token_ids(const std::string& path) {
  const std::string text = read_input(path);
  try {
    return parse_token_ids(text);
  } catch (const std::invalid_argument& error) {
    throw CommandError(display_name(path) + ": " + error.what());
  }
}

InputText read_source(const TextSource& source) {
  InputText input;
  if (source.ids_file) {
    input.is_ids = true;
    input.name = display_name(*source.ids_file);
    input.ids = read_token_ids(*source.ids_file);
  } else if (source.text) {
    input.name = "the prompt";
    input.text = *source.text;
  } else {
    const std::string path = source.file.value_or("-");
    input.name = display_name(path);
    input.text = read_input(path);
  }
  return input;
}

void throw_status(const Status& status) { throw CommandError(status.message()); }

}  // namespace moba::cli
