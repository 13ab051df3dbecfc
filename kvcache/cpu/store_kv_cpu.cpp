#include "kvcache/cpu/store_kv_cpu.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "device/check.h"

namespace moba::cpu {
namespace {

// Tokens of one parallel item: enough to be worth handing out.
constexpr std::int64_t kTokensPerItem = 64;
// Dimensions whose sums are kept at a time.
constexpr int kDimsPerPass = 64;

template <typename T>
void write_centroid(const PagedKvView& cache, const std::int32_t* pages, int head) {
  const int num_pages = cache.pages_per_moba_block();
  T* centroid = static_cast<T*>(cache.centroids) +
                (std::int64_t{pages[num_pages - 1]} * cache.num_kv_heads + head) * cache.head_dim;
  for (int d0 = 0; d0 < cache.head_dim; d0 += kDimsPerPass) {
    const int width = std::min(kDimsPerPass, cache.head_dim - d0);
    std::array<float, kDimsPerPass> sum{};
    for (int p = 0; p < num_pages; ++p) {
      const T* keys = static_cast<const T*>(cache.k) + pages[p] * cache.page_stride() +
                      head * cache.head_stride() + d0;
      for (int row = 0; row < cache.block_size; ++row, keys += cache.head_dim) {
        for (int d = 0; d < width; ++d)
          sum[static_cast<std::size_t>(d)] += static_cast<float>(keys[d]);
      }
    }
    const auto count = static_cast<float>(cache.moba_block_size);
    for (int d = 0; d < width; ++d) {
      centroid[d0 + d] = static_cast<T>(sum[static_cast<std::size_t>(d)] / count);
    }
  }
}

template <typename T>
void store(DeviceContext& context, const TensorView& k, const TensorView& v,
           const KvWriteSlots& slots, const PagedKvView& cache) {
  const auto* slot_mapping = slots.slot_mapping.data<std::int64_t>();
  const auto* completed_blocks = slots.completed_blocks.data<std::int32_t>();
  const T* k_in = k.data<T>();
  const T* v_in = v.data<T>();
  T* k_out = static_cast<T*>(cache.k);
  T* v_out = static_cast<T*>(cache.v);
  const std::int64_t num_tokens = k.dim(0);
  const std::int64_t heads = cache.num_kv_heads;
  const std::size_t row_bytes = static_cast<std::size_t>(cache.head_dim) * sizeof(T);

  const auto store_tokens = [&](std::int64_t item, int /*thread*/) {
    const std::int64_t end = std::min(num_tokens, (item + 1) * kTokensPerItem);
    for (std::int64_t t = item * kTokensPerItem; t < end; ++t) {
      const std::int64_t slot = slot_mapping[t];
      if (slot < 0) continue;
      const std::int64_t to =
          slot / cache.block_size * cache.page_stride() + slot % cache.block_size * cache.head_dim;
      for (std::int64_t h = 0; h < heads; ++h) {
        const std::int64_t from = (t * heads + h) * cache.head_dim;
        std::memcpy(k_out + to + h * cache.head_stride(), k_in + from, row_bytes);
        std::memcpy(v_out + to + h * cache.head_stride(), v_in + from, row_bytes);
      }
    }
  };
  context.pool().parallel_for((num_tokens + kTokensPerItem - 1) / kTokensPerItem, store_tokens);

  const std::int64_t pages = cache.pages_per_moba_block();
  const std::int64_t completed = slots.completed_blocks.dim(0);
  const auto finish_block = [&](std::int64_t item, int /*thread*/) {
    const std::int32_t* block = completed_blocks + item / heads * pages;
    if (block[pages - 1] >= 0) write_centroid<T>(cache, block, static_cast<int>(item % heads));
  };
  context.pool().parallel_for(completed * heads, finish_block);
}

}  // namespace

void store_kv(DeviceContext& context, const TensorView& k, const TensorView& v,
              const KvWriteSlots& slots, const PagedKvView& cache) {
  if (cache.dtype == DType::kBFloat16) {
    store<BFloat16>(context, k, v, slots, cache);
  } else {
    store<float>(context, k, v, slots, cache);
  }
}

}  // namespace moba::cpu
