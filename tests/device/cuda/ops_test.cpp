// The operations of device/ops.h on a CUDA device against the CPU's.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "device/ops.h"
#include "tests/catch.h"
#include "tests/device/device_tensor.h"
#include "tests/device/random_tensor.h"

namespace moba::test {
namespace {

// The CPU has no float16: its reference is float32 from the same values.
DType reference_dtype(DType dtype) { return dtype == DType::kFloat16 ? DType::kFloat32 : dtype; }

Tensor converted(const TensorView& from, DType dtype) {
  Tensor to(dtype, from.shape(), Device{}, "converted");
  for (std::int64_t i = 0; i < from.num_elements(); ++i) {
    set_element(to, i, static_cast<float>(element(from, i)));
  }
  return to;
}

// Two roundings to the dtype, as both sides round now and then.
double tolerance(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return 0.008;
    case DType::kFloat16:
      return 0.002;
    default:
      return 2e-6;
  }
}

double worst_difference(const TensorView& got, const TensorView& expected) {
  double worst = 0;
  for (std::int64_t i = 0; i < got.num_elements(); ++i) {
    const double e = element(expected, i);
    const double difference = std::abs(element(got, i) - e) / (std::abs(e) + 1e-2);
    if (difference != difference) return difference;
    worst = std::max(worst, difference);
  }
  return worst;
}

const std::vector<DType> kDTypes = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};

Tensor int_tensor(const std::vector<std::int32_t>& values) {
  Tensor tensor(DType::kInt32, {static_cast<std::int64_t>(values.size())}, Device{}, "indices");
  std::copy(values.begin(), values.end(), tensor.view().data<std::int32_t>());
  return tensor;
}

struct Fixture {
  DeviceContext cpu{2};
  DeviceContext gpu{first_gpu(), 1};
  unsigned seed = std::random_device{}();
  std::mt19937 random{seed};
};

}  // namespace

TEST_CASE_METHOD(Fixture, "rms_norm and add_rms_norm on CUDA") {
  INFO("seed " << seed);
  for (const DType dtype : kDTypes) {
    for (const DType weight_dtype : kDTypes) {
      for (const std::int64_t n : {1, 7, 64, 96, 576, 2048, 4096, 8192, 14336, 33000, 100}) {
        for (const std::int64_t rows : {1, 3, 65}) {
          INFO(dtype_name(dtype) << " " << dtype_name(weight_dtype) << " " << rows << " x " << n);
          const Tensor x = random_tensor(dtype, {rows, n}, random, 3);
          const Tensor residual = random_tensor(dtype, {rows, n}, random, 3);
          const Tensor weight = random_tensor(weight_dtype, {n}, random);
          const DType reference = reference_dtype(dtype);
          const Tensor expected(reference, {rows, n}, Device{}, "out");
          const Tensor expected_residual = converted(residual, reference);
          const Tensor gpu_weight = on_device(gpu, weight);
          const Tensor gpu_x = on_device(gpu, x);
          const Tensor gpu_out = on_device(gpu, poisoned_tensor(dtype, {rows, n}));

          rms_norm(cpu, converted(x, reference), weight, 1e-5F, expected);
          rms_norm(gpu, gpu_x, gpu_weight, 1e-5F, gpu_out);
          REQUIRE(worst_difference(on_host(gpu, gpu_out), expected) <= 2 * tolerance(dtype));

          const Tensor gpu_residual = on_device(gpu, residual);
          add_rms_norm(cpu, converted(x, reference), expected_residual, weight, 1e-5F, expected);
          add_rms_norm(gpu, gpu_x, gpu_residual, gpu_weight, 1e-5F, gpu_x);
          REQUIRE(worst_difference(on_host(gpu, gpu_residual), expected_residual) <=
                  tolerance(dtype));
          REQUIRE(worst_difference(on_host(gpu, gpu_x), expected) <= 2 * tolerance(dtype));
        }
      }
    }
  }
}

TEST_CASE_METHOD(Fixture, "embedding and gather_rows on CUDA are exact") {
  INFO("seed " << seed);
  for (const DType dtype : kDTypes) {
    for (const std::int64_t n : {1, 5, 64, 576, 4096}) {
      const Tensor table = random_tensor(dtype, {50, n}, random);
      const Tensor gpu_table = on_device(gpu, table);
      const Tensor ids = int_tensor({3, 49, 0, 3, 17});
      const Tensor gpu_ids = on_device(gpu, ids);
      const Tensor out = on_device(gpu, poisoned_tensor(dtype, {5, n}));
      gather_rows(gpu, gpu_table, gpu_ids, out);
      const Tensor got = on_host(gpu, out);
      const auto* id = ids.view().data<std::int32_t>();
      for (std::int64_t r = 0; r < 5; ++r) {
        INFO(dtype_name(dtype) << " n " << n << " row " << r);
        REQUIRE(bitwise_equal(got.view().rows(r, r + 1), table.view().rows(id[r], id[r] + 1)));
      }
      for (const DType to : kDTypes) {
        const Tensor embedded = on_device(gpu, poisoned_tensor(to, {5, n}));
        embedding(gpu, gpu_table, gpu_ids, embedded);
        const Tensor values = on_host(gpu, embedded);
        for (std::int64_t i = 0; i < 5 * n; ++i) {
          const Tensor expected(to, {1}, Device{}, "one");
          set_element(expected, 0, static_cast<float>(element(table, id[i / n] * n + i % n)));
          REQUIRE(element(values, i) == element(expected, 0));
        }
      }
    }
  }
}

