#include "device/ops.h"

#include <cstdint>

#include "device/check.h"
#include "device/cpu/ops_cpu.h"
#include "device/cuda/ops_cuda.h"

namespace moba {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
}

bool on_cuda(const DeviceContext& context) { return context.device().type == DeviceType::kCuda; }

enum class Rows : std::uint8_t { kContiguous, kStrided };

void check_tensor(const DeviceContext& context, const char* op, const char* name,
                  const TensorView& t, int rank, Rows rows = Rows::kContiguous) {
  MOBA_CHECK(t.rank() == rank, op, ": ", name, " of shape ", t.shape().to_string(), " is not of ",
             rank, " dimensions");
  MOBA_CHECK(t.raw() != nullptr || t.num_elements() == 0, op, ": ", name, " has no memory");
  MOBA_CHECK(rows == Rows::kStrided || t.is_contiguous(), op, ": rows of ", name,
             " are not contiguous");
  MOBA_CHECK(t.device() == context.device(), op, ": ", name, " is memory of ",
             device_name(t.device()), ", not of ", device_name(context.device()));
}

void check_activation(const DeviceContext& context, const char* op, const char* name,
                      const TensorView& t, int rank, Rows rows = Rows::kContiguous) {
  check_tensor(context, op, name, t, rank, rows);
  MOBA_CHECK(t.dtype() == DType::kFloat32 || t.dtype() == DType::kBFloat16 ||
                 (on_cuda(context) && t.dtype() == DType::kFloat16),
             op, ": ", name, " of dtype ", dtype_name(t.dtype()));
}

void check_weight(const DeviceContext& context, const char* op, const char* name,
                  const TensorView& t, int rank) {
  check_tensor(context, op, name, t, rank);
  MOBA_CHECK(is_float(t.dtype()), op, ": ", name, " of dtype ", dtype_name(t.dtype()));
}

void check_indices(const DeviceContext& context, const char* op, const char* name,
                   const TensorView& t) {
  check_tensor(context, op, name, t, 1);
  MOBA_CHECK(t.dtype() == DType::kInt32, op, ": ", name, " of dtype ", dtype_name(t.dtype()));
}

// out must have the given shape and the dtype of x.
void check_like(const DeviceContext& context, const char* op, const char* name, const TensorView& t,
                const TensorView& x, const Shape& shape, Rows rows = Rows::kContiguous) {
  check_activation(context, op, name, t, shape.rank(), rows);
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

void check_norm(const DeviceContext& context, const char* op, const TensorView& x,
                const TensorView& weight, const TensorView& out) {
  check_activation(context, op, "x", x, 2);
  check_weight(context, op, "weight", weight, 1);
  MOBA_CHECK(weight.dim(0) == x.dim(1), op, ": weight of shape ", weight.shape().to_string(),
             " does not fit x of shape ", x.shape().to_string());
  check_like(context, op, "out", out, x, x.shape());
}

void check_embedding(const DeviceContext& context, const TensorView& table, const TensorView& ids,
                     const TensorView& out) {
  check_tensor(context, "embedding", "table", table, 2);
  MOBA_CHECK(is_float(table.dtype()) || (!on_cuda(context) && is_quantized(table.dtype())),
             "embedding: table of dtype ", dtype_name(table.dtype()));
  check_indices(context, "embedding", "ids", ids);
  check_activation(context, "embedding", "out", out, 2);
  const Shape shape{ids.dim(0), table.dim(1)};
  MOBA_CHECK(out.shape() == shape, "embedding: out of shape ", out.shape().to_string(),
             " where it must be ", shape.to_string());
}

}  // namespace

void embedding(DeviceContext& context, const TensorView& table, const TensorView& ids,
               const TensorView& out) {
  check_embedding(context, table, ids, out);
  if (on_cuda(context)) return cuda::embedding(context, table, ids, out);
  check_range("embedding", "id", ids, table.dim(0));
  cpu::embedding(context, table, ids, out);
}

void embedding_slice(DeviceContext& context, const TensorView& table, std::int64_t first_id,
                     std::int64_t vocab_size, const TensorView& ids, const TensorView& out) {
  check_embedding(context, table, ids, out);
  MOBA_CHECK(first_id >= 0 && first_id + table.dim(0) <= vocab_size, "embedding: rows ", first_id,
             " .. ", first_id + table.dim(0) - 1, " of a vocabulary of ", vocab_size);
  if (on_cuda(context)) {
    return cuda::embedding_slice(context, table, first_id, vocab_size, ids, out);
  }
  check_range("embedding", "id", ids, vocab_size);
  cpu::embedding_slice(context, table, first_id, vocab_size, ids, out);
}

