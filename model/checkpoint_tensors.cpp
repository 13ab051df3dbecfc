#include "model/checkpoint_tensors.h"

#include "model/gguf.h"
#include "model/safetensors.h"

namespace moba {

std::unique_ptr<CheckpointTensors> open_checkpoint_tensors(const std::filesystem::path& path) {
  if (is_gguf_file(path)) return std::make_unique<Gguf>(path);
  return std::make_unique<Safetensors>(path);
}

}  // namespace moba
