#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "device/cuda/cuda_check.h"
#include "tools/bench/cuda/attention_data.h"

namespace moba::bench {
namespace {

__device__ std::uint32_t mix(std::uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ULL;
  return static_cast<std::uint32_t>(x >> 32);
}

template <typename T>
__global__ void fill_normal_kernel(T* data, std::int64_t count, std::uint64_t seed) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    // The sum of four uniform numbers: near enough to normal.
    const std::uint32_t a = mix(seed * 0x9e3779b97f4a7c15ULL + static_cast<std::uint64_t>(i));
    const std::uint32_t sum = (a & 0xffU) + (a >> 8 & 0xffU) + (a >> 16 & 0xffU) + (a >> 24);
    data[i] = static_cast<T>((static_cast<float>(sum) - 510.0F) / 147.8F);
  }
}

// A block of threads for each (MoBA block, KV head), a thread for each dimension.
template <typename T>
__global__ void centroids_kernel(const T* k, T* centroids, const std::int32_t* table,
                                 int num_kv_heads, int block_size, int pages_per_block,
                                 int head_dim) {
  const int head = static_cast<int>(blockIdx.y);
  const int d = static_cast<int>(threadIdx.x);
  std::int64_t page = 0;
  float sum = 0;
  for (int i = 0; i < pages_per_block; ++i) {
    page = table[static_cast<int>(blockIdx.x) * pages_per_block + i];
    for (int row = 0; row < block_size; ++row) {
      sum +=
          static_cast<float>(k[((page * num_kv_heads + head) * block_size + row) * head_dim + d]);
    }
  }
  centroids[(page * num_kv_heads + head) * head_dim + d] =
      static_cast<T>(sum / static_cast<float>(pages_per_block * block_size));
}

// Writes nothing, but the compiler does not know that.
__global__ void read_kernel(const uint4* data, std::int64_t count, std::uint32_t* sink) {
  std::uint32_t any = 0;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    const uint4 x = data[i];
    any |= x.x | x.y | x.z | x.w;
  }
  if (any == 0xdeadbeefU) *sink = any;
}

template <typename T>
void fill(void* data, std::int64_t count, std::uint64_t seed, cudaStream_t stream) {
  fill_normal_kernel<<<4096, 256, 0, stream>>>(static_cast<T*>(data), count, seed);
  MOBA_CUDA_LAUNCH_CHECK(fill_normal_kernel);
}

}  // namespace

void read_all(const void* data, std::int64_t bytes, void* sink, cudaStream_t stream) {
  read_kernel<<<1056, 512, 0, stream>>>(static_cast<const uint4*>(data), bytes / 16,
                                        static_cast<std::uint32_t*>(sink));
  MOBA_CUDA_LAUNCH_CHECK(read_kernel);
}

void fill_normal(void* data, std::int64_t count, DType dtype, std::uint64_t seed,
                 cudaStream_t stream) {
  if (dtype == DType::kBFloat16) return fill<__nv_bfloat16>(data, count, seed, stream);
  fill<__half>(data, count, seed, stream);
}

void compute_centroids(const PagedKvView& cache, const std::int32_t* table, std::int64_t num_blocks,
                       cudaStream_t stream) {
  if (num_blocks == 0) return;
  const dim3 grid(static_cast<unsigned>(num_blocks), static_cast<unsigned>(cache.num_kv_heads));
  const auto threads = static_cast<unsigned>(cache.head_dim);
  if (cache.dtype == DType::kBFloat16) {
    centroids_kernel<<<grid, threads, 0, stream>>>(
        static_cast<const __nv_bfloat16*>(cache.k), static_cast<__nv_bfloat16*>(cache.centroids),
        table, cache.num_kv_heads, cache.block_size, cache.pages_per_moba_block(), cache.head_dim);
  } else {
    centroids_kernel<<<grid, threads, 0, stream>>>(
        static_cast<const __half*>(cache.k), static_cast<__half*>(cache.centroids), table,
        cache.num_kv_heads, cache.block_size, cache.pages_per_moba_block(), cache.head_dim);
  }
  MOBA_CUDA_LAUNCH_CHECK(centroids_kernel);
}

}  // namespace moba::bench
