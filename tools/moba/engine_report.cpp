#include "tools/moba/engine_report.h"

#include <spdlog/spdlog.h>

namespace moba::cli {

void log_settings(const Settings& settings) {
  spdlog::debug("settings: {}", settings_json(settings).dump(
                                    -1, ' ', false, OrderedJson::error_handler_t::replace));
}

void log_memory(const EngineInfo& info) {
  spdlog::info("peak memory: {} (weights {}, KV cache planned {})",
               human_bytes(peak_memory_bytes()), human_bytes(info.weight_bytes),
               human_bytes(info.kv_cache_bytes));
}

OrderedJson engine_json(const Settings& settings, const EngineInfo& info) {
  OrderedJson attention = attention_json(info.layer_topk, info.moba_block_size);
  attention["decode"] =
      settings.engine.attention.decode == DecodeAttention::kFull ? "full" : "moba";
  return {{"model", settings.engine.model},
          {"architecture", info.architecture},
          {"dtype", info.dtype},
          {"attention", attention}};
}

OrderedJson memory_json(const EngineInfo& info) {
  return {{"peak_bytes", peak_memory_bytes()},
          {"weight_bytes", info.weight_bytes},
          {"kv_cache_bytes", info.kv_cache_bytes},
          {"workspace_bytes", info.workspace_bytes}};
}

}  // namespace moba::cli
