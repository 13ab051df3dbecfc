# Compiler settings shared by every target of the project.

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
# The shared library shows what is marked MOBA_API and nothing else.
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_program(MOBA_CCACHE ccache)
if(MOBA_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${MOBA_CCACHE}")
endif()

# g++ 13's -Wdangling-reference takes any function that gets a temporary and returns a reference to something else for an error.
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-Wdangling-reference MOBA_HAS_WDANGLING_REFERENCE)

# Warnings, sanitizers and the include root of one of our targets.
function(moba_target_settings target)
  set(cxx_options -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wcast-qual -Wvla
    $<$<BOOL:${MOBA_HAS_WDANGLING_REFERENCE}>:-Wno-dangling-reference>
    $<$<BOOL:${MOBA_WERROR}>:-Werror>)
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${cxx_options}>")
  if(MOBA_CUDA)
    # The host code that nvcc writes around kernels would not pass the warnings that are left out here.
    target_compile_options(${target} PRIVATE
      "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra;-lineinfo;--expt-relaxed-constexpr;--threads=2>"
      "$<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${MOBA_WERROR}>>:--Werror=all-warnings;-Xcompiler=-Werror>")
  endif()
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}"
    "${PROJECT_SOURCE_DIR}/engine/include")
  if(MOBA_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${MOBA_SANITIZE} -fno-omit-frame-pointer
      -fno-sanitize-recover=all)
    target_link_options(${target} PRIVATE -fsanitize=${MOBA_SANITIZE})
  endif()
endfunction()

# One folder of the library: a static library `moba_<name>` from explicit sources, linked against the folders below it (DEPENDS)
# and the outside libraries it uses (LIBS). CUDA_SOURCES and CUDA_LIBS are its part of the CUDA backend; NO_CUDA_SOURCES stand in their
# place in a build without it. The installed library moba::moba is made of the objects of all folders (engine/).
function(moba_add_folder name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LIBS;CUDA_SOURCES;CUDA_LIBS;NO_CUDA_SOURCES" ${ARGN})
  if(NOT ARG_SOURCES)
    return()
  endif()
  if(MOBA_CUDA)
    list(APPEND ARG_SOURCES ${ARG_CUDA_SOURCES})
    list(APPEND ARG_LIBS ${ARG_CUDA_LIBS})
  else()
    list(APPEND ARG_SOURCES ${ARG_NO_CUDA_SOURCES})
  endif()
  add_library(moba_${name} STATIC ${ARG_SOURCES})
  moba_target_settings(moba_${name})
  list(TRANSFORM ARG_DEPENDS PREPEND moba_)
  target_link_libraries(moba_${name} PUBLIC Threads::Threads ${ARG_DEPENDS} ${ARG_LIBS})
endfunction()
