// linear() on a CUDA device against sums in double precision.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "device/gemm.h"
#include "tests/catch.h"
#include "tests/device/device_tensor.h"
#include "tests/device/random_tensor.h"

namespace moba::test {
namespace {

struct Product {
  DType dtype = DType::kBFloat16;
  DType out_dtype = DType::kBFloat16;
  std::int64_t m = 1;
  std::int64_t n = 1;
  std::int64_t k = 1;
  DType bias_dtype = DType::kInt32;  // kInt32: no bias
  bool accumulate = false;
};

double tolerance(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return 0.008;  // two roundings to 8 bits: cuBLASLt may round the product before it adds
    case DType::kFloat16:
      return 0.0012;
    default:
      return 2e-5;
  }
}

// Largest difference from the exact result, relative to the size of its terms.
double worst_error(DeviceContext& context, const Product& p, std::mt19937& random) {
  const Tensor x = random_tensor(p.dtype, {p.m, p.k}, random);
  const Tensor weight = random_tensor(p.dtype, {p.n, p.k}, random);
  const bool has_bias = p.bias_dtype != DType::kInt32;
  const Tensor bias = has_bias ? random_tensor(p.bias_dtype, {p.n}, random) : Tensor();
  const Tensor before = p.accumulate ? random_tensor(p.out_dtype, {p.m, p.n}, random)
                                     : poisoned_tensor(p.out_dtype, {p.m, p.n});

  const Tensor device_x = on_device(context, x);
  const Tensor device_weight = on_device(context, weight);
  const Tensor device_bias = has_bias ? on_device(context, bias) : Tensor();
  const Tensor device_out = on_device(context, before);
  const std::array<LinearTask, 1> task{{{device_weight, device_bias, device_out, p.accumulate}}};
  linear(context, device_x, task);
  const Tensor out = on_host(context, device_out);

  const std::vector<double> xs = to_doubles(x);
  const std::vector<double> ws = to_doubles(weight);
  double worst = 0;
  for (std::int64_t m = 0; m < p.m; ++m) {
    for (std::int64_t n = 0; n < p.n; ++n) {
      double sum = has_bias ? element(bias, n) : 0;
      // What cancels counts too.
      double size = 0.1 * std::sqrt(static_cast<double>(p.k));
      if (p.accumulate) sum += element(before, m * p.n + n);
      size += std::abs(sum);
      for (std::int64_t k = 0; k < p.k; ++k) {
        sum +=
            xs[static_cast<std::size_t>(m * p.k + k)] * ws[static_cast<std::size_t>(n * p.k + k)];
      }
      const double error = std::abs(element(out, m * p.n + n) - sum) / (std::abs(sum) + size);
      worst = error > worst || error != error ? error : worst;
      if (worst != worst) return worst;
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("linear on CUDA: shapes, dtypes, biases, accumulation") {
  DeviceContext context(first_gpu(), 1);
  const unsigned seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  struct Sizes {
    std::int64_t n, k;
  };
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16, DType::kFloat32}) {
    for (const Sizes s : {Sizes{1, 8}, Sizes{16, 32}, Sizes{48, 64}, Sizes{130, 576}, Sizes{37, 40},
                          Sizes{33, 7}, Sizes{200, 2056}, Sizes{576, 1536}}) {
      for (const std::int64_t m : {1, 2, 3, 5, 8, 9, 16, 33, 128}) {
        for (const bool accumulate : {false, true}) {
          for (const bool bias : {false, true}) {
            Product p{dtype, dtype, m, s.n, s.k};
            if (bias) p.bias_dtype = dtype;
            p.accumulate = accumulate;
            const double error = worst_error(context, p, random);
            INFO(dtype_name(dtype) << " m " << m << " n " << s.n << " k " << s.k << " bias " << bias
                                   << " accumulate " << accumulate);
            REQUIRE(error <= tolerance(dtype));
          }
        }
      }
    }
  }
}

TEST_CASE("linear on CUDA: float32 results of 16-bit inputs, biases of other dtypes") {
  DeviceContext context(first_gpu(), 1);
  std::mt19937 random(std::random_device{}());
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const std::int64_t m : {1, 7, 20}) {
      INFO(dtype_name(dtype) << " m " << m);
      Product p{dtype, DType::kFloat32, m, 300, 256};
      CHECK(worst_error(context, p, random) <= 1e-5);
      p.bias_dtype = dtype;
      CHECK(worst_error(context, p, random) <= 1e-5);
      p.out_dtype = dtype;
      p.bias_dtype = DType::kFloat32;
      CHECK(worst_error(context, p, random) <= 2 * tolerance(dtype));
      p.accumulate = true;
      CHECK(worst_error(context, p, random) <= 2 * tolerance(dtype));
    }
  }
}

