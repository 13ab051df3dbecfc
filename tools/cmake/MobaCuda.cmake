# The CUDA backend (option MOBA_CUDA): the compiler, the libraries and the architectures. Included only where the option is on.

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(MOBA_NVCC nvcc PATHS /usr/local/cuda/bin)
  mark_as_advanced(MOBA_NVCC)
  if(MOBA_NVCC)
    set(CMAKE_CUDA_COMPILER "${MOBA_NVCC}")
  endif()
endif()

# Ampere and what runs its code, and Hopper's own instructions (wgmma, TMA), which no other architecture runs. The PTX of the first
# serves architectures that are newer than both.
set(MOBA_CUDA_ARCHITECTURES "80;90a-real" CACHE STRING "CUDA architectures to compile for, as CMAKE_CUDA_ARCHITECTURES")
set(CMAKE_CUDA_ARCHITECTURES "${MOBA_CUDA_ARCHITECTURES}")
if(MOBA_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${MOBA_CCACHE}")
endif()
enable_language(CUDA)
# CMake 3.25 does not know that nvcc has C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
find_package(CUDAToolkit 12.4 REQUIRED)
# Groups of GPUs need NCCL; a build without it computes on one.
find_package(NCCL QUIET)
if(NOT NCCL_FOUND)
  message(STATUS "NCCL not found: tensor parallelism is for the CPU only")
endif()
