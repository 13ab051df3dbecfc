// The weights of a checkpoint as a model uses them: by name, checked, in a dtype that the products
// take.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "device/context.h"
#include "device/tensor.h"
#include "model/safetensors.h"

namespace moba {

// Owns the mapped files and the converted copies; the views it hands out stay valid for its life.
// Not thread-safe.
//
// Every tensor goes through fetch(), which is where a rank of a tensor parallel group takes its
// rows or columns, and where a device with memory of its own copies them.
class Weights {
 public:
  // Maps the checkpoint. `dtype` is the compute dtype: float32 or bfloat16.
  Weights(DeviceContext& context, const std::filesystem::path& path, DType dtype);

  // Throws Error, naming file and tensor, unless there is a tensor of that name and shape and of
  // dtype float32, bfloat16 or float16. Reads nothing of its data.
  void check(const std::string& name, const Shape& shape);

  // A matrix for linear() or embedding(), checked as above. In place where its dtype serves the
  // compute dtype: all three for float32, bfloat16 for bfloat16; else converted to bfloat16, once.
  TensorView matrix(const std::string& name, const Shape& shape);
  // A norm's weight or a bias, checked as above; in place, whatever its dtype.
  TensorView vector(const std::string& name, std::int64_t size);

  // Tensors of the checkpoint that were not asked for, but for those known to be of no use.
  std::vector<std::string> unused() const;

  // Asks the system to start reading the files.
  void prefetch() const { files_.prefetch(); }
  // Of the tensors handed out: mapped from files in place, and owned copies.
  std::int64_t mapped_bytes() const { return mapped_bytes_; }
  std::int64_t owned_bytes() const { return owned_bytes_; }

 private:
  const SafetensorsEntry& find(const std::string& name, const Shape& shape);
  TensorView fetch(const SafetensorsEntry& entry, DType dtype);

  DeviceContext& context_;
  Safetensors files_;
  DType dtype_;
  std::deque<Tensor> owned_;
  std::set<std::string> used_;
  std::int64_t mapped_bytes_ = 0;
  std::int64_t owned_bytes_ = 0;
};

}  // namespace moba
