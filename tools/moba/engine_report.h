// What the log and the JSON output say of an engine.
#pragma once

#include "moba/engine.h"
#include "tools/moba/output.h"
#include "tools/moba/settings.h"

namespace moba::cli {

// Logs the settings in effect, as a configuration file that gives them again (at --verbose).
void log_settings(const Settings& settings);

// Logs how much memory was used at most, beside what was planned.
void log_memory(const EngineInfo& info);

// {"model", "architecture", "dtype", "attention": {...}}: the head of every JSON output.
OrderedJson engine_json(const Settings& settings, const EngineInfo& info);

// {"peak_bytes", "weight_bytes", "kv_cache_bytes", "workspace_bytes"}.
OrderedJson memory_json(const EngineInfo& info);

}  // namespace moba::cli
