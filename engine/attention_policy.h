// Which attention each layer of a request uses: engine options, checkpoint and request override in,
// one number per layer out.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "moba/config.h"
#include "moba/request.h"
#include "model/model_config.h"

namespace moba {

// Sizes of the cache's units, fixed for an engine.
struct CacheGeometry {
  int block_size = 0;       // tokens per page
  int moba_block_size = 0;  // tokens per MoBA block; 0: MoBA is not available
  // What the cache and the backend are built with: they always keep centroids.
  int pool_moba_block_size() const { return moba_block_size > 0 ? moba_block_size : block_size; }
};

// Throws Error naming the option and the value: sizes below 1, a MoBA block that is not a multiple
// of the page, MoBA asked for without a block size.
CacheGeometry resolve_cache_geometry(const ModelConfig& model, const AttentionOptions& attention,
                                     const CacheOptions& cache);

// [num_layers] each: MoBA blocks a query attends to, its own included; 0: full attention.
struct LayerAttention {
  std::vector<std::int32_t> prefill_topk;  // queries that are tokens of the prompt
  std::vector<std::int32_t> decode_topk;   // queries that were generated
  bool operator==(const LayerAttention&) const = default;
};

// mode kAuto: each layer as the checkpoint says (full attention everywhere if it says nothing of
// MoBA); a top-k or a list of full layers given beside it replaces the checkpoint's, and is refused
// where the checkpoint has no MoBA. kMoba: every layer but the full ones; needs a block size and a
// top-k from options or checkpoint. kFull: full attention, whatever else is given. Throws Error
// naming the option and the value.
LayerAttention resolve_attention(const ModelConfig& model, const CacheGeometry& geometry,
                                 const AttentionOptions& attention,
                                 const AttentionOverride& request = {});

// "none", "last:N" or a list as "0,8,9" -> [num_layers], true where the layer keeps full attention.
// Throws Error naming the text and what is wrong with it.
std::vector<bool> parse_full_attention_layers(std::string_view text, int num_layers);

// Sums over the query tokens at positions [first, last) of one layer and query head.
struct MobaBlockCounts {
  std::int64_t attended = 0;   // blocks attended to, the query's own included
  std::int64_t available = 0;  // blocks up to the query's own
};
MobaBlockCounts count_moba_blocks(std::int64_t first, std::int64_t last, int moba_block_size,
                                  int topk);

}  // namespace moba