TEST_CASE("linear on CUDA: tasks that can be merged give what they give one by one") {
  DeviceContext context(first_gpu(), 1);
  REQUIRE(merges_tasks(context));
  std::mt19937 random(std::random_device{}());
  constexpr std::int64_t kK = 128;
  constexpr std::array<std::int64_t, 3> kSizes = {96, 32, 32};
  constexpr std::int64_t kAll = 160;
  const Tensor weights = on_device(context, random_tensor(DType::kBFloat16, {kAll, kK}, random));
  const Tensor biases = on_device(context, random_tensor(DType::kBFloat16, {kAll}, random));
  for (const std::int64_t m : {1, 4, 8, 50}) {
    INFO("m " << m);
    // x and the output are columns of wider matrices.
    const Tensor wide_x = on_device(context, random_tensor(DType::kBFloat16, {m, 2 * kK}, random));
    const TensorView x = wide_x.view().columns(kK, 2 * kK);
    const Tensor merged = on_device(context, poisoned_tensor(DType::kBFloat16, {m, kAll}));
    std::vector<LinearTask> tasks;
    std::vector<Tensor> single;
    std::int64_t first = 0;
    for (const std::int64_t size : kSizes) {
      const TensorView weight = weights.view().rows(first, first + size);
      const TensorView bias = biases.view().rows(first, first + size);
      tasks.push_back({weight, bias, merged.view().columns(first, first + size)});
      single.push_back(on_device(context, poisoned_tensor(DType::kBFloat16, {m, size})));
      linear(context, x, std::array<LinearTask, 1>{{{weight, bias, single.back()}}});
      first += size;
    }
    LinearTask one;
    REQUIRE(merge_front(tasks, one) == 3);
    linear(context, x, tasks);
    const Tensor got = on_host(context, merged);
    first = 0;
    double worst = 0;
    for (std::size_t i = 0; i < kSizes.size(); ++i) {
      const Tensor expected = on_host(context, single[i]);
      for (std::int64_t row = 0; row < m; ++row) {
        for (std::int64_t c = 0; c < kSizes[i]; ++c) {
          const double e = element(expected, row * kSizes[i] + c);
          const double g = element(got, row * kAll + first + c);
          REQUIRE(g == g);
          worst = std::max(worst, std::abs(g - e) / (std::abs(e) + 1));
        }
      }
      first += kSizes[i];
    }
    CHECK(worst <= (m <= 8 ? 0 : 0.01));
  }
}

TEST_CASE("linear on CUDA: of up to 8 rows, each has the result it has alone") {
  DeviceContext context(first_gpu(), 1);
  std::mt19937 random(std::random_device{}());
  const Tensor x = on_device(context, random_tensor(DType::kBFloat16, {8, 1000}, random));
  const Tensor weight = on_device(context, random_tensor(DType::kBFloat16, {77, 1000}, random));
  const Tensor all(DType::kFloat32, {8, 77}, first_gpu(), "all");
  const Tensor one(DType::kFloat32, {1, 77}, first_gpu(), "one");
  linear(context, x, std::array<LinearTask, 1>{{{weight, {}, all}}});
  for (std::int64_t m = 0; m < 8; ++m) {
    linear(context, x.view().rows(m, m + 1), std::array<LinearTask, 1>{{{weight, {}, one}}});
    CHECK(bitwise_equal(on_host(context, all.view().rows(m, m + 1)), on_host(context, one)));
  }
}

TEST_CASE("linear on CUDA: what does not fit is refused") {
  DeviceContext context(first_gpu(), 1);
  std::mt19937 random(1);
  const Tensor x = on_device(context, random_tensor(DType::kBFloat16, {2, 16}, random));
  const Tensor weight = on_device(context, random_tensor(DType::kFloat32, {8, 16}, random));
  const Tensor out(DType::kBFloat16, {2, 8}, first_gpu(), "out");
  CHECK_THROWS_AS(linear(context, x, std::array<LinearTask, 1>{{{weight, {}, out}}}), Error);
}

}  // namespace moba::test
