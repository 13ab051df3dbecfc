// GGUF files as checkpoints.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "model/checkpoint_tensors.h"
#include "model/gguf_header.h"

namespace moba {

// Whether `path` is a file that begins as GGUF files do, or is named as one.
bool is_gguf_file(const std::filesystem::path& path);

// The tensors of one file, under the names that Hugging Face's checkpoints give them; those without
// such a name keep the file's. Llama's (and Mistral's) query and key projections lie there with the
// rows of each head in pairs: see CheckpointTensor::paired_rows. Throws Error with one line naming
// the file and the key or tensor.
class Gguf final : public CheckpointTensors {
 public:
  explicit Gguf(const std::filesystem::path& path);
  ~Gguf() override;
  Gguf(const Gguf&) = delete;
  Gguf& operator=(const Gguf&) = delete;

  const CheckpointTensor* find(std::string_view name) const override;
  const std::vector<CheckpointTensor>& entries() const override;
  std::size_t num_bytes() const override;
  const std::filesystem::path& path() const override;
  std::string_view config_name() const override { return "its metadata"; }
  void prefetch() const override;

  const GgufHeader& header() const;
  const GgufMetadata& metadata() const { return header().metadata; }

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The name of a tensor in the other kind of file: "blk.0.attn_q.weight" and
// "model.layers.0.self_attn.q_proj.weight". Empty if there is none.
std::string name_from_gguf(std::string_view name);
std::string name_to_gguf(std::string_view name);

// The keys of a config.json that says what the file's metadata says, for the architectures llama,
// mistral, qwen2 and qwen3. Not in it: the divisors of the RoPE frequencies
// (rope_frequency_factors).
nlohmann::json config_from_gguf(const Gguf& file);

// The tensor rope_freqs.weight: what each of the head_dim / 2 frequencies is divided by. Empty if
// there is none.
std::vector<float> rope_frequency_factors(const Gguf& file);

// Keys in which MoBA's settings stand in GGUF files, as moba_chunk_size, moba_topk and
// moba_full_attention_layers do in config.json.
inline constexpr std::string_view kGgufMobaChunkSize = "moba.chunk_size";
inline constexpr std::string_view kGgufMobaTopk = "moba.topk";
inline constexpr std::string_view kGgufMobaFullLayers = "moba.full_attention_layers";

}  // namespace moba
