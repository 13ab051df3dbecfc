// The weights of a checkpoint as a model uses them: by name, checked, in a dtype that the products
// take.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "device/context.h"
#include "device/tensor.h"
#include "device/uploader.h"
#include "model/checkpoint_tensors.h"

namespace moba {

// The part of a tensor that a rank takes: [begin, end) of its rows, or of the columns of all rows.
struct TensorPart {
  enum class Axis : std::uint8_t { kWhole, kRows, kColumns };
  Axis axis = Axis::kWhole;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

// Owns the mapped files and the copies; the views it hands out, of memory of the context's device,
// stay valid for its life. Not thread-safe.
//
// On a device with memory of its own all tensors that were checked get one allocation, at the first
// that is asked for, and lie there in the order in which they are asked for: matrices (and vectors)
// that follow one another without a gap are what linear() merges.
//
// A rank of a tensor parallel group takes parts of tensors and reads no more of the files than
// those: on the CPU rows in place, columns as a copy.
class Weights {
 public:
  // Maps the checkpoint. `dtype` is the compute dtype: float32, bfloat16 or, on a CUDA device,
  // float16.
  Weights(DeviceContext& context, const std::filesystem::path& path, DType dtype);

  // Throws Error, naming file and tensor, unless there is a tensor of that name and shape and of
  // dtype float32, bfloat16, float16 or a block format. Reads nothing of its data. All tensors are
  // checked before the first is asked for. Shapes and sizes are those of the whole tensor.
  void check_matrix(const std::string& name, const Shape& shape, const TensorPart& part = {});
  void check_vector(const std::string& name, std::int64_t size, const TensorPart& part = {});

  // A matrix for linear() or embedding(), checked as above. On the CPU in place where its dtype
  // serves the compute dtype: all three for float32, bfloat16 for bfloat16; else, on other devices,
  // and where the file has rows in another order, converted to the compute dtype. A block format
  // stays what it is on the CPU, packed (device/quant.h); parts of columns that are not whole
  // blocks are converted.
  TensorView matrix(const std::string& name, const Shape& shape, const TensorPart& part = {});
  // A norm's weight or a bias, checked as above; whatever its dtype (of a block format: float32),
  // and in place on the CPU.
  TensorView vector(const std::string& name, std::int64_t size, const TensorPart& part = {});

  // After the last tensor: what was asked for is there, and what loading took is given back.
  void finish();

  // Tensors of the checkpoint that were not asked for, but for those known to be of no use.
  std::vector<std::string> unused() const;

  // Asks the system to start reading what was checked: the files, if no tensor was a part.
  void prefetch() const;
  // Of the tensors handed out: mapped from files in place, and owned copies.
  std::int64_t mapped_bytes() const { return mapped_bytes_; }
  std::int64_t owned_bytes() const { return owned_bytes_; }

 private:
  const CheckpointTensor& find(const std::string& name, const Shape& shape);
  DType matrix_dtype(const CheckpointTensor& entry, const TensorPart& part) const;
  static DType vector_dtype(const CheckpointTensor& entry);
  // A part of a tensor: rows of `columns` elements from first_row and first_column on.
  struct Source {
    const CheckpointTensor* entry = nullptr;
    DType type = DType::kFloat32;  // in the file
    Shape shape;
    std::int64_t first_row = 0;
    std::int64_t first_column = 0;
    std::int64_t columns = 0;
    std::int64_t row_stride = 0;  // elements of the tensor's rows
    // One after the other in the file, in the order that is asked for.
    bool is_contiguous() const { return columns == row_stride && entry->paired_rows == 0; }
    // Where element `index` of the part stands in the tensor.
    std::int64_t element(std::int64_t index) const {
      return entry->file_row(first_row + index / columns) * row_stride + first_column +
             index % columns;
    }
    // Bytes of the file that hold the part: [begin, end) from the tensor's begin.
    std::pair<std::size_t, std::size_t> span() const;
  };
  static Source part_of(const CheckpointTensor& entry, const TensorPart& part);
  void note_checked(const Source& source, DType dtype, const TensorPart& part);
  TensorView fetch(const Source& source, DType dtype);
  TensorView copy_on_host(const Source& source, DType dtype);
  TensorView copy_packed(const Source& source);
  TensorView copy_to_store(const Source& source, DType dtype);
  // Elements [first, last) of a part as `dtype`, by all threads.
  void convert(const Source& source, DType dtype, std::int64_t first, std::int64_t last,
               std::byte* to);
  static void drop(const Source& source, std::int64_t first, std::int64_t last);

  DeviceContext& context_;
  std::unique_ptr<CheckpointTensors> files_;
  DType dtype_;
  std::deque<Tensor> owned_;
  Buffer store_;                  // on a device with memory of its own
  std::size_t store_bytes_ = 0;   // of the tensors that were checked
  std::size_t store_cursor_ = 0;  // end of those that are there
  std::unique_ptr<Uploader> uploader_;
  std::set<std::string> used_;
  std::vector<std::pair<const std::byte*, std::size_t>> parts_;  // that were checked, if any was
                                                                 // not a whole tensor
  bool all_whole_ = true;
  std::int64_t mapped_bytes_ = 0;
  std::int64_t owned_bytes_ = 0;
};

}  // namespace moba
