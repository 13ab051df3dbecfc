// Reads safetensors files, one or sharded with an index, through memory maps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "device/tensor.h"

namespace moba {

// One tensor of a file: where it lies.
struct SafetensorsEntry {
  std::string name;
  std::string_view dtype;           // as the file spells it: "BF16", "I8" ...
  std::vector<std::int64_t> shape;  // any rank
  std::size_t num_bytes = 0;
  const std::byte* data = nullptr;  // into the map; aligned only as the file happens to be
  // The same as a tensor; empty() for a dtype the engine does not compute with or a rank over
  // Shape::kMaxRank. Such tensors may be in a file, but not be used.
  TensorView tensor;
  std::filesystem::path file;
};

// All tensors of a checkpoint directory (model.safetensors, or the shards of
// model.safetensors.index.json) or of one file. Files are mapped read-only, never copied; the views
// stay valid for this object's life. Headers are checked before anything else is used: length,
// JSON, dtype, shape x dtype against offsets, no overlap, no hole, no end past the file, each
// tensor of the index in the shard it names and nowhere else (tensors that the index does not list
// are left out). Throws Error with one line naming the file and the tensor. Immutable after
// construction: safe from several threads.
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
  // The file or the directory given.
  const std::filesystem::path& path() const;
  // Asks the system to start reading all files; returns at once.
  void prefetch() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moba
