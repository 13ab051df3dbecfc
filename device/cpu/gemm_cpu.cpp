#include "device/cpu/gemm_cpu.h"

#include <cstdint>

namespace moba::cpu {
namespace {

float load(const void* data, DType dtype, std::int64_t i) {
  switch (dtype) {
    case DType::kBFloat16:
      return static_cast<float>(static_cast<const BFloat16*>(data)[i]);
    case DType::kFloat16:
      return static_cast<float>(static_cast<const Float16*>(data)[i]);
    default:
      return static_cast<const float*>(data)[i];
  }
}

}  // namespace

void linear(DeviceContext& context, const TensorView& x, std::span<const LinearTask> tasks) {
  const std::int64_t m_total = x.dim(0);
  const std::int64_t k_total = x.dim(1);
  for (const LinearTask& task : tasks) {
    const std::int64_t n_total = task.weight.dim(0);
    context.pool().parallel_for(n_total, [&](std::int64_t n, int) {
      for (std::int64_t m = 0; m < m_total; ++m) {
        float sum = 0;
        for (std::int64_t k = 0; k < k_total; ++k) {
          sum += load(x.raw(), x.dtype(), m * k_total + k) *
                 load(task.weight.raw(), task.weight.dtype(), n * k_total + k);
        }
        if (!task.bias.empty()) sum += load(task.bias.raw(), task.bias.dtype(), n);
        const std::int64_t i = m * n_total + n;
        if (task.accumulate) sum += load(task.output.raw(), task.output.dtype(), i);
        if (task.output.dtype() == DType::kFloat32) {
          static_cast<float*>(task.output.raw())[i] = sum;
        } else {
          static_cast<BFloat16*>(task.output.raw())[i] = BFloat16(sum);
        }
      }
    });
  }
}

}  // namespace moba::cpu
