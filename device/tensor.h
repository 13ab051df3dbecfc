// Dense row-major tensors: TensorView borrows memory, Tensor owns it.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "device/buffer.h"
#include "device/check.h"
#include "device/dtype.h"

namespace moba {

// Up to four dimensions, outermost first.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims);
  // Throws Error for more than kMaxRank dimensions.
  static Shape from(std::span<const std::int64_t> dims);

  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return dims_[static_cast<std::size_t>(i)]; }
  void set(int i, std::int64_t value) { dims_[static_cast<std::size_t>(i)] = value; }
  // Product of the dimensions, 1 for rank 0.
  std::int64_t num_elements() const;
  // Of the dimensions but the outermost.
  std::int64_t row_elements() const;
  std::string to_string() const;  // "[2, 3]"
  bool operator==(const Shape& other) const = default;

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

// Bytes of a tensor's elements. Of a block format: of the matrix as operations take it, packed
// (device/quant.h).
std::size_t tensor_bytes(DType dtype, const Shape& shape);

// A borrowed, row-major tensor. Copying copies the reference. The owner must outlive it. A view
// does not say whether its memory may be written: weights mapped from a file are read-only, and an
// op writes only its outputs.
//
// Contiguous, but for columns(): a part of each row of a wider matrix, whose rows lie row_stride()
// elements apart. Operations take such views only where they say so. Matrices of block formats are
// taken as a whole: they have no rows(), columns() or reshape().
class TensorView {
 public:
  TensorView() = default;
  TensorView(void* data, DType dtype, Shape shape, Device device = {})
      : data_(data),
        shape_(shape),
        row_stride_(shape.rank() == 0 ? 1 : shape.row_elements()),
        dtype_(dtype),
        device_(device) {}

  bool empty() const { return data_ == nullptr; }
  void* raw() const { return data_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::int64_t dim(int i) const { return shape_[i]; }
  int rank() const { return shape_.rank(); }
  Device device() const { return device_; }
  std::int64_t num_elements() const { return shape_.num_elements(); }
  std::size_t num_bytes() const { return tensor_bytes(dtype_, shape_); }

  // Elements from one index of the outermost dimension to the next.
  std::int64_t row_stride() const { return row_stride_; }
  bool is_contiguous() const {
    return rank() == 0 || dim(0) <= 1 || row_stride_ == shape_.row_elements();
  }

  // Elements as T; throws Error if the tensor has another dtype.
  template <typename T>
  T* data() const {
    MOBA_CHECK(dtype_ == kDTypeOf<T>, "tensor of dtype ", dtype_name(dtype_), " read as ",
               dtype_name(kDTypeOf<T>));
    return static_cast<T*>(data_);
  }

  // Rows [begin, end) of the outermost dimension.
  TensorView rows(std::int64_t begin, std::int64_t end) const;

  // Columns [begin, end) of a matrix.
  TensorView columns(std::int64_t begin, std::int64_t end) const;

  // The same elements in another shape of equal size. Where rows are not contiguous, the outermost
  // dimension must stay as it is.
  TensorView reshape(Shape shape) const;

 private:
  void* data_ = nullptr;
  Shape shape_;
  std::int64_t row_stride_ = 1;
  DType dtype_ = DType::kFloat32;
  Device device_;
};

// Owns its memory (uninitialised). `what` names the tensor in errors.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, Shape shape, Device device, const char* what)
      : buffer_(device, tensor_bytes(dtype, shape), what),
        view_(buffer_.data(), dtype, shape, device) {}

  const TensorView& view() const { return view_; }
  operator TensorView() const {
    return view_;
  }  // NOLINT(google-explicit-constructor): a tensor is a view of itself

 private:
  Buffer buffer_;
  TensorView view_;
};

}  // namespace moba
