#include "device/cuda/peer_exchange.h"

#include <algorithm>

#include "device/check.h"
#include "device/cuda/dispatch.h"
#include "device/cuda/launch.h"
#include "device/cuda/pdl.cuh"
#include "device/cuda/vec.cuh"

namespace moba::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kNormThreads = 512;
constexpr int kPerThread = kPeerBlockPieces / kThreads;
// How many looks at a mailbox pass between two at the abort flag, which lies across the bus.
constexpr int kLooks = 1 << 12;

struct Part {
  int first;  // piece of the message
  int count;
};

__device__ inline Part part_of(int num_pieces, int per_block) {
  const int first = static_cast<int>(blockIdx.x) * per_block;
  return {first, max(0, min(per_block, num_pieces - first))};
}

// The next generation; never 0, which mailboxes hold in the beginning, and of the other parity.
__device__ inline std::uint32_t next_generation(const PeerEnd& end) {
  const std::uint32_t last =
      *reinterpret_cast<const volatile std::uint32_t*>(end.generations + blockIdx.x);
  return last + 1 == 0 ? 2 : last + 1;
}

// Of this block's part, from its place in all mailboxes. A piece's halves lie apart, so that
// neighbouring threads write neighbouring words.
__device__ inline std::size_t mailbox_offset(std::uint32_t generation) {
  return (std::size_t{generation & 1} * kPeerBlocks + blockIdx.x) * 2 * kPeerBlockPieces;
}

__device__ inline void store_words(uint4* to, std::uint32_t a, std::uint32_t b,
                                   std::uint32_t flag) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(a), "r"(flag),
               "r"(b), "r"(flag)
               : "memory");
}

__device__ inline uint4 load_words(const uint4* from) {
  uint4 words;
  asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "l"(from)
               : "memory");
  return words;
}

// To all other ranks.
__device__ inline void send(const PeerEnd& end, std::size_t place, uint4 piece,
                            std::uint32_t flag) {
  for (int r = 0; r < end.num_ranks; ++r) {
    if (r == end.rank) continue;
    uint4* const to = end.to[r] + place;
    store_words(to, piece.x, piece.y, flag);
    store_words(to + kPeerBlockPieces, piece.z, piece.w, flag);
  }
}

__device__ inline uint4 receive(const PeerEnd& end, int rank, std::size_t place,
                                std::uint32_t flag) {
  const uint4* const from = end.from[rank] + place;
  for (int looks = 1;; ++looks) {
    const uint4 a = load_words(from);
    const uint4 b = load_words(from + kPeerBlockPieces);
    if (a.y == flag && a.w == flag && b.y == flag && b.w == flag) return {a.x, a.z, b.x, b.z};
    if (looks % kLooks == 0 && *reinterpret_cast<const volatile std::uint32_t*>(end.aborted) != 0) {
      return {0, 0, 0, 0};
    }
  }
}

__device__ inline void end_message(const PeerEnd& end, std::uint32_t generation) {
  __syncthreads();  // all threads have read the count
  if (threadIdx.x == 0) end.generations[blockIdx.x] = generation;
}

// A piece of the sum over the ranks.
template <typename T>
__device__ inline Vec<T> sum_piece(const PeerEnd& end, const Vec<T>& mine, std::size_t place,
                                   std::uint32_t generation) {
  using V = Vec<T>;
  float sum[V::kElements] = {};
  for (int r = 0; r < end.num_ranks; ++r) {
    V piece = mine;
    if (r != end.rank) {
      *reinterpret_cast<uint4*>(&piece) = receive(end, r, place, generation);
    }
#pragma unroll
    for (int e = 0; e < V::kElements; ++e) sum[e] += to_float(piece.v[e]);
  }
  V result;
#pragma unroll
  for (int e = 0; e < V::kElements; ++e) result.v[e] = from_float<T>(sum[e]);
  return result;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    peer_all_reduce_kernel(PeerEnd end, T* x, int num_pieces, int per_block) {
  using V = Vec<T>;
  start_successors();
  wait_for_predecessors();
  const std::uint32_t generation = next_generation(end);
  const std::size_t offset = mailbox_offset(generation);
  const Part part = part_of(num_pieces, per_block);
  V mine[kPerThread];
#pragma unroll
  for (int p = 0; p < kPerThread; ++p) {
    const int i = p * kThreads + static_cast<int>(threadIdx.x);
    if (i >= part.count) break;
    mine[p] = V::load(x + static_cast<std::int64_t>(part.first + i) * V::kElements);
    send(end, offset + i, *reinterpret_cast<const uint4*>(&mine[p]), generation);
  }
#pragma unroll
  for (int p = 0; p < kPerThread; ++p) {
    const int i = p * kThreads + static_cast<int>(threadIdx.x);
    if (i >= part.count) break;
    const V result = sum_piece(end, mine[p], offset + i, generation);
    result.store(x + static_cast<std::int64_t>(part.first + i) * V::kElements);
  }
  end_message(end, generation);
}

// A block takes a row.
template <typename T, typename W>
__global__ void __launch_bounds__(kNormThreads)
    peer_all_reduce_norm_kernel(PeerEnd end, T* x, int row_pieces, const W* weight, float eps,
                                T* out) {
  using V = Vec<T>;
  constexpr int kPieces = kPeerBlockPieces / kNormThreads;
  __shared__ float scratch[32];
  start_successors();
  wait_for_predecessors();
  const std::uint32_t generation = next_generation(end);
  const std::size_t offset = mailbox_offset(generation);
  const std::int64_t row = std::int64_t{blockIdx.x} * row_pieces;
  V pieces[kPieces];
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = p * kNormThreads + static_cast<int>(threadIdx.x);
    if (i >= row_pieces) break;
    pieces[p] = V::load(x + (row + i) * V::kElements);
    send(end, offset + i, *reinterpret_cast<const uint4*>(&pieces[p]), generation);
  }
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = p * kNormThreads + static_cast<int>(threadIdx.x);
    if (i >= row_pieces) break;
    pieces[p] = sum_piece(end, pieces[p], offset + i, generation);
    pieces[p].store(x + (row + i) * V::kElements);
#pragma unroll
    for (int e = 0; e < V::kElements; ++e) {
      const float value = to_float(pieces[p].v[e]);
      squares += value * value;
    }
  }
  const float mean = block_sum(squares, scratch) / static_cast<float>(row_pieces * V::kElements);
  const float scale = 1.0F / sqrtf(mean + eps);
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = p * kNormThreads + static_cast<int>(threadIdx.x);
    if (i >= row_pieces) break;
