// Block formats: packing, and products with packed weights against the weights' values in double.
#include "device/quant.h"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "device/gemm.h"
#include "device/ops.h"
#include "tests/catch.h"
#include "tests/device/random_tensor.h"

using moba::block_bytes;
using moba::block_elements;
using moba::Device;
using moba::DeviceContext;
using moba::DType;
using moba::LinearTask;
using moba::Tensor;
using moba::TensorView;
using moba::test::bitwise_equal;
using moba::test::poisoned_tensor;
using moba::test::random_tensor;
using moba::test::to_doubles;

namespace {

constexpr std::array kFormats{DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0,
                              DType::kQ5_1, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

// A matrix of random blocks: as blocks, as values, and packed.
struct Matrix {
  std::vector<std::byte> blocks;
  std::vector<float> values;
  Tensor packed;
};

void put_half(std::byte* at, float value) {
  const moba::Float16 half(value);
  std::memcpy(at, &half.bits, sizeof(half.bits));
}

Matrix random_matrix(DType dtype, std::int64_t n, std::int64_t k, std::mt19937& random) {
  Matrix out;
  const std::size_t row_bytes = moba::storage_bytes(dtype, k);
  out.blocks.resize(static_cast<std::size_t>(n) * row_bytes);
  for (std::byte& b : out.blocks) b = static_cast<std::byte>(random() & 0xff);
  std::uniform_real_distribution<float> scale(-0.01F, 0.01F);
  for (std::size_t at = 0; at < out.blocks.size(); at += block_bytes(dtype)) {
    std::byte* const block = out.blocks.data() + at;
    put_half(dtype == DType::kQ6_K ? block + 208 : block, scale(random));
    const bool has_second = dtype == DType::kQ4_1 || dtype == DType::kQ5_1 ||
                            dtype == DType::kQ4_K || dtype == DType::kQ5_K;
    if (has_second) put_half(block + 2, scale(random));
  }
  out.values.resize(static_cast<std::size_t>(n * k));
  dequantize(dtype, out.blocks.data(), n * k, out.values.data());
  out.packed = Tensor(dtype, {n, k}, Device{}, "packed");
  auto* to = static_cast<std::byte*>(out.packed.view().raw());
  for (std::int64_t first = 0; first < n; first += moba::kPackedRows) {
    std::array<const std::byte*, moba::kPackedRows> rows{};
    for (std::int64_t r = 0; r < moba::kPackedRows && first + r < n; ++r) {
      rows[static_cast<std::size_t>(r)] =
          out.blocks.data() + static_cast<std::size_t>(first + r) * row_bytes;
    }
    pack_row_group(dtype, rows.data(), k, to);
    to += moba::packed_bytes(dtype, moba::kPackedRows, k);
  }
  return out;
}

// x as linear() rounds it: 32 elements share the scale of the largest.
std::vector<double> rounded(const std::vector<double>& x) {
  std::vector<double> out(x.size());
  for (std::size_t at = 0; at < x.size(); at += 32) {
    double largest = 0;
    for (std::size_t i = at; i < at + 32; ++i) largest = std::max(largest, std::abs(x[i]));
    const double d = largest / 127;
    for (std::size_t i = at; i < at + 32; ++i) out[i] = d == 0 ? 0 : std::round(x[i] / d) * d;
  }
  return out;
}

}  // namespace

TEST_CASE("packed rows read back as they were") {
  std::mt19937 random(1);
  for (const DType dtype : kFormats) {
    INFO(dtype_name(dtype));
    constexpr std::int64_t kRows = 37;
    constexpr std::int64_t kColumns = 768;
    const Matrix matrix = random_matrix(dtype, kRows, kColumns, random);
    std::vector<float> row(kColumns);
    for (std::int64_t r = 0; r < kRows; ++r) {
      unpack_row(dtype, static_cast<const std::byte*>(matrix.packed.view().raw()), kColumns, r,
                 row.data());
      REQUIRE(std::memcmp(row.data(), matrix.values.data() + r * kColumns,
                          row.size() * sizeof(float)) == 0);
    }
  }
}

// The bound of a product: x is off by half a step of its block at most (and by the float32 rounding
// of where a step ends); the sums are of float32.
TEST_CASE("quantised products are those of the weights' values") {
  std::mt19937 random(2);
  for (const moba::cpu::Isa isa : moba::cpu::available_isas()) {
    DeviceContext context(2, isa);
    for (const DType dtype : kFormats) {
      for (const std::int64_t m : {1, 2, 3, 4, 5, 31, 64}) {
        const std::int64_t n = m % 2 == 0 ? 96 : 51;
        const std::int64_t k = 256 * (1 + m % 3);
        INFO("isa " << moba::cpu::isa_name(isa) << " " << dtype_name(dtype) << " m " << m);
        const Matrix matrix = random_matrix(dtype, n, k, random);
        const Tensor x =
            random_tensor(m % 3 == 0 ? DType::kBFloat16 : DType::kFloat32, {m, k}, random);
        const Tensor bias = m % 2 == 0 ? random_tensor(DType::kFloat32, {n}, random) : Tensor();
        const Tensor output = poisoned_tensor(DType::kFloat32, {m, n});
        linear(context, x, std::array{LinearTask{matrix.packed, bias, output}});
        const std::vector<double> exact = to_doubles(x);
        const std::vector<double> xs = rounded(exact);
        const std::vector<double> got = to_doubles(output);
        const std::vector<double> biases =
            bias.view().empty() ? std::vector<double>() : to_doubles(bias);
        double worst = 0;
        for (std::int64_t i = 0; i < m; ++i) {
          for (std::int64_t j = 0; j < n; ++j) {
            double sum = biases.empty() ? 0 : biases[static_cast<std::size_t>(j)];
            double magnitude = std::abs(sum);
            double step = 0;  // what one element that is rounded the other way changes
            for (std::int64_t c = 0; c < k; ++c) {
              const auto at = static_cast<std::size_t>(i * k + c);
              const double w = matrix.values[static_cast<std::size_t>(j * k + c)];
              sum += xs[at] * w;
              // With offsets two sums of many times that size cancel.
              magnitude += std::abs(xs[at] * w) + std::abs(xs[at]) * 0.16;
              step = std::max(step, std::abs(w) * 4.0 / 127);
            }
            const double bound = magnitude * 4e-6 + 2 * step;
            worst =
                std::max(worst, std::abs(got[static_cast<std::size_t>(i * n + j)] - sum) / bound);
          }
        }
        CHECK(worst <= 1);
      }
    }
  }
}

TEST_CASE("a quantised product's row depends on that row only") {
  std::mt19937 random(3);
  for (const moba::cpu::Isa isa : moba::cpu::available_isas()) {
    for (const DType dtype : kFormats) {
      INFO("isa " << moba::cpu::isa_name(isa) << " " << dtype_name(dtype));
      constexpr std::int64_t kRows = 300;
      constexpr std::int64_t kOutputs = 72;
      constexpr std::int64_t kColumns = 512;
      const Matrix matrix = random_matrix(dtype, kOutputs, kColumns, random);
      const Tensor x = random_tensor(DType::kFloat32, {kRows, kColumns}, random);
      DeviceContext context(2, isa);
      const Tensor all = poisoned_tensor(DType::kFloat32, {kRows, kOutputs});
      linear(context, x, std::array{LinearTask{matrix.packed, {}, all}});
      DeviceContext other(1, isa);
      for (const std::int64_t m : {1, 2, 3, 4, 5, 6, 7, 33}) {
        const Tensor some = poisoned_tensor(DType::kFloat32, {m, kOutputs});
        const std::int64_t first = 100 + m;
        linear(other, x.view().rows(first, first + m),
               std::array{LinearTask{matrix.packed, {}, some}});
        CHECK(bitwise_equal(some, all.view().rows(first, first + m)));
      }
    }
  }
}

TEST_CASE("quantised products: accumulation, mixed tasks, bfloat16 output and NaN") {
  std::mt19937 random(4);
  DeviceContext context(2);
  const Matrix a = random_matrix(DType::kQ4_K, 40, 256, random);
  const Matrix b = random_matrix(DType::kQ6_K, 24, 256, random);
  const Tensor plain = random_tensor(DType::kFloat32, {16, 256}, random);
  const Tensor x = random_tensor(DType::kFloat32, {6, 256}, random);
  const Tensor first = poisoned_tensor(DType::kFloat32, {6, 40});
  const Tensor second = poisoned_tensor(DType::kFloat32, {6, 16});
  const Tensor third = poisoned_tensor(DType::kFloat32, {6, 24});
  linear(context, x,
         std::array{LinearTask{a.packed, {}, first}, LinearTask{plain, {}, second},
                    LinearTask{b.packed, {}, third}});
  const Tensor alone = poisoned_tensor(DType::kFloat32, {6, 24});
  linear(context, x, std::array{LinearTask{b.packed, {}, alone}});
  CHECK(bitwise_equal(alone, third));
  linear(context, x, std::array{LinearTask{b.packed, {}, alone, true}});
  for (int i = 0; i < 6 * 24; ++i) {
    CHECK(alone.view().data<float>()[i] == 2 * third.view().data<float>()[i]);
  }
  x.view().data<float>()[0] = std::numeric_limits<float>::infinity();
  linear(context, x, std::array{LinearTask{b.packed, {}, alone}});
  CHECK(std::isnan(alone.view().data<float>()[0]));
  CHECK(alone.view().data<float>()[24] == third.view().data<float>()[24]);
}

TEST_CASE("embedding of packed rows") {
  std::mt19937 random(5);
  DeviceContext context(2);
  for (const DType dtype : kFormats) {
    const Matrix matrix = random_matrix(dtype, 50, 256, random);
    std::vector<std::int32_t> ids{49, 0, 17, 3};
    const Tensor out = poisoned_tensor(DType::kFloat32, {4, 256});
    embedding(context, matrix.packed, TensorView(ids.data(), DType::kInt32, {4}), out);
    for (std::size_t t = 0; t < ids.size(); ++t) {
      CHECK(std::memcmp(out.view().data<float>() + t * 256,
                        matrix.values.data() + static_cast<std::size_t>(ids[t]) * 256,
                        256 * sizeof(float)) == 0);
    }
  }
}
