// The tensors of a checkpoint, whatever kind of file holds them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "device/tensor.h"

namespace moba {

// One tensor: where it lies.
struct CheckpointTensor {
  std::string name;                 // as Hugging Face's checkpoints name it
  std::string_view dtype;           // as the file spells it: "BF16", "I8", "Q4_K" ...
  std::vector<std::int64_t> shape;  // any rank, outermost first
  std::size_t num_bytes = 0;
  const std::byte* data = nullptr;  // into the map; aligned only as the file happens to be
  // What the elements are; nullopt for a dtype that the engine does not know.
  std::optional<DType> element_type;
  // The same as a tensor; empty() for block formats, dtypes that the engine does not know and ranks
  // over Shape::kMaxRank.
  TensorView tensor;
  // Not 0: rows come in groups of so many (those of one head), in each of which rows 2i and 2i + 1
  // are what the engine has as rows i and i + paired_rows / 2 (the two halves that RoPE turns).
  std::int64_t paired_rows = 0;
  std::filesystem::path file;

  // Row of the file where the engine's row `row` lies.
  std::int64_t file_row(std::int64_t row) const {
    if (paired_rows == 0) return row;
    const std::int64_t half = paired_rows / 2;
    const std::int64_t within = row % paired_rows;
    return row - within + 2 * (within % half) + within / half;
  }
};

// Files are mapped read-only, never copied; data stays valid for this object's life. Immutable
// after construction: safe from several threads.
class CheckpointTensors {
 public:
  virtual ~CheckpointTensors() = default;

  // Null if there is none of that name.
  virtual const CheckpointTensor* find(std::string_view name) const = 0;
  // In order of name.
  virtual const std::vector<CheckpointTensor>& entries() const = 0;
  // Sum of the tensors' bytes.
  virtual std::size_t num_bytes() const = 0;
  // The file or the directory given.
  virtual const std::filesystem::path& path() const = 0;
  // What says which tensors there must be, for messages: "config.json".
  virtual std::string_view config_name() const = 0;
  // Asks the system to start reading all files; returns at once.
  virtual void prefetch() const = 0;
};

// A GGUF file, a safetensors file, or a directory with safetensors. Throws Error with one line
// naming the file and the tensor.
std::unique_ptr<CheckpointTensors> open_checkpoint_tensors(const std::filesystem::path& path);

}  // namespace moba
