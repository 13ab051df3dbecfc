#include "device/device_info.h"
#include "device/no_cuda/refuse.h"

namespace moba {

int num_cuda_devices(std::string* why_none) {
  if (why_none != nullptr) *why_none = "this build has no CUDA";
  return 0;
}

DeviceInfo device_info(Device device) { cuda::refuse(device_name(device).c_str()); }
DeviceMemory device_memory(Device device) { cuda::refuse(device_name(device).c_str()); }

}  // namespace moba
