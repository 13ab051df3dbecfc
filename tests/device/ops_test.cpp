#include "device/ops.h"

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

Tensor int32_tensor(const std::vector<std::int32_t>& values) {
  Tensor t(DType::kInt32, {static_cast<std::int64_t>(values.size())}, Device{}, "ids");
  std::copy(values.begin(), values.end(), t.view().data<std::int32_t>());
  return t;
}

// Half a unit in the last place of a result of the dtype, and float rounding of a few operations.
double tolerance(DType dtype, double value) {
  return std::abs(value) * (dtype == kBf16 ? 1.0 / 250 : 2e-6) + 1e-6;
}

void check_close(const TensorView& got, const std::vector<double>& want, double slack = 1) {
  double worst = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double value = element(got, static_cast<std::int64_t>(i));
    const double bound = slack * tolerance(got.dtype(), want[i]);
    worst = std::isnan(value) ? 1e9 : std::max(worst, std::abs(value - want[i]) / bound);
  }
  REQUIRE(worst < 1);
}

// Runs `body(context, dtype)` for every instruction set and activation dtype.
template <typename Body>
void for_each_kind(Body&& body) {
  for (const Isa isa : moba::cpu::available_isas()) {
    DeviceContext context(3, isa);
    for (const DType dtype : {kF32, kBf16}) {
      INFO(moba::cpu::isa_name(isa) << " " << dtype_name(dtype));
      body(context, dtype);
    }
  }
}

// Sizes with and without a partial vector; the last one is large enough to run in parallel.
const std::vector<std::pair<std::int64_t, std::int64_t>> kSizes = {
    {1, 1}, {1, 7}, {3, 16}, {2, 33}, {5, 64}, {4, 100}, {1, 576}, {7, 4099}, {150, 520}};

}  // namespace

TEST_CASE("embedding copies rows", "[ops]") {
  std::mt19937 random(1);
  for_each_kind([&](DeviceContext& context, DType dtype) {
    for (const DType table_dtype : {kF32, kBf16, kF16}) {
      for (const auto& [rows, n] : kSizes) {
        const Tensor table = random_tensor(table_dtype, {11, n}, random);
        std::vector<std::int32_t> ids(static_cast<std::size_t>(rows));
        for (auto& id : ids) id = static_cast<std::int32_t>(random() % 11);
        const Tensor out = poisoned_tensor(dtype, {rows, n});
        embedding(context, table, int32_tensor(ids), out);
        std::vector<double> want;
        for (const std::int32_t id : ids) {
          for (std::int64_t i = 0; i < n; ++i) want.push_back(element(table, id * n + i));
        }
        check_close(out, want);
      }
    }
  });
}

TEST_CASE("rms_norm", "[ops]") {
  std::mt19937 random(2);
  constexpr float kEps = 1e-5F;
  for_each_kind([&](DeviceContext& context, DType dtype) {
    for (const DType weight_dtype : {kF32, kBf16, kF16}) {
      for (const auto& [rows, n] : kSizes) {
        const Tensor x = random_tensor(dtype, {rows, n}, random, 3);
        const Tensor weight = random_tensor(weight_dtype, {n}, random);
        const Tensor out = poisoned_tensor(dtype, {rows, n});
        rms_norm(context, x, weight, kEps, out);
        std::vector<double> want;
        for (std::int64_t r = 0; r < rows; ++r) {
          double sum = 0;
          for (std::int64_t i = 0; i < n; ++i) {
            sum += element(x, r * n + i) * element(x, r * n + i);
          }
          const double scale =
              1 / std::sqrt(sum / static_cast<double>(n) + static_cast<double>(kEps));
          for (std::int64_t i = 0; i < n; ++i) {
            want.push_back(element(x, r * n + i) * scale * element(weight, i));
          }
        }
        check_close(out, want, dtype == kBf16 ? 2 : 1);  // bfloat16 rounds twice

        const Tensor in_place = copy(x);
        rms_norm(context, in_place, weight, kEps, in_place);
        CHECK(bitwise_equal(in_place, out));
      }
    }
  });
}

TEST_CASE("rms_norm rounds the normalised value before the weight", "[ops]") {
  // As Llama does: in bfloat16 the result is the rounded product of two bfloat16 numbers.
  std::mt19937 random(3);
  for (const Isa isa : moba::cpu::available_isas()) {
    DeviceContext context(1, isa);
    const Tensor x = random_tensor(kBf16, {1, 64}, random);
    const Tensor ones = poisoned_tensor(kBf16, {64});
    for (std::int64_t i = 0; i < 64; ++i) moba::test::set_element(ones, i, 1);
    const Tensor weight = random_tensor(kF32, {64}, random);
    const Tensor normal = poisoned_tensor(kBf16, {1, 64});
    const Tensor out = poisoned_tensor(kBf16, {1, 64});
    rms_norm(context, x, ones, 1e-6F, normal);
    rms_norm(context, x, weight, 1e-6F, out);
    for (std::int64_t i = 0; i < 64; ++i) {
      const auto product =
          static_cast<float>(element(normal, i)) * static_cast<float>(element(weight, i));
      CHECK(element(out, i) == static_cast<float>(moba::BFloat16(product)));
    }
  }
}

