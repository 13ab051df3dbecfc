// What the folders no_cuda/ have in common: they stand where a build has no CUDA.
#pragma once

#include "device/check.h"

namespace moba::cuda {

// No device can be made in such a build, so only a caller that asks for one gets here.
[[noreturn]] inline void refuse(const char* what) {
  throw Error(concat(what, ": this build has no CUDA"));
}

}  // namespace moba::cuda
