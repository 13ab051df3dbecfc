// Copies pages of the KV cache.
#pragma once

#include <cstdint>
#include <span>

#include "device/context.h"
#include "kvcache/kv_pool.h"

namespace moba {

// A page whose contents are to be copied: a shared page is about to be written by one of its
// holders.
struct PageCopy {
  std::int32_t from = 0;
  std::int32_t to = 0;
};

// Copies keys, values and centroids of whole pages in all layers, one copy after the other: a later
// one sees what an earlier one wrote. Throws Error for a page that does not exist.
void copy_pages(DeviceContext& context, std::span<const PageCopy> copies, KvPool& pool);

}  // namespace moba