TEST_CASE("rope rotates halves", "[ops]") {
  std::mt19937 random(4);
  for_each_kind([&](DeviceContext& context, DType dtype) {
    for (const std::int64_t head_dim : {2, 6, 64, 80, 96, 128}) {
      for (const auto& [tokens, heads] : {std::pair{1, 1}, {1, 9}, {5, 3}, {200, 4}}) {
        constexpr std::int64_t kMaxPositions = 50;
        const Tensor x = random_tensor(dtype, {tokens, heads, head_dim}, random);
        const Tensor cos_sin = random_tensor(kF32, {kMaxPositions, head_dim}, random);
        std::vector<std::int32_t> positions(static_cast<std::size_t>(tokens));
        for (auto& p : positions) p = static_cast<std::int32_t>(random() % kMaxPositions);
        const Tensor out = copy(x);
        rope(context, int32_tensor(positions), cos_sin, out);
        std::vector<double> want(static_cast<std::size_t>(x.view().num_elements()));
        const std::int64_t h = head_dim / 2;
        for (std::int64_t t = 0; t < tokens; ++t) {
          const std::int64_t row = positions[static_cast<std::size_t>(t)] * head_dim;
          for (std::int64_t head = 0; head < heads; ++head) {
            const std::int64_t base = (t * heads + head) * head_dim;
            for (std::int64_t i = 0; i < h; ++i) {
              const double a = element(x, base + i);
              const double b = element(x, base + h + i);
              const double c = element(cos_sin, row + i);
              const double s = element(cos_sin, row + h + i);
              want[static_cast<std::size_t>(base + i)] = a * c - b * s;
              want[static_cast<std::size_t>(base + h + i)] = b * c + a * s;
            }
          }
        }
        check_close(out, want);
      }
    }
  });
}

TEST_CASE("silu_mul", "[ops]") {
  std::mt19937 random(5);
  for_each_kind([&](DeviceContext& context, DType dtype) {
    for (const auto& [rows, n] : kSizes) {
      for (const float scale : {1.0F, 30.0F, 200.0F}) {
        const Tensor gate = random_tensor(dtype, {rows, n}, random, scale);
        const Tensor up = random_tensor(dtype, {rows, n}, random);
        const Tensor out = poisoned_tensor(dtype, {rows, n});
        silu_mul(context, gate, up, out);
        std::vector<double> want;
        for (std::int64_t i = 0; i < rows * n; ++i) {
          const double g = element(gate, i);
          want.push_back(g / (1 + std::exp(-g)) * element(up, i));
        }
        check_close(out, want);
        const Tensor in_place = copy(gate);
        silu_mul(context, in_place, up, in_place);
        CHECK(bitwise_equal(in_place, out));
      }
    }
  });
}

TEST_CASE("gather_rows", "[ops]") {
  std::mt19937 random(6);
  for_each_kind([&](DeviceContext& context, DType dtype) {
    for (const auto& [rows, n] : kSizes) {
      const Tensor x = random_tensor(dtype, {rows, n}, random);
      std::vector<std::int32_t> indices;
      for (std::int64_t i = 0; i < 2 * rows; ++i) {
        indices.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(rows)));
      }
      const Tensor out = poisoned_tensor(dtype, {2 * rows, n});
      gather_rows(context, x, int32_tensor(indices), out);
      for (std::size_t i = 0; i < indices.size(); ++i) {
        const auto r = static_cast<std::int64_t>(i);
        REQUIRE(
            bitwise_equal(out.view().rows(r, r + 1), x.view().rows(indices[i], indices[i] + 1)));
      }
    }
  });
}

TEST_CASE("a row of an operation does not depend on the rows beside it", "[ops]") {
  std::mt19937 random(7);
  for_each_kind([&](DeviceContext& context, DType dtype) {
    constexpr std::int64_t kRows = 60;
    constexpr std::int64_t kColumns = 1030;
    const Tensor x = random_tensor(dtype, {kRows, kColumns}, random);
    const Tensor up = random_tensor(dtype, {kRows, kColumns}, random);
    const Tensor weight = random_tensor(dtype, {kColumns}, random);
    const Tensor normal = poisoned_tensor(dtype, {kRows, kColumns});
    const Tensor product = poisoned_tensor(dtype, {kRows, kColumns});
    rms_norm(context, x, weight, 1e-5F, normal);
    silu_mul(context, x, up, product);
    for (const std::int64_t r : {0, 17, 59}) {
      const Tensor one = poisoned_tensor(dtype, {1, kColumns});
      rms_norm(context, x.view().rows(r, r + 1), weight, 1e-5F, one);
      CHECK(bitwise_equal(one, normal.view().rows(r, r + 1)));
      silu_mul(context, x.view().rows(r, r + 1), up.view().rows(r, r + 1), one);
      CHECK(bitwise_equal(one, product.view().rows(r, r + 1)));
    }
  });
}

