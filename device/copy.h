// Copies between host and device, in the order of the context's operations.
#pragma once

#include "device/context.h"
#include "device/tensor.h"

namespace moba {

// Both copy all elements of `from` to `to`: contiguous tensors of one shape and dtype, of which the
// one side is host memory and the other memory of the context's device (the host's too, on the
// CPU). The copy is an operation like others: on a CUDA device it takes place in their order, and
// the call does not wait for it where the host's side is Buffer::host_for() memory; that memory
// must then stay unchanged, or is filled, until synchronize(). Throws Error for tensors that do not
// fit.
void copy_to_device(DeviceContext& context, const TensorView& from, const TensorView& to);
void copy_to_host(DeviceContext& context, const TensorView& from, const TensorView& to);

// Sets all bytes of a contiguous tensor of the context's device.
void fill_bytes(DeviceContext& context, const TensorView& tensor, unsigned char value);

}  // namespace moba
