// Which device an engine runs on, what it takes for granted there, and how much memory there is.
#pragma once

#include <cstdint>
#include <string>

#include "attention/attention_backend.h"
#include "device/context.h"
#include "kvcache/kv_pool.h"
#include "moba/config.h"
#include "model/causal_lm.h"

namespace moba {

// The device that EngineConfig::device asks for. Throws Error, in one line, for a text that is
// none, or a device that this build or machine does not have.
Device choose_device(const std::string& text);

// The options with defaults in place of zeros: a GPU wants larger steps than a processor.
SchedulerOptions scheduler_defaults(const SchedulerOptions& asked, Device device);

// Bytes that the engine may use on the context's device, what it has taken included: on the CPU
// what the system can give, on a GPU `utilization` of the device less what others use. `taken` is
// what this process has taken there for the engine.
std::int64_t usable_memory(const DeviceContext& context, double utilization, std::int64_t taken);

// Runs one step as large as any with a model on a GPU, so that what libraries and kernels take at
// their first use is taken when memory is measured. Nothing on the CPU. `moba_topk` is tried beside
// full attention if it is not 0.
void run_profiling_step(DeviceContext& context, CausalLM& model, AttentionBackend& attention,
                        const KvPoolConfig& pool, const AttentionConfig& limits, int moba_topk);

}  // namespace moba
