# `cmake --install`: the libraries, the public headers, and what find_package(moba) and pkg-config need. Nothing of it knows where it
# was built or installed: the tree may be moved. Components: moba_runtime (libmoba.so.X, the program) and moba_development.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(moba_cmake_dir "${CMAKE_INSTALL_LIBDIR}/cmake/moba")

if(NOT MOBA_BUILD_SHARED AND NOT MOBA_INSTALL_STATIC)
  message(FATAL_ERROR "MOBA_BUILD_SHARED and MOBA_INSTALL_STATIC are both off: there is no library to install")
endif()
if(NOT CMAKE_INSTALL_INCLUDEDIR STREQUAL "include")
  message(FATAL_ERROR "CMAKE_INSTALL_INCLUDEDIR is ${CMAKE_INSTALL_INCLUDEDIR}: the package expects include")
endif()

install(DIRECTORY "${PROJECT_SOURCE_DIR}/engine/include/moba" DESTINATION include COMPONENT moba_development
  FILES_MATCHING PATTERN "*.h")
if(MOBA_BUILD_SHARED)
  install(TARGETS moba_shared EXPORT mobaSharedTargets
    LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT moba_runtime NAMELINK_COMPONENT moba_development)
  install(EXPORT mobaSharedTargets NAMESPACE moba:: DESTINATION "${moba_cmake_dir}" COMPONENT moba_development)
endif()
if(MOBA_INSTALL_STATIC)
  install(TARGETS moba EXPORT mobaStaticTargets
    ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT moba_development)
  install(EXPORT mobaStaticTargets NAMESPACE moba:: DESTINATION "${moba_cmake_dir}" COMPONENT moba_development)
  install(FILES
    "${CMAKE_CURRENT_LIST_DIR}/FindNCCL.cmake"
    "${CMAKE_CURRENT_LIST_DIR}/FindPCRE2.cmake"
    "${CMAKE_CURRENT_LIST_DIR}/FindSentencePiece.cmake"
    "${CMAKE_CURRENT_LIST_DIR}/FindUtf8proc.cmake"
    DESTINATION "${moba_cmake_dir}" COMPONENT moba_development)
endif()

configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/mobaConfig.cmake.in" "${PROJECT_BINARY_DIR}/mobaConfig.cmake"
  INSTALL_DESTINATION "${moba_cmake_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/mobaConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/mobaConfig.cmake" "${PROJECT_BINARY_DIR}/mobaConfigVersion.cmake"
  DESTINATION "${moba_cmake_dir}" COMPONENT moba_development)

# -lNAME for a library where the linker looks by itself, else its path.
function(moba_link_flag target out)
  get_target_property(path ${target} LOCATION)
  get_filename_component(directory "${path}" DIRECTORY)
  get_filename_component(file "${path}" NAME)
  get_filename_component(directory "${directory}" REALPATH)
  set(standard "")
  foreach(implicit IN LISTS CMAKE_CXX_IMPLICIT_LINK_DIRECTORIES)
    get_filename_component(implicit "${implicit}" REALPATH)
    list(APPEND standard "${implicit}")
  endforeach()
  if(directory IN_LIST standard AND file MATCHES "^lib(.+)\\.(so|a)[.0-9]*$")
    set(${out} "-l${CMAKE_MATCH_1}" PARENT_SCOPE)
  else()
    set(${out} "${path}" PARENT_SCOPE)
  endif()
endfunction()

set(moba_private_libs "")
foreach(target IN LISTS MOBA_LINK_LIBRARIES)
  moba_link_flag(${target} flag)
  string(APPEND moba_private_libs " ${flag}")
  if(target STREQUAL "spdlog::spdlog" AND TARGET fmt::fmt)
    moba_link_flag(fmt::fmt flag)
    string(APPEND moba_private_libs " ${flag}")
  endif()
endforeach()
# For programs that are linked as C.
foreach(library IN LISTS CMAKE_CXX_IMPLICIT_LINK_LIBRARIES)
  if(library MATCHES "^(stdc\\+\\+|c\\+\\+|c\\+\\+abi|m)$")
    string(APPEND moba_private_libs " -l${library}")
  endif()
endforeach()
string(APPEND moba_private_libs " -pthread")

file(RELATIVE_PATH moba_pc_prefix "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
string(REGEX REPLACE "/$" "" moba_pc_prefix "${moba_pc_prefix}")
# moba: the shared library, or the static one where there is no other. moba-static: the static one in any case.
function(moba_install_pc name description libs libs_private)
  configure_file("${CMAKE_CURRENT_FUNCTION_LIST_DIR}/moba.pc.in" "${PROJECT_BINARY_DIR}/${name}.pc" @ONLY)
  install(FILES "${PROJECT_BINARY_DIR}/${name}.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig" COMPONENT moba_development)
endfunction()
if(MOBA_BUILD_SHARED)
  moba_install_pc(moba "LLM inference with MoBA attention" "-L\${libdir} -lmoba" "${moba_private_libs}")
else()
  moba_install_pc(moba "LLM inference with MoBA attention" "-L\${libdir} -lmoba${moba_private_libs}" "")
endif()
if(MOBA_INSTALL_STATIC)
  moba_install_pc(moba-static "LLM inference with MoBA attention, linked statically" "\${libdir}/libmoba.a${moba_private_libs}" "")
endif()

if(MOBA_BUILD_SHARED)
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/tools/python/moba" DESTINATION "${CMAKE_INSTALL_DATADIR}/moba/python" COMPONENT moba_runtime
    FILES_MATCHING PATTERN "*.py" PATTERN "__pycache__" EXCLUDE)
endif()
