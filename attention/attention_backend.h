// Attention over the paged cache: full causal attention and MoBA, chosen per layer and per
// sequence.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "attention/attention_metadata.h"
#include "device/context.h"
#include "device/tensor.h"
#include "kvcache/paged_kv_view.h"

namespace moba {

// Shapes that stay the same for the life of a backend; workspaces are sized from them.
struct AttentionConfig {
  int num_layers = 0;
  int num_q_heads = 0;   // of this rank
  int num_kv_heads = 0;  // of this rank; divides num_q_heads
  int head_dim = 0;
  int block_size = 0;             // tokens per page
  int moba_block_size = 0;        // tokens per MoBA block, a multiple of block_size
  float softmax_scale = 0;        // 1/sqrt(head_dim) for every model so far
  DType dtype = DType::kFloat32;  // of q, out and the cache: float32, bfloat16 or (CUDA) float16
  int max_num_batched_tokens = 0;
  int max_num_seqs = 0;
  std::int64_t max_model_len = 0;
};

// What a batch chose: sums over layers, sequences, query tokens and query heads, for the metrics.
struct AttentionStats {
  std::int64_t blocks_attended = 0;   // MoBA layers: blocks attended to, the query's own included
  std::int64_t blocks_available = 0;  // MoBA layers: blocks up to the query's own
};

// Exact semantics, for a query at position p of a sequence with moba_topk k > 0 and B =
// moba_block_size (docs/kv_layout.md, MoBA paper arXiv 2502.13189):
//   cur = p / B;  s[i] = q . centroid[i] in float32, unscaled, for i < cur
//   selected = {cur} and the min(k - 1, cur) blocks of largest s, of equal ones the larger index
//   out = softmax over { j <= p : j / B selected } of (softmax_scale * q . K[j]) applied to V[j]
// Selection is per query head; centroids are per KV head (query head h reads KV head h /
// (num_q_heads / num_kv_heads)). k = 0 is full causal attention.
//
// A query's result depends, bit for bit, only on the query and on its sequence's keys, values and
// centroids: not on the chunk or batch it comes in, on page placement or on the number of threads.
//
// On a CUDA device these promises hold for the selection; sums may be taken in another order.
//
// plan() looks at a batch once, on the host; run() is then called for each layer. run() neither
// allocates nor waits for anything but its own work. One batch at a time; one thread.
class AttentionBackend {
 public:
  virtual ~AttentionBackend() = default;

  // Throws Error for metadata that does not fit the configuration, naming the sequence and the
  // number.
  virtual void plan(const AttentionMetadata& metadata) = 0;

  // q and out: [num_tokens, num_q_heads, head_dim], num_tokens = cu_seqlens_q[num_seqs]; every
  // element of out is written.
  virtual void run(int layer, const TensorView& q, const PagedKvView& cache,
                   const TensorView& out) = 0;

  // Whether the launches of run() after this plan() may be captured in a graph and replayed for
  // other batches: after plan() of another batch with the same number of sequences and of tokens
  // and an equal key, run() with the same arguments would issue the same launches with the same
  // arguments, for all differences lie in device memory that plan() writes. plan() itself is never
  // captured. Empty: it must be run anew.
  virtual std::optional<std::uint64_t> capture_key() const { return std::nullopt; }

  // Of the batches since the last call.
  virtual AttentionStats take_stats() = 0;

  // Bytes of workspace, fixed at construction: nothing grows with the context.
  virtual std::int64_t workspace_bytes() const = 0;
};

// The backend for the context's device. Throws Error for a configuration it cannot run, naming the
// value.
std::unique_ptr<AttentionBackend> create_attention_backend(DeviceContext& context,
                                                           const AttentionConfig& config);

}  // namespace moba
