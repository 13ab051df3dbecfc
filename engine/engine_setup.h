// From a configuration to a running core: reads the checkpoint, plans memory, builds the parts.
#pragma once

#include <memory>

#include "engine/engine_core.h"
#include "moba/config.h"
#include "moba/engine.h"

namespace moba {

struct EngineParts {
  EngineInfo info;
  SchedulerOptions scheduler;  // with defaults in place of zeros
  SamplingParams default_sampling;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<DeviceContext> context;  // outlives the core
  std::unique_ptr<EngineCore> core;
};

// Throws StatusError; a configuration or checkpoint that cannot work is refused before big memory
// is taken. Logs the effective configuration.
EngineParts set_up_engine(const EngineConfig& config);

// What "auto" computes in. Throws Error for what the device does not compute in.
DType resolve_dtype(ComputeDType asked, const ModelConfig& model, Device device = {});

// Sizes of the KV cache.
KvPoolConfig make_pool_config(const ModelConfig& model, const CacheGeometry& geometry, DType dtype);

}  // namespace moba
