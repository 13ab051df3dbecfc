#include "kvcache/rope_and_store.h"

#include "device/check.h"
#include "device/copy.h"
#include "device/ops.h"
#include "kvcache/cuda/store_kv_cuda.h"

namespace moba {
namespace {

// rms_norm() of every head, in place.
void norm_heads(DeviceContext& context, const TensorView& x, const TensorView& weight, float eps) {
  if (weight.empty()) return;
  const TensorView rows = x.reshape({x.dim(0) * x.dim(1), x.dim(2)});
  rms_norm(context, rows, weight, eps, rows);
}

void check_heads(const char* name, const TensorView& x, const Shape& expected,
                 const PagedKvView& cache) {
  MOBA_CHECK(x.shape() == expected, "rope_and_store: ", name, " ", x.shape().to_string(),
             " instead of ", expected.to_string());
  MOBA_CHECK(x.dtype() == cache.dtype, "rope_and_store: ", name, " ", dtype_name(x.dtype()),
             " for a cache of ", dtype_name(cache.dtype));
}

void check_norm(const char* name, const TensorView& weight, std::int64_t head_dim) {
  if (weight.empty()) return;
  MOBA_CHECK(weight.shape() == Shape{head_dim} && weight.is_contiguous(), "rope_and_store: ", name,
             " ", weight.shape().to_string(), " for heads of ", head_dim);
}

}  // namespace

void rope_and_store(DeviceContext& context, const ProjectedHeads& heads, const KvWriteSlots& slots,
                    const PagedKvView& cache, const TensorView& q_out) {
  const std::int64_t num_tokens = slots.slot_mapping.dim(0);
  MOBA_CHECK(heads.q.rank() == 3, "rope_and_store: q ", heads.q.shape().to_string());
  const Shape q_shape{num_tokens, heads.q.dim(1), cache.head_dim};
  const Shape kv_shape{num_tokens, cache.num_kv_heads, cache.head_dim};
  check_heads("q", heads.q, q_shape, cache);
  check_heads("q_out", q_out, q_shape, cache);
  check_heads("k", heads.k, kv_shape, cache);
  check_heads("v", heads.v, kv_shape, cache);
  check_norm("q_norm", heads.q_norm, cache.head_dim);
  check_norm("k_norm", heads.k_norm, cache.head_dim);
  MOBA_CHECK(q_out.is_contiguous(), "rope_and_store: rows of q_out are not contiguous");
  check_slots(context, slots, cache);
  if (context.device().type == DeviceType::kCuda) {
    MOBA_CHECK(heads.positions.shape() == Shape{num_tokens} &&
                   heads.positions.dtype() == DType::kInt32 && heads.cos_sin.rank() == 2 &&
                   heads.cos_sin.dim(1) == cache.head_dim && cache.head_dim % 8 == 0 &&
                   heads.cos_sin.dtype() == DType::kFloat32,
               "rope_and_store: positions ", heads.positions.shape().to_string(), " and cos_sin ",
               heads.cos_sin.shape().to_string(), " for heads of ", cache.head_dim);
    cuda::rope_and_store(context, heads, slots, cache, q_out);
    return;
  }
  norm_heads(context, heads.q, heads.q_norm, heads.norm_eps);
  norm_heads(context, heads.k, heads.k_norm, heads.norm_eps);
  rope(context, heads.positions, heads.cos_sin, heads.q);
  rope(context, heads.positions, heads.cos_sin, heads.k);
  store_kv(context, heads.k, heads.v, slots, cache);
  if (q_out.raw() != heads.q.raw()) copy_to_device(context, heads.q, q_out);
}

}  // namespace moba
