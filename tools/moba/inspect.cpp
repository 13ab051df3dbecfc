// moba inspect: what a checkpoint holds.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <spdlog/fmt/fmt.h>

#include "moba/inspect.h"
#include "tools/moba/errors.h"
#include "tools/moba/options.h"
#include "tools/moba/output.h"
#include "tools/moba/parse.h"

namespace moba::cli {
namespace {

constexpr const char* kMemorySizes[] = {"4GiB", "8GiB", "16GiB", "32GiB", "64GiB", "128GiB"};

struct Options {
  explicit Options(CLI::App& app)
      : settings(app, {SettingScope::kModel, SettingScope::kAttention}),
        output(app, /*log=*/false) {
    positional = add_text_option(app, "DIR", "", "The checkpoint, as --model", "Model");
    tensors = add_bool_option(app, "--tensors", "List every tensor (default: off)", "Output");
    memory = add_text_option(app, "--memory", "SIZE",
                             "What fits in this much memory, for example 24GiB; repeatable "
                             "(default: 4 to 128 GiB)",
                             "Output");
  }
  SettingOptions settings;
  OutputOptions output;
  CLI::Option* positional;
  CLI::Option* tensors;
  CLI::Option* memory;
};

struct Fit {
  std::int64_t memory_bytes = 0;
  std::int64_t num_tokens = 0;
};

std::vector<Fit> fits(const Options& options, const CheckpointInfo& info) {
  std::vector<std::string> sizes(std::begin(kMemorySizes), std::end(kMemorySizes));
  if (options.memory->count() > 0) sizes = options.memory->results();
  std::vector<Fit> list;
  for (const std::string& size : sizes) {
    try {
      const std::int64_t bytes = parse_size(size);
      list.push_back({bytes, tokens_that_fit(info, bytes)});
    } catch (const std::invalid_argument& error) {
      throw UsageError(std::string("--memory: ") + error.what());
    }
  }
  return list;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

void print_json(const CheckpointInfo& info, const std::vector<Fit>& list, bool tensors,
                const std::string& model) {
  OrderedJson json{{"model", model},
                   {"architecture", info.architecture},
                   {"dtype", info.dtype},
                   {"num_parameters", info.num_parameters},
                   {"weight_bytes", info.weight_bytes},
                   {"bytes_by_dtype", info.bytes_by_dtype},
                   {"vocab_size", info.vocab_size},
                   {"hidden_size", info.hidden_size},
                   {"intermediate_size", info.intermediate_size},
                   {"num_layers", info.num_layers},
                   {"num_q_heads", info.num_q_heads},
                   {"num_kv_heads", info.num_kv_heads},
                   {"head_dim", info.head_dim},
                   {"tied_embeddings", info.tied_embeddings},
                   {"rope", info.rope},
                   {"max_position_embeddings", info.max_position_embeddings},
                   {"attention", attention_json(info.layer_topk, info.moba_block_size)},
                   {"kv_bytes_per_token", info.kv_bytes_per_token}};
  OrderedJson fit_list = OrderedJson::array();
  for (const Fit& fit : list) {
    fit_list.push_back({{"memory_bytes", fit.memory_bytes}, {"num_tokens", fit.num_tokens}});
  }
  json["fits"] = fit_list;
  json["num_tensors"] = info.tensors.size();
  if (tensors) {
    OrderedJson tensor_list = OrderedJson::array();
    for (const TensorInfo& tensor : info.tensors) {
      tensor_list.push_back({{"name", tensor.name},
                             {"dtype", tensor.dtype},
                             {"shape", tensor.shape},
                             {"file", tensor.file}});
    }
    json["tensors"] = tensor_list;
  }
  write_json(json);
}

std::string fit_text(const Fit& fit, const CheckpointInfo& info) {
  if (fit.num_tokens <= 0) return "does not fit";
  std::string text = with_commas(fit.num_tokens) + " tokens";
  if (info.max_position_embeddings > 0 && fit.num_tokens >= info.max_position_embeddings) {
    text += fmt::format(
        ", {:.1f} sequences of the full length",
        static_cast<double>(fit.num_tokens) / static_cast<double>(info.max_position_embeddings));
  }
  return text;
}

void print_text(const CheckpointInfo& info, const std::vector<Fit>& list, bool tensors,
                const std::string& model) {
  std::string text;
  const auto line = [&text](const std::string& name, const std::string& value) {
    text += fmt::format("{:<18} {}\n", name, value);
  };
  std::string dtypes;
  for (const auto& [dtype, bytes] : info.bytes_by_dtype) {
    dtypes += (dtypes.empty() ? "" : ", ") + dtype + " " + human_bytes(bytes);
  }
  line("model", model);
  line("architecture", info.architecture);
  line("parameters",
       fmt::format("{} ({})", human_count(info.num_parameters), with_commas(info.num_parameters)));
  line("weights", fmt::format("{} in {} tensors: {}", human_bytes(info.weight_bytes),
                              info.tensors.size(), dtypes));
  line("computes in", info.dtype);
  line("vocabulary", with_commas(info.vocab_size) +
                         (info.tied_embeddings ? ", input and output embeddings tied" : ""));
  line("hidden size", with_commas(info.hidden_size));
  line("MLP size", with_commas(info.intermediate_size));
  line("layers", std::to_string(info.num_layers));
  line("heads", fmt::format("{} query, {} key/value, dimension {}", info.num_q_heads,
                            info.num_kv_heads, info.head_dim));
  line("RoPE", info.rope);
  line("longest sequence", with_commas(info.max_position_embeddings) + " tokens");
  line("attention", describe_attention(info.layer_topk, info.moba_block_size));
  line("KV cache",
       fmt::format("{} bytes per token, {} for the longest sequence",
                   with_commas(info.kv_bytes_per_token),
                   human_bytes(info.kv_bytes_per_token * info.max_position_embeddings)));
  text += "\nContext that fits beside the weights\n";
  for (const Fit& fit : list) {
    text += fmt::format("  {:>10}  {}\n", human_bytes(fit.memory_bytes), fit_text(fit, info));
  }
  if (tensors) {
    std::size_t width = 0;
    for (const TensorInfo& tensor : info.tensors) width = std::max(width, tensor.name.size());
    text += "\nTensors\n";
    for (const TensorInfo& tensor : info.tensors) {
      text += fmt::format("  {:<{}}  {:<5} {:<18} {}\n", tensor.name, width, tensor.dtype,
                          shape_text(tensor.shape), tensor.file);
    }
  }
  write_stdout(text);
}

int run(const Options& options) {
  Settings settings;
  apply_settings(options.settings.collect(), /*sampling=*/false, settings);
  if (const auto dir = value_of(options.positional)) settings.engine.model = *dir;
  require_model(settings);
  const CheckpointInfo info =
      take(inspect_checkpoint(settings.engine.model, settings.engine.attention));
  const std::vector<Fit> list = fits(options, info);
  const bool tensors = flag_value(options.tensors, false);
  if (options.output.json()) {
    print_json(info, list, tensors, settings.engine.model);
  } else {
    print_text(info, list, tensors, settings.engine.model);
  }
  return 0;
}

}  // namespace

Command add_inspect(CLI::App& program) {
  CLI::App* app = program.add_subcommand("inspect", "Show what a checkpoint holds");
  app->group("Commands");
  const auto options = std::make_shared<Options>(*app);
  app->footer(
      "Examples:\n"
      "  moba inspect configs/models/moba-books-19m\n"
      "  moba inspect DIR --attention moba --moba-block-size 512 --moba-topk 8 --memory 24GiB");
  return {app, [options] { return run(*options); }};
}

}  // namespace moba::cli
