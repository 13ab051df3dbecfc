#include <algorithm>
#include <cstdint>

#include "device/check.h"
#include "device/cuda/cuda_context.h"
#include "device/cuda/dispatch.h"
#include "device/cuda/launch.h"
#include "device/cuda/pdl.cuh"
#include "device/cuda/vec.cuh"
#include "kvcache/cuda/store_kv_cuda.h"

namespace moba::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kMaxHeadDim = 256;
// Keys that a centroid's block holds at a time.
constexpr int kTileBytes = 16 << 10;
constexpr int kPiecesPerThread = kTileBytes / 16 / kThreads;

// One layer of the cache and the batch's slots, as kernels take them.
template <typename T>
struct CacheArgs {
  T* k;
  T* v;
  T* centroids;
  const std::int64_t* slots;
  const std::int32_t* completed;  // [num_completed, pages_per_block]
  std::int64_t num_tokens;
  std::int64_t num_completed;
  int pages_per_block;
  int block_size;
  int num_kv_heads;
  int head_dim;

  __device__ std::int64_t head_stride() const { return std::int64_t{block_size} * head_dim; }
  __device__ std::int64_t page_stride() const { return num_kv_heads * head_stride(); }
  // Of the key (or value) of `head` in a slot.
  __device__ std::int64_t offset(std::int64_t slot, int head) const {
    return slot / block_size * page_stride() + head * head_stride() + slot % block_size * head_dim;
  }
};

// What the fused kernel takes beside that.
template <typename T>
struct HeadArgs {
  const T* q;
  const T* k;
  const T* v;
  T* q_out;
  std::int64_t q_stride;
  std::int64_t k_stride;
  std::int64_t v_stride;
  const void* q_norm;  // or null
  const void* k_norm;
  DType q_norm_dtype;
  DType k_norm_dtype;
  float eps;
  const std::int32_t* positions;
  const float* cos_sin;
  std::int64_t num_cos_sin_rows;
  int num_q_heads;
};

__device__ inline float load_float(const void* data, DType dtype, int i) {
  switch (dtype) {
    case DType::kBFloat16:
      return to_float(static_cast<const __nv_bfloat16*>(data)[i]);
    case DType::kFloat16:
      return to_float(static_cast<const __half*>(data)[i]);
    default:
      return static_cast<const float*>(data)[i];
  }
}

// A warp copies a head.
template <typename T>
__device__ void copy_head(const T* from, T* to, int head_dim, int lane) {
  constexpr int kElements = Vec<T>::kElements;
  const bool aligned = (reinterpret_cast<std::uintptr_t>(from) & 15U) == 0 &&
                       (reinterpret_cast<std::uintptr_t>(to) & 15U) == 0;
  if (aligned) {
    for (int i = lane * kElements; i < head_dim; i += 32 * kElements) {
      Vec<T>::load(from + i).store(to + i);
    }
  } else {
    for (int i = lane; i < head_dim; i += 32) to[i] = from[i];
  }
}

// A warp writes the head to `to`, normalised if `norm` is not null, and rotated. head_dim is even
// and at most kMaxHeadDim.
template <typename T>
__device__ void rotate_head(const T* from, T* to, const void* norm, DType norm_dtype, float eps,
                            const float* cos_sin, bool has_row, int head_dim, int lane) {
  constexpr int kPairs = kMaxHeadDim / 2 / 32;
  const int half = head_dim / 2;
  float low[kPairs];
  float high[kPairs];
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const int i = lane + p * 32;
    low[p] = i < half ? to_float(from[i]) : 0.0F;
    high[p] = i < half ? to_float(from[i + half]) : 0.0F;
    squares += low[p] * low[p] + high[p] * high[p];
  }
  if (norm != nullptr) {
    const float scale = 1.0F / sqrtf(warp_sum(squares) / static_cast<float>(head_dim) + eps);
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      const int i = lane + p * 32;
      if (i >= half) continue;
      low[p] = round_to<T>(round_to<T>(low[p] * scale) * load_float(norm, norm_dtype, i));
      high[p] = round_to<T>(round_to<T>(high[p] * scale) * load_float(norm, norm_dtype, i + half));
    }
  }
  __syncwarp();  // `to` may be `from`
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const int i = lane + p * 32;
    if (i >= half) continue;
    const float nan = __int_as_float(0x7fc00000);
    const float c = has_row ? cos_sin[i] : nan;
    const float s = has_row ? cos_sin[i + half] : nan;
    to[i] = from_float<T>(low[p] * c - high[p] * s);
    to[i + half] = from_float<T>(high[p] * c + low[p] * s);
  }
}

