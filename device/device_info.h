// The CUDA devices of the machine, as far as the engine may use them.
#pragma once

#include <cstdint>
#include <string>

#include "device/buffer.h"

namespace moba {

struct DeviceInfo {
  std::string name;     // "NVIDIA H100 80GB HBM3"
  std::string driver;   // CUDA version that the driver supports: "13.0"
  std::string runtime;  // CUDA version that the program was built with: "13.0"
  int compute_major = 0;
  int compute_minor = 0;
  int num_multiprocessors = 0;
  std::int64_t l2_bytes = 0;
  std::int64_t total_bytes = 0;
};

struct DeviceMemory {
  std::int64_t free_bytes = 0;
  std::int64_t total_bytes = 0;
};

// Number of CUDA devices; 0 if there is none, if the driver is missing or too old, or in a build
// without CUDA. `why_none`, if not null, is then set to one line that says which.
int num_cuda_devices(std::string* why_none = nullptr);

// Of a CUDA device. Throws Error, in one line, if there is no such device or this build's kernels
// do not run on it (compute capability below 8.0).
DeviceInfo device_info(Device device);

// As the device sees it now, other processes included.
DeviceMemory device_memory(Device device);

}  // namespace moba
