#include <algorithm>
#include <cstdint>

#include "device/cuda/bias.h"
#include "device/cuda/cuda_context.h"
#include "device/cuda/dispatch.h"
#include "device/cuda/launch.h"
#include "device/cuda/ops_cuda.h"
#include "device/cuda/pdl.cuh"
#include "device/cuda/vec.cuh"

namespace moba::cuda {
namespace {

constexpr int kThreads = 256;
// Enough to fill any device; kernels loop over what is more.
constexpr std::int64_t kMaxBlocksY = 65535;

bool aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; }

// Blocks over (pieces of a row, rows).
dim3 grid_of(std::int64_t pieces, std::int64_t rows) {
  return dim3(static_cast<unsigned>((pieces + kThreads - 1) / kThreads),
              static_cast<unsigned>(std::min(rows, kMaxBlocksY)));
}

template <typename From, typename To>
__device__ To convert(From x) {
  return from_float<To>(to_float(x));
}

// Rows [first, first + num_rows) of a matrix of `limit` rows: what is picked from.
struct RowRange {
  std::int64_t first;
  std::int64_t num_rows;
  std::int64_t limit;
};

// out[r, :] = row index[r] of the matrix of which x holds a range; zeros for the other rows, and
// NaN for an index that is no row at all.
template <typename From, typename To>
__global__ void pick_rows_kernel(const From* x, RowRange rows, std::int64_t x_stride,
                                 const std::int32_t* index, To* out, std::int64_t count,
                                 std::int64_t n) {
  start_successors();
  wait_for_predecessors();
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n) return;
  for (std::int64_t r = blockIdx.y; r < count; r += gridDim.y) {
    const std::int64_t from = index[r] - rows.first;
    const bool inside = from >= 0 && from < rows.num_rows;
    const bool elsewhere = index[r] >= 0 && index[r] < rows.limit;
    out[r * n + i] = inside ? convert<From, To>(x[from * x_stride + i])
                            : from_float<To>(elsewhere ? 0.0F : __int_as_float(0x7fc00000));
  }
}

// The same without a change of dtype, 16 bytes at a time; n and x_stride count those.
__global__ void pick_pieces_kernel(const uint4* x, RowRange rows, std::int64_t x_stride,
                                   const std::int32_t* index, uint4* out, std::int64_t count,
                                   std::int64_t n) {
  start_successors();
  wait_for_predecessors();
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n) return;
  constexpr unsigned kNan = 0x7fff7fffU;  // in any of the three dtypes
  for (std::int64_t r = blockIdx.y; r < count; r += gridDim.y) {
    const std::int64_t from = index[r] - rows.first;
    const bool inside = from >= 0 && from < rows.num_rows;
    const unsigned fill = index[r] >= 0 && index[r] < rows.limit ? 0U : kNan;
    out[r * n + i] = inside ? x[from * x_stride + i] : uint4{fill, fill, fill, fill};
  }
}

void pick_rows(cudaStream_t stream, const TensorView& x, const RowRange& range,
               const TensorView& index, const TensorView& out) {
  const std::int64_t n = x.dim(1);
  const std::int64_t count = index.dim(0);
  if (n == 0 || count == 0) return;
  const auto* rows = static_cast<const std::int32_t*>(index.raw());
  const std::int64_t per_piece = 16 / static_cast<std::int64_t>(dtype_size(x.dtype()));
  if (x.dtype() == out.dtype() && n % per_piece == 0 && x.row_stride() % per_piece == 0 &&
      aligned(x.raw()) && aligned(out.raw())) {
    launch(stream, {grid_of(n / per_piece, count), dim3(kThreads)}, true, "pick_pieces_kernel",
           pick_pieces_kernel, static_cast<const uint4*>(x.raw()), range,
           x.row_stride() / per_piece, rows, static_cast<uint4*>(out.raw()), count, n / per_piece);
    return;
  }
  dispatch_float(x.dtype(), [&](auto from_tag) {
    dispatch_float(out.dtype(), [&](auto to_tag) {
      using From = typename decltype(from_tag)::type;
      using To = typename decltype(to_tag)::type;
      launch(stream, {grid_of(n, count), dim3(kThreads)}, true, "pick_rows_kernel",
             pick_rows_kernel<From, To>, static_cast<const From*>(x.raw()), range, x.row_stride(),
             rows, static_cast<To*>(out.raw()), count, n);
    });
  });
}

__device__ inline float silu(float x) { return x / (1.0F + expf(-x)); }