// A block of kThreads writes the centroid of `head` of a completed MoBA block: keys go through
// shared memory tile by tile, loaded by all threads while each dimension's sum, taken by one
// thread, runs in the order of positions. `last_key`, if not null, is the block's last key, in
// shared memory, which need not be in the cache yet. `tile`: kTileBytes of shared memory, aligned
// to 16.
template <typename T>
__device__ void write_centroid(const CacheArgs<T>& cache, const std::int32_t* pages, int head,
                               const T* last_key, T* tile) {
  constexpr int kElements = Vec<T>::kElements;
  const int thread = static_cast<int>(threadIdx.x);
  const int head_dim = cache.head_dim;
  const int num_keys = cache.pages_per_block * cache.block_size;
  const int pieces_per_key = head_dim / kElements;
  const int keys_per_tile = kTileBytes / static_cast<int>(sizeof(T)) / head_dim;

  Vec<T> pieces[kPiecesPerThread];
  const auto load_tile = [&](int first_key) {
    const int keys = min(keys_per_tile, num_keys - first_key);
#pragma unroll
    for (int p = 0; p < kPiecesPerThread; ++p) {
      const int piece = thread + p * kThreads;
      const int key = first_key + piece / pieces_per_key;
      const int d = piece % pieces_per_key * kElements;
      if (piece >= keys * pieces_per_key) continue;
      if (last_key != nullptr && key == num_keys - 1) {
        pieces[p] = Vec<T>::load(last_key + d);
        continue;
      }
      const std::int64_t slot =
          std::int64_t{pages[key / cache.block_size]} * cache.block_size + key % cache.block_size;
      pieces[p] = Vec<T>::load(cache.k + cache.offset(slot, head) + d);
    }
  };

  float sum = 0;
  load_tile(0);
  for (int first_key = 0; first_key < num_keys; first_key += keys_per_tile) {
    const int keys = min(keys_per_tile, num_keys - first_key);
    __syncthreads();
#pragma unroll
    for (int p = 0; p < kPiecesPerThread; ++p) {
      const int piece = thread + p * kThreads;
      if (piece < keys * pieces_per_key) pieces[p].store(tile + piece * kElements);
    }
    __syncthreads();
    if (first_key + keys_per_tile < num_keys) load_tile(first_key + keys_per_tile);
    if (thread < head_dim) {
#pragma unroll 8
      for (int key = 0; key < keys; ++key) sum += to_float(tile[key * head_dim + thread]);
    }
  }
  if (thread >= head_dim) return;
  const std::int64_t slot_page = pages[cache.pages_per_block - 1];
  cache.centroids[(slot_page * cache.num_kv_heads + head) * head_dim + thread] =
      from_float<T>(sum / static_cast<float>(num_keys));
}

// Grid: (num_completed, num_kv_heads).
template <typename T>
__global__ void __launch_bounds__(kThreads) centroid_kernel(CacheArgs<T> cache) {
  __shared__ uint4 tile[kTileBytes / sizeof(uint4)];
  start_successors();
  wait_for_predecessors();
  const std::int32_t* const pages =
      cache.completed + std::int64_t{blockIdx.x} * cache.pages_per_block;
  if (pages[cache.pages_per_block - 1] < 0) return;
  write_centroid<T>(cache, pages, static_cast<int>(blockIdx.y), nullptr,
                    reinterpret_cast<T*>(tile));
}

