// Memory of a CUDA device and pinned host memory. In a build without CUDA these throw.
#pragma once

#include <cstddef>

namespace moba::cuda {

// `size` > 0 bytes, aligned to 256. Throws Error naming `what`, the size and what is free.
void* allocate(int device, std::size_t size, const char* what);
void release(int device, void* data) noexcept;

// Page-locked host memory that every CUDA device may copy from and to.
void* allocate_pinned(int device, std::size_t size, const char* what);
void release_pinned(void* data) noexcept;

}  // namespace moba::cuda
