#include "device/ops.h"

#include <cstdint>

#include "device/check.h"
#include "device/cpu/ops_cpu.h"

namespace moba {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
}

void check_tensor(const char* op, const char* name, const TensorView& t, int rank) {
  MOBA_CHECK(t.rank() == rank, op, ": ", name, " of shape ", t.shape().to_string(), " is not of ",
             rank, " dimensions");
  MOBA_CHECK(t.raw() != nullptr || t.num_elements() == 0, op, ": ", name, " has no memory");
}

void check_activation(const char* op, const char* name, const TensorView& t, int rank) {
  check_tensor(op, name, t, rank);
  MOBA_CHECK(t.dtype() == DType::kFloat32 || t.dtype() == DType::kBFloat16, op, ": ", name,
             " of dtype ", dtype_name(t.dtype()));
}

void check_weight(const char* op, const char* name, const TensorView& t, int rank) {
  check_tensor(op, name, t, rank);
  MOBA_CHECK(is_float(t.dtype()), op, ": ", name, " of dtype ", dtype_name(t.dtype()));
}

void check_indices(const char* op, const char* name, const TensorView& t) {
  check_tensor(op, name, t, 1);
  MOBA_CHECK(t.dtype() == DType::kInt32, op, ": ", name, " of dtype ", dtype_name(t.dtype()));
}

// out must have the given shape and the dtype of x.
void check_like(const char* op, const char* name, const TensorView& t, const TensorView& x,
                const Shape& shape) {
  check_activation(op, name, t, shape.rank());
  MOBA_CHECK(t.shape() == shape, op, ": ", name, " of shape ", t.shape().to_string(),
             " where it must be ", shape.to_string());
  MOBA_CHECK(t.dtype() == x.dtype(), op, ": ", name, " of dtype ", dtype_name(t.dtype()),
             " for input of dtype ", dtype_name(x.dtype()));
}

void check_range(const char* op, const char* name, const TensorView& indices, std::int64_t limit) {
  const auto* values = indices.data<std::int32_t>();
  for (std::int64_t i = 0; i < indices.dim(0); ++i) {
    MOBA_CHECK(values[i] >= 0 && values[i] < limit, op, ": ", name, " ", values[i], " at ", i,
               " is not in 0 .. ", limit - 1);
  }
}

}  // namespace

void embedding(DeviceContext& context, const TensorView& table, const TensorView& ids,
               const TensorView& out) {
  check_weight("embedding", "table", table, 2);
  check_indices("embedding", "ids", ids);
  check_activation("embedding", "out", out, 2);
  const Shape shape{ids.dim(0), table.dim(1)};
  MOBA_CHECK(out.shape() == shape, "embedding: out of shape ", out.shape().to_string(),
             " where it must be ", shape.to_string());
  check_range("embedding", "id", ids, table.dim(0));
  cpu::embedding(context, table, ids, out);
}

void rms_norm(DeviceContext& context, const TensorView& x, const TensorView& weight, float eps,
              const TensorView& out) {
  check_activation("rms_norm", "x", x, 2);
  check_weight("rms_norm", "weight", weight, 1);
  MOBA_CHECK(weight.dim(0) == x.dim(1), "rms_norm: weight of shape ", weight.shape().to_string(),
             " does not fit x of shape ", x.shape().to_string());
  check_like("rms_norm", "out", out, x, x.shape());
  cpu::rms_norm(context, x, weight, eps, out);
}

void rope(DeviceContext& context, const TensorView& positions, const TensorView& cos_sin,
          const TensorView& x) {
  check_activation("rope", "x", x, 3);
  check_indices("rope", "positions", positions);
  check_tensor("rope", "cos_sin", cos_sin, 2);
  MOBA_CHECK(cos_sin.dtype() == DType::kFloat32, "rope: cos_sin of dtype ",
             dtype_name(cos_sin.dtype()));
  MOBA_CHECK(positions.dim(0) == x.dim(0), "rope: ", positions.dim(0), " positions for x of shape ",
             x.shape().to_string());
  MOBA_CHECK(x.dim(2) % 2 == 0 && cos_sin.dim(1) == x.dim(2), "rope: cos_sin of shape ",
             cos_sin.shape().to_string(), " does not fit x of shape ", x.shape().to_string());
  check_range("rope", "position", positions, cos_sin.dim(0));
  cpu::rope(context, positions, cos_sin, x);
}

void silu_mul(DeviceContext& context, const TensorView& gate, const TensorView& up,
              const TensorView& out) {
  check_activation("silu_mul", "gate", gate, 2);
  check_like("silu_mul", "up", up, gate, gate.shape());
  check_like("silu_mul", "out", out, gate, gate.shape());
  cpu::silu_mul(context, gate, up, out);
}

void gather_rows(DeviceContext& context, const TensorView& x, const TensorView& indices,
                 const TensorView& out) {
  check_activation("gather_rows", "x", x, 2);
  check_indices("gather_rows", "indices", indices);
  check_like("gather_rows", "out", out, x, Shape{indices.dim(0), x.dim(1)});
  check_range("gather_rows", "index", indices, x.dim(0));
  cpu::gather_rows(context, x, indices, out);
}

}  // namespace moba
