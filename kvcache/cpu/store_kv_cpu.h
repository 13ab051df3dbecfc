#pragma once

#include "kvcache/store_kv.h"

namespace moba::cpu {

// See moba::store_kv; arguments are checked there.
void store_kv(DeviceContext& context, const TensorView& k, const TensorView& v,
              const KvWritePlan& plan, const PagedKvView& cache);

}  // namespace moba::cpu
