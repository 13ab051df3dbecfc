// From a layer's projections to what attention reads: heads normalised and rotated, keys and values
// in the cache.
#pragma once

#include "device/context.h"
#include "device/tensor.h"
#include "kvcache/paged_kv_view.h"
#include "kvcache/store_kv.h"

namespace moba {

// A batch's queries, keys and values as projected. Memory of the device, dtype of the cache.
struct ProjectedHeads {
  // [num_tokens, num_q_heads, head_dim] and twice [num_tokens, num_kv_heads, head_dim]. On a CUDA
  // device they may be columns of a wider matrix. Scratch: what they hold afterwards is
  // unspecified.
  TensorView q;
  TensorView k;
  TensorView v;
  // [head_dim], any float dtype: weights of an RMSNorm of every head; empty: none.
  TensorView q_norm;
  TensorView k_norm;
  float norm_eps = 0;
  // As rope() of device/ops.h: [num_tokens] int32 rows of cos_sin, and [rows, head_dim] float32.
  TensorView positions;
  TensorView cos_sin;
};

// Normalises (rms_norm()) and rotates (rope()) q and k, stores k and v (store_kv()), and leaves the
// queries in q_out [num_tokens, num_q_heads, head_dim], contiguous, which may be q itself where
// that is. One launch on a CUDA device, but for completed blocks of a prompt. Throws Error for
// shapes or dtypes that do not fit.
void rope_and_store(DeviceContext& context, const ProjectedHeads& heads, const KvWriteSlots& slots,
                    const PagedKvView& cache, const TensorView& q_out);

}  // namespace moba
