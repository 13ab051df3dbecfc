// The device that a test program is for: tests of models are linked once for each.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "device/buffer.h"

namespace moba::test {

// cpu_device.cpp or cuda/gpu_device.cpp.
Device test_device();

// Whether a result must not depend on the company, bit for bit (device/gemm.h).
inline bool is_exact() { return test_device().type == DeviceType::kCpu; }

// Equal where results are exact, else no further apart than `tolerance`.
inline bool same(const std::vector<float>& a, const std::vector<float>& b, float tolerance) {
  if (is_exact()) return a == b;
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!(std::abs(a[i] - b[i]) <= tolerance)) return false;
  }
  return true;
}

}  // namespace moba::test
