#include "model/weights.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>

#include "model/causal_lm.h"
#include "model/json_file.h"
#include "model/safetensors.h"
#include "tests/catch.h"
#include "tests/model/temp_files.h"

using moba::BFloat16;
using moba::DeviceContext;
using moba::DType;
using moba::Float16;
using moba::TensorView;
using moba::Weights;
using moba::test::error_of;
using moba::test::is_line_with;
using moba::test::safetensors_file;
using moba::test::TempDir;

namespace {

const std::filesystem::path kModels = std::filesystem::path(MOBA_TEST_DATA_DIR) / "models";

// A checkpoint of one tensor "w" [3, 2], each element `value(i)` in T; `pad` spaces shift its data.
template <typename T, typename Value>
std::string one_tensor(const std::string& dtype, int pad, Value&& value) {
  std::string data;
  for (int i = 0; i < 6; ++i) {
    const T element(value(i));
    data.append(reinterpret_cast<const char*>(&element), sizeof(T));
  }
  std::string header = R"({"w":{"dtype":")" + dtype + R"(","shape":[3,2],"data_offsets":[0,)" +
                       std::to_string(data.size()) + "]}}";
  while (header.size() % 8 != 0) header += ' ';
  return safetensors_file(header.append(static_cast<std::size_t>(pad), ' '), data);
}

float value_at(int i) { return 0.1F * static_cast<float>(i) - 0.25F; }

// A copy of a fixture whose config.json has some keys changed.
void copy_fixture(const std::string& name, const TempDir& dir, const std::string& patch) {
  for (const auto& entry : std::filesystem::directory_iterator(kModels / name)) {
    std::filesystem::copy(entry.path(), dir.path() / entry.path().filename());
  }
  nlohmann::json config = moba::load_json_object(dir.path() / "config.json");
  config.update(nlohmann::json::parse(patch));
  dir.write("config.json", config.dump());
}

std::string load_error(const std::string& fixture, const std::string& patch) {
  const TempDir dir;
  copy_fixture(fixture, dir, patch);
  DeviceContext context(1);
  std::string message = error_of([&] {
    moba::load_causal_lm(context, dir.path(), moba::load_model_config(dir.path()),
                         {DType::kFloat32, 16, 16});
  });
  INFO(message);
  CHECK(is_line_with(message, {dir.path().string()}));
  return message;
}

}  // namespace

TEST_CASE("weights: used in place where the dtype serves, else converted to bfloat16") {
  const TempDir dir;
  DeviceContext context(2);
  const auto f32 = dir.write("f32", one_tensor<float>("F32", 0, value_at));
  const auto f16 = dir.write("f16", one_tensor<Float16>("F16", 0, value_at));
  const auto bf16 = dir.write("bf16", one_tensor<BFloat16>("BF16", 0, value_at));

  for (const auto& path : {f32, f16, bf16}) {
    Weights weights(context, path, DType::kFloat32);
    const TensorView w = weights.matrix("w", {3, 2});
    CHECK(weights.owned_bytes() == 0);
    CHECK(weights.mapped_bytes() == static_cast<std::int64_t>(w.num_bytes()));
  }
  for (const auto& path : {f32, f16}) {
    Weights weights(context, path, DType::kBFloat16);
    const TensorView w = weights.matrix("w", {3, 2});
    REQUIRE(w.dtype() == DType::kBFloat16);
    CHECK(weights.owned_bytes() == 12);
    CHECK(weights.mapped_bytes() == 0);
    for (int i = 0; i < 6; ++i) {
      const float stored = path == f16 ? static_cast<float>(Float16(value_at(i))) : value_at(i);
      CHECK(w.data<BFloat16>()[i].bits == BFloat16(stored).bits);
    }
  }
  Weights weights(context, bf16, DType::kBFloat16);
  CHECK(weights.matrix("w", {3, 2}).data<BFloat16>()[4].bits == BFloat16(value_at(4)).bits);
  CHECK(weights.owned_bytes() == 0);
}

TEST_CASE("weights: data at an odd address is copied") {
  const TempDir dir;
  DeviceContext context(2);
  for (const int pad : {1, 2, 3, 5}) {
    const auto f32 = dir.write("f32", one_tensor<float>("F32", pad, value_at));
    Weights in_float(context, f32, DType::kFloat32);
    const TensorView w = in_float.matrix("w", {3, 2});
    CHECK(in_float.owned_bytes() == 24);
    CHECK(w.data<float>()[5] == value_at(5));
    Weights in_bfloat(context, f32, DType::kBFloat16);
    CHECK(in_bfloat.matrix("w", {3, 2}).data<BFloat16>()[5].bits == BFloat16(value_at(5)).bits);
  }
}

TEST_CASE("weights: a large tensor is converted whole and its pages are given back") {
  const TempDir dir;
  DeviceContext context(2);
  const std::int64_t rows = 1031;
  const std::int64_t columns = 2053;  // more than two pieces, not a multiple of anything
  std::string data(static_cast<std::size_t>(rows * columns) * 4, '\0');
  auto* values = reinterpret_cast<float*>(data.data());
  for (std::int64_t i = 0; i < rows * columns; ++i) values[i] = std::sin(static_cast<float>(i));
  const auto path = dir.write(
      "big", safetensors_file(R"({"w":{"dtype":"F32","shape":[1031,2053],"data_offsets":[0,)" +
                                  std::to_string(data.size()) + "]}}  ",
                              data));
  Weights weights(context, path, DType::kBFloat16);
  const auto* w = weights.matrix("w", {rows, columns}).data<BFloat16>();
  std::int64_t wrong = 0;
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    wrong += w[i].bits != BFloat16(values[i]).bits ? 1 : 0;
  }
  CHECK(wrong == 0);
}

