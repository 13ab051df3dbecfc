// How an engine is set up. One struct per concern; the defaults stand here and nowhere else.
#pragma once

#include <cstdint>
#include <string>

namespace moba {

enum class AttentionMode {
  kAuto,  // each layer as the checkpoint's config says
  kFull,  // full causal attention in every layer
  kMoba,  // MoBA in every layer but the full_attention_layers
};

enum class DecodeAttention {
  kMoba,  // a layer keeps its kind when it decodes
  kFull,  // prompts by the layer's kind, generated tokens by full attention (as upstream MoBA
          // decodes)
};

enum class ComputeDType {
  kAuto,  // bfloat16 for bfloat16 checkpoints, float16 for float16 ones on a GPU, else float32
  kFloat32,
  kBFloat16,
  kFloat16,  // on a GPU only
};

struct AttentionOptions {
  AttentionMode mode = AttentionMode::kAuto;
  // Tokens per MoBA block; 0: the checkpoint's. Fixed for an engine, since the cache's centroids
  // follow it.
  int moba_block_size = 0;
  // Blocks a query attends to, its own included; 0: the checkpoint's.
  int moba_topk = 0;
  // Layers that keep full attention under kMoba: "" the checkpoint's, "none", "last:N", or a list
  // as "0,8,9".
  std::string full_attention_layers;
  DecodeAttention decode = DecodeAttention::kMoba;
};

struct CacheOptions {
  // Bytes for keys, values and centroids, of each rank. 0: on a GPU all that gpu_memory_utilization
  // leaves; on the CPU what one sequence of max_model_len needs, or max_num_seqs sequences of 4096
  // tokens if that is more, but at most 80% of the memory that is free once the weights are
  // counted.
  std::int64_t memory_bytes = 0;
  // On a GPU, the part of its memory that the engine may use in all.
  double gpu_memory_utilization = 0.9;
  // Tokens per page. 0: 64, or the largest power of two up to 64 that divides the MoBA block size.
  int block_size = 0;
  // Keeps computed pages for requests that begin with the same tokens, until their memory is
  // needed.
  bool enable_prefix_caching = true;
};

struct SchedulerOptions {
  // Tokens of one step over all sequences: the length of a prefill chunk. 0: 2048 on the CPU, 8192
  // on a GPU.
  int max_num_batched_tokens = 0;
  // Sequences in one step. 0: 16 on the CPU, 256 on a GPU.
  int max_num_seqs = 0;
  // While some request generates, a prompt takes at most that many tokens of each step, so that the
  // others' tokens keep coming; 0: as many as there are.
  int long_prefill_token_threshold = 512;
  // Requests that may wait beside those; one more is refused.
  int max_num_queued = 1024;
};

// How a model is split over ranks that compute each step together (docs/tensor_parallel.md).
struct ParallelOptions {
  // Ranks: each holds that part of the heads, of the MLP and of the vocabulary, and the KV cache of
  // its heads. On the CPU they are threads that share num_threads; on GPUs they have one each. It
  // must divide the query heads, and divide the KV heads or be a multiple of them.
  int tensor_parallel_size = 1;
  // A rank that does not come along for as long ends the engine, and all its requests, with a line
  // that names it. Seconds; 0: wait for ever.
  double rank_timeout_seconds = 60;
  // Ranks in processes of their own, on one host or several: as many as ranks, or 1, all ranks in
  // this one. Process 0 has the engine, the others call run_rank(). They find process 0 at that
  // IPv4 address (or name) and port. Nothing they say to each other is encrypted.
  int num_processes = 1;
  int process_rank = 0;
  int local_rank = 0;  // among the processes of this host: which GPU it takes
  std::string master_address = "127.0.0.1";
  int master_port = 29500;
  // GPUs of one process exchange messages of up to so many bytes over each other's memory instead
  // of through NCCL. At most 1 MiB; 0: none.
  std::int64_t peer_message_bytes = 0;
  // Steps of so many tokens or more are computed in two parts, so that what ranks say to each other
  // about one passes while the other is computed. 0: never.
  std::int64_t min_overlapped_tokens = 0;
  // For measurements: GPUs leave out what they would say to each other. Results are worthless; what
  // a step takes is what it takes without communication.
  bool skip_communication = false;
  // For measurements: one GPU alone goes through NCCL all the same.
  bool communicate_alone = false;
};

struct EngineConfig {
  std::string model;  // a Hugging Face checkpoint directory, or a GGUF file
  // "cpu"; "cuda" or "cuda:N", a GPU; "auto": the first GPU if build and machine have one, else the
  // CPU.
  std::string device = "auto";
  ComputeDType dtype = ComputeDType::kAuto;  // of activations and the cache; weights stay as the
                                             // file has them where that is exact
  // Longest sequence, prompt and output together. 0: the checkpoint's max_position_embeddings, or
  // what the cache holds if less.
  std::int64_t max_model_len = 0;
  int num_threads = 0;  // 0: one per processor
  // On a GPU, steps that generate one token for each sequence run as recorded graphs: the same
  // results, with less work for the host.
  bool decode_graphs = true;
  AttentionOptions attention;
  CacheOptions cache;
  SchedulerOptions scheduler;
  ParallelOptions parallel;
};

}  // namespace moba
