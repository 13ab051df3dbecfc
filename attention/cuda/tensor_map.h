// Descriptions of tensors for the copy engine of sm_90.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "device/dtype.h"

namespace moba::cuda {

// A matrix [rows, columns] of 16-bit elements in device memory, of which boxes of `box_rows` rows
// and 64 columns are copied to shared memory in the 128-byte swizzle. `data` is aligned to 16
// bytes, columns a multiple of 8, box_rows at most 256.
CUtensorMap make_tensor_map(const void* data, DType dtype, std::int64_t rows, int columns,
                            int box_rows);

}  // namespace moba::cuda
