#include "kvcache/store_kv.h"

#include "device/check.h"
#include "device/copy.h"
#include "kvcache/cpu/store_kv_cpu.h"
#include "kvcache/cuda/store_kv_cuda.h"

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

KvWriteSlots slots_of(const KvWritePlan& plan, int pages_per_moba_block) {
  // The arrays are only read; a view does not say so.
  auto* slots = const_cast<std::int64_t*>(plan.slot_mapping.data());
  auto* blocks = const_cast<std::int32_t*>(plan.completed_blocks.data());
  const auto num_tokens = static_cast<std::int64_t>(plan.slot_mapping.size());
  const auto num_pages = static_cast<std::int64_t>(plan.completed_blocks.size());
  return {
      TensorView(slots, DType::kInt64, {num_tokens}),
      TensorView(blocks, DType::kInt32, {num_pages / pages_per_moba_block, pages_per_moba_block})};
}

void check_slots(const DeviceContext& context, const KvWriteSlots& slots,
                 const PagedKvView& cache) {
  const TensorView& mapping = slots.slot_mapping;
  const TensorView& blocks = slots.completed_blocks;
  MOBA_CHECK(mapping.rank() == 1 && mapping.dtype() == DType::kInt64, "store_kv: slots ",
             dtype_name(mapping.dtype()), " ", mapping.shape().to_string());
  MOBA_CHECK(blocks.rank() == 2 && blocks.dtype() == DType::kInt32 &&
                 blocks.dim(1) == cache.pages_per_moba_block() &&
                 (!slots.one_per_token || blocks.dim(0) == mapping.dim(0)),
             "store_kv: completed blocks ", blocks.shape().to_string(), " of ",
             cache.pages_per_moba_block(), " pages, for ", mapping.dim(0), " tokens");
  MOBA_CHECK(mapping.device() == context.device() && blocks.device() == context.device(),
             "store_kv: slots that are not memory of ", device_name(context.device()));
}

void store_kv(DeviceContext& context, const TensorView& k, const TensorView& v,
              const KvWriteSlots& slots, const PagedKvView& cache) {
  check_slots(context, slots, cache);
  const Shape expected{slots.slot_mapping.dim(0), cache.num_kv_heads, cache.head_dim};
  MOBA_CHECK(k.shape() == expected && v.shape() == expected, "store_kv: k ", k.shape().to_string(),
             " and v ", v.shape().to_string(), " instead of ", expected.to_string());
  MOBA_CHECK(k.dtype() == cache.dtype && v.dtype() == cache.dtype, "store_kv: k ",
             dtype_name(k.dtype()), " and v ", dtype_name(v.dtype()), " into a cache of ",
             dtype_name(cache.dtype));
  MOBA_CHECK(k.is_contiguous() && v.is_contiguous(), "store_kv: rows that are not contiguous");
  if (context.device().type == DeviceType::kCuda) {
    cuda::store_kv(context, k, v, slots, cache);
  } else {
    cpu::store_kv(context, k, v, slots, cache);
  }
}

void store_kv(DeviceContext& context, const TensorView& k, const TensorView& v,
              const KvWritePlan& plan, const PagedKvView& cache) {
  const KvWriteSlots host = slots_of(plan, cache.pages_per_moba_block());
  if (context.device().type == DeviceType::kCpu) return store_kv(context, k, v, host, cache);
  const Tensor mapping(DType::kInt64, host.slot_mapping.shape(), context.device(), "slots");
  const Tensor blocks(DType::kInt32, host.completed_blocks.shape(), context.device(), "slots");
  copy_to_device(context, host.slot_mapping, mapping);
  copy_to_device(context, host.completed_blocks, blocks);
  store_kv(context, k, v, KvWriteSlots{mapping, blocks}, cache);
  context.synchronize();
}

}  // namespace moba
