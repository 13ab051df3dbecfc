// The small operations of a transformer layer. Each checks shapes and dtypes once (throws Error),
// then runs the kernel of the context's device. Arithmetic is float32 whatever the storage dtype.
// "T" is float32 or bfloat16, the same for all activations of a call; a row's result never depends
// on the rows beside it.
#pragma once

#include <cstdint>
#include <span>

#include "device/context.h"
#include "device/tensor.h"

namespace moba {

// out[t, :] = table[ids[t], :]. table [vocab, hidden], any float dtype; ids [num_tokens] on the
// device; out [num_tokens, hidden] T. Ids must be in range (the engine checks them at the door;
// checked again here, throws Error naming the id).
void embedding(DeviceContext& context, const TensorView& table, const TensorView& ids,
               const TensorView& out);

// out[r, :] = x[r, :] / sqrt(mean(x[r, :]^2) + eps) * weight. x, out [rows, n] T, out may be x;
// weight [n] any float dtype. As Llama's RMSNorm: the normalised value is rounded to T before the
// product with the weight.
void rms_norm(DeviceContext& context, const TensorView& x, const TensorView& weight, float eps,
              const TensorView& out);

// Rotates pairs (i, i + head_dim/2) of every head in place ("rotate half", as Hugging Face
// checkpoints are laid out):
//   x'[i]       = x[i] * cos[p, i] - x[i + h] * sin[p, i]
//   x'[i + h]   = x[i + h] * cos[p, i] + x[i] * sin[p, i],   h = head_dim / 2
// x [num_tokens, num_heads, head_dim] T; positions [num_tokens] int32; cos_sin [max_positions,
// head_dim] float32, each row h cosines then h sines (attention scaling already applied).
void rope(DeviceContext& context, const TensorView& positions, const TensorView& cos_sin,
          const TensorView& x);

// out = silu(gate) * up, elementwise; silu(x) = x / (1 + exp(-x)). All [num_tokens, n] T; out may
// be gate.
void silu_mul(DeviceContext& context, const TensorView& gate, const TensorView& up,
              const TensorView& out);

// out[r, :] = x[indices[r], :]. x [rows, n] T, indices [r] int32, out [r, n] T.
void gather_rows(DeviceContext& context, const TensorView& x, const TensorView& indices,
                 const TensorView& out);

}  // namespace moba
