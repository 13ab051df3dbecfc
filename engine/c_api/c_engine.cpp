#include <nlohmann/json.hpp>

#include "engine/c_api/c_objects.h"
#include "engine/c_api/c_status.h"
#include "moba/inspect.h"

namespace {

using moba::Result;
using moba::c_api::fail;
using moba::c_api::guarded;
using moba::c_api::require;

nlohmann::ordered_json inspect_json(const moba::CheckpointInfo& info) {
  nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
  for (const moba::TensorInfo& tensor : info.tensors) {
    tensors.push_back({{"name", tensor.name},
                       {"dtype", tensor.dtype},
                       {"shape", tensor.shape},
                       {"file", tensor.file}});
  }
  return {{"architecture", info.architecture},
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
          {"moba_block_size", info.moba_block_size},
          {"layer_topk", info.layer_topk},
          {"kv_bytes_per_token", info.kv_bytes_per_token},
          {"tensors", std::move(tensors)}};
}

}  // namespace

moba_status moba_engine_create(const moba_config* config, moba_engine** out) {
  return guarded([&] {
    require(config, "config");
    require(out, "out");
    auto engine = moba::Engine::create(config->configuration.engine());
    if (!engine.ok()) return fail(engine.status());
    *out = new moba_engine{std::move(engine.value())};
    return MOBA_OK;
  });
}

moba_status moba_engine_destroy(moba_engine* engine) {
  return guarded([&] {
    if (engine != nullptr && moba::c_api::engine_of_callback() == engine->engine.get()) {
      return fail(MOBA_INVALID_ARGUMENT, "an engine cannot be destroyed from its own callback");
    }
    delete engine;
    return MOBA_OK;
  });
}

moba_status moba_engine_tokenizer(const moba_engine* engine, moba_tokenizer** out) {
  return guarded([&] {
    require(engine, "engine");
    require(out, "out");
    *out = new moba_tokenizer{engine->engine->tokenizer()};
    return MOBA_OK;
  });
}

moba_status moba_run_rank(const moba_config* config) {
  return guarded([&] {
    require(config, "config");
    return moba::c_api::to_c(moba::run_rank(config->configuration.engine()));
  });
}

moba_status moba_engine_info(const moba_engine* engine, moba_info* info) {
  return guarded([&] {
    require(engine, "engine");
    const moba::EngineInfo& from = engine->engine->info();
    moba_info to = moba_info_init();
    to.architecture = from.architecture.c_str();
    to.dtype = from.dtype.c_str();
    to.device = from.device.c_str();
    to.device_name = from.device_name.c_str();
    to.cpu_isa = from.cpu_isa.c_str();
    to.num_threads = from.num_threads;
    to.num_layers = from.num_layers;
    to.layer_topk = from.layer_topk.data();
    to.moba_block_size = from.moba_block_size;
    to.block_size = from.block_size;
    to.vocab_size = from.vocab_size;
    to.max_model_len = from.max_model_len;
    to.num_pages = from.num_pages;
    to.weight_bytes = from.weight_bytes;
    to.kv_cache_bytes = from.kv_cache_bytes;
    to.kv_bytes_per_token = from.kv_bytes_per_token;
    to.workspace_bytes = from.workspace_bytes;
    to.tensor_parallel_size = from.tensor_parallel_size;
    moba::c_api::write_struct(to, info, "info");
    return MOBA_OK;
  });
}

moba_status moba_engine_stats(const moba_engine* engine, moba_stats* stats) {
  return guarded([&] {
    require(engine, "engine");
    const moba::EngineStats from = engine->engine->stats();
    moba_stats to = moba_stats_init();
    to.num_running = from.num_running;
    to.num_waiting = from.num_waiting;
    to.num_pages = from.num_pages;
    to.num_pages_in_use = from.num_pages_in_use;
    to.num_pages_cached = from.num_pages_cached;
    to.num_steps = from.num_steps;
    to.num_prompt_tokens = from.num_prompt_tokens;
    to.num_output_tokens = from.num_output_tokens;
    to.num_refused = from.num_refused;
    to.num_finished = from.num_finished;
    to.num_cancelled = from.num_cancelled;
    to.num_expired = from.num_expired;
    to.num_failed = from.num_failed;
    to.num_preemptions = from.num_preemptions;
    to.num_prefix_lookup_tokens = from.num_prefix_lookup_tokens;
    to.num_prefix_hit_tokens = from.num_prefix_hit_tokens;
    to.num_evicted_pages = from.num_evicted_pages;
    to.moba_blocks_attended = from.moba_blocks_attended;
    to.moba_blocks_available = from.moba_blocks_available;
    moba::c_api::write_struct(to, stats, "stats");
    return MOBA_OK;
  });
}

moba_status moba_engine_latency(const moba_engine* engine, int32_t which, moba_latency* latency) {
  return guarded([&] {
    require(engine, "engine");
    const moba::EngineStats stats = engine->engine->stats();
    const moba::LatencyHistogram* from = nullptr;
    if (which == MOBA_LATENCY_QUEUE_TIME) from = &stats.queue_time;
    if (which == MOBA_LATENCY_TIME_TO_FIRST_TOKEN) from = &stats.time_to_first_token;
    if (which == MOBA_LATENCY_INTER_TOKEN) from = &stats.inter_token;
    if (which == MOBA_LATENCY_END_TO_END) from = &stats.end_to_end;
    if (which == MOBA_LATENCY_STEP_TIME) from = &stats.step_time;
    if (from == nullptr) {
      return fail(MOBA_INVALID_ARGUMENT,
                  "which is " + std::to_string(which) + ", not one of MOBA_LATENCY_...");
    }
    moba_latency to = moba_latency_init();
    to.count = from->count();
    to.sum_seconds = from->sum_seconds();
    to.p50_seconds = from->quantile(0.5);
    to.p90_seconds = from->quantile(0.9);
    to.p99_seconds = from->quantile(0.99);
    moba::c_api::write_struct(to, latency, "latency");
    return MOBA_OK;
  });
}

moba_status moba_inspect_checkpoint(const char* dir, const moba_config* config, char** json) {
  return guarded([&] {
    require(dir, "dir");
    require(json, "json");
    const auto attention =
        config == nullptr ? moba::AttentionOptions() : config->configuration.engine().attention;
    const Result<moba::CheckpointInfo> info = moba::inspect_checkpoint(dir, attention);
    if (!info.ok()) return fail(info.status());
    using Json = nlohmann::ordered_json;
    *json = moba::c_api::copy_text(
        inspect_json(info.value()).dump(-1, ' ', false, Json::error_handler_t::replace));
    return MOBA_OK;
  });
}