TEST_CASE("weights: missing tensors, other shapes and dtypes are named") {
  const TempDir dir;
  DeviceContext context(1);
  const auto path = dir.write("w.safetensors", one_tensor<float>("F32", 0, value_at));
  Weights weights(context, path, DType::kFloat32);
  CHECK(is_line_with(error_of([&] { weights.check_vector("v", 1); }),
                     {"w.safetensors", "'v'", "missing"}));
  CHECK(is_line_with(error_of([&] {
                       weights.check_matrix("w", {2, 3});
                     }),
                     {"w.safetensors", "'w'", "[3, 2]", "[2, 3]"}));
  CHECK(is_line_with(error_of([&] { weights.vector("w", 6); }), {"'w'", "[3, 2]", "[6]"}));
  for (const char* dtype : {"I32", "U32"}) {
    const auto ints = dir.write("i", one_tensor<float>(dtype, 0, value_at));
    CHECK(is_line_with(error_of([&] {
                         Weights(context, ints, DType::kFloat32).check_matrix("w", {3, 2});
                       }),
                       {"'w'", dtype}));
  }
  CHECK(is_line_with(error_of([&] { Weights(context, path, DType::kFloat16); }), {"float16"}));
}

TEST_CASE("weights: tensors that are of no use are told apart") {
  const TempDir dir;
  DeviceContext context(1);
  std::string header = "{";
  int offset = 0;
  for (const char* name : {"w", "lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq",
                           "model.layers.0.self_attn.q_proj.bias"}) {
    if (offset > 0) header += ",";
    header.append("\"").append(name).append(R"(":{"dtype":"F32","shape":[1],"data_offsets":[)");
    header += std::to_string(offset) + "," + std::to_string(offset + 4) + "]}";
    offset += 4;
  }
  const auto path = dir.write("w", safetensors_file(header + "}", std::string(16, '\0')));
  Weights weights(context, path, DType::kFloat32);
  weights.vector("w", 1);
  CHECK(weights.unused() == std::vector<std::string>{"model.layers.0.self_attn.q_proj.bias"});
}

TEST_CASE("load: a checkpoint that contradicts its config is refused, naming the tensor") {
  CHECK(is_line_with(load_error("llama_mha", R"({"vocab_size":129})"),
                     {"'model.embed_tokens.weight'", "[128, 32]", "[129, 32]"}));
  CHECK(is_line_with(load_error("llama_mha", R"({"num_hidden_layers":3})"),
                     {"'model.layers.2.input_layernorm.weight'", "missing"}));
  CHECK(is_line_with(load_error("llama_mha", R"({"num_hidden_layers":16384})"),
                     {"'model.layers.2.input_layernorm.weight'", "missing"}));
  CHECK(is_line_with(load_error("llama_mha", R"({"intermediate_size":47})"),
                     {"'model.layers.0.mlp.gate_proj.weight'", "[48, 32]", "[47, 32]"}));
  CHECK(is_line_with(load_error("llama_mha", R"({"attention_bias":true})"),
                     {"'model.layers.0.self_attn.q_proj.bias'", "missing"}));
  CHECK(is_line_with(load_error("llama_mha", R"({"head_dim":8})"),
                     {"'model.layers.0.self_attn.q_proj.weight'", "[32, 32]", "[16, 32]"}));
  CHECK(is_line_with(load_error("qwen2_tied", R"({"tie_word_embeddings":false})"),
                     {"'lm_head.weight'", "missing"}));
  CHECK(is_line_with(load_error("llama_mha", R"({"hidden_size":1048576,"head_dim":16})"),
                     {"'model.embed_tokens.weight'"}));

  const TempDir dir;
  std::filesystem::copy(kModels / "llama_mha/config.json", dir.path() / "config.json");
  DeviceContext context(1);
  const moba::ModelConfig config = moba::load_model_config(dir.path());
  CHECK(is_line_with(error_of([&] {
                       moba::load_causal_lm(context, dir.path(), config, {DType::kFloat32, 16, 16});
                     }),
                     {"model.safetensors"}));
  moba::ModelConfig unknown = config;
  unknown.architecture = "BertModel";
  CHECK(
      is_line_with(error_of([&] {
                     moba::load_causal_lm(context, dir.path(), unknown, {DType::kFloat32, 16, 16});
                   }),
                   {"'BertModel'", "LlamaForCausalLM"}));
}

TEST_CASE("load: bytes of weights and activations are told") {
  DeviceContext context(1);
  const std::filesystem::path dir = kModels / "llama_head96";  // F16
  const moba::ModelConfig config = moba::load_model_config(dir);
  const auto in_place = moba::load_causal_lm(context, dir, config, {DType::kFloat32, 100, 64});
  const auto converted = moba::load_causal_lm(context, dir, config, {DType::kBFloat16, 100, 64});
  CHECK(in_place->weight_bytes() == static_cast<std::int64_t>(moba::Safetensors(dir).num_bytes()));
  CHECK(in_place->weight_bytes() == converted->weight_bytes());
  CHECK(in_place->activation_bytes() > converted->activation_bytes());
  CHECK(in_place->activation_bytes() < 1 << 20);
}
