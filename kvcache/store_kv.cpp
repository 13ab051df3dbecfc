#include "kvcache/store_kv.h"

#include "device/check.h"
#include "kvcache/cpu/store_kv_cpu.h"

namespace moba {

void KvWritePlan::clear() {
  slot_mapping.clear();
  completed_blocks.clear();
}

void KvWritePlan::append(std::span<const std::int32_t> block_table, std::int64_t first,
                         std::int64_t count, int block_size, int moba_block_size) {
  const std::int64_t end = first + count;
  MOBA_CHECK(
      first >= 0 && count >= 0 && end <= static_cast<std::int64_t>(block_table.size()) * block_size,
      "KV cache: positions [", first, ", ", end, ") do not fit a block table of ",
      block_table.size(), " pages of ", block_size);
  for (std::int64_t position = first; position < end; ++position) {
    const std::int64_t page = block_table[static_cast<std::size_t>(position / block_size)];
    slot_mapping.push_back(page * block_size + position % block_size);
  }
  const std::int64_t pages = moba_block_size / block_size;
  for (std::int64_t block = first / moba_block_size; block < end / moba_block_size; ++block) {
    const auto begin = block_table.begin() + static_cast<std::ptrdiff_t>(block * pages);
    completed_blocks.insert(completed_blocks.end(), begin, begin + pages);
  }
}

void store_kv(DeviceContext& context, const TensorView& k, const TensorView& v,
              const KvWritePlan& plan, const PagedKvView& cache) {
  const Shape expected{static_cast<std::int64_t>(plan.slot_mapping.size()), cache.num_kv_heads,
                       cache.head_dim};
  MOBA_CHECK(k.shape() == expected && v.shape() == expected, "store_kv: k ", k.shape().to_string(),
             " and v ", v.shape().to_string(), " instead of ", expected.to_string());
  MOBA_CHECK(k.dtype() == cache.dtype && v.dtype() == cache.dtype, "store_kv: k ",
             dtype_name(k.dtype()), " and v ", dtype_name(v.dtype()), " into a cache of ",
             dtype_name(cache.dtype));
  cpu::store_kv(context, k, v, plan, cache);
}

}  // namespace moba
