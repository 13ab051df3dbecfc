#include "kvcache/copy_pages.h"

#include <cstddef>
#include <cstring>

#include "device/check.h"
#include "kvcache/cuda/store_kv_cuda.h"

namespace moba {

void copy_pages(DeviceContext& context, std::span<const PageCopy> copies, KvPool& pool) {
  if (copies.empty()) return;
  for (const PageCopy& copy : copies) {
    for (const std::int32_t page : {copy.from, copy.to}) {
      MOBA_CHECK(page >= 0 && page < pool.num_pages(), "copy of page ", page, " of ",
                 pool.num_pages());
    }
  }
  if (context.device().type == DeviceType::kCuda) return cuda::copy_pages(context, copies, pool);
  context.pool().parallel_for(pool.config().num_layers, [&](std::int64_t layer, int) {
    const PagedKvView& view = pool.layer(static_cast<int>(layer));
    const auto element = static_cast<std::int64_t>(dtype_size(view.dtype));
    const std::int64_t page_bytes = view.page_stride() * element;
    const std::int64_t centroid_bytes = std::int64_t{view.num_kv_heads} * view.head_dim * element;
    for (const PageCopy& copy : copies) {
      const auto copy_bytes = [&copy](void* array, std::int64_t bytes) {
        auto* base = static_cast<std::byte*>(array);
        std::memmove(base + copy.to * bytes, base + copy.from * bytes,
                     static_cast<std::size_t>(bytes));
      };
      copy_bytes(view.k, page_bytes);
      copy_bytes(view.v, page_bytes);
      copy_bytes(view.centroids, centroid_bytes);
    }
  });
}

}  // namespace moba