TEST_CASE("operations on no rows do nothing", "[ops]") {
  DeviceContext context(2);
  std::mt19937 random(8);
  const Tensor none(kF32, {0, 8}, Device{}, "none");
  const Tensor weight = random_tensor(kF32, {8}, random);
  const Tensor table = random_tensor(kF32, {4, 8}, random);
  const Tensor no_ids(DType::kInt32, {0}, Device{}, "none");
  embedding(context, table, no_ids, none);
  rms_norm(context, none, weight, 1e-5F, none);
  silu_mul(context, none, none, none);
  gather_rows(context, table, no_ids, none);
  rope(context, no_ids, table, none.view().reshape({0, 1, 8}));
}

TEST_CASE("operations refuse what does not fit", "[ops]") {
  DeviceContext context(1);
  std::mt19937 random(9);
  const Tensor x = random_tensor(kF32, {4, 8}, random);
  const Tensor x16 = random_tensor(kBf16, {4, 8}, random);
  const Tensor half = random_tensor(kF16, {4, 8}, random);
  const Tensor out = poisoned_tensor(kF32, {4, 8});
  const Tensor wide = poisoned_tensor(kF32, {4, 9});
  const Tensor table = random_tensor(kF32, {10, 8}, random);
  const Tensor weight = random_tensor(kF32, {8}, random);
  const Tensor ids = int32_tensor({0, 9, 3, 1});
  using moba::Error;

  CHECK_THROWS_AS(embedding(context, table, int32_tensor({0, 10, 3, 1}), out), Error);
  CHECK_THROWS_AS(embedding(context, table, int32_tensor({0, -1, 3, 1}), out), Error);
  CHECK_THROWS_AS(embedding(context, table, int32_tensor({0}), out), Error);
  CHECK_THROWS_AS(embedding(context, table, ids, wide), Error);
  CHECK_THROWS_AS(embedding(context, table, ids, half), Error);
  CHECK_THROWS_AS(embedding(context, table, weight, out), Error);
  CHECK_THROWS_AS(embedding(context, weight, ids, out), Error);
  CHECK_THROWS_AS(embedding(context, TensorView(nullptr, kF32, {10, 8}), ids, out), Error);

  CHECK_THROWS_AS(rms_norm(context, x, weight.view().rows(0, 7), 1e-5F, out), Error);
  CHECK_THROWS_AS(rms_norm(context, x, weight, 1e-5F, x16), Error);
  CHECK_THROWS_AS(rms_norm(context, x, weight, 1e-5F, out.view().rows(0, 3)), Error);
  CHECK_THROWS_AS(rms_norm(context, half, weight, 1e-5F, half), Error);
  CHECK_THROWS_AS(rms_norm(context, weight, weight, 1e-5F, weight), Error);

  const TensorView heads = out.view().reshape({4, 2, 4});
  const Tensor cos_sin = random_tensor(kF32, {10, 4}, random);
  CHECK_THROWS_AS(rope(context, int32_tensor({0, 10, 3, 1}), cos_sin, heads), Error);
  CHECK_THROWS_AS(rope(context, int32_tensor({0, -1, 3, 1}), cos_sin, heads), Error);
  CHECK_THROWS_AS(rope(context, int32_tensor({0, 1, 3}), cos_sin, heads), Error);
  CHECK_THROWS_AS(rope(context, ids, random_tensor(kF32, {10, 8}, random), heads), Error);
  CHECK_THROWS_AS(rope(context, ids, random_tensor(kBf16, {10, 4}, random), heads), Error);
  CHECK_THROWS_AS(
      rope(context, ids, random_tensor(kF32, {10, 1}, random), out.view().reshape({4, 8, 1})),
      Error);
  CHECK_THROWS_AS(rope(context, ids, cos_sin, out), Error);

  CHECK_THROWS_AS(silu_mul(context, x, wide, out), Error);
  CHECK_THROWS_AS(silu_mul(context, x, x, wide), Error);
  CHECK_THROWS_AS(silu_mul(context, x, x16, out), Error);

  CHECK_THROWS_AS(gather_rows(context, x, int32_tensor({4}), out.view().rows(0, 1)), Error);
  CHECK_THROWS_AS(gather_rows(context, x, int32_tensor({-1}), out.view().rows(0, 1)), Error);
  CHECK_THROWS_AS(gather_rows(context, x, int32_tensor({1}), out), Error);
  CHECK_THROWS_AS(gather_rows(context, x, int32_tensor({1}), x16.view().rows(0, 1)), Error);
}
