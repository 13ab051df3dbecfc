#include "device/gemm.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "device/check.h"
#include "device/context.h"
#include "tests/catch.h"
#include "tests/device/random_tensor.h"

using moba::Device;
using moba::DeviceContext;
using moba::DType;
using moba::LinearTask;
using moba::Shape;
using moba::Tensor;
using moba::TensorView;
using moba::cpu::Isa;
using moba::test::bitwise_equal;
using moba::test::element;
using moba::test::poisoned_tensor;
using moba::test::random_tensor;
using moba::test::to_doubles;

namespace {

constexpr auto kF32 = DType::kFloat32;
constexpr auto kBf16 = DType::kBFloat16;
constexpr auto kF16 = DType::kFloat16;

Tensor copy(const TensorView& t) {
  Tensor out(t.dtype(), t.shape(), Device{}, "copy");
  if (t.num_bytes() > 0) std::memcpy(out.view().raw(), t.raw(), t.num_bytes());
  return out;
}

struct Case {
  std::int64_t m, n, k;
  DType x = kF32;
  DType weight = kF32;
  DType output = kF32;
  bool bias = false;
  bool accumulate = false;
};

// Runs one case and compares every element with the sum in double. The bound: the rounding of k
// additions in blocks, and of the output.
void check_case(DeviceContext& context, const Case& c, std::mt19937& random) {
  INFO("isa " << moba::cpu::isa_name(context.isa()) << " m " << c.m << " n " << c.n << " k " << c.k
              << " x " << dtype_name(c.x) << " weight " << dtype_name(c.weight) << " output "
              << dtype_name(c.output) << " bias " << c.bias << " accumulate " << c.accumulate);
  const Tensor x = random_tensor(c.x, {c.m, c.k}, random);
  const Tensor weight = random_tensor(c.weight, {c.n, c.k}, random);
  const Tensor bias = c.bias ? random_tensor(c.weight, {c.n}, random) : Tensor();
  const Tensor output = c.accumulate ? random_tensor(c.output, {c.m, c.n}, random)
                                     : poisoned_tensor(c.output, {c.m, c.n});
  const std::vector<double> before = to_doubles(output);
  const std::vector<double> xs = to_doubles(x);
  const std::vector<double> ws = to_doubles(weight);

  const LinearTask task{weight, bias, output, c.accumulate};
  linear(context, x, std::array{task});

  const std::vector<double> got = to_doubles(output);
  double worst = 0;  // error over bound
  for (std::int64_t m = 0; m < c.m; ++m) {
    for (std::int64_t n = 0; n < c.n; ++n) {
      double sum = 0;
      double magnitude = 0;
      for (std::int64_t k = 0; k < c.k; ++k) {
        const double product =
            xs[static_cast<std::size_t>(m * c.k + k)] * ws[static_cast<std::size_t>(n * c.k + k)];
        sum += product;
        magnitude += std::abs(product);
      }
      const auto i = static_cast<std::size_t>(m * c.n + n);
      if (c.bias) sum += element(bias, n);
      if (c.accumulate) sum += before[i];
      const double rounding = c.output == kBf16 ? std::abs(sum) / 250 : 0;
      const double bound = 4e-6 * (magnitude + 1) + rounding;
      const double error = std::abs(got[i] - sum);
      worst = std::isnan(got[i]) ? 1e9 : std::max(worst, error / bound);
    }
  }
  REQUIRE(worst < 1.0);
}

}  // namespace

TEST_CASE("linear agrees with a sum in double", "[linear]") {
  std::mt19937 random(1);
  for (const Isa isa : moba::cpu::available_isas()) {
    DeviceContext context(2, isa);
    // Rows: below, at and past the change of kernels and the tiles; columns and depths with tails.
    for (std::int64_t m = 1; m <= 70; ++m) {
      const std::int64_t n = std::array{1, 7, 33, 64, 130}[static_cast<std::size_t>(m % 5)];
      const std::int64_t k = std::array{1, 5, 31, 64, 515, 1100}[static_cast<std::size_t>(m % 6)];
      check_case(context, {m, n, k, kF32, kF32, kF32, m % 2 == 0, m % 3 == 0}, random);
      check_case(context, {m, n, k, kBf16, kBf16, m % 4 < 2 ? kBf16 : kF32, m % 2 == 0, m % 3 == 0},
                 random);
    }
    for (const std::int64_t m : {1, 3, 8, 9, 40}) {
      for (const std::int64_t k : {511, 512, 513, 1024, 5000}) {
        check_case(context, {m, 19, k}, random);
        check_case(context, {m, 19, k, kBf16, kBf16, kF32}, random);
      }
    }
    check_case(context, {250, 300, 96}, random);
    check_case(context, {250, 300, 96, kBf16, kBf16, kBf16, true, true}, random);
  }
}

