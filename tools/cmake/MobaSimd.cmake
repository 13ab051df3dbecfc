# Kernels that are written once on device/cpu/simd.h and compiled once for each instruction set.
#
#   moba_add_simd_kernels(<target> <file.cpp>...)
#
# adds to the target, for each file (relative to the calling folder), one translation unit for each instruction set: MOBA_SIMD_NS is
# generic, avx2 or avx512 there, and the compiler may use those instructions. On processors other than x86-64 there is the generic one
# only. The target's code is compiled with MOBA_SIMD_X86=1 where the other two exist (0 elsewhere); which one runs is decided by
# DeviceContext::isa() (device/cpu/simd_dispatch.h).

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(MOBA_SIMD_X86 1)
  set(MOBA_SIMD_ISAS generic avx2 avx512)
else()
  set(MOBA_SIMD_X86 0)
  set(MOBA_SIMD_ISAS generic)
endif()

# Contraction is off so that only what says fma() is fused: results must not depend on what the compiler finds to combine.
set(MOBA_SIMD_OPTIONS_generic -ffp-contract=off)
set(MOBA_SIMD_OPTIONS_avx2 -ffp-contract=off -mavx2 -mfma -mf16c -DMOBA_SIMD_AVX2=1)
set(MOBA_SIMD_OPTIONS_avx512 -ffp-contract=off -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq
  -mprefer-vector-width=512 -DMOBA_SIMD_AVX512=1)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC's own AVX-512 headers start from undefined registers and trip its warning (GCC bug 105593).
  list(APPEND MOBA_SIMD_OPTIONS_avx512 -Wno-maybe-uninitialized -Wno-uninitialized)
endif()

set(MOBA_SIMD_OPTIONS_avx512_bf16 ${MOBA_SIMD_OPTIONS_avx512} -mavx512bf16 -DMOBA_SIMD_AVX512_BF16=1)

function(_moba_add_simd_unit target file isa)
  file(RELATIVE_PATH path "${PROJECT_SOURCE_DIR}" "${CMAKE_CURRENT_SOURCE_DIR}/${file}")
  string(REGEX REPLACE "\\.cpp$" ".${isa}.cpp" unit "${CMAKE_CURRENT_BINARY_DIR}/${file}")
  file(CONFIGURE OUTPUT "${unit}" CONTENT "#define MOBA_SIMD_NS ${isa}\n#include \"${path}\"\n" @ONLY)
  target_sources(${target} PRIVATE "${unit}")
  set_source_files_properties("${unit}" PROPERTIES COMPILE_OPTIONS "${MOBA_SIMD_OPTIONS_${isa}}")
endfunction()

function(moba_add_simd_kernels target)
  foreach(file IN LISTS ARGN)
    foreach(isa IN LISTS MOBA_SIMD_ISAS)
      _moba_add_simd_unit(${target} ${file} ${isa})
    endforeach()
  endforeach()
  target_compile_definitions(${target} PRIVATE MOBA_SIMD_X86=${MOBA_SIMD_X86})
endfunction()

# The same for namespace avx512_bf16 (MOBA_SIMD_AVX512 and MOBA_SIMD_AVX512_BF16 are defined), where there is such a thing: for kernels
# with a version of their own for products of bfloat16.
function(moba_add_simd_bf16_kernels target)
  if(MOBA_SIMD_X86)
    foreach(file IN LISTS ARGN)
      _moba_add_simd_unit(${target} ${file} avx512_bf16)
    endforeach()
  endif()
endfunction()
