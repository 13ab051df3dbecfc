// GGUF files: what the gguf package writes is read right, and what is broken is refused in one
// line.
#include "model/gguf.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "device/quant.h"
#include "model/model_config.h"
#include "tests/catch.h"
#include "tests/model/gguf_writer.h"
#include "tests/model/model_harness.h"
#include "tests/model/temp_files.h"

using moba::CheckpointTensor;
using moba::DType;
using moba::Gguf;
using moba::GgufType;
using moba::test::error_of;
using moba::test::GgufText;
using moba::test::is_line_with;
using moba::test::ModelHarness;
using moba::test::TempDir;

namespace {

const std::filesystem::path kData = MOBA_TEST_DATA_DIR;

std::vector<float> floats_of(const CheckpointTensor& tensor) {
  REQUIRE(tensor.element_type == DType::kFloat32);
  std::vector<float> out(tensor.num_bytes / sizeof(float));
  std::memcpy(out.data(), tensor.data, tensor.num_bytes);
  return out;
}

// A small file that is right: one key of each type, three tensors.
GgufText good_file() {
  GgufText file;
  file.key("general.architecture", std::string("llama"));
  file.scalar<std::uint32_t>("a.number", GgufType::kUint32, 7);
  file.scalar<float>("a.float", GgufType::kFloat32, 0.5F);
  file.strings("a.list", {"x", "yz"});
  file.tensor("output.weight", {32, 2}, 0, 0);
  file.tensor("token_embd.weight", {32, 2}, 8, 256);
  file.tensor("blk.0.attn_q.bias", {8}, 0, 352);
  file.scalar<std::uint32_t>("llama.attention.key_length", GgufType::kUint32, 4);
  file.data_bytes = 384;
  return file;
}

std::string error_of_bytes(const std::string& bytes) {
  const TempDir dir;
  const auto path = dir.write("broken.gguf", bytes);
  const std::string message = error_of([&] { Gguf{path}; });
  INFO(message);
  CHECK(is_line_with(message, {"broken.gguf: "}));
  return message;
}

// What refuses a good file after `edit`.
std::string refusal(const std::function<void(GgufText&)>& edit) {
  GgufText file = good_file();
  edit(file);
  return error_of_bytes(file.bytes());
}

bool has(const std::string& message, const std::string& part) {
  return message.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("GGUF: names, shapes, types and places of tensors") {
  const TempDir dir;
  const auto path = dir.write("good.gguf", good_file().bytes());
  const Gguf file(path);
  CHECK(file.header().version == 3);
  REQUIRE(file.entries().size() == 3);
  const CheckpointTensor* embedding = file.find("model.embed_tokens.weight");
  REQUIRE(embedding != nullptr);
  CHECK(embedding->dtype == "Q8_0");
  CHECK(embedding->element_type == DType::kQ8_0);
  CHECK(embedding->tensor.empty());
  CHECK(embedding->shape == std::vector<std::int64_t>{2, 32});
  CHECK(embedding->num_bytes == 68);
  CHECK(file.find("lm_head.weight")->tensor.shape() == moba::Shape{2, 32});
  const CheckpointTensor* bias = file.find("model.layers.0.self_attn.q_proj.bias");
  REQUIRE(bias != nullptr);
  CHECK(bias->paired_rows == 4);
  const std::vector<std::int64_t> rows{0, 2, 1, 3, 4, 6, 5, 7};
  for (std::int64_t i = 0; i < 8; ++i)
    CHECK(bias->file_row(i) == rows[static_cast<std::size_t>(i)]);
  CHECK(file.metadata().integer("a.number", 0, 10) == 7);
  CHECK(file.metadata().number("a.float") == 0.5);
  CHECK(file.metadata().strings("a.list") == std::vector<std::string_view>{"x", "yz"});
  CHECK(has(error_of([&] { file.metadata().integer("a.float", 0, 1); }), "a.float is no integer"));
  CHECK(has(error_of([&] { file.metadata().integer("a.number", 0, 1); }), "a.number is 7"));
  CHECK(has(error_of([&] { file.metadata().string("a.number"); }), "is not a string"));
  CHECK(has(error_of([&] { file.metadata().string("gone"); }), "gone is missing"));
}

TEST_CASE("GGUF: version 2 is read, and names go both ways") {
  GgufText file = good_file();
  file.version = 2;
  const TempDir dir;
  CHECK(Gguf(dir.write("v2.gguf", file.bytes())).header().version == 2);
  for (const char* name : {"blk.12.ffn_down.weight", "output_norm.weight",
                           "blk.3.attn_k_norm.weight", "blk.0.attn_v.bias"}) {
    CHECK(moba::name_to_gguf(moba::name_from_gguf(name)) == name);
  }
  CHECK(moba::name_from_gguf("blk..ffn_down.weight").empty());
  CHECK(moba::name_from_gguf("blk.1.other.weight").empty());
  CHECK(moba::name_from_gguf("blk.1").empty());
}

TEST_CASE("GGUF: block formats as the gguf package takes them") {
  const Gguf file(kData / "gguf" / "quants.gguf");
  int compared = 0;
  for (const CheckpointTensor& tensor : file.entries()) {
    const CheckpointTensor* expected = file.find(tensor.name + ".expected");
    if (expected == nullptr) continue;
    INFO(tensor.name);
    REQUIRE(tensor.element_type.has_value());
    const std::vector<float> wanted = floats_of(*expected);
    std::vector<float> got(wanted.size());
    dequantize(*tensor.element_type, tensor.data, static_cast<std::int64_t>(got.size()),
               got.data());
    CHECK(got == wanted);
    ++compared;
  }
  CHECK(compared == 8);
  const std::vector<float> source = floats_of(*file.find("source"));
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_0}) {
    const CheckpointTensor* wanted =
        file.find(dtype == DType::kQ8_0 ? "Q8_0.of_source" : "Q4_0.of_source");
    std::vector<std::byte> got(wanted->num_bytes);
    quantize(dtype, source.data(), static_cast<std::int64_t>(source.size()), got.data());
    INFO(dtype_name(dtype));
    CHECK(std::memcmp(got.data(), wanted->data, got.size()) == 0);
  }
}

