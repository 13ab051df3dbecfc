#include "device/cpu/ops_cpu.h"

#include <cmath>
#include <cstdint>
#include <cstring>

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

void store(void* data, DType dtype, std::int64_t i, float value) {
  if (dtype == DType::kBFloat16) {
    static_cast<BFloat16*>(data)[i] = BFloat16(value);
  } else {
    static_cast<float*>(data)[i] = value;
  }
}

}  // namespace

void embedding(DeviceContext& /*context*/, const TensorView& table, const TensorView& ids,
               const TensorView& out) {
  const std::int64_t n = table.dim(1);
  for (std::int64_t t = 0; t < ids.dim(0); ++t) {
    const std::int64_t id = ids.data<std::int32_t>()[t];
    for (std::int64_t i = 0; i < n; ++i) {
      store(out.raw(), out.dtype(), t * n + i, load(table.raw(), table.dtype(), id * n + i));
    }
  }
}

void rms_norm(DeviceContext& context, const TensorView& x, const TensorView& weight, float eps,
              const TensorView& out) {
  const std::int64_t n = x.dim(1);
  context.pool().parallel_for(x.dim(0), [&](std::int64_t r, int) {
    float sum = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const float v = load(x.raw(), x.dtype(), r * n + i);
      sum += v * v;
    }
    const float scale = 1.0F / std::sqrt(sum / static_cast<float>(n) + eps);
    for (std::int64_t i = 0; i < n; ++i) {
      float v = load(x.raw(), x.dtype(), r * n + i) * scale;
      if (x.dtype() == DType::kBFloat16) v = static_cast<float>(BFloat16(v));
      store(out.raw(), out.dtype(), r * n + i, v * load(weight.raw(), weight.dtype(), i));
    }
  });
}

void rope(DeviceContext& context, const TensorView& positions, const TensorView& cos_sin,
          const TensorView& x) {
  const std::int64_t heads = x.dim(1);
  const std::int64_t d = x.dim(2);
  const std::int64_t h = d / 2;
  context.pool().parallel_for(x.dim(0), [&](std::int64_t t, int) {
    const float* row = cos_sin.data<float>() + positions.data<std::int32_t>()[t] * d;
    for (std::int64_t head = 0; head < heads; ++head) {
      const std::int64_t base = (t * heads + head) * d;
      for (std::int64_t i = 0; i < h; ++i) {
        const float a = load(x.raw(), x.dtype(), base + i);
        const float b = load(x.raw(), x.dtype(), base + h + i);
        store(x.raw(), x.dtype(), base + i, a * row[i] - b * row[h + i]);
        store(x.raw(), x.dtype(), base + h + i, b * row[i] + a * row[h + i]);
      }
    }
  });
}

void silu_mul(DeviceContext& context, const TensorView& gate, const TensorView& up,
              const TensorView& out) {
  const std::int64_t n = gate.dim(1);
  context.pool().parallel_for(gate.dim(0), [&](std::int64_t r, int) {
    for (std::int64_t i = r * n; i < (r + 1) * n; ++i) {
      const float g = load(gate.raw(), gate.dtype(), i);
      store(out.raw(), out.dtype(), i, g / (1.0F + std::exp(-g)) * load(up.raw(), up.dtype(), i));
    }
  });
}

void gather_rows(DeviceContext& /*context*/, const TensorView& x, const TensorView& indices,
                 const TensorView& out) {
  const std::size_t bytes = static_cast<std::size_t>(x.dim(1)) * dtype_size(x.dtype());
  for (std::int64_t r = 0; r < indices.dim(0); ++r) {
    const auto from = static_cast<std::size_t>(indices.data<std::int32_t>()[r]);
    std::memcpy(static_cast<std::byte*>(out.raw()) + static_cast<std::size_t>(r) * bytes,
                static_cast<const std::byte*>(x.raw()) + from * bytes, bytes);
  }
}

}  // namespace moba::cpu
