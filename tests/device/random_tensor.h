// Tensors of random numbers, and reading any dtype as double.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "device/tensor.h"

namespace moba::test {

inline double element(const TensorView& t, std::int64_t i) {
  switch (t.dtype()) {
    case DType::kBFloat16:
      return static_cast<float>(t.data<BFloat16>()[i]);
    case DType::kFloat16:
      return static_cast<float>(t.data<Float16>()[i]);
    default:
      return t.data<float>()[i];
  }
}

inline void set_element(const TensorView& t, std::int64_t i, float value) {
  switch (t.dtype()) {
    case DType::kBFloat16:
      t.data<BFloat16>()[i] = BFloat16(value);
      break;
    case DType::kFloat16:
      t.data<Float16>()[i] = Float16(value);
      break;
    default:
      t.data<float>()[i] = value;
  }
}

inline Tensor random_tensor(DType dtype, const Shape& shape, std::mt19937& random,
                            float scale = 1.0F) {
  Tensor tensor(dtype, shape, Device{}, "test tensor");
  std::uniform_real_distribution<float> uniform(-scale, scale);
  const TensorView view = tensor;
  for (std::int64_t i = 0; i < view.num_elements(); ++i) set_element(view, i, uniform(random));
  return tensor;
}

// Every element NaN: what an operation does not write shows.
inline Tensor poisoned_tensor(DType dtype, const Shape& shape) {
  Tensor tensor(dtype, shape, Device{}, "test tensor");
  const TensorView view = tensor;
  for (std::int64_t i = 0; i < view.num_elements(); ++i) {
    set_element(view, i, std::numeric_limits<float>::quiet_NaN());
  }
  return tensor;
}

inline std::vector<double> to_doubles(const TensorView& t) {
  std::vector<double> values(static_cast<std::size_t>(t.num_elements()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = element(t, static_cast<std::int64_t>(i));
  }
  return values;
}

inline bool bitwise_equal(const TensorView& a, const TensorView& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         (a.num_bytes() == 0 || std::memcmp(a.raw(), b.raw(), a.num_bytes()) == 0);
}

}  // namespace moba::test
