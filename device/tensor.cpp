#include "device/tensor.h"

#include <algorithm>

#include "device/quant.h"

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

std::int64_t Shape::row_elements() const {
  std::int64_t product = 1;
  for (int i = 1; i < rank_; ++i) product *= dims_[static_cast<std::size_t>(i)];
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

std::size_t tensor_bytes(DType dtype, const Shape& shape) {
  if (!is_quantized(dtype)) {
    return static_cast<std::size_t>(shape.num_elements()) * dtype_size(dtype);
  }
  MOBA_CHECK(shape.rank() == 2, "a tensor of shape ", shape.to_string(), " in ", dtype_name(dtype),
             " is no matrix");
  return packed_bytes(dtype, shape[0], shape[1]);
}

TensorView TensorView::rows(std::int64_t begin, std::int64_t end) const {
  MOBA_CHECK(!is_quantized(dtype_), "rows of a matrix in ", dtype_name(dtype_));
  MOBA_CHECK(rank() >= 1 && 0 <= begin && begin <= end && end <= dim(0), "rows [", begin, ", ", end,
             ") of a tensor of shape ", shape_.to_string());
  TensorView view = *this;
  view.shape_.set(0, end - begin);
  view.data_ = static_cast<std::byte*>(data_) +
               static_cast<std::size_t>(begin * row_stride_) * dtype_size(dtype_);
  return view;
}

TensorView TensorView::columns(std::int64_t begin, std::int64_t end) const {
  MOBA_CHECK(!is_quantized(dtype_), "columns of a matrix in ", dtype_name(dtype_));
  MOBA_CHECK(rank() == 2 && 0 <= begin && begin <= end && end <= dim(1), "columns [", begin, ", ",
             end, ") of a tensor of shape ", shape_.to_string());
  TensorView view = *this;
  view.shape_.set(1, end - begin);
  view.data_ =
      static_cast<std::byte*>(data_) + static_cast<std::size_t>(begin) * dtype_size(dtype_);
  return view;
}

TensorView TensorView::reshape(Shape shape) const {
  MOBA_CHECK(shape.num_elements() == num_elements(), "reshape of ", shape_.to_string(), " to ",
             shape.to_string());
  TensorView view(data_, dtype_, shape, device_);
  if (!is_contiguous()) {
    MOBA_CHECK(shape.rank() >= 1 && shape[0] == dim(0), "reshape of ", shape_.to_string(),
               ", whose rows are not contiguous, to ", shape.to_string());
    view.row_stride_ = row_stride_;
  }
  return view;
}

}  // namespace moba
