#include "tools/moba/settings.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "moba/settings.h"
#include "tools/moba/errors.h"
#include "tools/moba/parse.h"

namespace moba::cli {
namespace {

using Json = nlohmann::json;
using Scope = SettingScope;
using Kind = ValueKind;

// Infinities as texts, which JSON numbers are not.
Json bias_json(float bias) {
  if (!std::isfinite(bias)) return bias > 0 ? "inf" : "-inf";
  return bias;
}

constexpr std::string_view kModelGroup = "Model";
constexpr std::string_view kAttentionGroup = "Attention";
constexpr std::string_view kMemoryGroup = "Memory and threads";
constexpr std::string_view kSamplingGroup = "Sampling";
constexpr std::string_view kStoppingGroup = "Length and stopping";
constexpr std::string_view kLogprobGroup = "Log probabilities";

const std::array kSettings{
    Setting{"model", "-m,--model", "DIR",
            "Hugging Face checkpoint, a directory with config.json, *.safetensors and a tokenizer, "
            "or a "
            "GGUF file",
            Scope::kModel, kModelGroup, Kind::kString},
    Setting{"dtype", "--dtype", "TYPE",
            "Type of activations and KV cache: auto, float32, bfloat16 or, on a GPU, float16 "
            "(default: auto, which is the checkpoint's where the device has it, else float32)",
            Scope::kEngine, kModelGroup, Kind::kString},
    Setting{"device", "--device", "DEVICE",
            "Where to compute: cpu, cuda or cuda:N, or auto, the first GPU if there is one, else "
            "the CPU (default: auto)",
            Scope::kEngine, kModelGroup, Kind::kString},
    Setting{"max_model_len", "-c,--max-model-len,--ctx-size", "N",
            "Longest sequence, prompt and output together (default: 0, the checkpoint's maximum or "
            "what the KV cache holds if less)",
            Scope::kEngine, kModelGroup, Kind::kInteger},

    Setting{"attention", "--attention", "MODE",
            "auto: each layer as the checkpoint says; full: full attention in every layer; moba: "
            "MoBA in every layer but the full attention layers (default: auto)",
            Scope::kAttention, kAttentionGroup, Kind::kString},
    Setting{"moba_block_size", "--moba-block-size", "N",
            "Tokens per MoBA block (default: 0, the checkpoint's)", Scope::kAttention,
            kAttentionGroup, Kind::kInteger},
    Setting{"moba_topk", "--moba-topk", "N",
            "Blocks a token attends to, its own included (default: 0, the checkpoint's)",
            Scope::kAttention, kAttentionGroup, Kind::kInteger},
    Setting{"full_attention_layers", "--full-attention-layers", "LAYERS",
            "Layers that keep full attention: last:N, a list as 0,8,9, or none (default: the "
            "checkpoint's)",
            Scope::kAttention, kAttentionGroup, Kind::kString},
    Setting{"decode_attention", "--decode-attention", "MODE",
            "For generated tokens. moba: a layer keeps its kind; full: full attention in every "
            "layer (default: moba)",
            Scope::kAttention, kAttentionGroup, Kind::kString},

    Setting{"kv_cache_memory", "--kv-cache-memory", "SIZE",
            "Memory for the KV cache, for example 512M or 1.5GiB (default: 0, on a GPU all that "
            "--gpu-memory-utilization leaves, on the CPU what one sequence of the longest length "
            "needs or all sequences with 4096 tokens each, at most 80% of the free memory)",
            Scope::kEngine, kMemoryGroup, Kind::kSize},
    Setting{"gpu_memory_utilization", "--gpu-memory-utilization", "X",
            "Part of a GPU's memory that may be used in all (default: 0.9)", Scope::kEngine,
            kMemoryGroup, Kind::kNumber},
    Setting{"block_size", "--block-size", "N",
            "Tokens per page of the KV cache (default: 0, the largest power of two up to 64 that "
            "divides the MoBA block size)",
            Scope::kEngine, kMemoryGroup, Kind::kInteger},
    Setting{"max_num_batched_tokens", "-b,--max-num-batched-tokens,--batch-size", "N",
            "Tokens of one step, which is the length of a prefill chunk (default: 0, which is 2048 "
            "on the CPU and 8192 on a GPU)",
            Scope::kEngine, kMemoryGroup, Kind::kInteger},
    Setting{"max_num_seqs", "--max-num-seqs", "N",
            "Sequences that are computed together (default: 0, which is 16 on the CPU and 256 on a "
            "GPU)",
            Scope::kServing, kMemoryGroup, Kind::kInteger},
    Setting{"max_num_queued", "--max-num-queued", "N",
            "Requests that may wait for their turn; one more is refused (default: 1024)",
            Scope::kServer, kMemoryGroup, Kind::kInteger},
    Setting{"threads", "-t,--threads", "N",
            "Threads to compute with (default: 0, one per processor)", Scope::kEngine, kMemoryGroup,
            Kind::kInteger},
    Setting{"decode_graphs", "--decode-graphs,!--no-decode-graphs", "",
            "On a GPU, run steps that generate one token a sequence as recorded graphs: the same "
            "results, with less work for the host (default: on)",
            Scope::kEngine, kMemoryGroup, Kind::kBool},
    Setting{"tensor_parallel_size", "--tensor-parallel-size,--tp", "N",
            "Ranks to split the model over: GPUs, or on the CPU threads that share --threads "
            "(default: 1)",
            Scope::kEngine, kMemoryGroup, Kind::kInteger},

    Setting{"temperature", "--temperature,--temp", "X",
            "Divides the logits; 0 takes the most probable token (default: the checkpoint's, else "
            "1)",
            Scope::kSampling, kSamplingGroup, Kind::kNumber},
    Setting{"top_k", "--top-k", "N",
            "Only the N most probable tokens; 0 or -1: all (default: the checkpoint's, else 0)",
            Scope::kSampling, kSamplingGroup, Kind::kInteger},
    Setting{"top_p", "--top-p", "X",
            "Only the smallest set of tokens whose probability reaches X (default: the "
            "checkpoint's, else 1)",
            Scope::kSampling, kSamplingGroup, Kind::kNumber},
    Setting{"min_p", "--min-p", "X",
            "Only tokens with at least X times the largest probability (default: the checkpoint's, "
            "else 0)",
            Scope::kSampling, kSamplingGroup, Kind::kNumber},
    Setting{"repetition_penalty", "--repetition-penalty,--repeat-penalty", "X",
            "Divides positive and multiplies negative logits of tokens in prompt or output "
            "(default: the checkpoint's, else 1)",
            Scope::kSampling, kSamplingGroup, Kind::kNumber},
    Setting{"presence_penalty", "--presence-penalty", "X",
            "Subtracted from the logits of tokens in the output (default: 0)", Scope::kSampling,
            kSamplingGroup, Kind::kNumber},
    Setting{"frequency_penalty", "--frequency-penalty", "X",
            "Subtracted once for each time a token is in the output (default: 0)", Scope::kSampling,
            kSamplingGroup, Kind::kNumber},
    Setting{"logit_bias", "--logit-bias", "ID:BIAS",
            "Added to the logit of a token, also as ID+BIAS or ID-BIAS; repeatable (default: none)",
            Scope::kSampling, kSamplingGroup, Kind::kLogitBias},
    Setting{"seed", "-s,--seed", "N",
            "Same seed, same text (default: -1, a random one, which the log tells)",
            Scope::kSampling, kSamplingGroup, Kind::kInteger},

    Setting{"max_tokens", "-n,--max-tokens,--n-predict", "N",
            "Tokens to generate at most; -1: up to the longest length (default: the checkpoint's, "
            "else 256)",
            Scope::kSampling, kStoppingGroup, Kind::kInteger},
    Setting{
        "min_tokens", "--min-tokens", "N",
        "Tokens before which neither the end of the text nor a stop token is taken (default: 0)",
        Scope::kSampling, kStoppingGroup, Kind::kInteger},
    Setting{"stop", "--stop", "TEXT", "End before this text; repeatable (default: none)",
            Scope::kSampling, kStoppingGroup, Kind::kStrings},
    Setting{"include_stop_str_in_output", "--include-stop-str-in-output", "",
            "Print the stop text as well (default: off)", Scope::kSampling, kStoppingGroup,
            Kind::kBool},
    Setting{"stop_token_ids", "--stop-token-ids", "IDS",
            "End at these tokens beside the checkpoint's own, for example 2,13; repeatable "
            "(default: none)",
            Scope::kSampling, kStoppingGroup, Kind::kIntegers},
    Setting{"ignore_eos", "--ignore-eos", "", "Go on after the end of the text (default: off)",
            Scope::kSampling, kStoppingGroup, Kind::kBool},
    Setting{"skip_special_tokens", "--skip-special-tokens,!--no-skip-special-tokens", "",
            "Leave special tokens such as </s> out of the text (default: on)", Scope::kSampling,
            kStoppingGroup, Kind::kBool},

    Setting{"logprobs", "--logprobs", "N",
            "Log probability of each generated token and of the N most probable ones; in --json, "
            "else as a list on standard error (default: off)",
            Scope::kSampling, kLogprobGroup, Kind::kInteger},
    Setting{"prompt_logprobs", "--prompt-logprobs", "N",
            "The same for the tokens of the prompt, in --json (default: off)", Scope::kSampling,
            kLogprobGroup, Kind::kInteger},
};

}  // namespace

std::span<const Setting> all_settings() { return kSettings; }

Json value_from_texts(ValueKind kind, const std::vector<std::string>& texts) {
  const std::string& last = texts.back();
  switch (kind) {
    case ValueKind::kInteger:
      return parse_integer(last);
    case ValueKind::kNumber:
      return parse_number(last);
    case ValueKind::kString:
      return last;
    case ValueKind::kBool:
      return parse_bool(last);
    case ValueKind::kSize:
      return parse_size(last);
    case ValueKind::kStrings:
      return texts;
    case ValueKind::kIntegers: {
      Json list = Json::array();
      for (std::string text : texts) {
        std::replace(text.begin(), text.end(), ',', ' ');
        for (const std::int32_t id : parse_token_ids(text)) list.push_back(id);
      }
      return list;
    }
    case ValueKind::kLogitBias: {
      Json biases = Json::object();
      for (const std::string& text : texts) {
        const auto [id, bias] = parse_logit_bias(text);
        biases[std::to_string(id)] = bias_json(bias);
      }
      return biases;
    }
  }
  return nullptr;
}

void apply_settings(const std::vector<SettingValue>& values, bool sampling, Settings& settings) {
  Configuration configuration;
  for (const SettingValue& value : values) {
    const Status status =
        value.value.is_string()
            ? configuration.set_text(value.key, value.value.get<std::string>(), value.origin)
            : configuration.set(value.key,
                                value.value.dump(-1, ' ', false, Json::error_handler_t::replace),
                                value.origin);
    if (status.ok()) continue;
    if (value.from_command_line) throw UsageError(status.message());
    throw CommandError(status.message());
  }
  if (sampling) {
    settings.sampling = configuration.sampling(std::move(settings.sampling));
  } else {
    settings.engine = configuration.engine(std::move(settings.engine));
  }
}

OrderedJson settings_json(const Settings& settings) {
  OrderedJson json = OrderedJson::parse(to_json(settings.engine));
  json["sampling"] = OrderedJson::parse(to_json(settings.sampling));
  return json;
}

}  // namespace moba::cli
