#include "moba/inspect.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <array>
#include <exception>
#include <filesystem>
#include <functional>
#include <limits>
#include <numeric>
#include <string_view>
#include <utility>

#include "engine/attention_policy.h"
#include "engine/engine_setup.h"
#include "engine/status_error.h"
#include "model/checkpoint_tensors.h"
#include "model/model_config.h"

namespace moba {
namespace {

std::string describe_rope(const RopeConfig& rope) {
  std::string text = fmt::format("theta {}", rope.theta);
  const auto scaled = [&](const char* name) {
    text += fmt::format(", {} x{}", name, rope.factor);
    if (rope.original_max_position > 0) {
      text += fmt::format(" from {}", rope.original_max_position);
    }
  };
  switch (rope.type) {
    case RopeType::kDefault:
      break;
    case RopeType::kLinear:
      scaled("linear");
      break;
    case RopeType::kDynamic:
      scaled("dynamic");
      break;
    case RopeType::kLlama3:
      scaled("llama3");
      break;
    case RopeType::kYarn:
      scaled("yarn");
      break;
  }
  return text;
}

// A dtype of a safetensors file in the names of PyTorch: "bfloat16" for BF16, "int8" for I8,
// "float8_e4m3" for F8_E4M3.
std::string dtype_label(std::string_view format_name) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kKinds{{
      {"BOOL", "bool"},
      {"BF", "bfloat"},
      {"F", "float"},
      {"I", "int"},
      {"U", "uint"},
      {"C", "complex"},
  }};
  for (const auto& [prefix, kind] : kKinds) {
    if (!format_name.starts_with(prefix)) continue;
    std::string label(kind);
    for (const char c : format_name.substr(prefix.size())) {
      label += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
    return label;
  }
  return std::string(format_name);
}

// The file's header was held against its size, so the product fits unless a zero stands behind.
std::int64_t num_elements(const std::vector<std::int64_t>& shape) {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

CheckpointInfo inspect(const std::filesystem::path& dir, const AttentionOptions& options) {
  const ModelConfig model =
      with_code(StatusCode::kInvalidCheckpoint, [&] { return load_model_config(dir); });
  CacheGeometry geometry;
  LayerAttention attention;
  with_code(StatusCode::kInvalidArgument, [&] {
    geometry = resolve_cache_geometry(model, options, {});
    attention = resolve_attention(model, geometry, options);
  });
  const DType dtype = resolve_dtype(ComputeDType::kAuto, model);

  CheckpointInfo info;
  info.architecture = model.architecture;
  info.dtype = dtype_name(dtype);
  info.vocab_size = model.vocab_size;
  info.hidden_size = model.hidden_size;
  info.intermediate_size = model.intermediate_size;
  info.num_layers = model.num_layers;
  info.num_q_heads = model.num_q_heads;
  info.num_kv_heads = model.num_kv_heads;
  info.head_dim = model.head_dim;
  info.tied_embeddings = model.tie_word_embeddings;
  info.rope = describe_rope(model.rope);
  info.max_position_embeddings = model.max_position_embeddings;
  info.moba_block_size = geometry.moba_block_size;
  info.layer_topk.assign(attention.prefill_topk.begin(), attention.prefill_topk.end());
  const std::int64_t page_bytes = kv_page_bytes(make_pool_config(model, geometry, dtype));
  info.kv_bytes_per_token = (page_bytes + geometry.block_size - 1) / geometry.block_size;

  with_code(StatusCode::kInvalidCheckpoint, [&] {
    const std::unique_ptr<CheckpointTensors> files = open_checkpoint_tensors(dir);
    for (const CheckpointTensor& entry : files->entries()) {
      TensorInfo tensor;
      tensor.name = entry.name;
      tensor.dtype = dtype_label(entry.dtype);
      tensor.shape = entry.shape;
      tensor.file = entry.file.filename().string();
      const auto bytes = static_cast<std::int64_t>(entry.num_bytes);
      info.num_parameters += num_elements(entry.shape);
      info.weight_bytes += bytes;
      info.bytes_by_dtype[tensor.dtype] += bytes;
      info.tensors.push_back(std::move(tensor));
    }
  });
  return info;
}

}  // namespace

Result<CheckpointInfo> inspect_checkpoint(const std::string& dir,
                                          const AttentionOptions& attention) {
  try {
    return inspect(dir, attention);
  } catch (const StatusError& error) {
    return Status(error.code(), error.what());
  } catch (const std::exception& error) {
    return Status(StatusCode::kInternal, error.what());
  }
}

std::int64_t tokens_that_fit(const CheckpointInfo& info, std::int64_t memory_bytes) {
  if (info.kv_bytes_per_token <= 0) return 0;
  return std::max<std::int64_t>(0, memory_bytes - info.weight_bytes) / info.kv_bytes_per_token;
}

}  // namespace moba
