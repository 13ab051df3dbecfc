#include "device/buffer.h"

#include <sys/mman.h>

#include <limits>
#include <utility>

#include "device/check.h"
#include "device/cuda/memory_cuda.h"

namespace moba {
namespace {

constexpr std::size_t kHugePageSize = std::size_t{2} << 20;

}  // namespace

std::string device_name(Device device) {
  if (device.type == DeviceType::kCpu) return "cpu";
  return concat("cuda:", device.index);
}

Buffer::Buffer(Device device, std::size_t size, const char* what) : size_(size), device_(device) {
  if (size == 0) return;
  // Anonymous mappings rather than malloc: untouched pages cost nothing, and free gives them back
  // to the system at once.
  MOBA_CHECK(size <= std::numeric_limits<std::size_t>::max() / 2, what, ": a size of ", size,
             " bytes is not possible");
  if (device.type == DeviceType::kCuda) {
    data_ = cuda::allocate(device.index, size, what);
    return;
  }
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  MOBA_CHECK(data != MAP_FAILED, what, ": cannot allocate ", size, " bytes of memory");
  if (size >= 4 * kHugePageSize) madvise(data, size, MADV_HUGEPAGE);  // best effort
  data_ = data;
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      device_(other.device_),
      pinned_(other.pinned_) {}

Buffer Buffer::host_for(Device device, std::size_t size, const char* what) {
  if (device.type == DeviceType::kCpu || size == 0) return Buffer(Device{}, size, what);
  Buffer buffer;
  buffer.data_ = cuda::allocate_pinned(device.index, size, what);
  buffer.size_ = size;
  buffer.pinned_ = true;
  return buffer;
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    release();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    device_ = other.device_;
    pinned_ = other.pinned_;
  }
  return *this;
}

Buffer::~Buffer() { release(); }

void Buffer::release() {
  if (data_ == nullptr) return;
  if (pinned_) {
    cuda::release_pinned(data_);
  } else if (device_.type == DeviceType::kCuda) {
    cuda::release(device_.index, data_);
  } else {
    munmap(data_, size_);
  }
  data_ = nullptr;
  size_ = 0;
}

}  // namespace moba
