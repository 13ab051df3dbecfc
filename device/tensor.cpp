#include "device/tensor.h"

#include <algorithm>

namespace moba {

Shape::Shape(std::initializer_list<std::int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  MOBA_CHECK(dims.size() <= kMaxRank, "a shape has at most ", kMaxRank, " dimensions, not ",
             dims.size());
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

Shape Shape::from(std::span<const std::int64_t> dims) {
  MOBA_CHECK(dims.size() <= kMaxRank, "a shape has at most ", kMaxRank, " dimensions, not ",
             dims.size());
  Shape shape;
  shape.rank_ = static_cast<int>(dims.size());
  std::copy(dims.begin(), dims.end(), shape.dims_.begin());
  return shape;
}

std::int64_t Shape::num_elements() const {
  std::int64_t product = 1;
  for (int i = 0; i < rank_; ++i) product *= dims_[static_cast<std::size_t>(i)];
  return product;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(dims_[static_cast<std::size_t>(i)]);
  }
  return text + "]";
}

TensorView TensorView::rows(std::int64_t begin, std::int64_t end) const {
  MOBA_CHECK(rank() >= 1 && 0 <= begin && begin <= end && end <= dim(0), "rows [", begin, ", ", end,
             ") of a tensor of shape ", shape_.to_string());
  Shape shape = shape_;
  const std::int64_t row = dim(0) == 0 ? 0 : num_elements() / dim(0);
  shape.set(0, end - begin);
  auto* bytes = static_cast<std::byte*>(data_);
  return {bytes + static_cast<std::size_t>(begin * row) * dtype_size(dtype_), dtype_, shape,
          device_};
}

TensorView TensorView::reshape(Shape shape) const {
  MOBA_CHECK(shape.num_elements() == num_elements(), "reshape of ", shape_.to_string(), " to ",
             shape.to_string());
  return {data_, dtype_, shape, device_};
}

}  // namespace moba
