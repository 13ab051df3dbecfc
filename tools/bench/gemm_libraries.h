// The same products by the libraries that were found when the build was configured.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace moba::bench {

struct LibraryProduct {
  std::string name;
  std::function<void()> run;
};

// out[m, n] = x[m, k] . weight[n, k]^T in float32 with `threads` threads, by each library. The
// arrays must outlive the result.
std::vector<LibraryProduct> float_products(const float* x, const float* weight, float* out,
                                           std::int64_t m, std::int64_t n, std::int64_t k,
                                           int threads);

// The same with bfloat16 bits and float32 sums, by each library that can on this processor.
std::vector<LibraryProduct> bf16_products(const std::uint16_t* x, const std::uint16_t* weight,
                                          float* out, std::int64_t m, std::int64_t n,
                                          std::int64_t k, int threads);

}  // namespace moba::bench
