// cuBLASLt products, with what its heuristics chose for a shape kept for the next time.
#pragma once

#include <cublasLt.h>

#include <cstddef>
#include <cstdint>
#include <unordered_map>

#include "device/dtype.h"

namespace moba::cuda {

class Context;

// out[m, n] = sum_k x[m, k] * weight[n, k] (+ bias[n]) (+ out[m, n]); strides in elements between
// rows. All pointers are device memory.
struct GemmProblem {
  const void* x = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;  // dtype of the output, or null
  void* out = nullptr;
  std::int64_t m = 0;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t x_stride = 0;
  std::int64_t weight_stride = 0;
  std::int64_t out_stride = 0;
  DType dtype = DType::kFloat32;  // of x and weight
  DType out_dtype = DType::kFloat32;
  bool accumulate = false;
};

// Products accumulate in float32; float32 ones never use TensorFloat-32. Not thread-safe.
class GemmPlans {
 public:
  GemmPlans() = default;
  ~GemmPlans();
  GemmPlans(const GemmPlans&) = delete;
  GemmPlans& operator=(const GemmPlans&) = delete;

  // Issues the product on the context's stream. Throws Error if cuBLASLt has no algorithm for it.
  void run(Context& context, const GemmProblem& problem);

 private:
  // What a choice of algorithm depends on.
  struct Key {
    std::int64_t m, n, k, x_stride, weight_stride, out_stride;
    std::uint32_t alignment;  // of x, weight, bias and out, four bits of log2 each
    DType dtype, out_dtype;
    bool bias, accumulate;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& key) const;
  };
  struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t weight = nullptr;
    cublasLtMatrixLayout_t x = nullptr;
    cublasLtMatrixLayout_t out = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
  };

  static Key key_of(const GemmProblem& problem);
  static void make_plan(Context& context, const GemmProblem& problem, const Key& key, Plan& plan);
  static void destroy(Plan& plan);

  std::unordered_map<Key, Plan, KeyHash> plans_;
};

}  // namespace moba::cuda
