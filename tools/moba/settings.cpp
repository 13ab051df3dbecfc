#include "tools/moba/settings.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

#include "tools/moba/errors.h"
#include "tools/moba/parse.h"

namespace moba::cli {
namespace {

using Json = nlohmann::json;
using Scope = SettingScope;
using Kind = ValueKind;

[[noreturn]] void expected(std::string_view what, const Json& got) {
  throw std::invalid_argument("expected " + std::string(what) + ", got " +
                              (got.is_string()       ? in_quotes(got.get_ref<const std::string&>())
                               : got.is_structured() ? "a JSON " + std::string(got.type_name())
                                                     : got.dump()));
}

std::int64_t as_int64(const Json& value) {
  if (!value.is_number_integer()) expected("an integer", value);
  if (value.is_number_unsigned() &&
      value.get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()}) {
    throw std::invalid_argument(value.dump() + " is too large");
  }
  return value.get<std::int64_t>();
}

int as_int(const Json& value) {
  const std::int64_t number = as_int64(value);
  if (number < std::numeric_limits<int>::min() || number > std::numeric_limits<int>::max()) {
    throw std::invalid_argument(value.dump() + " is too large");
  }
  return static_cast<int>(number);
}

float as_float(const Json& value) {
  if (!value.is_number()) expected("a number", value);
  const auto number = static_cast<float>(value.get<double>());
  if (!std::isfinite(number)) expected("a finite number", value);
  return number;
}

bool as_bool(const Json& value) {
  if (!value.is_boolean()) expected("true or false", value);
  return value.get<bool>();
}

std::string as_string(const Json& value) {
  if (!value.is_string()) expected("a string", value);
  return value.get<std::string>();
}

std::int64_t as_size(const Json& value) {
  const std::int64_t bytes =
      value.is_string() ? parse_size(value.get_ref<const std::string&>()) : as_int64(value);
  if (bytes < 0) expected("a size in bytes of 0 or more", value);
  return bytes;
}

// A lone value counts as a list of one.
template <typename T>
std::vector<T> as_list(const Json& value, T (*item)(const Json&)) {
  if (!value.is_array()) return {item(value)};
  std::vector<T> list;
  for (const Json& element : value) list.push_back(item(element));
  return list;
}

std::map<std::int32_t, float> as_logit_bias(const Json& value) {
  if (!value.is_object()) expected("an object of token ids and numbers", value);
  std::map<std::int32_t, float> biases;
  for (const auto& [id, bias] : value.items()) {
    const std::string text =
        bias.is_string() ? bias.get<std::string>() : (bias.is_number() ? bias.dump() : "");
    if (text.empty()) expected("a number for token " + id, bias);
    biases.insert(parse_logit_bias(id + ":" + text));
  }
  return biases;
}

// "" the checkpoint's, "none", "last:N", or a list; from JSON also a list of integers.
std::string as_layers(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  std::string text;
  for (const int layer : as_list(value, as_int)) {
    if (!text.empty()) text += ',';
    text += std::to_string(layer);
  }
  return text.empty() ? "none" : text;
}

// -1 (and null in files) stand for "absent".
template <typename T>
std::optional<T> as_optional(const Json& value, T (*item)(const Json&)) {
  // The library's == takes the largest unsigned number for -1.
  const bool minus_one = value.is_number_integer() && !value.is_number_unsigned() && value == -1;
  if (value.is_null() || minus_one) return std::nullopt;
  return item(value);
}

std::uint64_t as_seed(const Json& value) {
  if (value.is_number_unsigned()) return value.get<std::uint64_t>();
  const std::int64_t seed = as_int64(value);
  if (seed < 0) expected("a seed of 0 or more, or -1 for a random one", value);
  return static_cast<std::uint64_t>(seed);
}

template <typename T>
Json optional_json(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

// A float as the shortest decimal that reads back as the same float.
Json float_json(float value) {
  if (!std::isfinite(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 32> text{};
  for (int digits = 6; digits <= 9; ++digits) {
    std::snprintf(text.data(), text.size(), "%.*g", digits, static_cast<double>(value));
    if (std::strtof(text.data(), nullptr) == value) break;
  }
  return std::strtod(text.data(), nullptr);
}

// The names of an enumeration; the first spelling of a value is the one written.
template <typename E>
using Names = std::vector<std::pair<std::string_view, E>>;

template <typename E>
E from_name(const Json& value, const Names<E>& names) {
  for (const auto& [name, e] : names) {
    if (value == name) return e;
  }
  std::string list;
  std::vector<E> seen;
  for (const auto& [name, e] : names) {
    if (std::find(seen.begin(), seen.end(), e) != seen.end()) continue;
    seen.push_back(e);
    list += (list.empty() ? "" : ", ") + std::string(name);
  }
  expected("one of " + list, value);
}

template <typename E>
Json to_name(E value, const Names<E>& names) {
  for (const auto& [name, e] : names) {
    if (e == value) return name;
  }
  return nullptr;
}

Names<ComputeDType> dtype_names() {
  return {{"auto", ComputeDType::kAuto},         {"float32", ComputeDType::kFloat32},
          {"bfloat16", ComputeDType::kBFloat16}, {"float", ComputeDType::kFloat32},
          {"fp32", ComputeDType::kFloat32},      {"f32", ComputeDType::kFloat32},
          {"bf16", ComputeDType::kBFloat16}};
}

Names<AttentionMode> mode_names() {
  return {{"auto", AttentionMode::kAuto},
          {"full", AttentionMode::kFull},
          {"moba", AttentionMode::kMoba}};
}

Names<DecodeAttention> decode_names() {
  return {{"moba", DecodeAttention::kMoba}, {"full", DecodeAttention::kFull}};
}

constexpr std::string_view kModelGroup = "Model";
constexpr std::string_view kAttentionGroup = "Attention";
constexpr std::string_view kMemoryGroup = "Memory and threads";
constexpr std::string_view kSamplingGroup = "Sampling";
constexpr std::string_view kStoppingGroup = "Length and stopping";
constexpr std::string_view kLogprobGroup = "Log probabilities";

// The two functions of a setting that is a member of Settings, read by a function of its JSON.
#define MOBA_READ(member, convert) [](Settings& s, const Json& v) { s.member = convert(v); }
#define MOBA_WRITE(member) [](const Settings& s) { return Json(s.member); }
#define MOBA_WRITE_FLOAT(member) [](const Settings& s) { return float_json(s.member); }
#define MOBA_WRITE_OPTIONAL(member) [](const Settings& s) { return optional_json(s.member); }

const std::array kSettings{
    Setting{"model", "", "", "-m,--model", "DIR",
            "Hugging Face checkpoint: a directory with config.json, *.safetensors and a tokenizer",
            Scope::kModel, kModelGroup, Kind::kString, MOBA_READ(engine.model, as_string),
            MOBA_WRITE(engine.model)},
    Setting{"dtype", "", "", "--dtype", "TYPE",
            "Type of activations and KV cache: auto, float32 or bfloat16 (default: auto, which is "
            "bfloat16 for bfloat16 checkpoints, else float32)",
            Scope::kEngine, kModelGroup, Kind::kString,
            [](Settings& s, const Json& v) { s.engine.dtype = from_name(v, dtype_names()); },
            [](const Settings& s) { return to_name(s.engine.dtype, dtype_names()); }},
    Setting{"max_model_len", "", "", "-c,--max-model-len,--ctx-size", "N",
            "Longest sequence, prompt and output together (default: 0, the checkpoint's maximum or "
            "what the KV cache holds if less)",
            Scope::kEngine, kModelGroup, Kind::kInteger, MOBA_READ(engine.max_model_len, as_int64),
            MOBA_WRITE(engine.max_model_len)},

    Setting{
        "attention", "attention", "mode", "--attention", "MODE",
        "auto: each layer as the checkpoint says; full: full attention in every layer; moba: "
        "MoBA in every layer but the full attention layers (default: auto)",
        Scope::kAttention, kAttentionGroup, Kind::kString,
        [](Settings& s, const Json& v) { s.engine.attention.mode = from_name(v, mode_names()); },
        [](const Settings& s) { return to_name(s.engine.attention.mode, mode_names()); }},
    Setting{"moba_block_size", "attention", "", "--moba-block-size", "N",
            "Tokens per MoBA block (default: 0, the checkpoint's)", Scope::kAttention,
            kAttentionGroup, Kind::kInteger, MOBA_READ(engine.attention.moba_block_size, as_int),
            MOBA_WRITE(engine.attention.moba_block_size)},
    Setting{"moba_topk", "attention", "", "--moba-topk", "N",
            "Blocks a token attends to, its own included (default: 0, the checkpoint's)",
            Scope::kAttention, kAttentionGroup, Kind::kInteger,
            MOBA_READ(engine.attention.moba_topk, as_int), MOBA_WRITE(engine.attention.moba_topk)},
    Setting{"full_attention_layers", "attention", "", "--full-attention-layers", "LAYERS",
            "Layers that keep full attention: last:N, a list as 0,8,9, or none (default: the "
            "checkpoint's)",
            Scope::kAttention, kAttentionGroup, Kind::kString,
            MOBA_READ(engine.attention.full_attention_layers, as_layers),
            MOBA_WRITE(engine.attention.full_attention_layers)},
    Setting{"decode_attention", "attention", "decode", "--decode-attention", "MODE",
            "For generated tokens. moba: a layer keeps its kind; full: full attention in every "
            "layer (default: moba)",
            Scope::kAttention, kAttentionGroup, Kind::kString,
            [](Settings& s, const Json& v) {
              s.engine.attention.decode = from_name(v, decode_names());
            },
            [](const Settings& s) { return to_name(s.engine.attention.decode, decode_names()); }},

    Setting{"kv_cache_memory", "cache", "memory_bytes", "--kv-cache-memory", "SIZE",
            "Memory for the KV cache, for example 512M or 1.5GiB (default: 0, what one sequence of "
            "the longest length needs or all sequences with 4096 tokens each, at most 80% of the "
            "free memory)",
            Scope::kEngine, kMemoryGroup, Kind::kSize,
            MOBA_READ(engine.cache.memory_bytes, as_size), MOBA_WRITE(engine.cache.memory_bytes)},
    Setting{"block_size", "cache", "", "--block-size", "N",
            "Tokens per page of the KV cache (default: 0, the largest power of two up to 64 that "
            "divides the MoBA block size)",
            Scope::kEngine, kMemoryGroup, Kind::kInteger,
            MOBA_READ(engine.cache.block_size, as_int), MOBA_WRITE(engine.cache.block_size)},
    Setting{"max_num_batched_tokens", "scheduler", "", "-b,--max-num-batched-tokens,--batch-size",
            "N", "Tokens of one step, which is the length of a prefill chunk (default: 2048)",
            Scope::kEngine, kMemoryGroup, Kind::kInteger,
            MOBA_READ(engine.scheduler.max_num_batched_tokens, as_int),
            MOBA_WRITE(engine.scheduler.max_num_batched_tokens)},
    Setting{"max_num_seqs", "scheduler", "", "--max-num-seqs", "N",
            "Sequences that are computed together (default: 16)", Scope::kServing, kMemoryGroup,
            Kind::kInteger, MOBA_READ(engine.scheduler.max_num_seqs, as_int),
            MOBA_WRITE(engine.scheduler.max_num_seqs)},
    Setting{"max_num_queued", "scheduler", "", "", "",
            "Requests that may wait beside those; one more is refused (default: 1024)",
            Scope::kServing, kMemoryGroup, Kind::kInteger,
            MOBA_READ(engine.scheduler.max_num_queued, as_int),
            MOBA_WRITE(engine.scheduler.max_num_queued)},
    Setting{"threads", "", "num_threads", "-t,--threads", "N",
            "Threads to compute with (default: 0, one per processor)", Scope::kEngine, kMemoryGroup,
            Kind::kInteger, MOBA_READ(engine.num_threads, as_int), MOBA_WRITE(engine.num_threads)},

    Setting{"temperature", "sampling", "", "--temperature,--temp", "X",
            "Divides the logits; 0 takes the most probable token (default: the checkpoint's, else "
            "1)",
            Scope::kSampling, kSamplingGroup, Kind::kNumber,
            MOBA_READ(sampling.temperature, as_float), MOBA_WRITE_FLOAT(sampling.temperature)},
    Setting{"top_k", "sampling", "", "--top-k", "N",
            "Only the N most probable tokens; 0 or -1: all (default: the checkpoint's, else 0)",
            Scope::kSampling, kSamplingGroup, Kind::kInteger, MOBA_READ(sampling.top_k, as_int),
            MOBA_WRITE(sampling.top_k)},
    Setting{"top_p", "sampling", "", "--top-p", "X",
            "Only the smallest set of tokens whose probability reaches X (default: the "
            "checkpoint's, else 1)",
            Scope::kSampling, kSamplingGroup, Kind::kNumber, MOBA_READ(sampling.top_p, as_float),
            MOBA_WRITE_FLOAT(sampling.top_p)},
    Setting{"min_p", "sampling", "", "--min-p", "X",
            "Only tokens with at least X times the largest probability (default: the checkpoint's, "
            "else 0)",
            Scope::kSampling, kSamplingGroup, Kind::kNumber, MOBA_READ(sampling.min_p, as_float),
            MOBA_WRITE_FLOAT(sampling.min_p)},
    Setting{"repetition_penalty", "sampling", "", "--repetition-penalty,--repeat-penalty", "X",
            "Divides positive and multiplies negative logits of tokens in prompt or output "
            "(default: the checkpoint's, else 1)",
            Scope::kSampling, kSamplingGroup, Kind::kNumber,
            MOBA_READ(sampling.repetition_penalty, as_float),
            MOBA_WRITE_FLOAT(sampling.repetition_penalty)},
    Setting{"presence_penalty", "sampling", "", "--presence-penalty", "X",
            "Subtracted from the logits of tokens in the output (default: 0)", Scope::kSampling,
            kSamplingGroup, Kind::kNumber, MOBA_READ(sampling.presence_penalty, as_float),
            MOBA_WRITE_FLOAT(sampling.presence_penalty)},
    Setting{"frequency_penalty", "sampling", "", "--frequency-penalty", "X",
            "Subtracted once for each time a token is in the output (default: 0)", Scope::kSampling,
            kSamplingGroup, Kind::kNumber, MOBA_READ(sampling.frequency_penalty, as_float),
            MOBA_WRITE_FLOAT(sampling.frequency_penalty)},
    Setting{"logit_bias", "sampling", "", "--logit-bias", "ID:BIAS",
            "Added to the logit of a token, also as ID+BIAS or ID-BIAS; repeatable (default: none)",
            Scope::kSampling, kSamplingGroup, Kind::kLogitBias,
            MOBA_READ(sampling.logit_bias, as_logit_bias),
            [](const Settings& s) {
              Json biases = Json::object();
              for (const auto& [id, bias] : s.sampling.logit_bias) {
                biases[std::to_string(id)] = float_json(bias);
              }
              return biases;
            }},
    Setting{"seed", "sampling", "", "-s,--seed", "N",
            "Same seed, same text (default: -1, a random one, which the log tells)",
            Scope::kSampling, kSamplingGroup, Kind::kInteger,
            [](Settings& s, const Json& v) { s.sampling.seed = as_optional(v, as_seed); },
            MOBA_WRITE_OPTIONAL(sampling.seed)},

    Setting{"max_tokens", "sampling", "", "-n,--max-tokens,--n-predict", "N",
            "Tokens to generate at most; -1: up to the longest length (default: the checkpoint's, "
            "else 256)",
            Scope::kSampling, kStoppingGroup, Kind::kInteger,
            [](Settings& s, const Json& v) { s.sampling.max_tokens = as_optional(v, as_int); },
            MOBA_WRITE_OPTIONAL(sampling.max_tokens)},
    Setting{
        "min_tokens", "sampling", "", "--min-tokens", "N",
        "Tokens before which neither the end of the text nor a stop token is taken (default: 0)",
        Scope::kSampling, kStoppingGroup, Kind::kInteger, MOBA_READ(sampling.min_tokens, as_int),
        MOBA_WRITE(sampling.min_tokens)},
    Setting{"stop", "sampling", "", "--stop", "TEXT",
            "End before this text; repeatable (default: none)", Scope::kSampling, kStoppingGroup,
            Kind::kStrings,
            [](Settings& s, const Json& v) { s.sampling.stop = as_list(v, as_string); },
            MOBA_WRITE(sampling.stop)},
    Setting{"include_stop_str_in_output", "sampling", "", "--include-stop-str-in-output", "",
            "Print the stop text as well (default: off)", Scope::kSampling, kStoppingGroup,
            Kind::kBool, MOBA_READ(sampling.include_stop_str_in_output, as_bool),
            MOBA_WRITE(sampling.include_stop_str_in_output)},
    Setting{"stop_token_ids", "sampling", "", "--stop-token-ids", "IDS",
            "End at these tokens beside the checkpoint's own, for example 2,13; repeatable "
            "(default: none)",
            Scope::kSampling, kStoppingGroup, Kind::kIntegers,
            [](Settings& s, const Json& v) { s.sampling.stop_token_ids = as_list(v, as_int); },
            MOBA_WRITE(sampling.stop_token_ids)},
    Setting{"ignore_eos", "sampling", "", "--ignore-eos", "",
            "Go on after the end of the text (default: off)", Scope::kSampling, kStoppingGroup,
            Kind::kBool, MOBA_READ(sampling.ignore_eos, as_bool), MOBA_WRITE(sampling.ignore_eos)},
    Setting{"skip_special_tokens", "sampling", "",
            "--skip-special-tokens,!--no-skip-special-tokens", "",
            "Leave special tokens such as </s> out of the text (default: on)", Scope::kSampling,
            kStoppingGroup, Kind::kBool, MOBA_READ(sampling.skip_special_tokens, as_bool),
            MOBA_WRITE(sampling.skip_special_tokens)},

    Setting{"logprobs", "sampling", "", "--logprobs", "N",
            "Log probability of each generated token and of the N most probable ones; in --json, "
            "else as a list on standard error (default: off)",
            Scope::kSampling, kLogprobGroup, Kind::kInteger,
            [](Settings& s, const Json& v) { s.sampling.logprobs = as_optional(v, as_int); },
            MOBA_WRITE_OPTIONAL(sampling.logprobs)},
    Setting{"prompt_logprobs", "sampling", "", "--prompt-logprobs", "N",
            "The same for the tokens of the prompt, in --json (default: off)", Scope::kSampling,
            kLogprobGroup, Kind::kInteger,
            [](Settings& s, const Json& v) { s.sampling.prompt_logprobs = as_optional(v, as_int); },
            MOBA_WRITE_OPTIONAL(sampling.prompt_logprobs)},
};

#undef MOBA_READ
#undef MOBA_WRITE
#undef MOBA_WRITE_FLOAT
#undef MOBA_WRITE_OPTIONAL

}  // namespace

std::span<const Setting> all_settings() { return kSettings; }

const Setting* find_setting(std::string_view section, std::string_view key) {
  for (const Setting& setting : kSettings) {
    if (section.empty()) {
      const bool alias = setting.section.empty() && !setting.alias.empty() && key == setting.alias;
      if (key == setting.key || alias) return &setting;
    } else if (section == setting.section) {
      if (key == setting.key || (!setting.alias.empty() && key == setting.alias)) return &setting;
    }
  }
  return nullptr;
}

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
        biases[std::to_string(id)] = float_json(bias);
      }
      return biases;
    }
  }
  return nullptr;
}

void apply_settings(const std::vector<SettingValue>& values, bool sampling, Settings& settings) {
  for (const SettingValue& value : values) {
    if ((value.setting->scope == SettingScope::kSampling) != sampling) continue;
    try {
      value.setting->set(settings, value.value);
    } catch (const std::invalid_argument& error) {
      const std::string message = value.origin + ": " + error.what();
      if (value.from_command_line) throw UsageError(message);
      throw CommandError(message);
    }
  }
}

OrderedJson settings_json(const Settings& settings) {
  OrderedJson json;
  for (const Setting& setting : kSettings) {
    const std::string key(setting.key);
    if (setting.scope == SettingScope::kSampling) {
      json["sampling"][key] = setting.get(settings);
    } else {
      json[key] = setting.get(settings);
    }
  }
  return json;
}

}  // namespace moba::cli