TEST_CASE("linear with every combination of dtypes", "[linear]") {
  std::mt19937 random(2);
  for (const Isa isa : moba::cpu::available_isas()) {
    DeviceContext context(2, isa);
    for (const DType x : {kF32, kBf16}) {
      for (const DType weight : {kF32, kBf16, kF16}) {
        for (const DType output : {kF32, x}) {
          for (const bool bias : {false, true}) {
            for (const bool accumulate : {false, true}) {
              for (const std::int64_t m : {1, 2, 4, 6, 21}) {
                check_case(context, {m, 37, 75, x, weight, output, bias, accumulate}, random);
              }
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a bias may have another dtype than its weight", "[linear]") {
  std::mt19937 random(3);
  DeviceContext context(1);
  const Tensor x = random_tensor(kF32, {2, 16}, random);
  const Tensor weight = random_tensor(kBf16, {9, 16}, random);
  const Tensor none = poisoned_tensor(kF32, {2, 9});
  const LinearTask plain{weight, {}, none};
  linear(context, x, std::array{plain});
  for (const DType dtype : {kF32, kBf16, kF16}) {
    const Tensor bias = random_tensor(dtype, {9}, random);
    const Tensor out = poisoned_tensor(kF32, {2, 9});
    const LinearTask task{weight, bias, out};
    linear(context, x, std::array{task});
    for (std::int64_t i = 0; i < 18; ++i) {
      const auto sum =
          static_cast<float>(element(none, i)) + static_cast<float>(element(bias, i % 9));
      CHECK(element(out, i) == sum);
    }
  }
}

TEST_CASE("several tasks share a loop and give what each gives alone", "[linear]") {
  std::mt19937 random(4);
  for (const Isa isa : moba::cpu::available_isas()) {
    DeviceContext context(3, isa);
    for (const std::int64_t m : {1, 5, 30}) {
      const Tensor x = random_tensor(kBf16, {m, 200}, random);
      std::vector<Tensor> weights;
      std::vector<Tensor> outputs;
      std::vector<LinearTask> tasks;
      int i = 0;
      for (const DType dtype : {kBf16, kF32, kF16, kBf16}) {
        const std::int64_t n = 40 + 7 * i;
        weights.push_back(random_tensor(dtype, {n, 200}, random));
        outputs.push_back(poisoned_tensor(i % 2 == 0 ? kBf16 : kF32, {m, n}));
        tasks.push_back({weights.back(), {}, outputs.back()});
        ++i;
      }
      linear(context, x, tasks);
      for (std::size_t t = 0; t < tasks.size(); ++t) {
        const Tensor alone = poisoned_tensor(outputs[t].view().dtype(), outputs[t].view().shape());
        const LinearTask task{weights[t], {}, alone};
        linear(context, x, std::array{task});
        CHECK(bitwise_equal(alone, outputs[t]));
      }
    }
  }
}

// The contract that chunked prefill, prefix hits and batching rely on.
TEST_CASE("a row does not depend on the rows beside it or on the threads", "[linear]") {
  std::mt19937 random(5);
  constexpr std::int64_t kRows = 100;
  for (const Isa isa : moba::cpu::available_isas()) {
    for (const auto& [n, k] : {std::pair{45, 576}, {130, 1537}, {8, 40}, {1, 4099}}) {
      for (const auto& [x_dtype, w_dtype] :
           {std::pair{kF32, kF32}, {kF32, kBf16}, {kBf16, kBf16}, {kBf16, kF16}}) {
        INFO(moba::cpu::isa_name(isa)
             << " n " << n << " k " << k << " weight " << dtype_name(w_dtype));
        const Tensor x = random_tensor(x_dtype, {kRows, k}, random);
        const Tensor weight = random_tensor(w_dtype, {n, k}, random);
        const Tensor bias = random_tensor(w_dtype, {n}, random);
        const Tensor before = random_tensor(x_dtype, {kRows, n}, random);
        const auto run = [&](int threads, std::int64_t begin, std::int64_t end) {
          DeviceContext context(threads, isa);
          Tensor out = copy(before.view().rows(begin, end));
          const LinearTask task{weight, bias, out, true};
          linear(context, x.view().rows(begin, end), std::array{task});
          return out;
        };
        const Tensor all = run(1, 0, kRows);
        for (const int threads : {2, 3}) CHECK(bitwise_equal(run(threads, 0, kRows), all));
        for (const std::int64_t row : {0, 1, 2, 50, 97, 99}) {
          REQUIRE(bitwise_equal(run(1, row, row + 1), all.view().rows(row, row + 1)));
        }
        for (const std::int64_t rows : {2, 3, 4, 5, 6, 7, 8, 9, 10, 31, 99}) {
          const std::int64_t begin = kRows - rows;
          REQUIRE(bitwise_equal(run(2, begin, kRows), all.view().rows(begin, kRows)));
        }
      }
    }
  }
}

TEST_CASE("weights and inputs may lie at any address", "[linear]") {
  std::mt19937 random(6);
  for (const Isa isa : moba::cpu::available_isas()) {
    DeviceContext context(2, isa);
    for (const std::int64_t m : {1, 4, 20}) {
      const Tensor x = random_tensor(kBf16, {m, 130}, random);
      const Tensor weight = random_tensor(kBf16, {21, 130}, random);
      const Tensor out = poisoned_tensor(kBf16, {m, 21});
      const LinearTask task{weight, {}, out};
      linear(context, x, std::array{task});
      // As a safetensors file may have them: two bytes off any alignment.
      const auto shifted = [](const TensorView& t, std::vector<std::byte>& storage) {
        storage.resize(t.num_bytes() + 2);
        std::memcpy(storage.data() + 2, t.raw(), t.num_bytes());
        return TensorView(storage.data() + 2, t.dtype(), t.shape());
      };
      std::vector<std::byte> x_bytes;
      std::vector<std::byte> weight_bytes;
      const Tensor out2 = poisoned_tensor(kBf16, {m, 21});
      const LinearTask task2{shifted(weight, weight_bytes), {}, out2};
      linear(context, shifted(x, x_bytes), std::array{task2});
      CHECK(bitwise_equal(out, out2));
    }
  }
}

TEST_CASE("linear with nothing to do", "[linear]") {
  DeviceContext context(2);
  std::mt19937 random(7);
  const Tensor weight = random_tensor(kF32, {5, 3}, random);
  const Tensor no_rows(kF32, {0, 3}, Device{}, "x");
  const Tensor no_output(kF32, {0, 5}, Device{}, "out");
  const LinearTask task{weight, {}, no_output};
  linear(context, no_rows, std::array{task});
  linear(context, no_rows, {});
  // No depth: the sum over nothing, plus the bias.
  const Tensor bias = random_tensor(kF32, {5}, random);
  for (const std::int64_t m : {2, 20}) {
    const Tensor out = poisoned_tensor(kF32, {m, 5});
    const LinearTask empty_sum{Tensor(kF32, {5, 0}, Device{}, "w"), bias, out};
    linear(context, Tensor(kF32, {m, 0}, Device{}, "x"), std::array{empty_sum});
    for (std::int64_t i = 0; i < m * 5; ++i) CHECK(element(out, i) == element(bias, i % 5));
  }
}

TEST_CASE("linear refuses what does not fit", "[linear]") {
  DeviceContext context(1);
  std::mt19937 random(8);
  const Tensor x = random_tensor(kF32, {4, 8}, random);
  const Tensor weight = random_tensor(kF32, {6, 8}, random);
  const Tensor out = poisoned_tensor(kF32, {4, 6});
  const auto refused = [&](const TensorView& input, const LinearTask& task) {
    CHECK_THROWS_AS(linear(context, input, std::array{task}), moba::Error);
  };
  refused(x.view().reshape({32}), {weight, {}, out});
  refused(x.view().reshape({8, 4}), {weight, {}, out});
  refused(x, {weight.view().reshape({8, 6}), {}, out});
  refused(x, {weight, {}, out.view().reshape({6, 4})});
  refused(x, {weight, {}, out.view().rows(0, 3)});
  refused(x, {weight, {}, poisoned_tensor(kBf16, {4, 6})});
  refused(x, {weight, {}, TensorView(nullptr, kF32, {4, 6})});
  refused(x, {TensorView(nullptr, kF32, {6, 8}), {}, out});
  refused(x, {weight, random_tensor(kF32, {5}, random), out});
  refused(x, {weight, TensorView(out.view().raw(), DType::kInt32, {6}), out});
  refused(x, {TensorView(weight.view().raw(), DType::kInt32, {6, 8}), {}, out});
  refused(random_tensor(kF16, {4, 8}, random), {weight, {}, out});
  // Outputs over the input and over each other.
  refused(x, {random_tensor(kF32, {8, 8}, random), {}, x});
  const LinearTask twice{weight, {}, out};
  CHECK_THROWS_AS(linear(context, x, std::array{twice, twice}), moba::Error);
}

TEST_CASE("a context refuses an instruction set that the machine lacks", "[context]") {
  if (moba::cpu::isa_available(Isa::kAvx512Bf16)) return;  // it lacks none
  CHECK_THROWS_AS(DeviceContext(1, Isa::kAvx512Bf16), moba::Error);
}
