// Reads safetensors files, one or sharded with an index, through memory maps.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "device/tensor.h"

namespace moba {

// One tensor of a file: where it lies. `data` points into the map.
struct SafetensorsEntry {
  std::string name;
  TensorView tensor;
  std::filesystem::path file;
};

// All tensors of a checkpoint directory (model.safetensors, or the shards of
// model.safetensors.index.json) or of one file. Files are mapped read-only, never copied; the views
// stay valid for this object's life. Headers are checked before anything else is used: length,
// JSON, dtype, shape x dtype against offsets, no overlap, no hole, no end past the file, each
// tensor of the index in the shard it names and nowhere else. Throws Error with one line naming the
// file and the tensor. Immutable after construction: safe from several threads.
class Safetensors {
 public:
  // A directory, or a .safetensors file.
  explicit Safetensors(const std::filesystem::path& path);
  ~Safetensors();
  Safetensors(const Safetensors&) = delete;
  Safetensors& operator=(const Safetensors&) = delete;

  // Null if there is none of that name.
  const SafetensorsEntry* find(std::string_view name) const;
  // In order of name.
  const std::vector<SafetensorsEntry>& entries() const;
  // Sum of the tensors' bytes.
  std::size_t num_bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moba
