#include "device/cuda/cuda_check.h"

#include <string_view>

#include "device/check.h"

namespace moba::cuda {
namespace {

// The file without its folders: messages must not tell where a build was made.
std::string_view base_name(std::string_view path) {
  return path.substr(path.rfind('/') + 1);  // npos + 1 is 0
}

}  // namespace

void fail(cudaError_t error, const char* what, const char* file, int line) {
  static_cast<void>(cudaGetLastError());
  throw Error(concat("CUDA: ", what, ": ", cudaGetErrorName(error), ": ", cudaGetErrorString(error),
                     " (", base_name(file), ":", line, ")"));
}

void fail(cublasStatus_t status, const char* what, const char* file, int line) {
  throw Error(concat("CUDA: ", what, ": ", cublasLtGetStatusName(status), " (", base_name(file),
                     ":", line, ")"));
}

}  // namespace moba::cuda