template <typename T>
__global__ void silu_mul_kernel(const T* gate, const T* up, T* out, std::int64_t gate_stride,
                                std::int64_t up_stride, std::int64_t out_stride, std::int64_t rows,
                                std::int64_t n) {
  start_successors();
  wait_for_predecessors();
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n) return;
  for (std::int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    out[r * out_stride + i] =
        from_float<T>(silu(to_float(gate[r * gate_stride + i])) * to_float(up[r * up_stride + i]));
  }
}

// 16 bytes at a time; n and the strides still count elements.
template <typename T>
__global__ void silu_mul_pieces_kernel(const T* gate, const T* up, T* out, std::int64_t gate_stride,
                                       std::int64_t up_stride, std::int64_t out_stride,
                                       std::int64_t rows, std::int64_t n) {
  using V = Vec<T>;
  start_successors();
  wait_for_predecessors();
  const std::int64_t i = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * V::kElements;
  if (i >= n) return;
  for (std::int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    V g = V::load(gate + r * gate_stride + i);
    const V u = V::load(up + r * up_stride + i);
#pragma unroll
    for (int e = 0; e < V::kElements; ++e) {
      g.v[e] = from_float<T>(silu(to_float(g.v[e])) * to_float(u.v[e]));
    }
    g.store(out + r * out_stride + i);
  }
}

template <typename Bias, typename Out>
__global__ void put_bias_kernel(const Bias* bias, Out* out, std::int64_t out_stride,
                                std::int64_t rows, std::int64_t n, bool accumulate) {
  start_successors();
  wait_for_predecessors();
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n) return;
  for (std::int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    Out& to = out[r * out_stride + i];
    to = from_float<Out>(to_float(bias[i]) + (accumulate ? to_float(to) : 0.0F));
  }
}

}  // namespace

void embedding(DeviceContext& context, const TensorView& table, const TensorView& ids,
               const TensorView& out) {
  pick_rows(context.cuda()->stream(), table, {0, table.dim(0), table.dim(0)}, ids, out);
}

void embedding_slice(DeviceContext& context, const TensorView& table, std::int64_t first_id,
                     std::int64_t vocab_size, const TensorView& ids, const TensorView& out) {
  pick_rows(context.cuda()->stream(), table, {first_id, table.dim(0), vocab_size}, ids, out);
}

void gather_rows(DeviceContext& context, const TensorView& x, const TensorView& indices,
                 const TensorView& out) {
  pick_rows(context.cuda()->stream(), x, {0, x.dim(0), x.dim(0)}, indices, out);
}

void silu_mul(DeviceContext& context, const TensorView& gate, const TensorView& up,
              const TensorView& out) {
  const std::int64_t rows = gate.dim(0);
  const std::int64_t n = gate.dim(1);
  if (rows == 0 || n == 0) return;
  dispatch_float(gate.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr std::int64_t kElements = Vec<T>::kElements;
    bool pieces = n % kElements == 0;
    for (const TensorView* t : {&gate, &up, &out}) {
      pieces = pieces && aligned(t->raw()) && t->row_stride() % kElements == 0;
    }
    launch(context.cuda()->stream(), {grid_of(pieces ? n / kElements : n, rows), dim3(kThreads)},
           true, "silu_mul_kernel", pieces ? silu_mul_pieces_kernel<T> : silu_mul_kernel<T>,
           static_cast<const T*>(gate.raw()), static_cast<const T*>(up.raw()),
           static_cast<T*>(out.raw()), gate.row_stride(), up.row_stride(), out.row_stride(), rows,
           n);
  });
}

void put_bias(cudaStream_t stream, const TensorView& bias, const TensorView& out, bool accumulate) {
  const std::int64_t rows = out.dim(0);
  const std::int64_t n = out.dim(1);
  if (rows == 0 || n == 0) return;
  dispatch_float(bias.dtype(), [&](auto bias_tag) {
    dispatch_float(out.dtype(), [&](auto out_tag) {
      using Bias = typename decltype(bias_tag)::type;
      using Out = typename decltype(out_tag)::type;
      launch(stream, {grid_of(n, rows), dim3(kThreads)}, true, "put_bias_kernel",
             put_bias_kernel<Bias, Out>, static_cast<const Bias*>(bias.raw()),
             static_cast<Out*>(out.raw()), out.row_stride(), rows, n, accumulate);
    });
  });
}

}  // namespace moba::cuda
