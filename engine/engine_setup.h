// From a configuration to a running core: reads the checkpoint, plans memory, builds the parts.
#pragma once

#include <memory>

#include "engine/engine_core.h"
#include "engine/model_runner.h"
#include "moba/config.h"
#include "moba/engine.h"

namespace moba {

struct EngineParts {
  EngineInfo info;
  SchedulerOptions scheduler;  // with defaults in place of zeros
  SamplingParams default_sampling;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<DeviceContext> context;  // outlives the core; null where ranks own theirs
  std::unique_ptr<EngineCore> core;
};

// Throws StatusError; a configuration or checkpoint that cannot work is refused before big memory
// is taken. Logs the effective configuration.
EngineParts set_up_engine(const EngineConfig& config);

// How a rank joins its group: its end for host memory, and on GPUs the name of the NCCL group.
struct RankCommunicators {
  std::unique_ptr<Communicator> host;
  std::string gpu_group_id;             // empty on the CPU, and for one GPU
  std::int64_t peer_message_bytes = 0;  // ParallelOptions', of ranks in one process; 0 of others
  bool silent = false;                  // ParallelOptions::skip_communication
};

// What one rank contributes. All but context and runner is of use on rank 0 only.
struct RankParts {
  EngineInfo info;
  SchedulerOptions scheduler;  // with defaults in place of zeros
  SamplingParams default_sampling;
  std::shared_ptr<const Tokenizer> tokenizer;  // null on other ranks
  EngineCoreConfig core;
  std::unique_ptr<DeviceContext> context;  // outlives the runner
  std::unique_ptr<ModelRunner> runner;
};

// Builds a rank, on the thread that will run it, while the other ranks of its group do the same;
// `config.num_threads` is the rank's. Throws as set_up_engine().
RankParts set_up_rank(const EngineConfig& config, RankCommunicators communicators);

// What "auto" computes in. Throws Error for what the device does not compute in.
DType resolve_dtype(ComputeDType asked, const ModelConfig& model, Device device = {});

// Sizes of the KV cache.
KvPoolConfig make_pool_config(const ModelConfig& model, const CacheGeometry& geometry, DType dtype);

}  // namespace moba