// The fixtures are float32: logits are those of the checkpoint they were made of.
TEST_CASE("GGUF: a model gives the logits of its safetensors") {
  for (const auto& entry : std::filesystem::directory_iterator(kData / "gguf")) {
    const std::string name = entry.path().stem().string();
    if (name == "quants") continue;
    INFO(name);
    ModelHarness reference(kData / "models" / name, {});
    ModelHarness model(entry.path(), {});
    CHECK(model.config().num_layers == reference.config().num_layers);
    CHECK(model.config().tie_word_embeddings == reference.config().tie_word_embeddings);
    std::vector<std::int32_t> ids;
    for (int i = 0; i < 100; ++i) ids.push_back((i * 37 + 11) % 120);
    const std::vector<int> rows{0, 1, 50, 99};
    const std::vector<float> wanted = reference.run(ids, {}, rows, reference.full_attention());
    const std::vector<float> got = model.run(ids, {}, rows, model.full_attention());
    REQUIRE(got.size() == wanted.size());
    float worst = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      worst = std::max(worst, std::abs(got[i] - wanted[i]));
    }
    // Llama 3's frequencies stand in the file divided, not computed.
    CHECK(worst <= (name == "llama3_scaled" ? 1e-4F : 0.0F));
  }
}

TEST_CASE("GGUF: a file cut anywhere is refused") {
  const std::string whole = good_file().bytes();
  for (std::size_t size = 0; size < whole.size(); size += size < 600 ? 1 : 37) {
    const TempDir dir;
    const auto path = dir.write("cut.gguf", whole.substr(0, size));
    const std::string message = error_of([&] { Gguf{path}; });
    INFO(size << " bytes: " << message);
    CHECK(is_line_with(message, {"cut.gguf"}));
  }
}

