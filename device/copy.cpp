#include "device/copy.h"

#include <cstring>

#include "device/check.h"
#include "device/cuda/copy_cuda.h"

namespace moba {
namespace {

void check_sides(const char* what, const TensorView& from, const TensorView& to, Device from_device,
                 Device to_device) {
  MOBA_CHECK(from.shape() == to.shape() && from.dtype() == to.dtype(), what, ": ",
             dtype_name(from.dtype()), " ", from.shape().to_string(), " to ",
             dtype_name(to.dtype()), " ", to.shape().to_string());
  MOBA_CHECK(from.is_contiguous() && to.is_contiguous(), what, ": rows that are not contiguous");
  MOBA_CHECK(from.device() == from_device && to.device() == to_device, what, ": from ",
             device_name(from.device()), " to ", device_name(to.device()), ", expected from ",
             device_name(from_device), " to ", device_name(to_device));
}

void copy(DeviceContext& context, const TensorView& from, const TensorView& to) {
  if (from.num_bytes() == 0) return;
  if (context.device().type == DeviceType::kCuda) {
    cuda::copy_bytes(context, from.raw(), to.raw(), from.num_bytes());
  } else {
    std::memmove(to.raw(), from.raw(), from.num_bytes());
  }
}

}  // namespace

void copy_to_device(DeviceContext& context, const TensorView& from, const TensorView& to) {
  check_sides("copy to the device", from, to, Device{}, context.device());
  copy(context, from, to);
}

void copy_to_host(DeviceContext& context, const TensorView& from, const TensorView& to) {
  check_sides("copy to the host", from, to, context.device(), Device{});
  copy(context, from, to);
}

void fill_bytes(DeviceContext& context, const TensorView& tensor, unsigned char value) {
  MOBA_CHECK(tensor.is_contiguous() && tensor.device() == context.device(),
             "fill: a tensor that is not contiguous or of ", device_name(tensor.device()));
  if (tensor.num_bytes() == 0) return;
  if (context.device().type == DeviceType::kCuda) {
    cuda::fill_bytes(context, tensor.raw(), value, tensor.num_bytes());
  } else {
    std::memset(tensor.raw(), value, tensor.num_bytes());
  }
}

}  // namespace moba
