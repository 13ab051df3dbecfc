#pragma once

#include <span>

#include "kvcache/copy_pages.h"
#include "kvcache/rope_and_store.h"
#include "kvcache/store_kv.h"

namespace moba::cuda {

// See the functions of the same names in kvcache/; arguments are checked there.
void store_kv(DeviceContext& context, const TensorView& k, const TensorView& v,
              const KvWriteSlots& slots, const PagedKvView& cache);
void rope_and_store(DeviceContext& context, const ProjectedHeads& heads, const KvWriteSlots& slots,
                    const PagedKvView& cache, const TensorView& q_out);
void copy_pages(DeviceContext& context, std::span<const PageCopy> copies, KvPool& pool);

}  // namespace moba::cuda
