#include "device/cpu/ops_cpu.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "device/cpu/ops_kernels.h"
#include "device/quant.h"

namespace moba::cpu {
namespace {

// Elements below which a loop over the threads costs more than it gains, and elements of one item
// of such a loop.
constexpr std::int64_t kMinElements = 32768;
constexpr std::int64_t kItemElements = 16384;

// Runs body(begin, end) over parts of [0, rows), rows of n elements each.
template <typename Body>
void for_rows(DeviceContext& context, std::int64_t rows, std::int64_t n, Body&& body) {
  if (rows == 0 || n == 0) return;
  if (rows == 1 || rows * n < kMinElements) {
    body(std::int64_t{0}, rows);
    return;
  }
  const std::int64_t rows_per_item = std::max<std::int64_t>(1, kItemElements / n);
  const auto item_body = [&](std::int64_t item, int /*thread*/) {
    body(item * rows_per_item, std::min(rows, (item + 1) * rows_per_item));
  };
  context.pool().parallel_for((rows + rows_per_item - 1) / rows_per_item, item_body);
}

// First byte of row r of a matrix with rows of n elements.
std::byte* row(const TensorView& t, std::int64_t n, std::int64_t r) {
  return static_cast<std::byte*>(t.raw()) + static_cast<std::size_t>(r * n) * dtype_size(t.dtype());
}

// Row `from` of the table to one of out's dtype. Rows of packed tables go through floats.
class RowReader {
 public:
  RowReader(DeviceContext& context, const TensorView& table)
      : table_(table), convert_(MOBA_SIMD_SELECT(context.isa(), convert_rows)) {
    if (is_quantized(table.dtype())) values_.resize(static_cast<std::size_t>(table.dim(1)));
  }
  void read(std::int64_t from, std::byte* to, DType dtype) {
    const std::int64_t n = table_.dim(1);
    if (values_.empty()) return convert_(row(table_, n, from), table_.dtype(), to, dtype, n);
    unpack_row(table_.dtype(), static_cast<const std::byte*>(table_.raw()), n, from,
               values_.data());
    convert_(values_.data(), DType::kFloat32, to, dtype, n);
  }

 private:
  const TensorView& table_;
  decltype(&generic::convert_rows) convert_;
  std::vector<float> values_;
};

template <typename T>
void add_elements(const T* x, T* y, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    y[i] = static_cast<T>(static_cast<float>(x[i]) + static_cast<float>(y[i]));
  }
}

}  // namespace

void embedding(DeviceContext& context, const TensorView& table, const TensorView& ids,
               const TensorView& out) {
  const std::int64_t n = table.dim(1);
  const auto* id = ids.data<std::int32_t>();
  for_rows(context, ids.dim(0), n, [&](std::int64_t begin, std::int64_t end) {
    RowReader reader(context, table);
    for (std::int64_t t = begin; t < end; ++t) reader.read(id[t], row(out, n, t), out.dtype());
  });
}

void embedding_slice(DeviceContext& context, const TensorView& table, std::int64_t first_id,
                     std::int64_t /*vocab_size*/, const TensorView& ids, const TensorView& out) {
  const std::int64_t n = table.dim(1);
  const auto* id = ids.data<std::int32_t>();
  const std::size_t row_bytes = static_cast<std::size_t>(n) * dtype_size(out.dtype());
  for_rows(context, ids.dim(0), n, [&](std::int64_t begin, std::int64_t end) {
    RowReader reader(context, table);
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t from = id[t] - first_id;
      if (from >= 0 && from < table.dim(0)) {
        reader.read(from, row(out, n, t), out.dtype());
      } else {
        std::memset(row(out, n, t), 0, row_bytes);
      }
    }
  });
}

void rms_norm(DeviceContext& context, const TensorView& x, const TensorView& weight, float eps,
              const TensorView& out) {
  const std::int64_t n = x.dim(1);
  const auto kernel = MOBA_SIMD_SELECT(context.isa(), rms_norm_rows);
  for_rows(context, x.dim(0), n, [&](std::int64_t begin, std::int64_t end) {
    kernel(row(x, n, begin), x.dtype(), end - begin, n, weight.raw(), weight.dtype(), eps,
           row(out, n, begin));
  });
}

void add(DeviceContext& context, const TensorView& x, const TensorView& y) {
  const std::int64_t n = x.dim(1);
  for_rows(context, x.dim(0), n, [&](std::int64_t begin, std::int64_t end) {
    if (x.dtype() == DType::kBFloat16) {
      add_elements(x.data<BFloat16>(), y.data<BFloat16>(), begin * n, end * n);
    } else {
      add_elements(x.data<float>(), y.data<float>(), begin * n, end * n);
    }
  });
}

void rope_cos_sin(DeviceContext& context, const TensorView& positions, const TensorView& inv_freq,
                  float scaling, const TensorView& cos_sin) {
  const std::int64_t half = inv_freq.dim(0);
  const auto* frequency = inv_freq.data<float>();
  const auto* position = positions.data<std::int32_t>();
  // Cosines and sines are slow: as many as 16 elements of the other operations.
  for_rows(context, positions.dim(0), 16 * half, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      float* out = cos_sin.data<float>() + t * 2 * half;
      const auto p = static_cast<float>(position[t]);
      for (std::int64_t i = 0; i < half; ++i) {
        const float angle = p * frequency[i];
        out[i] = std::cos(angle) * scaling;
        out[i + half] = std::sin(angle) * scaling;
      }
    }
  });
}

void rope(DeviceContext& context, const TensorView& positions, const TensorView& cos_sin,
          const TensorView& x) {
  const std::int64_t heads = x.dim(1);
  const std::int64_t head_dim = x.dim(2);
  const std::int64_t n = heads * head_dim;
  const auto kernel = MOBA_SIMD_SELECT(context.isa(), rope_rows);
  for_rows(context, x.dim(0), n, [&](std::int64_t begin, std::int64_t end) {
    kernel(row(x, n, begin), x.dtype(), end - begin, heads, head_dim,
           positions.data<std::int32_t>() + begin, cos_sin.data<float>());
  });
}

void silu_mul(DeviceContext& context, const TensorView& gate, const TensorView& up,
              const TensorView& out) {
  const std::int64_t n = gate.dim(1);
  const auto kernel = MOBA_SIMD_SELECT(context.isa(), silu_mul_elements);
  for_rows(context, gate.dim(0), n, [&](std::int64_t begin, std::int64_t end) {
    // By rows: where a vector ends must not depend on the rows beside.
    for (std::int64_t r = begin; r < end; ++r) {
      kernel(row(gate, gate.row_stride(), r), row(up, up.row_stride(), r),
             row(out, out.row_stride(), r), gate.dtype(), n);
    }
  });
}

void gather_rows(DeviceContext& context, const TensorView& x, const TensorView& indices,
                 const TensorView& out) {
  const std::int64_t n = x.dim(1);
  const auto* index = indices.data<std::int32_t>();
  const std::size_t bytes = static_cast<std::size_t>(n) * dtype_size(x.dtype());
  for_rows(context, indices.dim(0), n, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      std::memcpy(row(out, n, r), row(x, n, index[r]), bytes);
    }
  });
}

}  // namespace moba::cpu
