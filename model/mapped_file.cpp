#include "model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "device/check.h"

namespace moba {
namespace {

// munmap and madvise take a pointer to non-const, though they do not write.
void* mutable_pointer(const void* data) { return const_cast<void*>(data); }

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  MOBA_CHECK(fd >= 0, path.string(), ": cannot open: ", std::strerror(errno));
  struct stat info {};
  const bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  void* data = nullptr;
  int error = 0;
  if (regular && info.st_size > 0) {
    size_ = static_cast<std::size_t>(info.st_size);
    data = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    error = errno;
  }
  close(fd);
  MOBA_CHECK(regular, path.string(), ": not a regular file");
  MOBA_CHECK(data != MAP_FAILED, path.string(), ": cannot map ", size_,
             " bytes: ", std::strerror(error));
  data_ = static_cast<const std::byte*>(data);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    release();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

MappedFile::~MappedFile() { release(); }

void MappedFile::prefetch() const {
  if (data_ != nullptr) madvise(mutable_pointer(data_), size_, MADV_WILLNEED);
}

void MappedFile::release() {
  if (data_ != nullptr) munmap(mutable_pointer(data_), size_);
  data_ = nullptr;
  size_ = 0;
}

void prefetch_mapped_pages(const void* data, std::size_t size) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::size_t before = reinterpret_cast<std::uintptr_t>(data) % page;
  auto* first = static_cast<const std::byte*>(data) - before;
  if (size > 0) madvise(mutable_pointer(first), size + before, MADV_WILLNEED);
}

void drop_mapped_pages(const void* data, std::size_t size) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t begin = (address + page - 1) / page * page;
  const std::uintptr_t end = (address + size) / page * page;
  if (begin < end) {
    auto* first = static_cast<const std::byte*>(data) + (begin - address);
    madvise(mutable_pointer(first), end - begin, MADV_DONTNEED);
  }
}

}  // namespace moba
