// Loads, stores and conversions of elements and of 16-byte pieces of rows.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace moba::cuda {

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(__half x) { return __half2float(x); }

// Rounds to nearest, ties to even.
template <typename T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline __half from_float<__half>(float x) {
  return __float2half_rn(x);
}

// x as T holds it.
template <typename T>
__device__ float round_to(float x) {
  return to_float(from_float<T>(x));
}

// kElements elements that are loaded and stored at once; pointers are aligned to 16 bytes.
template <typename T>
struct alignas(16) Vec {
  static constexpr int kElements = 16 / static_cast<int>(sizeof(T));
  T v[kElements];

  __device__ static Vec load(const T* from) {
    Vec result;
    *reinterpret_cast<uint4*>(&result) = *reinterpret_cast<const uint4*>(from);
    return result;
  }
  __device__ void store(T* to) const {
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(this);
  }
};

// Sum over the lanes of a warp, the same in all.
__device__ inline float warp_sum(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffU, x, offset);
  return x;
}

// Sum over a block of at most 1024 threads, whole warps, the same in all. `scratch`: 32 floats of
// shared memory, free when the call begins.
__device__ inline float block_sum(float x, float* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int num_warps = (static_cast<int>(blockDim.x) + 31) / 32;
  x = warp_sum(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return warp_sum(lane < num_warps ? scratch[lane] : 0.0F);
}

}  // namespace moba::cuda
