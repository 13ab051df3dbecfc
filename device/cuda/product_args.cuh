// A product as kernels of our own take it.
#pragma once

#include <cstdint>

#include "device/cuda/gemm_plans.h"
#include "device/cuda/vec.cuh"

namespace moba::cuda {

// See GemmProblem.
template <typename T, typename Out>
struct ProductArgs {
  const T* x;
  const T* weight;
  const Out* bias;  // or null
  Out* out;
  std::int64_t x_stride;
  std::int64_t weight_stride;
  std::int64_t out_stride;
  int m;
  int n;
  int k;
  bool accumulate;
};

// Writes out[m, n], given the sum of products.
template <typename T, typename Out>
__device__ inline void finish(const ProductArgs<T, Out>& args, int m, int n, float sum) {
  Out* const out = args.out + m * args.out_stride + n;
  if (args.bias != nullptr) sum += to_float(args.bias[n]);
  if (args.accumulate) sum += to_float(*out);
  *out = from_float<Out>(sum);
}

template <typename T, typename Out>
ProductArgs<T, Out> product_args(const GemmProblem& p) {
  return {static_cast<const T*>(p.x),
          static_cast<const T*>(p.weight),
          static_cast<const Out*>(p.bias),
          static_cast<Out*>(p.out),
          p.x_stride,
          p.weight_stride,
          p.out_stride,
          static_cast<int>(p.m),
          static_cast<int>(p.n),
          static_cast<int>(p.k),
          p.accumulate};
}

}  // namespace moba::cuda
