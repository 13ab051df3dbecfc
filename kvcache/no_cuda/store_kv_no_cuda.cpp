#include "device/no_cuda/refuse.h"
#include "kvcache/cuda/store_kv_cuda.h"

namespace moba::cuda {

void store_kv(DeviceContext&, const TensorView&, const TensorView&, const KvWriteSlots&,
              const PagedKvView&) {
  refuse("store_kv");
}
void rope_and_store(DeviceContext&, const ProjectedHeads&, const KvWriteSlots&, const PagedKvView&,
                    const TensorView&) {
  refuse("rope_and_store");
}
void copy_pages(DeviceContext&, std::span<const PageCopy>, KvPool&) { refuse("copy_pages"); }

}  // namespace moba::cuda
