// GGUF files for tests, right or wrong as the test wants them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "model/gguf_header.h"

namespace moba::test {

struct GgufText {
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  // What the header says; set by what is added, unless the test sets it last.
  std::uint64_t num_tensors = 0;
  std::uint64_t num_values = 0;
  std::size_t data_bytes = 0;
  std::size_t alignment = 32;

  void raw(const std::string& key, std::uint32_t type, const std::string& value) {
    values.push_back({key, sized(key) + bytes_of(type) + value});
    ++num_values;
  }
  void key(const std::string& name, const std::string& value) { raw(name, 8, sized(value)); }
  template <typename T>
  void scalar(const std::string& name, GgufType type, T value) {
    raw(name, static_cast<std::uint32_t>(type), bytes_of(value));
  }
  void strings(const std::string& name, const std::vector<std::string>& list) {
    std::string value = bytes_of<std::uint32_t>(8) + bytes_of<std::uint64_t>(list.size());
    for (const std::string& text : list) value += sized(text);
    raw(name, 9, value);
  }
  // Dimensions innermost first, as the file has them.
  void tensor(const std::string& name, const std::vector<std::uint64_t>& dims, std::uint32_t type,
              std::uint64_t offset) {
    std::string record = sized(name) + bytes_of(static_cast<std::uint32_t>(dims.size()));
    for (const std::uint64_t dim : dims) record += bytes_of(dim);
    tensors += record + bytes_of(type) + bytes_of(offset);
    ++num_tensors;
  }
  void erase(const std::string& name) {
    const auto before = values.size();
    std::erase_if(values, [&](const Value& value) { return value.key == name; });
    num_values -= before - values.size();
  }

  std::string bytes() const {
    std::string out = magic + bytes_of(version) + bytes_of(num_tensors) + bytes_of(num_values);
    for (const Value& value : values) out += value.bytes;
    out += tensors;
    out.resize((out.size() + alignment - 1) / alignment * alignment);
    return out + std::string(data_bytes, '\0');
  }

 private:
  struct Value {
    std::string key;
    std::string bytes;
  };
  template <typename T>
  static std::string bytes_of(T value) {
    return {reinterpret_cast<const char*>(&value), sizeof(T)};
  }
  static std::string sized(const std::string& text) {
    return bytes_of<std::uint64_t>(text.size()) + text;
  }
  std::vector<Value> values;
  std::string tensors;
};

// A model of one layer, its tensors zero, that can be described.
inline GgufText tiny_llama() {
  GgufText file;
  const auto number = [&](const std::string& key, std::uint32_t value) {
    file.scalar<std::uint32_t>(key, GgufType::kUint32, value);
  };
  file.key("general.architecture", "llama");
  number("llama.context_length", 64);
  number("llama.embedding_length", 16);
  number("llama.block_count", 1);
  number("llama.feed_forward_length", 16);
  number("llama.attention.head_count", 2);
  number("llama.attention.head_count_kv", 1);
  file.scalar<float>("llama.attention.layer_norm_rms_epsilon", GgufType::kFloat32, 1e-5F);
  number("tokenizer.ggml.eos_token_id", 2);
  number("tokenizer.ggml.eot_token_id", 5);
  file.tensor("token_embd.weight", {16, 8}, 0, 0);
  file.data_bytes = 512;
  return file;
}

}  // namespace moba::test
