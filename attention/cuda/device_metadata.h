// A batch's metadata on its way to the device: packed into pinned memory, copied in one piece.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "device/buffer.h"
#include "device/check.h"
#include "device/cuda/cuda_check.h"
#include "device/cuda/stream.h"

namespace moba::cuda {

// Pinned staging for uploads of up to `capacity` bytes, two of them, so that the host can write one
// batch's metadata while the device still reads the last one's. Not thread-safe.
class UploadStaging {
 public:
  UploadStaging(Device device, std::size_t capacity, const char* what)
      : buffers_{Buffer::host_for(device, capacity, what),
                 Buffer::host_for(device, capacity, what)} {}

  // Where to write; waits for the upload that used this memory, two batches ago.
  std::byte* begin() {
    current_ ^= 1;
    if (used_[current_]) events_[current_].synchronize();
    return static_cast<std::byte*>(buffers_[current_].data());
  }
  std::size_t capacity() const { return buffers_[0].size(); }
  // Copies [begin, begin + bytes) of the staging to the same place of `target`.
  void copy(void* target, std::size_t begin, std::size_t bytes, cudaStream_t stream) {
    if (bytes == 0) return;
    MOBA_CUDA_CHECK(cudaMemcpyAsync(static_cast<std::byte*>(target) + begin,
                                    static_cast<std::byte*>(buffers_[current_].data()) + begin,
                                    bytes, cudaMemcpyHostToDevice, stream));
  }
  void end(cudaStream_t stream) {
    events_[current_].record(stream);
    used_[current_] = true;
  }

 private:
  std::array<Buffer, 2> buffers_;
  std::array<Event, 2> events_;
  std::array<bool, 2> used_{};
  std::size_t current_ = 0;
};

template <typename T>
void put(std::byte* base, std::size_t offset, std::span<const T> values) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (!values.empty()) std::memcpy(base + offset, values.data(), values.size_bytes());
}

}  // namespace moba::cuda
