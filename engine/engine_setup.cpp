#include "engine/engine_setup.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "device/cuda/nccl_communicator.h"
#include "device/cuda/peer_communicator.h"
#include "device/cuda/silent_communicator.h"
#include "device/device_info.h"
#include "engine/checkpoint_tokenizer.h"
#include "engine/device_setup.h"
#include "engine/logging.h"
#include "engine/memory_plan.h"
#include "engine/model_runner.h"
#include "engine/no_tokenizer.h"
#include "engine/parallel_setup.h"
#include "engine/status_error.h"
#include "model/checkpoint_tensors.h"
#include "tokenizer/tokenizer.h"

namespace moba {
namespace {

// Of what attention and operations need while they run, before the real number is known.
constexpr std::int64_t kWorkspaceGuess = std::int64_t{64} << 20;
constexpr int kMaxBatchedTokens = 1 << 20;
constexpr int kMaxSeqs = 1 << 16;
constexpr int kMaxQueued = 1 << 24;

void check_options(const EngineConfig& config, const SchedulerOptions& scheduler) {
  const auto in_range = [](const char* name, int value, int low, int high) {
    MOBA_CHECK(value >= low && value <= high, name, " is ", value, ", not in ", low, " .. ", high);
  };
  in_range("max_num_batched_tokens", scheduler.max_num_batched_tokens, 1, kMaxBatchedTokens);
  in_range("max_num_seqs", scheduler.max_num_seqs, 1, kMaxSeqs);
  in_range("long_prefill_token_threshold", scheduler.long_prefill_token_threshold, 0,
           kMaxBatchedTokens);
  in_range("max_num_queued", scheduler.max_num_queued, 0, kMaxQueued);
  const double utilization = config.cache.gpu_memory_utilization;
  MOBA_CHECK(utilization > 0 && utilization <= 1, "gpu_memory_utilization is ", utilization,
             ", not in (0, 1]");
  MOBA_CHECK(!config.model.empty(), "no model directory is given");
}

// Of a checkpoint without one, a NoTokenizer: prompts of token ids need none.
std::shared_ptr<const Tokenizer> open_tokenizer(const std::filesystem::path& dir) {
  try {
    if (!checkpoint_has_tokenizer(dir)) {
      engine_logger()->warn(
          "engine: {} has no tokenizer: prompts must be token ids, and outputs "
          "have no text",
          dir.string());
      return std::make_shared<NoTokenizer>(dir.string());
    }
    return load_checkpoint_tokenizer(dir);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    throw StatusError(StatusCode::kInvalidCheckpoint, error.what());
  }
}

std::vector<std::int32_t> end_tokens(const ModelConfig& model, const GenerationConfig& generation,
                                     const Tokenizer& tokenizer) {
  std::vector<std::int32_t> ids =
      generation.eos_token_ids.empty() ? model.eos_token_ids : generation.eos_token_ids;
  if (const auto eos = tokenizer.eos_id()) ids.push_back(*eos);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

// generation_config.json over the library's defaults. A checkpoint that does not sample is greedy.
SamplingParams sampling_defaults(const GenerationConfig& generation) {
  SamplingParams params;
  if (generation.temperature) params.temperature = *generation.temperature;
  if (generation.top_p) params.top_p = *generation.top_p;
  if (generation.top_k) params.top_k = *generation.top_k;
  if (generation.repetition_penalty) params.repetition_penalty = *generation.repetition_penalty;
  if (generation.do_sample == false) params.temperature = 0;
  return params;
}

// Bytes of activations, logits and attention for a step, as far as they can be told before the
// model is built.
std::int64_t guess_workspace(const ModelConfig& model, DType dtype, std::int64_t batched_tokens) {
  const std::int64_t q_size = std::int64_t{model.num_q_heads} * model.head_dim;
  const std::int64_t kv_size = std::int64_t{model.num_kv_heads} * model.head_dim;
  const std::int64_t per_token = 2 * model.hidden_size + 2 * (q_size + kv_size);
  return batched_tokens * per_token * static_cast<std::int64_t>(dtype_size(dtype)) +
         kWorkspaceGuess;
}

MemoryPlanInput plan_input(const EngineConfig& config, const ModelConfig& model,
                           const KvPoolConfig& pool) {
  MemoryPlanInput input;
  input.page_bytes = kv_page_bytes(pool);
  input.block_size = pool.block_size;
  input.cache_bytes = config.cache.memory_bytes;
  input.max_model_len = config.max_model_len;
  input.default_model_len = model.max_position_embeddings;
  if (model.sliding_window) {
    input.default_model_len = std::min(input.default_model_len, *model.sliding_window);
  }
  input.longest_model_len = longest_model_len(model);
  return input;
}

std::string describe_layers(const std::vector<int>& topk) {
  // Runs of equal layers: "0-7 MoBA top-8, 8-9 full".
  std::string text;
  for (std::size_t first = 0; first < topk.size();) {
    std::size_t last = first;
    while (last + 1 < topk.size() && topk[last + 1] == topk[first]) ++last;
    if (!text.empty()) text += ", ";
    text += first == last ? std::to_string(first) : fmt::format("{}-{}", first, last);
    text += topk[first] == 0 ? " full" : fmt::format(" MoBA top-{}", topk[first]);
    first = last + 1;
  }
  return text;
}

void log_configuration(const SchedulerOptions& scheduler, const EngineInfo& info) {
  const auto logger = engine_logger();
  logger->info(
      "engine: {} in {} on {}, max_model_len {}, max_num_batched_tokens {}, max_num_seqs {}, {} "
      "threads, {}",
      info.architecture, info.dtype,
      info.device_name.empty() ? info.device : info.device + " (" + info.device_name + ")",
      info.max_model_len, scheduler.max_num_batched_tokens, scheduler.max_num_seqs,
      info.num_threads, info.cpu_isa);
  logger->info("engine: layers {}; MoBA block {}, page {}, {} pages of KV cache ({}), workspace {}",
               describe_layers(info.layer_topk), info.moba_block_size, info.block_size,
               info.num_pages, format_bytes(info.kv_cache_bytes),
               format_bytes(info.workspace_bytes));
}

void join_group(DeviceContext& context, RankCommunicators communicators) {
  std::unique_ptr<Communicator> on_device;
  if (!communicators.gpu_group_id.empty()) {
    on_device =
        cuda::make_nccl_communicator(context, communicators.gpu_group_id, *communicators.host);
    if (communicators.peer_message_bytes > 0) {
      on_device = cuda::make_peer_communicator(context, std::move(on_device), *communicators.host,
                                               communicators.peer_message_bytes);
    }
  }
  if (communicators.silent && on_device != nullptr) {
    on_device = cuda::make_silent_communicator(context, std::move(on_device));
  }
  context.set_communicators(std::move(on_device), std::move(communicators.host));
}

}  // namespace

DType resolve_dtype(ComputeDType asked, const ModelConfig& model, Device device) {
  switch (asked) {
    case ComputeDType::kFloat32:
      return DType::kFloat32;
    case ComputeDType::kBFloat16:
      return DType::kBFloat16;
    case ComputeDType::kFloat16:
      MOBA_CHECK(device.type == DeviceType::kCuda,
                 "dtype float16 needs a GPU: on the CPU take float32 or bfloat16");
      return DType::kFloat16;
    case ComputeDType::kAuto:
      break;
  }
  if (model.quantized && device.type == DeviceType::kCuda) return DType::kBFloat16;
  if (model.dtype == DType::kFloat16 && device.type == DeviceType::kCuda) return model.dtype;
  return model.dtype == DType::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
}

KvPoolConfig make_pool_config(const ModelConfig& model, const CacheGeometry& geometry,
                              DType dtype) {
  KvPoolConfig config;
  config.num_layers = model.num_layers;
  config.num_kv_heads = model.num_kv_heads;
  config.head_dim = model.head_dim;
  config.block_size = geometry.block_size;
  config.moba_block_size = geometry.pool_moba_block_size();
  config.dtype = dtype;
  return config;
}

RankParts set_up_rank(const EngineConfig& config, RankCommunicators communicators) {
  RankParts parts;
  engine_logger();  // is there from here on, for the floors below too
  const int rank = communicators.host->rank();
  const std::filesystem::path dir = config.model;
  const Device device =
      with_code(StatusCode::kInvalidArgument, [&] { return choose_device(config.device); });
  const bool on_cpu = device.type == DeviceType::kCpu;
  parts.scheduler = scheduler_defaults(config.scheduler, device);
  with_code(StatusCode::kInvalidArgument, [&] { check_options(config, parts.scheduler); });

  // What the files say, and whether it can work, before anything big.
  EngineCoreConfig& core = parts.core;
  core.model = with_code(StatusCode::kInvalidCheckpoint, [&] { return load_model_config(dir); });
  const GenerationConfig generation =
      with_code(StatusCode::kInvalidCheckpoint, [&] { return load_generation_config(dir); });
  core.attention = config.attention;
  core.scheduler = parts.scheduler;
  core.enable_prefix_caching = config.cache.enable_prefix_caching;
  LayerAttention attention;
  with_code(StatusCode::kInvalidArgument, [&] {
    core.geometry = resolve_cache_geometry(core.model, config.attention, config.cache);
    attention = resolve_attention(core.model, core.geometry, config.attention);
  });
  const ShardPlan shard = with_code(StatusCode::kInvalidArgument, [&] {
    return make_shard_plan(core.model, rank, communicators.host->size());
  });
  const ModelConfig local = shard.local(core.model);
  const DType dtype = with_code(StatusCode::kInvalidArgument,
                                [&] { return resolve_dtype(config.dtype, core.model, device); });
  const KvPoolConfig pool = make_pool_config(local, core.geometry, dtype);
  MemoryPlanInput input = plan_input(config, core.model, pool);
  const std::int64_t batched_tokens = parts.scheduler.max_num_batched_tokens;
  parts.context = with_code(StatusCode::kInvalidArgument, [&] {
    return std::make_unique<DeviceContext>(device, config.num_threads);
  });
  join_group(*parts.context, std::move(communicators));
  const double utilization = config.cache.gpu_memory_utilization;
  input.available_bytes = usable_memory(*parts.context, utilization, 0);
  if (on_cpu) input.available_bytes /= shard.num_ranks;  // they share the host's
  input.takes_all = !on_cpu;
  input.max_num_seqs = parts.scheduler.max_num_seqs;
  input.workspace_bytes = guess_workspace(local, dtype, batched_tokens) +
                          ModelRunner::workspace_bytes(core.model, pool, parts.scheduler, device);
  input.weight_bytes = with_code(StatusCode::kInvalidCheckpoint, [&] {
    return static_cast<std::int64_t>(open_checkpoint_tensors(dir)->num_bytes()) / shard.num_ranks;
  });
  MemoryPlan plan = plan_memory(input);
  if (rank == 0) {
    parts.tokenizer = open_tokenizer(dir);
    core.eos_token_ids = end_tokens(core.model, generation, *parts.tokenizer);
  }

  ModelOptions model_options;
  model_options.dtype = dtype;
  model_options.max_model_len = plan.max_model_len;
  model_options.max_num_batched_tokens = batched_tokens;
  model_options.min_overlapped_tokens = config.parallel.min_overlapped_tokens;
  std::unique_ptr<CausalLM> model = with_code(StatusCode::kInvalidCheckpoint, [&] {
    return load_causal_lm(*parts.context, dir, core.model, model_options);
  });

  AttentionConfig attention_config;
  attention_config.num_layers = core.model.num_layers;
  attention_config.num_q_heads = local.num_q_heads;
  attention_config.num_kv_heads = local.num_kv_heads;
  attention_config.head_dim = core.model.head_dim;
  attention_config.block_size = pool.block_size;
  attention_config.moba_block_size = pool.moba_block_size;
  attention_config.softmax_scale = 1.0F / std::sqrt(static_cast<float>(core.model.head_dim));
  attention_config.dtype = dtype;
  attention_config.max_num_batched_tokens = static_cast<int>(batched_tokens);
  attention_config.max_num_seqs = parts.scheduler.max_num_seqs;
  attention_config.max_model_len = plan.max_model_len;
  std::unique_ptr<AttentionBackend> backend = with_code(StatusCode::kInvalidArgument, [&] {
    return create_attention_backend(*parts.context, attention_config);
  });

  // Once more with the numbers as they turned out; the length can only become less.
  input.weight_bytes = model->weight_bytes();
  input.workspace_bytes = model->activation_bytes() + backend->workspace_bytes() +
                          ModelRunner::workspace_bytes(core.model, pool, parts.scheduler, device);
  if (!on_cpu) {
    with_code(StatusCode::kResourceExhausted, [&] {
      run_profiling_step(
          *parts.context, *model, *backend, pool, attention_config,
          *std::max_element(attention.prefill_topk.begin(), attention.prefill_topk.end()));
    });
    // What was taken until here is measured; the runner's part comes on top of that.
    const std::int64_t available = usable_memory(*parts.context, utilization, 0);
    const std::int64_t taken = input.available_bytes - available;
    input.workspace_bytes =
        std::max(input.workspace_bytes,
                 taken - input.weight_bytes +
                     ModelRunner::workspace_bytes(core.model, pool, parts.scheduler, device));
  }
  input.default_model_len = plan.max_model_len;
  plan = agree(plan_memory(input), kv_page_bytes(pool), parts.context->host_communicator());
  core.num_pages = plan.num_pages;
  core.max_model_len = plan.max_model_len;

  EngineInfo& info = parts.info;
  info.architecture = core.model.architecture;
  info.dtype = dtype_name(dtype);
  info.num_layers = core.model.num_layers;
  info.layer_topk.assign(attention.prefill_topk.begin(), attention.prefill_topk.end());
  info.moba_block_size = core.geometry.moba_block_size;
  info.block_size = core.geometry.block_size;
  info.vocab_size = core.model.vocab_size;
  info.max_model_len = plan.max_model_len;
  info.max_num_batched_tokens = parts.scheduler.max_num_batched_tokens;
  info.max_num_seqs = parts.scheduler.max_num_seqs;
  info.num_pages = plan.num_pages;
  info.tensor_parallel_size = shard.num_ranks;
  info.weight_bytes = input.weight_bytes;
  info.kv_cache_bytes = plan.kv_cache_bytes;
  info.kv_bytes_per_token = (input.page_bytes + pool.block_size - 1) / pool.block_size;
  info.workspace_bytes = input.workspace_bytes;
  info.device = device_name(device);
  if (!on_cpu) {
    const DeviceInfo gpu = device_info(device);
    info.device_name = gpu.name;
    info.device_driver = "driver " + gpu.driver + ", runtime " + gpu.runtime;
  }
  info.num_threads = parts.context->pool().num_threads();
  info.cpu_isa = cpu::isa_name(parts.context->isa());
  parts.default_sampling = sampling_defaults(generation);

  parts.runner = with_code(StatusCode::kResourceExhausted, [&] {
    auto cache = std::make_unique<KvPool>(parts.context->device(), pool, plan.num_pages);
    return std::make_unique<ModelRunner>(*parts.context, std::move(model), std::move(backend),
                                         std::move(cache), parts.scheduler, config.decode_graphs);
  });
  return parts;
}

EngineParts set_up_engine(const EngineConfig& config) {
  ParallelParts ranks = set_up_ranks(config);
  RankParts& first = ranks.first;
  log_configuration(first.scheduler, first.info);
  EngineParts parts;
  parts.info = std::move(first.info);
  parts.scheduler = first.scheduler;
  parts.default_sampling = first.default_sampling;
  parts.tokenizer = std::move(first.tokenizer);
  parts.context = std::move(first.context);
  parts.core =
      std::make_unique<EngineCore>(std::move(first.core), parts.tokenizer, std::move(ranks.runner));
  return parts;
}

}  // namespace moba
