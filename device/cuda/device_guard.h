#pragma once

#include <cuda_runtime_api.h>

#include "device/cuda/cuda_check.h"

namespace moba::cuda {

// Makes a device the calling thread's current one for a scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    MOBA_CUDA_CHECK(cudaGetDevice(&before_));
    if (device != before_) MOBA_CUDA_CHECK(cudaSetDevice(device));
    changed_ = device != before_;
  }
  ~DeviceGuard() {
    if (changed_) static_cast<void>(cudaSetDevice(before_));
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace moba::cuda