#pragma unroll
    for (int e = 0; e < V::kElements; ++e) {
      const float normed = round_to<T>(to_float(pieces[p].v[e]) * scale);
      pieces[p].v[e] = from_float<T>(normed * to_float(weight[i * V::kElements + e]));
    }
    pieces[p].store(out + (row + i) * V::kElements);
  }
  end_message(end, generation);
}

__global__ void __launch_bounds__(kThreads)
    peer_all_gather_kernel(PeerEnd end, const uint4* in, uint4* out, int num_pieces,
                           int per_block) {
  start_successors();
  wait_for_predecessors();
  const std::uint32_t generation = next_generation(end);
  const std::size_t offset = mailbox_offset(generation);
  const Part part = part_of(num_pieces, per_block);
  for (int i = static_cast<int>(threadIdx.x); i < part.count; i += kThreads) {
    const uint4 piece = in[part.first + i];
    send(end, offset + i, piece, generation);
    out[std::int64_t{end.rank} * num_pieces + part.first + i] = piece;
  }
  for (int i = static_cast<int>(threadIdx.x); i < part.count; i += kThreads) {
    for (int r = 0; r < end.num_ranks; ++r) {
      if (r == end.rank) continue;
      out[std::int64_t{r} * num_pieces + part.first + i] = receive(end, r, offset + i, generation);
    }
  }
  end_message(end, generation);
}

// How a message is split over blocks: the same on all ranks.
struct Split {
  int num_pieces;
  int per_block;
  LaunchShape shape;
};

Split split_of(std::int64_t num_pieces) {
  MOBA_CHECK(num_pieces >= 1 && num_pieces <= kPeerBlocks * kPeerBlockPieces,
             "peer exchange: a message of ", num_pieces, " pieces, at most ",
             kPeerBlocks * kPeerBlockPieces);
  const auto count = static_cast<int>(num_pieces);
  const int blocks = std::min(kPeerBlocks, (count + kThreads - 1) / kThreads);
  return {
      count, (count + blocks - 1) / blocks, {dim3(static_cast<unsigned>(blocks)), dim3(kThreads)}};
}

}  // namespace

void launch_peer_all_reduce(const PeerEnd& end, DType dtype, void* x, std::int64_t num_pieces,
                            cudaStream_t stream) {
  const Split split = split_of(num_pieces);
  dispatch_float(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(stream, split.shape, true, "peer_all_reduce_kernel", peer_all_reduce_kernel<T>, end,
           static_cast<T*>(x), split.num_pieces, split.per_block);
  });
}

void launch_peer_all_reduce_norm(const PeerEnd& end, DType dtype, void* x, std::int64_t rows,
                                 std::int64_t row_pieces, DType weight_dtype, const void* weight,
                                 float eps, void* out, cudaStream_t stream) {
  MOBA_CHECK(rows >= 1 && rows <= kPeerBlocks && row_pieces >= 1 && row_pieces <= kPeerBlockPieces,
             "peer exchange: ", rows, " rows of ", row_pieces, " pieces, at most ", kPeerBlocks,
             " of ", kPeerBlockPieces);
  const LaunchShape shape{dim3(static_cast<unsigned>(rows)), dim3(kNormThreads)};
  dispatch_float(dtype, [&](auto tag) {
    dispatch_float(weight_dtype, [&](auto weight_tag) {
      using T = typename decltype(tag)::type;
      using W = typename decltype(weight_tag)::type;
      launch(stream, shape, true, "peer_all_reduce_norm_kernel", peer_all_reduce_norm_kernel<T, W>,
             end, static_cast<T*>(x), static_cast<int>(row_pieces), static_cast<const W*>(weight),
             eps, static_cast<T*>(out));
    });
  });
}

void launch_peer_all_gather(const PeerEnd& end, const void* in, void* out, std::int64_t num_pieces,
                            cudaStream_t stream) {
  const Split split = split_of(num_pieces);
  launch(stream, split.shape, true, "peer_all_gather_kernel", peer_all_gather_kernel, end,
         static_cast<const uint4*>(in), static_cast<uint4*>(out), split.num_pieces,
         split.per_block);
}

}  // namespace moba::cuda