void rms_norm(DeviceContext& context, const TensorView& x, const TensorView& weight, float eps,
              const TensorView& out) {
  check_norm(context, "rms_norm", x, weight, out);
  if (on_cuda(context)) return cuda::rms_norm(context, x, weight, eps, out);
  cpu::rms_norm(context, x, weight, eps, out);
}

void add_rms_norm(DeviceContext& context, const TensorView& x, const TensorView& residual,
                  const TensorView& weight, float eps, const TensorView& out) {
  check_norm(context, "add_rms_norm", x, weight, out);
  check_like(context, "add_rms_norm", "residual", residual, x, x.shape());
  if (on_cuda(context)) return cuda::add_rms_norm(context, x, residual, weight, eps, out);
  cpu::add(context, x, residual);
  cpu::rms_norm(context, residual, weight, eps, out);
}

void rope_cos_sin(DeviceContext& context, const TensorView& positions, const TensorView& inv_freq,
                  float scaling, const TensorView& cos_sin) {
  check_indices(context, "rope_cos_sin", "positions", positions);
  check_tensor(context, "rope_cos_sin", "inv_freq", inv_freq, 1);
  check_tensor(context, "rope_cos_sin", "cos_sin", cos_sin, 2);
  const Shape shape{positions.dim(0), 2 * inv_freq.dim(0)};
  MOBA_CHECK(cos_sin.shape() == shape, "rope_cos_sin: cos_sin of shape ",
             cos_sin.shape().to_string(), " where it must be ", shape.to_string());
  for (const TensorView* t : {&inv_freq, &cos_sin}) {
    MOBA_CHECK(t->dtype() == DType::kFloat32, "rope_cos_sin: a table of dtype ",
               dtype_name(t->dtype()));
  }
  if (on_cuda(context)) return cuda::rope_cos_sin(context, positions, inv_freq, scaling, cos_sin);
  cpu::rope_cos_sin(context, positions, inv_freq, scaling, cos_sin);
}

void rope(DeviceContext& context, const TensorView& positions, const TensorView& cos_sin,
          const TensorView& x) {
  check_activation(context, "rope", "x", x, 3);
  check_indices(context, "rope", "positions", positions);
  check_tensor(context, "rope", "cos_sin", cos_sin, 2);
  MOBA_CHECK(cos_sin.dtype() == DType::kFloat32, "rope: cos_sin of dtype ",
             dtype_name(cos_sin.dtype()));
  MOBA_CHECK(positions.dim(0) == x.dim(0), "rope: ", positions.dim(0), " positions for x of shape ",
             x.shape().to_string());
  MOBA_CHECK(x.dim(2) % 2 == 0 && cos_sin.dim(1) == x.dim(2), "rope: cos_sin of shape ",
             cos_sin.shape().to_string(), " does not fit x of shape ", x.shape().to_string());
  if (on_cuda(context)) return cuda::rope(context, positions, cos_sin, x);
  check_range("rope", "position", positions, cos_sin.dim(0));
  cpu::rope(context, positions, cos_sin, x);
}

void silu_mul(DeviceContext& context, const TensorView& gate, const TensorView& up,
              const TensorView& out) {
  check_activation(context, "silu_mul", "gate", gate, 2, Rows::kStrided);
  check_like(context, "silu_mul", "up", up, gate, gate.shape(), Rows::kStrided);
  check_like(context, "silu_mul", "out", out, gate, gate.shape(), Rows::kStrided);
  if (on_cuda(context)) return cuda::silu_mul(context, gate, up, out);
  cpu::silu_mul(context, gate, up, out);
}

void gather_rows(DeviceContext& context, const TensorView& x, const TensorView& indices,
                 const TensorView& out) {
  check_activation(context, "gather_rows", "x", x, 2);
  check_indices(context, "gather_rows", "indices", indices);
  check_like(context, "gather_rows", "out", out, x, Shape{indices.dim(0), x.dim(1)});
  if (on_cuda(context)) return cuda::gather_rows(context, x, indices, out);
  check_range("gather_rows", "index", indices, x.dim(0));
  cpu::gather_rows(context, x, indices, out);
}

}  // namespace moba
