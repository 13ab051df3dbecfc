// The memory of the paged KV cache: pages of keys and values with a centroid slot each, for every
// layer.
#pragma once

#include <cstdint>
#include <vector>

#include "device/buffer.h"
#include "device/dtype.h"
#include "kvcache/paged_kv_view.h"

namespace moba {

struct KvPoolConfig {
  int num_layers = 0;
  int num_kv_heads = 0;  // of this rank
  int head_dim = 0;
  int block_size = 0;       // tokens per page
  int moba_block_size = 0;  // tokens per MoBA block; a multiple of block_size
  DType dtype = DType::kFloat32;
};

// Throws Error, naming the value, unless all sizes are positive, moba_block_size is a multiple of
// block_size and the dtype is float32, bfloat16 or float16.
void validate(const KvPoolConfig& config);

// Bytes of one page over all layers, its centroid slots included.
std::int64_t kv_page_bytes(const KvPoolConfig& config);

// Owns the cache. Memory is reserved at construction and touched page by page as it is written. The
// views stay valid for the pool's life. Reading and writing different pages from several threads is
// safe.
class KvPool {
 public:
  KvPool(Device device, const KvPoolConfig& config, std::int64_t num_pages);

  const KvPoolConfig& config() const { return config_; }
  std::int64_t num_pages() const { return num_pages_; }
  std::int64_t num_bytes() const { return kv_page_bytes(config_) * num_pages_; }
  const PagedKvView& layer(int index) const;

 private:
  KvPoolConfig config_;
  std::int64_t num_pages_;
  Buffer buffer_;
  std::vector<PagedKvView> layers_;
};

}  // namespace moba
