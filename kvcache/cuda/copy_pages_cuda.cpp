#include <cuda_runtime_api.h>

#include <cstddef>

#include "device/cuda/cuda_check.h"
#include "device/cuda/cuda_context.h"
#include "kvcache/cuda/store_kv_cuda.h"

namespace moba::cuda {

// Copies are rare (a shared page is about to be written) and large: the copy engine is good enough.
void copy_pages(DeviceContext& context, std::span<const PageCopy> copies, KvPool& pool) {
  const cudaStream_t stream = context.cuda()->stream();
  for (int layer = 0; layer < pool.config().num_layers; ++layer) {
    const PagedKvView& view = pool.layer(layer);
    const std::size_t element = dtype_size(view.dtype);
    const std::size_t page_bytes = static_cast<std::size_t>(view.page_stride()) * element;
    const std::size_t centroid_bytes = static_cast<std::size_t>(view.num_kv_heads) *
                                       static_cast<std::size_t>(view.head_dim) * element;
    for (const PageCopy& copy : copies) {
      if (copy.from == copy.to) continue;
      const auto copy_array = [&](void* array, std::size_t bytes) {
        auto* base = static_cast<std::byte*>(array);
        MOBA_CUDA_CHECK(cudaMemcpyAsync(base + static_cast<std::size_t>(copy.to) * bytes,
                                        base + static_cast<std::size_t>(copy.from) * bytes, bytes,
                                        cudaMemcpyDeviceToDevice, stream));
      };
      copy_array(view.k, page_bytes);
      copy_array(view.v, page_bytes);
      copy_array(view.centroids, centroid_bytes);
    }
  }
}

}  // namespace moba::cuda