// A warp stores a key and the value of a head of a token.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    store_kernel(CacheArgs<T> cache, const T* k, const T* v) {
  start_successors();
  wait_for_predecessors();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t unit = std::int64_t{blockIdx.x} * kWarps + static_cast<int>(threadIdx.x) / 32;
  const std::int64_t token = unit / cache.num_kv_heads;
  const int head = static_cast<int>(unit % cache.num_kv_heads);
  if (token >= cache.num_tokens) return;
  const std::int64_t slot = cache.slots[token];
  if (slot < 0) return;
  const std::int64_t from = unit * cache.head_dim;
  const std::int64_t to = cache.offset(slot, head);
  copy_head(k + from, cache.k + to, cache.head_dim, lane);
  copy_head(v + from, cache.v + to, cache.head_dim, lane);
}

// The key of a token's head as it goes into the cache.
template <typename T>
__device__ void rotate_key(const CacheArgs<T>& cache, const HeadArgs<T>& heads, std::int64_t token,
                           int head, T* to, int lane) {
  const std::int64_t row = heads.positions[token];
  const bool has_row = row >= 0 && row < heads.num_cos_sin_rows;
  rotate_head(heads.k + token * heads.k_stride + std::int64_t{head} * cache.head_dim, to,
              heads.k_norm, heads.k_norm_dtype, heads.eps,
              heads.cos_sin + (has_row ? row : 0) * cache.head_dim, has_row, cache.head_dim, lane);
}

// Grid: x: for each token, blocks of kWarps heads (q, then k, then v), and with kDecode a block for
// each KV head after them, which writes the centroid if the token fills its MoBA block. Its last
// key is made anew, since the block that stores it may not have run.
template <typename T, bool kDecode>
__global__ void __launch_bounds__(kThreads)
    rope_and_store_kernel(CacheArgs<T> cache, HeadArgs<T> heads, int blocks_per_token) {
  __shared__ uint4 tile[kDecode ? kTileBytes / sizeof(uint4) : 1];
  __shared__ uint4 last_key[kDecode ? kMaxHeadDim * sizeof(T) / sizeof(uint4) : 1];
  start_successors();
  wait_for_predecessors();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t token = blockIdx.x / static_cast<unsigned>(blocks_per_token);
  const int block = static_cast<int>(blockIdx.x % static_cast<unsigned>(blocks_per_token));
  const int num_heads = heads.num_q_heads + 2 * cache.num_kv_heads;
  const int head_blocks = (num_heads + kWarps - 1) / kWarps;
  if (kDecode && block >= head_blocks) {
    const std::int32_t* const pages = cache.completed + token * cache.pages_per_block;
    if (pages[cache.pages_per_block - 1] < 0) return;
    const int head = block - head_blocks;
    T* const last = reinterpret_cast<T*>(last_key);
    if (warp == 0) rotate_key(cache, heads, token, head, last, lane);
    __syncthreads();
    write_centroid<T>(cache, pages, head, last, reinterpret_cast<T*>(tile));
    return;
  }
  const int unit = block * kWarps + warp;
  if (unit >= num_heads) return;
  if (unit < heads.num_q_heads) {
    const std::int64_t row = heads.positions[token];
    const bool has_row = row >= 0 && row < heads.num_cos_sin_rows;
    rotate_head(heads.q + token * heads.q_stride + std::int64_t{unit} * cache.head_dim,
                heads.q_out + (token * heads.num_q_heads + unit) * cache.head_dim, heads.q_norm,
                heads.q_norm_dtype, heads.eps, heads.cos_sin + (has_row ? row : 0) * cache.head_dim,
                has_row, cache.head_dim, lane);
    return;
  }
  const std::int64_t slot = cache.slots[token];
  if (slot < 0) return;
  const int kv_unit = unit - heads.num_q_heads;
  if (kv_unit < cache.num_kv_heads) {
    rotate_key(cache, heads, token, kv_unit, cache.k + cache.offset(slot, kv_unit), lane);
    return;
  }
  const int head = kv_unit - cache.num_kv_heads;
  copy_head(heads.v + token * heads.v_stride + std::int64_t{head} * cache.head_dim,
            cache.v + cache.offset(slot, head), cache.head_dim, lane);
}