TEST_CASE_METHOD(Fixture, "an index out of range on CUDA gives NaN and touches nothing") {
  for (const std::int64_t n : {3, 64}) {
    const Tensor table = on_device(gpu, random_tensor(DType::kBFloat16, {4, n}, random));
    const Tensor ids = on_device(gpu, int_tensor({1, 4, -1, 2'000'000'000}));
    const Tensor out(DType::kBFloat16, {4, n}, first_gpu(), "out");
    embedding(gpu, table, ids, out);
    const Tensor got = on_host(gpu, out);
    CHECK(element(got, 0) == element(got, 0));
    for (std::int64_t i = n; i < 4 * n; ++i) REQUIRE(element(got, i) != element(got, i));
  }
}

TEST_CASE_METHOD(Fixture, "silu_mul on CUDA, in place and of columns") {
  INFO("seed " << seed);
  for (const DType dtype : kDTypes) {
    for (const std::int64_t n : {1, 30, 64, 1536}) {
      for (const std::int64_t rows : {1, 19}) {
        INFO(dtype_name(dtype) << " " << rows << " x " << n);
        const Tensor both = random_tensor(dtype, {rows, 2 * n}, random, 8);
        const Tensor gate(reference_dtype(dtype), {rows, n}, Device{}, "gate");
        const Tensor up(reference_dtype(dtype), {rows, n}, Device{}, "up");
        for (std::int64_t r = 0; r < rows; ++r) {
          for (std::int64_t i = 0; i < n; ++i) {
            set_element(gate, r * n + i, static_cast<float>(element(both, r * 2 * n + i)));
            set_element(up, r * n + i, static_cast<float>(element(both, r * 2 * n + n + i)));
          }
        }
        silu_mul(cpu, gate, up, gate);
        const Tensor gpu_both = on_device(gpu, both);
        const TensorView gpu_gate = gpu_both.view().columns(0, n);
        silu_mul(gpu, gpu_gate, gpu_both.view().columns(n, 2 * n), gpu_gate);
        const Tensor got = on_host(gpu, gpu_both);
        double worst = 0;
        for (std::int64_t r = 0; r < rows; ++r) {
          for (std::int64_t i = 0; i < n; ++i) {
            const double e = element(gate, r * n + i);
            worst =
                std::max(worst, std::abs(element(got, r * 2 * n + i) - e) / (std::abs(e) + 1e-2));
            REQUIRE(element(got, r * 2 * n + n + i) == element(both, r * 2 * n + n + i));
          }
        }
        REQUIRE(worst <= tolerance(dtype) + 1e-5);
      }
    }
  }
}

TEST_CASE_METHOD(Fixture, "RoPE on CUDA, at positions past 100,000 too") {
  INFO("seed " << seed);
  const Tensor positions = int_tensor({0, 1, 17, 4095, 131071, 999999});
  const Tensor gpu_positions = on_device(gpu, positions);
  const std::int64_t tokens = 6;
  for (const std::int64_t head_dim : {2, 64, 96, 128}) {
    const std::int64_t half = head_dim / 2;
    Tensor inv_freq(DType::kFloat32, {half}, Device{}, "frequencies");
    for (std::int64_t i = 0; i < half; ++i) {
      set_element(inv_freq, i,
                  std::pow(500000.0F, -static_cast<float>(i) / static_cast<float>(half)));
    }
    const Tensor cos_sin(DType::kFloat32, {tokens, head_dim}, Device{}, "table");
    const Tensor gpu_cos_sin = on_device(gpu, poisoned_tensor(DType::kFloat32, {tokens, head_dim}));
    rope_cos_sin(cpu, positions, inv_freq, 1.25F, cos_sin);
    rope_cos_sin(gpu, gpu_positions, on_device(gpu, inv_freq), 1.25F, gpu_cos_sin);
    const Tensor got = on_host(gpu, gpu_cos_sin);
    for (std::int64_t i = 0; i < tokens * head_dim; ++i) {
      REQUIRE(std::abs(element(got, i) - element(cos_sin, i)) <= 4e-7);
    }
    const Tensor rows = int_tensor({5, 0, 1, 2, 3, 4});
    for (const DType dtype : kDTypes) {
      const Tensor x = random_tensor(dtype, {tokens, 3, head_dim}, random);
      const Tensor expected = converted(x, reference_dtype(dtype));
      const Tensor gpu_x = on_device(gpu, x);
      rope(cpu, rows, cos_sin, expected);
      rope(gpu, on_device(gpu, rows), gpu_cos_sin, gpu_x);
      INFO(dtype_name(dtype) << " head_dim " << head_dim);
      const Tensor got_x = on_host(gpu, gpu_x);
      double worst = 0;
      for (std::int64_t i = 0; i < got_x.view().num_elements(); ++i) {
        worst = std::max(worst, std::abs(element(got_x, i) - element(expected, i)));
      }
      REQUIRE(worst <= tolerance(dtype));
    }
  }
}

TEST_CASE_METHOD(Fixture, "operations on CUDA refuse memory of the host") {
  const Tensor x = random_tensor(DType::kFloat32, {2, 8}, random);
  const Tensor weight = random_tensor(DType::kFloat32, {8}, random);
  CHECK_THROWS_AS(rms_norm(gpu, x, weight, 1e-5F, x), Error);
}

}  // namespace moba::test