TEST_CASE("GGUF: hostile headers") {
  CHECK(has(refusal([](GgufText& f) { f.magic = "GGML"; }), "not a GGUF file"));
  CHECK(has(refusal([](GgufText& f) { f.version = 1; }), "version 1 is not supported"));
  CHECK(has(refusal([](GgufText& f) { f.version = 4; }), "version 4 is not supported"));
  CHECK(has(refusal([](GgufText& f) { f.version = 0x03000000; }), "big-endian"));
  for (const std::uint64_t count :
       {~std::uint64_t{0}, std::uint64_t{1} << 63, std::uint64_t{9999}}) {
    CHECK(has(refusal([&](GgufText& f) { f.num_values = count; }), "keys, more than"));
    CHECK(has(refusal([&](GgufText& f) { f.num_tensors = count; }), "tensors, more than"));
  }
  CHECK(has(refusal([](GgufText& f) { f.num_values = f.num_values + 1; }), "broken.gguf"));
  for (const std::uint32_t bad : {0U, 3U, 48U, 0xffffffffU}) {
    CHECK(has(refusal([&](GgufText& f) {
                f.scalar<std::uint32_t>("general.alignment", GgufType::kUint32, bad);
              }),
              "general.alignment is "));
  }
  CHECK(has(refusal([](GgufText& f) { f.key("general.alignment", std::string("32")); }),
            "general.alignment is no integer"));
}

TEST_CASE("GGUF: hostile keys and values") {
  CHECK(has(refusal([](GgufText& f) { f.key("a.list", std::string("again")); }),
            "key 'a.list' is there twice"));
  CHECK(has(refusal([](GgufText& f) { f.key("", std::string("x")); }), "a key of 0 bytes"));
  CHECK(has(refusal([](GgufText& f) { f.key(std::string(70000, 'k'), std::string("x")); }),
            "a key of 70000 bytes"));
  CHECK(has(refusal([](GgufText& f) { f.raw("bad", 13, ""); }), "unknown type 13"));
  CHECK(has(refusal([](GgufText& f) { f.raw("bad", 0x7fffffff, ""); }), "unknown type"));
  const auto u64 = [](std::uint64_t v) {
    return std::string(reinterpret_cast<const char*>(&v), 8);
  };
  const auto u32 = [](std::uint32_t v) {
    return std::string(reinterpret_cast<const char*>(&v), 4);
  };
  for (const std::uint64_t length :
       {~std::uint64_t{0}, std::uint64_t{1} << 40, std::uint64_t{100000}}) {
    CHECK(has(refusal([&](GgufText& f) { f.raw("s", 8, u64(length) + "abc"); }), "ends within"));
    CHECK(has(refusal([&](GgufText& f) { f.raw("a", 9, u32(5) + u64(length)); }), "ends past"));
    CHECK(has(refusal([&](GgufText& f) { f.raw("a", 9, u32(8) + u64(length)); }), "ends past"));
    CHECK(has(refusal([&](GgufText& f) { f.raw("a", 9, u32(12) + u64(length)); }), "ends past"));
  }
  CHECK(has(refusal([&](GgufText& f) { f.raw("a", 9, u32(8) + u64(2) + u64(~0ULL)); }),
            "ends within"));
  CHECK(has(refusal([&](GgufText& f) { f.raw("a", 9, u32(9) + u64(1) + u32(9)); }),
            "array of arrays"));
  CHECK(has(refusal([](GgufText& f) { f.raw("b", 7, std::string(1, '\x02')); }), "bool that is 2"));
}

