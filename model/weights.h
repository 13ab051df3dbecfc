// The weights of a checkpoint as a model uses them: by name, checked, in a dtype that the products
// take.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "device/context.h"
#include "device/tensor.h"
#include "device/uploader.h"
#include "model/safetensors.h"

namespace moba {

// Owns the mapped files and the copies; the views it hands out, of memory of the context's device,
// stay valid for its life. Not thread-safe.
//
// On a device with memory of its own all tensors that were checked get one allocation, at the first
// that is asked for, and lie there in the order in which they are asked for: matrices (and vectors)
// that follow one another without a gap are what linear() merges.
//
// Every tensor goes through fetch(), which is where a rank of a tensor parallel group takes its
// rows or columns.
class Weights {
 public:
  // Maps the checkpoint. `dtype` is the compute dtype: float32, bfloat16 or, on a CUDA device,
  // float16.
  Weights(DeviceContext& context, const std::filesystem::path& path, DType dtype);

  // Throws Error, naming file and tensor, unless there is a tensor of that name and shape and of
  // dtype float32, bfloat16 or float16. Reads nothing of its data. All tensors are checked before
  // the first is asked for.
  void check_matrix(const std::string& name, const Shape& shape);
  void check_vector(const std::string& name, std::int64_t size);

  // A matrix for linear() or embedding(), checked as above. On the CPU in place where its dtype
  // serves the compute dtype: all three for float32, bfloat16 for bfloat16; else, and on other
  // devices, converted to the compute dtype.
  TensorView matrix(const std::string& name, const Shape& shape);
  // A norm's weight or a bias, checked as above; whatever its dtype, and in place on the CPU.
  TensorView vector(const std::string& name, std::int64_t size);

  // After the last tensor: what was asked for is there, and what loading took is given back.
  void finish();

  // Tensors of the checkpoint that were not asked for, but for those known to be of no use.
  std::vector<std::string> unused() const;

  // Asks the system to start reading the files.
  void prefetch() const { files_.prefetch(); }
  // Of the tensors handed out: mapped from files in place, and owned copies.
  std::int64_t mapped_bytes() const { return mapped_bytes_; }
  std::int64_t owned_bytes() const { return owned_bytes_; }

 private:
  const SafetensorsEntry& find(const std::string& name, const Shape& shape);
  DType matrix_dtype(const SafetensorsEntry& entry) const;
  TensorView fetch(const SafetensorsEntry& entry, DType dtype);
  TensorView copy_on_host(const SafetensorsEntry& entry, DType dtype);
  TensorView copy_to_store(const SafetensorsEntry& entry, DType dtype);
  // Elements [first, last) of a tensor as `dtype`, by all threads, and no longer wanted in the
  // file.
  void convert(const SafetensorsEntry& entry, DType dtype, std::int64_t first, std::int64_t last,
               std::byte* to);

  DeviceContext& context_;
  Safetensors files_;
  DType dtype_;
  std::deque<Tensor> owned_;
  Buffer store_;                  // on a device with memory of its own
  std::size_t store_bytes_ = 0;   // of the tensors that were checked
  std::size_t store_cursor_ = 0;  // end of those that are there
  std::unique_ptr<Uploader> uploader_;
  std::set<std::string> used_;
  std::int64_t mapped_bytes_ = 0;
  std::int64_t owned_bytes_ = 0;
};

}  // namespace moba
