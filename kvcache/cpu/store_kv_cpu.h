#pragma once

#include "kvcache/store_kv.h"

namespace moba::cpu {

// See moba::store_kv; arguments are checked there.
void store_kv(DeviceContext& context, const TensorView& k, const TensorView& v,
              const KvWriteSlots& slots, const PagedKvView& cache);

}  // namespace moba::cpu
