// Reads safetensors files, one or sharded with an index, through memory maps.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/checkpoint_tensors.h"

namespace moba {

// All tensors of a checkpoint directory (model.safetensors, or the shards of
// model.safetensors.index.json) or of one file. Files are mapped read-only, never copied; the views
// stay valid for this object's life. Headers are checked before anything else is used: length,
// JSON, dtype, shape x dtype against offsets, no overlap, no hole, no end past the file, each
// tensor of the index in the shard it names and nowhere else (tensors that the index does not list
// are left out). Throws Error with one line naming the file and the tensor.
class Safetensors final : public CheckpointTensors {
 public:
  // A directory, or a .safetensors file.
  explicit Safetensors(const std::filesystem::path& path);
  ~Safetensors() override;
  Safetensors(const Safetensors&) = delete;
  Safetensors& operator=(const Safetensors&) = delete;

  const CheckpointTensor* find(std::string_view name) const override;
  const std::vector<CheckpointTensor>& entries() const override;
  std::size_t num_bytes() const override;
  const std::filesystem::path& path() const override;
  std::string_view config_name() const override { return "config.json"; }
  void prefetch() const override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moba