template <typename T>
CacheArgs<T> cache_args(const KvWriteSlots& slots, const PagedKvView& cache) {
  MOBA_CHECK(cache.head_dim <= kMaxHeadDim && cache.head_dim % 8 == 0, "KV cache: head_dim ",
             cache.head_dim, " is not a multiple of 8 up to ", kMaxHeadDim);
  return {static_cast<T*>(cache.k),
          static_cast<T*>(cache.v),
          static_cast<T*>(cache.centroids),
          static_cast<const std::int64_t*>(slots.slot_mapping.raw()),
          static_cast<const std::int32_t*>(slots.completed_blocks.raw()),
          slots.slot_mapping.dim(0),
          slots.completed_blocks.dim(0),
          cache.pages_per_moba_block(),
          cache.block_size,
          cache.num_kv_heads,
          cache.head_dim};
}

template <typename T>
void launch_centroids(cudaStream_t stream, const CacheArgs<T>& args) {
  if (args.num_completed == 0) return;
  const dim3 grid(static_cast<unsigned>(args.num_completed),
                  static_cast<unsigned>(args.num_kv_heads));
  launch(stream, {grid, dim3(kThreads)}, true, "centroid_kernel", centroid_kernel<T>, args);
}

}  // namespace

void store_kv(DeviceContext& context, const TensorView& k, const TensorView& v,
              const KvWriteSlots& slots, const PagedKvView& cache) {
  dispatch_float(cache.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const cudaStream_t stream = context.cuda()->stream();
    const CacheArgs<T> args = cache_args<T>(slots, cache);
    const std::int64_t units = args.num_tokens * args.num_kv_heads;
    if (units > 0) {
      const dim3 grid(static_cast<unsigned>((units + kWarps - 1) / kWarps));
      launch(stream, {grid, dim3(kThreads)}, true, "store_kernel", store_kernel<T>, args,
             static_cast<const T*>(k.raw()), static_cast<const T*>(v.raw()));
    }
    launch_centroids(stream, args);
  });
}

void rope_and_store(DeviceContext& context, const ProjectedHeads& in, const KvWriteSlots& slots,
                    const PagedKvView& cache, const TensorView& q_out) {
  dispatch_float(cache.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const cudaStream_t stream = context.cuda()->stream();
    const CacheArgs<T> args = cache_args<T>(slots, cache);
    HeadArgs<T> heads{};
    heads.q = static_cast<const T*>(in.q.raw());
    heads.k = static_cast<const T*>(in.k.raw());
    heads.v = static_cast<const T*>(in.v.raw());
    heads.q_out = static_cast<T*>(q_out.raw());
    heads.q_stride = in.q.row_stride();
    heads.k_stride = in.k.row_stride();
    heads.v_stride = in.v.row_stride();
    heads.q_norm = in.q_norm.raw();
    heads.k_norm = in.k_norm.raw();
    heads.q_norm_dtype = in.q_norm.dtype();
    heads.k_norm_dtype = in.k_norm.dtype();
    heads.eps = in.norm_eps;
    heads.positions = static_cast<const std::int32_t*>(in.positions.raw());
    heads.cos_sin = static_cast<const float*>(in.cos_sin.raw());
    heads.num_cos_sin_rows = in.cos_sin.dim(0);
    heads.num_q_heads = static_cast<int>(in.q.dim(1));
    if (args.num_tokens == 0) return;
    const int head_blocks = (heads.num_q_heads + 2 * args.num_kv_heads + kWarps - 1) / kWarps;
    const bool decode = slots.one_per_token;
    const int blocks_per_token = head_blocks + (decode ? args.num_kv_heads : 0);
    const dim3 grid(static_cast<unsigned>(args.num_tokens * blocks_per_token));
    launch(stream, {grid, dim3(kThreads)}, true, "rope_and_store_kernel",
           decode ? rope_and_store_kernel<T, true> : rope_and_store_kernel<T, false>, args, heads,
           blocks_per_token);
    if (!decode) launch_centroids(stream, args);
  });
}

}  // namespace moba::cuda
