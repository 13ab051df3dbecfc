#include "device/cuda/memory_cuda.h"
#include "device/no_cuda/refuse.h"

namespace moba::cuda {

void* allocate(int /*device*/, std::size_t /*size*/, const char* what) { refuse(what); }
void release(int /*device*/, void* /*data*/) noexcept {}
void* allocate_pinned(int /*device*/, std::size_t /*size*/, const char* what) { refuse(what); }
void release_pinned(void* /*data*/) noexcept {}

}  // namespace moba::cuda