TEST_CASE("GGUF: hostile tensors") {
  CHECK(has(refusal([](GgufText& f) { f.tensor("output.weight", {32}, 0, 0); }), "overlap"));
  CHECK(has(refusal([](GgufText& f) {
              f.tensor("output.weight", {8}, 0, 384);
              f.data_bytes = 416;
            }),
            "is there twice"));
  CHECK(has(refusal([](GgufText& f) {
              f.tensor("lm_head.weight", {8}, 0, 384);
              f.data_bytes = 416;
            }),
            "under its names in two formats"));
  CHECK(has(refusal([](GgufText& f) { f.tensor("", {8}, 0, 384); }), "whose name has 0 bytes"));
  CHECK(has(refusal([](GgufText& f) { f.tensor("t", {}, 0, 384); }), "0 dimensions"));
  CHECK(has(refusal([](GgufText& f) { f.tensor("t", {1, 1, 1, 1, 1}, 0, 384); }), "5 dimensions"));
  CHECK(has(refusal([](GgufText& f) { f.tensor("t", {8, 0}, 0, 384); }), "dimension 0"));
  const std::uint64_t huge = std::uint64_t{1} << 33;
  CHECK(has(refusal([&](GgufText& f) { f.tensor("t", {huge, huge}, 0, 384); }), "too large"));
  CHECK(has(refusal([&](GgufText& f) { f.tensor("t", {~0ULL}, 0, 384); }), "too large"));
  CHECK(has(refusal([&](GgufText& f) { f.tensor("t", {huge}, 0, 384); }), "ends at"));
  CHECK(has(refusal([](GgufText& f) { f.tensor("t", {8}, 99, 384); }), "unknown type 99"));
  CHECK(has(refusal([](GgufText& f) { f.tensor("t", {8}, 4, 384); }), "unknown type 4"));
  CHECK(has(refusal([](GgufText& f) { f.tensor("t", {33}, 8, 384); }), "no whole blocks of 32"));
  CHECK(has(refusal([](GgufText& f) { f.tensor("t", {32}, 12, 384); }), "no whole blocks of 256"));
  CHECK(has(refusal([](GgufText& f) { f.tensor("t", {8}, 0, 388); }), "no multiple"));
  CHECK(has(refusal([](GgufText& f) { f.tensor("t", {8}, 0, 384); }), "ends at 416"));
  CHECK(has(refusal([](GgufText& f) { f.tensor("t", {8}, 0, ~0ULL - 31); }), "broken.gguf"));
  CHECK(has(refusal([](GgufText& f) {
              f.tensor("blk.0.attn_k.weight", {32, 5}, 0, 384);
              f.data_bytes = 2048;
            }),
            "no whole heads of 4"));
  CHECK(has(
      refusal([](GgufText& f) { f.scalar<std::uint16_t>("split.count", GgufType::kUint16, 3); }),
      "files of several parts"));
}

