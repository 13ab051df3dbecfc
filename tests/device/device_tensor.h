// Copies of tensors on a device and back.
#pragma once

#include "device/copy.h"
#include "device/tensor.h"

namespace moba::test {

// A copy in memory of the context's device.
inline Tensor on_device(DeviceContext& context, const TensorView& host) {
  Tensor copy(host.dtype(), host.shape(), context.device(), "test tensor");
  copy_to_device(context, host, copy);
  context.synchronize();
  return copy;
}

// A copy in host memory; waits for what makes the tensor.
inline Tensor on_host(DeviceContext& context, const TensorView& device) {
  Tensor copy(device.dtype(), device.shape(), Device{}, "test tensor");
  copy_to_host(context, device, copy);
  context.synchronize();
  return copy;
}

// The first CUDA device.
inline Device first_gpu() { return {DeviceType::kCuda, 0}; }

}  // namespace moba::test
