#include <cuda_runtime_api.h>

#include "device/check.h"
#include "device/cuda/cuda_check.h"
#include "device/cuda/device_guard.h"
#include "device/device_info.h"

namespace moba {
namespace {

// The kernels use bfloat16 arithmetic and asynchronous copies to shared memory.
constexpr int kLeastComputeMajor = 8;

std::string version_text(int version) { return concat(version / 1000, ".", version % 1000 / 10); }

}  // namespace

int num_cuda_devices(std::string* why_none) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  static_cast<void>(cudaGetLastError());
  if (why_none != nullptr) {
    *why_none = "this machine has no CUDA device";
    if (error == cudaErrorInsufficientDriver) {
      int driver = 0;
      int runtime = 0;
      static_cast<void>(cudaDriverGetVersion(&driver));
      static_cast<void>(cudaRuntimeGetVersion(&runtime));
      *why_none = driver == 0 ? std::string("no CUDA driver is installed")
                              : concat("the driver supports CUDA ", version_text(driver),
                                       ", this program needs ", version_text(runtime));
    } else if (error != cudaSuccess && error != cudaErrorNoDevice) {
      *why_none = concat("CUDA cannot be used: ", cudaGetErrorString(error));
    }
  }
  return 0;
}

DeviceInfo device_info(Device device) {
  const std::string name = device_name(device);
  MOBA_CHECK(device.type == DeviceType::kCuda, name, " is no CUDA device");
  std::string why_none;
  const int count = num_cuda_devices(&why_none);
  MOBA_CHECK(count > 0, name, ": ", why_none);
  MOBA_CHECK(device.index >= 0 && device.index < count, name, ": there is no such device, only ",
             count == 1 ? "cuda:0" : concat("cuda:0 .. cuda:", count - 1));
  cudaDeviceProp properties{};
  MOBA_CUDA_CHECK(cudaGetDeviceProperties(&properties, device.index));
  DeviceInfo info;
  info.name = properties.name;
  info.compute_major = properties.major;
  info.compute_minor = properties.minor;
  info.num_multiprocessors = properties.multiProcessorCount;
  info.l2_bytes = properties.l2CacheSize;
  info.total_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
  int version = 0;
  MOBA_CUDA_CHECK(cudaDriverGetVersion(&version));
  info.driver = version_text(version);
  MOBA_CUDA_CHECK(cudaRuntimeGetVersion(&version));
  info.runtime = version_text(version);
  MOBA_CHECK(info.compute_major >= kLeastComputeMajor, name, ": ", info.name,
             " has compute capability ", info.compute_major, ".", info.compute_minor,
             ", the engine needs ", kLeastComputeMajor, ".0 or more");
  return info;
}

DeviceMemory device_memory(Device device) {
  MOBA_CHECK(device.type == DeviceType::kCuda, device_name(device), " is no CUDA device");
  const cuda::DeviceGuard guard(device.index);
  std::size_t free = 0;
  std::size_t total = 0;
  MOBA_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return {static_cast<std::int64_t>(free), static_cast<std::int64_t>(total)};
}

}  // namespace moba
