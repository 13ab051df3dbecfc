#pragma once

#include <cstddef>

#include "device/context.h"

namespace moba::cuda {

// On the context's stream; either side may be host or device memory.
void copy_bytes(DeviceContext& context, const void* from, void* to, std::size_t bytes);
void fill_bytes(DeviceContext& context, void* to, unsigned char value, std::size_t bytes);

}  // namespace moba::cuda
