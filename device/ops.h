// The small operations of a transformer layer. Each checks shapes and dtypes once (throws Error),
// then runs the kernel of the context's device. Arithmetic is float32 whatever the storage dtype.
// "T" is float32 or bfloat16, or float16 on a CUDA device, the same for all activations of a call;
// a row's result never depends on the rows beside it. Tensors are memory of the device, and
// contiguous unless columns() of a wider matrix are said to do.
//
// Indices are checked on the CPU, where one out of range throws Error naming it; on a CUDA device
// it makes its row of the result NaN.
#pragma once

#include <cstdint>
#include <span>

#include "device/context.h"
#include "device/tensor.h"

namespace moba {

// out[t, :] = table[ids[t], :]. table [vocab, hidden], any float dtype, on the CPU also a packed
// block format; ids [num_tokens] int32; out [num_tokens, hidden] T. Ids must be in range (the
// engine checks them at the door).
void embedding(DeviceContext& context, const TensorView& table, const TensorView& ids,
               const TensorView& out);

// The same where the table holds only rows [first_id, first_id + table.dim(0)) of the vocabulary's:
// ids of other rows give zeros, so that the sum over the holders of all parts is the embedding.
void embedding_slice(DeviceContext& context, const TensorView& table, std::int64_t first_id,
                     std::int64_t vocab_size, const TensorView& ids, const TensorView& out);

// out[r, :] = x[r, :] / sqrt(mean(x[r, :]^2) + eps) * weight. x, out [rows, n] T, out may be x;
// weight [n] any float dtype. As Llama's RMSNorm: the normalised value is rounded to T before the
// product with the weight.
void rms_norm(DeviceContext& context, const TensorView& x, const TensorView& weight, float eps,
              const TensorView& out);

// residual += x, rounded to T; then out = rms_norm(residual). x, residual, out [rows, n] T; out may
// be x.
void add_rms_norm(DeviceContext& context, const TensorView& x, const TensorView& residual,
                  const TensorView& weight, float eps, const TensorView& out);

// Row t of cos_sin [num_tokens, head_dim] float32 becomes the cosines, then the sines, of
// float32(positions[t] * inv_freq), times `scaling`: what rope() takes. positions [num_tokens]
// int32, inv_freq [head_dim / 2] float32.
void rope_cos_sin(DeviceContext& context, const TensorView& positions, const TensorView& inv_freq,
                  float scaling, const TensorView& cos_sin);

// Rotates pairs (i, i + head_dim/2) of every head in place ("rotate half", as Hugging Face
// checkpoints are laid out):
//   x'[i]       = x[i] * cos[p, i] - x[i + h] * sin[p, i]
//   x'[i + h]   = x[i + h] * cos[p, i] + x[i] * sin[p, i],   h = head_dim / 2
// x [num_tokens, num_heads, head_dim] T; positions [num_tokens] int32; cos_sin [max_positions,
// head_dim] float32, each row h cosines then h sines (attention scaling already applied).
void rope(DeviceContext& context, const TensorView& positions, const TensorView& cos_sin,
          const TensorView& x);

// out = silu(gate) * up, elementwise; silu(x) = x / (1 + exp(-x)). All [num_tokens, n] T, and may
// be columns of wider matrices; out may be gate.
void silu_mul(DeviceContext& context, const TensorView& gate, const TensorView& up,
              const TensorView& out);

// out[r, :] = x[indices[r], :]. x [rows, n] T, indices [r] int32, out [r, n] T.
void gather_rows(DeviceContext& context, const TensorView& x, const TensorView& indices,
                 const TensorView& out);

}  // namespace moba
