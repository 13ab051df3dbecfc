// A file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <filesystem>

namespace moba {

// Move-only. The map is private and read-only; its pages are the page cache's own and count as this
// process's memory only once read. The file must not shrink while it is mapped (the system ends a
// process that reads past its end). Safe to read from several threads.
class MappedFile {
 public:
  MappedFile() = default;
  // Throws Error naming the file if it is missing, not a regular file, or cannot be read.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

  // Asks the system to start reading the whole file; returns at once. Best effort.
  void prefetch() const;

 private:
  void release();

  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// The same as MappedFile::prefetch() for [data, data + size) of a mapped file.
void prefetch_mapped_pages(const void* data, std::size_t size);

// Tells the system that the whole pages within [data, data + size) of a mapped file will not be
// read again soon: they no longer count as this process's memory (they stay in the page cache and
// come back if read). Best effort.
void drop_mapped_pages(const void* data, std::size_t size);

}  // namespace moba
