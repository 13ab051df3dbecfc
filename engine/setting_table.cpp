#include "engine/setting_table.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <string>
#include <vector>

#include "engine/json_values.h"
#include "engine/setting_names.h"

namespace moba {
namespace {

using namespace json_values;  // NOLINT(google-build-using-namespace): the readers of the table

// The two functions of a setting that is a member of the targets, read by a function of its JSON.
#define MOBA_READ(member, convert) [](SettingTargets& t, const Json& v) { t.member = convert(v); }
#define MOBA_READ_NAME(member, names) \
  [](SettingTargets& t, const Json& v) { t.member = from_name(v, names()); }
#define MOBA_READ_LIST(member, item) \
  [](SettingTargets& t, const Json& v) { t.member = as_list(v, item); }
#define MOBA_READ_OPTIONAL(member, item) \
  [](SettingTargets& t, const Json& v) { t.member = as_optional(v, item); }
#define MOBA_WRITE(member) [](const SettingTargets& t) { return Json(t.member); }
#define MOBA_WRITE_NAME(member, names) \
  [](const SettingTargets& t) { return to_name(t.member, names()); }
#define MOBA_WRITE_FLOAT(member) [](const SettingTargets& t) { return float_json(t.member); }
#define MOBA_WRITE_OPTIONAL(member) [](const SettingTargets& t) { return optional_json(t.member); }

Json logit_bias_json(const SettingTargets& targets) {
  Json biases = Json::object();
  for (const auto& [id, bias] : targets.sampling.logit_bias) {
    biases[std::to_string(id)] = float_json(bias);
  }
  return biases;
}

constexpr bool kEngine = false;
constexpr bool kSampling = true;

constexpr std::array kRows{
    SettingRow{"model", "", "", kEngine, MOBA_READ(engine.model, as_string),
               MOBA_WRITE(engine.model)},
    SettingRow{"dtype", "", "", kEngine, MOBA_READ_NAME(engine.dtype, dtype_names),
               MOBA_WRITE_NAME(engine.dtype, dtype_names)},
    SettingRow{"device", "", "", kEngine, MOBA_READ(engine.device, as_string),
               MOBA_WRITE(engine.device)},
    SettingRow{"max_model_len", "", "", kEngine, MOBA_READ(engine.max_model_len, as_int64),
               MOBA_WRITE(engine.max_model_len)},
    SettingRow{"threads", "", "num_threads", kEngine, MOBA_READ(engine.num_threads, as_int),
               MOBA_WRITE(engine.num_threads)},
    SettingRow{"decode_graphs", "", "", kEngine, MOBA_READ(engine.decode_graphs, as_bool),
               MOBA_WRITE(engine.decode_graphs)},

    SettingRow{"attention", "attention", "mode", kEngine,
               MOBA_READ_NAME(engine.attention.mode, attention_mode_names),
               MOBA_WRITE_NAME(engine.attention.mode, attention_mode_names)},
    SettingRow{"moba_block_size", "attention", "", kEngine,
               MOBA_READ(engine.attention.moba_block_size, as_int),
               MOBA_WRITE(engine.attention.moba_block_size)},
    SettingRow{"moba_topk", "attention", "", kEngine, MOBA_READ(engine.attention.moba_topk, as_int),
               MOBA_WRITE(engine.attention.moba_topk)},
    SettingRow{"full_attention_layers", "attention", "", kEngine,
               MOBA_READ(engine.attention.full_attention_layers, as_layers),
               MOBA_WRITE(engine.attention.full_attention_layers)},
    SettingRow{"decode_attention", "attention", "decode", kEngine,
               MOBA_READ_NAME(engine.attention.decode, decode_attention_names),
               MOBA_WRITE_NAME(engine.attention.decode, decode_attention_names)},

    SettingRow{"kv_cache_memory", "cache", "memory_bytes", kEngine,
               MOBA_READ(engine.cache.memory_bytes, as_size),
               MOBA_WRITE(engine.cache.memory_bytes)},
    SettingRow{"gpu_memory_utilization", "cache", "", kEngine,
               MOBA_READ(engine.cache.gpu_memory_utilization, as_double),
               MOBA_WRITE(engine.cache.gpu_memory_utilization)},
    SettingRow{"block_size", "cache", "", kEngine, MOBA_READ(engine.cache.block_size, as_int),
               MOBA_WRITE(engine.cache.block_size)},
    SettingRow{"enable_prefix_caching", "cache", "", kEngine,
               MOBA_READ(engine.cache.enable_prefix_caching, as_bool),
               MOBA_WRITE(engine.cache.enable_prefix_caching)},

    SettingRow{"max_num_batched_tokens", "scheduler", "", kEngine,
               MOBA_READ(engine.scheduler.max_num_batched_tokens, as_int),
               MOBA_WRITE(engine.scheduler.max_num_batched_tokens)},
    SettingRow{"max_num_seqs", "scheduler", "", kEngine,
               MOBA_READ(engine.scheduler.max_num_seqs, as_int),
               MOBA_WRITE(engine.scheduler.max_num_seqs)},
    SettingRow{"long_prefill_token_threshold", "scheduler", "", kEngine,
               MOBA_READ(engine.scheduler.long_prefill_token_threshold, as_int),
               MOBA_WRITE(engine.scheduler.long_prefill_token_threshold)},
    SettingRow{"max_num_queued", "scheduler", "", kEngine,
               MOBA_READ(engine.scheduler.max_num_queued, as_int),
               MOBA_WRITE(engine.scheduler.max_num_queued)},
    SettingRow{"tensor_parallel_size", "parallel", "", kEngine,
               MOBA_READ(engine.parallel.tensor_parallel_size, as_int),
               MOBA_WRITE(engine.parallel.tensor_parallel_size)},
    SettingRow{"rank_timeout_seconds", "parallel", "", kEngine,
               MOBA_READ(engine.parallel.rank_timeout_seconds, as_float),
               [](const SettingTargets& t) {
                 return float_json(static_cast<float>(t.engine.parallel.rank_timeout_seconds));
               }},
    SettingRow{"num_processes", "parallel", "", kEngine,
               MOBA_READ(engine.parallel.num_processes, as_int),
               MOBA_WRITE(engine.parallel.num_processes)},
    SettingRow{"process_rank", "parallel", "", kEngine,
               MOBA_READ(engine.parallel.process_rank, as_int),
               MOBA_WRITE(engine.parallel.process_rank)},
    SettingRow{"local_rank", "parallel", "", kEngine, MOBA_READ(engine.parallel.local_rank, as_int),
               MOBA_WRITE(engine.parallel.local_rank)},
    SettingRow{"master_address", "parallel", "", kEngine,
               MOBA_READ(engine.parallel.master_address, as_string),
               MOBA_WRITE(engine.parallel.master_address)},
    SettingRow{"master_port", "parallel", "", kEngine,
               MOBA_READ(engine.parallel.master_port, as_int),
               MOBA_WRITE(engine.parallel.master_port)},
    SettingRow{"peer_message_bytes", "parallel", "", kEngine,
               MOBA_READ(engine.parallel.peer_message_bytes, as_int64),
               MOBA_WRITE(engine.parallel.peer_message_bytes)},
    SettingRow{"min_overlapped_tokens", "parallel", "", kEngine,
               MOBA_READ(engine.parallel.min_overlapped_tokens, as_int64),
               MOBA_WRITE(engine.parallel.min_overlapped_tokens)},
    SettingRow{"skip_communication", "parallel", "", kEngine,
               MOBA_READ(engine.parallel.skip_communication, as_bool),
               MOBA_WRITE(engine.parallel.skip_communication)},
    SettingRow{"communicate_alone", "parallel", "", kEngine,
               MOBA_READ(engine.parallel.communicate_alone, as_bool),
               MOBA_WRITE(engine.parallel.communicate_alone)},

    SettingRow{"temperature", "sampling", "", kSampling, MOBA_READ(sampling.temperature, as_float),
               MOBA_WRITE_FLOAT(sampling.temperature)},
    SettingRow{"top_k", "sampling", "", kSampling, MOBA_READ(sampling.top_k, as_int),
               MOBA_WRITE(sampling.top_k)},
    SettingRow{"top_p", "sampling", "", kSampling, MOBA_READ(sampling.top_p, as_float),
               MOBA_WRITE_FLOAT(sampling.top_p)},
    SettingRow{"min_p", "sampling", "", kSampling, MOBA_READ(sampling.min_p, as_float),
               MOBA_WRITE_FLOAT(sampling.min_p)},
    SettingRow{"repetition_penalty", "sampling", "", kSampling,
               MOBA_READ(sampling.repetition_penalty, as_float),
               MOBA_WRITE_FLOAT(sampling.repetition_penalty)},
    SettingRow{"presence_penalty", "sampling", "", kSampling,
               MOBA_READ(sampling.presence_penalty, as_float),
               MOBA_WRITE_FLOAT(sampling.presence_penalty)},
    SettingRow{"frequency_penalty", "sampling", "", kSampling,
               MOBA_READ(sampling.frequency_penalty, as_float),
               MOBA_WRITE_FLOAT(sampling.frequency_penalty)},
    SettingRow{"logit_bias", "sampling", "", kSampling,
               MOBA_READ(sampling.logit_bias, as_logit_bias), logit_bias_json},
    SettingRow{"seed", "sampling", "", kSampling, MOBA_READ_OPTIONAL(sampling.seed, as_seed),
               MOBA_WRITE_OPTIONAL(sampling.seed)},
    SettingRow{"max_tokens", "sampling", "", kSampling,
               MOBA_READ_OPTIONAL(sampling.max_tokens, as_int),
               MOBA_WRITE_OPTIONAL(sampling.max_tokens)},
    SettingRow{"min_tokens", "sampling", "", kSampling, MOBA_READ(sampling.min_tokens, as_int),
               MOBA_WRITE(sampling.min_tokens)},
    SettingRow{"stop", "sampling", "", kSampling, MOBA_READ_LIST(sampling.stop, as_string),
               MOBA_WRITE(sampling.stop)},
    SettingRow{"include_stop_str_in_output", "sampling", "", kSampling,
               MOBA_READ(sampling.include_stop_str_in_output, as_bool),
               MOBA_WRITE(sampling.include_stop_str_in_output)},
    SettingRow{"stop_token_ids", "sampling", "", kSampling,
               MOBA_READ_LIST(sampling.stop_token_ids, as_token_id),
               MOBA_WRITE(sampling.stop_token_ids)},
    SettingRow{"ignore_eos", "sampling", "", kSampling, MOBA_READ(sampling.ignore_eos, as_bool),
               MOBA_WRITE(sampling.ignore_eos)},
    SettingRow{"skip_special_tokens", "sampling", "", kSampling,
               MOBA_READ(sampling.skip_special_tokens, as_bool),
               MOBA_WRITE(sampling.skip_special_tokens)},
    SettingRow{"logprobs", "sampling", "", kSampling, MOBA_READ_OPTIONAL(sampling.logprobs, as_int),
               MOBA_WRITE_OPTIONAL(sampling.logprobs)},
    SettingRow{"prompt_logprobs", "sampling", "", kSampling,
               MOBA_READ_OPTIONAL(sampling.prompt_logprobs, as_int),
               MOBA_WRITE_OPTIONAL(sampling.prompt_logprobs)},
};

#undef MOBA_READ
#undef MOBA_READ_NAME
#undef MOBA_READ_LIST
#undef MOBA_READ_OPTIONAL
#undef MOBA_WRITE
#undef MOBA_WRITE_NAME
#undef MOBA_WRITE_FLOAT
#undef MOBA_WRITE_OPTIONAL

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t change = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({change, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::span<const SettingRow> setting_rows() { return kRows; }

const SettingRow* find_setting_row(std::string_view section, std::string_view key) {
  for (const SettingRow& row : kRows) {
    const bool alias = !row.alias.empty() && key == row.alias && section == row.section;
    if (alias || (key == row.key && (section.empty() || section == row.section))) return &row;
  }
  return nullptr;
}

std::string suggest_key(std::string_view key, std::span<const std::string_view> keys) {
  constexpr std::size_t kMaxKey = 64;
  if (key.size() > kMaxKey) return "";
  std::string_view best;
  std::size_t distance = 4;
  for (const std::string_view candidate : keys) {
    const std::size_t d = edit_distance(key, candidate);
    if (d < distance) {
      distance = d;
      best = candidate;
    }
  }
  return best.empty() ? "" : ", did you mean \"" + std::string(best) + "\"?";
}

std::string suggest_setting(std::string_view key) {
  std::vector<std::string_view> keys;
  for (const SettingRow& row : kRows) keys.push_back(row.key);
  return suggest_key(key, keys);
}

}  // namespace moba
