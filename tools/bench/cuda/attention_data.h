// Random attention inputs, made on the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kvcache/paged_kv_view.h"

namespace moba::bench {

// Nearly normal numbers of variance 1; bfloat16 or float16.
void fill_normal(void* data, std::int64_t count, DType dtype, std::uint64_t seed,
                 cudaStream_t stream);

// Reads `bytes` (a multiple of 16), which puts everything else out of the L2 cache and leaves
// nothing there that is still to be written. `sink`: four bytes.
void read_all(const void* data, std::int64_t bytes, void* sink, cudaStream_t stream);

// The centroids of a sequence's first num_blocks MoBA blocks; table is on the device.
void compute_centroids(const PagedKvView& cache, const std::int32_t* table, std::int64_t num_blocks,
                       cudaStream_t stream);

}  // namespace moba::bench
