#pragma once

#include "device/ops.h"

namespace moba::cpu {

// See the functions of the same names in device/ops.h; shapes and dtypes are checked there.
void embedding(DeviceContext& context, const TensorView& table, const TensorView& ids,
               const TensorView& out);
void embedding_slice(DeviceContext& context, const TensorView& table, std::int64_t first_id,
                     std::int64_t vocab_size, const TensorView& ids, const TensorView& out);
void rms_norm(DeviceContext& context, const TensorView& x, const TensorView& weight, float eps,
              const TensorView& out);
// y += x, elementwise, rounded to their dtype.
void add(DeviceContext& context, const TensorView& x, const TensorView& y);
void rope_cos_sin(DeviceContext& context, const TensorView& positions, const TensorView& inv_freq,
                  float scaling, const TensorView& cos_sin);
void rope(DeviceContext& context, const TensorView& positions, const TensorView& cos_sin,
          const TensorView& x);
void silu_mul(DeviceContext& context, const TensorView& gate, const TensorView& up,
              const TensorView& out);
void gather_rows(DeviceContext& context, const TensorView& x, const TensorView& indices,
                 const TensorView& out);

}  // namespace moba::cpu
