// make_random_checkpoint: a checkpoint of a well-known shape with random weights, for benchmarks of
// models that are not at hand. Its text is noise; its speed is the model's.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

namespace moba::bench {
namespace {

using Json = nlohmann::ordered_json;

struct ModelShape {
  const char* name;
  std::int64_t hidden;
  std::int64_t intermediate;
  int num_layers;
  int num_q_heads;
  int num_kv_heads;
  int head_dim;
  std::int64_t vocab;
  bool tied;
};

// Llama 3.1 8B and 70B, Llama 3.2 1B, SmolLM2 135M.
constexpr std::array<ModelShape, 4> kShapes = {{
    {"8b", 4096, 14336, 32, 32, 8, 128, 128256, false},
    {"1b", 2048, 8192, 16, 32, 8, 64, 128256, true},
    {"70b", 8192, 28672, 80, 64, 8, 128, 128256, false},
    {"smollm2-135m", 576, 1536, 30, 9, 3, 64, 49152, true},
}};

struct Options {
  const ModelShape* shape = nullptr;
  std::filesystem::path dir;
  std::uint64_t seed = 1;
  std::int64_t max_positions = 131072;
  int moba_block_size = 0;
  int moba_topk = 0;
  unsigned threads = std::thread::hardware_concurrency();
};

struct TensorPlan {
  std::string name;
  std::vector<std::int64_t> shape;
  bool is_norm = false;  // ones
  std::uint64_t offset = 0;
  std::uint64_t num_elements = 0;
};

std::vector<TensorPlan> plan_tensors(const ModelShape& s) {
  std::vector<TensorPlan> tensors;
  const auto add = [&](std::string name, std::vector<std::int64_t> shape, bool is_norm = false) {
    tensors.push_back({std::move(name), std::move(shape), is_norm});
  };
  const std::int64_t q_size = std::int64_t{s.num_q_heads} * s.head_dim;
  const std::int64_t kv_size = std::int64_t{s.num_kv_heads} * s.head_dim;
  add("model.embed_tokens.weight", {s.vocab, s.hidden});
  for (int i = 0; i < s.num_layers; ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    add(prefix + "input_layernorm.weight", {s.hidden}, true);
    add(prefix + "self_attn.q_proj.weight", {q_size, s.hidden});
    add(prefix + "self_attn.k_proj.weight", {kv_size, s.hidden});
    add(prefix + "self_attn.v_proj.weight", {kv_size, s.hidden});
    add(prefix + "self_attn.o_proj.weight", {s.hidden, q_size});
    add(prefix + "post_attention_layernorm.weight", {s.hidden}, true);
    add(prefix + "mlp.gate_proj.weight", {s.intermediate, s.hidden});
    add(prefix + "mlp.up_proj.weight", {s.intermediate, s.hidden});
    add(prefix + "mlp.down_proj.weight", {s.hidden, s.intermediate});
  }
  add("model.norm.weight", {s.hidden}, true);
  if (!s.tied) add("lm_head.weight", {s.vocab, s.hidden});
  std::uint64_t offset = 0;
  for (TensorPlan& tensor : tensors) {
    tensor.offset = offset;
    tensor.num_elements = 1;
    for (const std::int64_t size : tensor.shape) {
      tensor.num_elements *= static_cast<std::uint64_t>(size);
    }
    offset += 2 * tensor.num_elements;
  }
  return tensors;
}

// A well-mixed function of the counter (SplitMix64).
std::uint64_t random_bits(std::uint64_t counter) {
  std::uint64_t z = counter * 0x9E3779B97F4A7C15U + 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

// Nearly normal, of mean 0 and standard deviation 0.02, as models are initialised: the sum of four
// uniform numbers, as bfloat16 by truncation.
std::uint16_t random_weight(std::uint64_t counter) {
  const std::uint64_t bits = random_bits(counter);
  const auto part = [bits](int i) {
    return static_cast<std::int32_t>((bits >> (16 * i)) & 0xffff);
  };
  const std::int32_t sum = part(0) + part(1) + part(2) + part(3) - 2 * 65535;
  // A uniform number over 65536 has the standard deviation 65536 / sqrt(12); four of them twice it.
  constexpr float kScale = 0.02F / (2.0F * 65536.0F / 3.4641016F);
  const float value = static_cast<float>(sum) * kScale;
  std::uint32_t word = 0;
  std::memcpy(&word, &value, sizeof(word));
  return static_cast<std::uint16_t>(word >> 16);
}

[[noreturn]] void fail(const std::filesystem::path& path, int error) {
  throw std::runtime_error(path.string() + ": " + std::generic_category().message(error));
}

class File {
 public:
  File(std::filesystem::path path, std::uint64_t size) : path_(std::move(path)) {
    fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd_ < 0) fail(path_, errno);
    // The space is taken now: a full disk is noticed before anything is written.
    if (const int error = posix_fallocate(fd_, 0, static_cast<off_t>(size)); error != 0) {
      close(fd_);
      fail(path_, error);
    }
  }
  ~File() { close(fd_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  void write(std::uint64_t at, const void* data, std::size_t size) const {
    const char* from = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t written = pwrite(fd_, from, size, static_cast<off_t>(at));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) fail(path_, errno);
      from += written;
      at += static_cast<std::uint64_t>(written);
      size -= static_cast<std::size_t>(written);
    }
  }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

void write_weights(const Options& options, const std::vector<TensorPlan>& tensors) {
  Json header = Json::object();
  for (const TensorPlan& tensor : tensors) {
    header[tensor.name] = {
        {"dtype", "BF16"},
        {"shape", tensor.shape},
        {"data_offsets", {tensor.offset, tensor.offset + 2 * tensor.num_elements}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 63) / 64 * 64, ' ');  // data begins at a multiple of 8
  const auto header_size = static_cast<std::uint64_t>(text.size());
  const std::uint64_t start = 8 + header_size;
  const std::uint64_t total = start + tensors.back().offset + 2 * tensors.back().num_elements;
  const File file(options.dir / "model.safetensors", total);
  file.write(0, &header_size, sizeof(header_size));
  file.write(8, text.data(), text.size());

  struct Piece {
    const TensorPlan* tensor;
    std::uint64_t first;
    std::uint64_t count;
  };
  constexpr std::uint64_t kPieceElements = std::uint64_t{1} << 22;
  std::vector<Piece> pieces;
  for (const TensorPlan& tensor : tensors) {
    for (std::uint64_t first = 0; first < tensor.num_elements; first += kPieceElements) {
      pieces.push_back({&tensor, first, std::min(kPieceElements, tensor.num_elements - first)});
    }
  }
  std::atomic<std::size_t> next{0};
  std::vector<std::string> errors(options.threads);
  const auto work = [&](unsigned thread) {
    try {
      std::vector<std::uint16_t> values(kPieceElements);
      for (std::size_t i = next++; i < pieces.size(); i = next++) {
        const Piece& piece = pieces[i];
        const std::uint64_t counter =
            random_bits(options.seed) + piece.tensor->offset / 2 + piece.first;
        for (std::uint64_t e = 0; e < piece.count; ++e) {
          values[e] = piece.tensor->is_norm ? std::uint16_t{0x3f80} : random_weight(counter + e);
        }
        file.write(start + piece.tensor->offset + 2 * piece.first, values.data(), 2 * piece.count);
      }
    } catch (const std::exception& error) {
      errors[thread] = error.what();
    }
  };
  std::vector<std::thread> threads;
  for (unsigned t = 1; t < options.threads; ++t) threads.emplace_back(work, t);
  work(0);
  for (std::thread& thread : threads) thread.join();
  for (const std::string& error : errors) {
    if (!error.empty()) throw std::runtime_error(error);
  }
}

void write_json(const std::filesystem::path& path, const Json& json) {
  std::ofstream file(path);
  file << json.dump(1) << '\n';
  if (!file.flush()) throw std::runtime_error(path.string() + ": cannot be written");
}

Json config_of(const Options& options) {
  const ModelShape& s = *options.shape;
  Json config = {{"architectures", {"LlamaForCausalLM"}},
                 {"model_type", "llama"},
                 {"hidden_act", "silu"},
                 {"hidden_size", s.hidden},
                 {"intermediate_size", s.intermediate},
                 {"num_hidden_layers", s.num_layers},
                 {"num_attention_heads", s.num_q_heads},
                 {"num_key_value_heads", s.num_kv_heads},
                 {"head_dim", s.head_dim},
                 {"vocab_size", s.vocab},
                 {"max_position_embeddings", options.max_positions},
                 {"rms_norm_eps", 1e-5},
                 {"rope_theta", 500000.0},
                 {"tie_word_embeddings", s.tied},
                 {"torch_dtype", "bfloat16"},
                 {"bos_token_id", 0},
                 {"eos_token_id", 0}};
  if (options.moba_block_size > 0) {
    config["moba_chunk_size"] = options.moba_block_size;
    config["moba_topk"] = options.moba_topk;
  }
  return config;
}

// A code point as UTF-8; below 0x800 is all that is needed.
std::string utf8(int code) {
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

// Byte-level BPE without merges: a token for each byte, in GPT-2's alphabet, which has printable
// bytes stand for themselves and the others follow from U+0100 on.
Json byte_tokenizer() {
  Json vocab = Json::object();
  vocab["<|end|>"] = 0;
  int moved = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) ||
                           (byte >= 0xae && byte <= 0xff);
    vocab[utf8(printable ? byte : moved++)] = byte + 1;
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens",
           {{{"id", 0},
             {"content", "<|end|>"},
             {"single_word", false},
             {"lstrip", false},
             {"rstrip", false},
             {"normalized", false},
             {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocab},
            {"merges", Json::array()}}}};
}

constexpr const char* kUsage =
    "usage: make_random_checkpoint SHAPE DIR [--seed N] [--max-position-embeddings N]\n"
    "                              [--moba-block-size N --moba-topk N] [--threads N]\n"
    "SHAPE: 8b, 1b, 70b or smollm2-135m. DIR is made if it is not there.\n";

std::int64_t number_of(std::string_view option, std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1) {
    throw std::invalid_argument(std::string(option) + ": '" + std::string(text) +
                                "' is no positive number");
  }
  return value;
}

Options parse(int argc, char** argv) {
  Options options;
  std::vector<std::string> places;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option.rfind("--", 0) != 0) {
      places.push_back(option);
      continue;
    }
    if (i + 1 >= argc) throw std::invalid_argument(option + " needs a value");
    const std::int64_t value = number_of(option, argv[++i]);
    if (option == "--seed") {
      options.seed = static_cast<std::uint64_t>(value);
    } else if (option == "--max-position-embeddings") {
      options.max_positions = value;
    } else if (option == "--moba-block-size") {
      options.moba_block_size = static_cast<int>(value);
    } else if (option == "--moba-topk") {
      options.moba_topk = static_cast<int>(value);
    } else if (option == "--threads") {
      options.threads = static_cast<unsigned>(std::min<std::int64_t>(value, 1024));
    } else {
      throw std::invalid_argument("unknown option " + option);
    }
  }
  if (places.size() != 2) throw std::invalid_argument("a shape and a directory are needed");
  if ((options.moba_block_size > 0) != (options.moba_topk > 0)) {
    throw std::invalid_argument("--moba-block-size and --moba-topk go together");
  }
  for (const ModelShape& shape : kShapes) {
    if (places[0] == shape.name) options.shape = &shape;
  }
  if (options.shape == nullptr) throw std::invalid_argument("unknown shape " + places[0]);
  options.dir = places[1];
  options.threads = std::max(1U, options.threads);
  return options;
}

}  // namespace
}  // namespace moba::bench

int main(int argc, char** argv) {
  using namespace moba::bench;
  Options options;
  try {
    options = parse(argc, argv);
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "make_random_checkpoint: %s\n%s", error.what(), kUsage);
    return 2;
  }
  try {
    std::filesystem::create_directories(options.dir);
    write_weights(options, plan_tensors(*options.shape));
    write_json(options.dir / "tokenizer.json", byte_tokenizer());
    write_json(options.dir / "config.json", config_of(options));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "make_random_checkpoint: %s\n", error.what());
    return 1;
  }
  return 0;
}
