// Owned memory of a device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace moba {

enum class DeviceType : std::uint8_t { kCpu, kCuda };

// Which device: the host's processors, or the CUDA device of that index.
struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

std::string device_name(Device device);  // "cpu", "cuda:0"

// Move-only owner of `size` bytes on a device, page aligned on the host (large buffers: the kernel
// is asked to back them with huge pages). Not initialised; host pages are not touched before their
// first use. Throws Error naming `what` and the size if the memory cannot be had. Any thread may
// make, move and destroy one; destroying memory of a device waits for what runs on it.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Device device, std::size_t size, const char* what);
  // Host memory that `device` copies from and to at full speed and without the host's waiting for
  // it: pinned for CUDA, plain memory for the CPU. device() of the buffer is the CPU.
  static Buffer host_for(Device device, std::size_t size, const char* what);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  void* data() const { return data_; }
  std::size_t size() const { return size_; }
  Device device() const { return device_; }

 private:
  void release();

  void* data_ = nullptr;
  std::size_t size_ = 0;
  Device device_;
  bool pinned_ = false;
};

}  // namespace moba