TEST_CASE("GGUF: metadata that makes no model") {
  const auto config_error = [](const std::function<void(GgufText&)>& edit) {
    GgufText file = moba::test::tiny_llama();
    edit(file);
    const TempDir dir;
    const auto path = dir.write("model.gguf", file.bytes());
    const std::string message = error_of([&] { moba::load_model_config(path); });
    INFO(message);
    CHECK(is_line_with(message, {"model.gguf: "}));
    return message;
  };
  {
    const TempDir dir;
    const auto path = dir.write("model.gguf", moba::test::tiny_llama().bytes());
    const moba::ModelConfig config = moba::load_model_config(path);
    CHECK(config.architecture == "LlamaForCausalLM");
    CHECK(config.head_dim == 8);
    CHECK(config.tie_word_embeddings);
    CHECK(config.eos_token_ids == std::vector<std::int32_t>{2, 5});
  }
  const auto set = [](const char* key, std::uint32_t value) {
    return [key, value](GgufText& f) {
      f.erase(key);
      f.scalar<std::uint32_t>(key, GgufType::kUint32, value);
    };
  };
  CHECK(has(config_error([](GgufText& f) {
              f.erase("general.architecture");
              f.key("general.architecture", std::string("mamba"));
            }),
            "'mamba' is not supported; known: llama"));
  CHECK(has(config_error([](GgufText& f) { f.erase("general.architecture"); }), "is missing"));
  CHECK(has(config_error([](GgufText& f) { f.erase("llama.block_count"); }),
            "llama.block_count is missing"));
  CHECK(has(config_error(set("llama.block_count", 0)), "llama.block_count is 0"));
  CHECK(has(config_error(set("llama.attention.head_count", 3)), "does not divide"));
  CHECK(has(config_error(set("llama.attention.head_count_kv", 3)), "num_key_value_heads 3"));
  CHECK(has(config_error(set("llama.expert_count", 8)), "experts are not supported"));
  CHECK(has(config_error(set("llama.rope.dimension_count", 4)), "a part of a head"));
  CHECK(has(config_error(set("llama.attention.value_length", 4)), "keys have 8"));
  CHECK(has(config_error(set("moba.chunk_size", 4)), "moba_chunk_size is set without moba_topk"));
  CHECK(has(
      config_error([](GgufText& f) { f.key("llama.rope.scaling.type", std::string("longrope")); }),
      "'longrope' is not supported"));
  CHECK(has(config_error([](GgufText& f) {
              const std::uint32_t ff[] = {16, 24};
              std::string value(sizeof(std::uint32_t), '\4');
              value = std::string("\4\0\0\0", 4) + std::string("\2\0\0\0\0\0\0\0", 8) +
                      std::string(reinterpret_cast<const char*>(ff), sizeof(ff));
              f.erase("llama.feed_forward_length");
              f.raw("llama.feed_forward_length", 9, value);
            }),
            "differs between layers"));
}

// Bytes set, cut out and doubled at random: an Error or a header, nothing else.
TEST_CASE("GGUF: damaged headers do no harm") {
  std::mt19937 random(11);
  const std::string good[] = {good_file().bytes(), moba::test::tiny_llama().bytes()};
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = good[round % 2];
    for (unsigned edits = 1 + random() % 4; edits > 0; --edits) {
      const std::size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = static_cast<char>(0xff);
          break;
        case 2:
          bytes.erase(at, 1 + random() % 16);
          break;
        default:
          bytes.insert(at, bytes.substr(at, 1 + random() % 16));
      }
      if (bytes.empty()) bytes = "G";
    }
    const std::string message = error_of([&] {
      const moba::GgufHeader header = moba::read_gguf_header(
          {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()}, "damaged.gguf");
      for (const moba::GgufValue& value : header.metadata.values()) {
        error_of([&] { header.metadata.strings(value.key); });
        error_of([&] { header.metadata.integers(value.key, 0, 100); });
        error_of([&] { header.metadata.number(value.key); });
        error_of([&] { header.metadata.string(value.key); });
      }
      for (const moba::GgufTensor& tensor : header.tensors) {
        MOBA_CHECK(tensor.begin < tensor.end, "an empty tensor");
        if (tensor.end > bytes.size()) throw std::logic_error("a tensor past the end");
      }
    });
    if (message.empty()) continue;
    ++refused;
    REQUIRE(is_line_with(message, {"damaged.gguf"}));
  }
  CHECK(refused > 10000);
}

TEST_CASE("GGUF: damaged models are refused or load") {
  std::mt19937 random(12);
  const TempDir dir;
  for (int round = 0; round < 300; ++round) {
    std::string bytes = moba::test::tiny_llama().bytes();
    for (unsigned edits = 1 + random() % 3; edits > 0; --edits) {
      bytes[24 + random() % (bytes.size() - 536)] = static_cast<char>(random());
    }
    const auto path = dir.write("damaged.gguf", bytes);
    const std::string message = error_of([&] { moba::load_model_config(path); });
    CHECK((message.empty() || is_line_with(message, {"damaged.gguf"})));
  }
}
