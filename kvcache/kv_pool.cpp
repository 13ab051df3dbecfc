#include "kvcache/kv_pool.h"

#include <cstddef>

#include "device/check.h"

namespace moba {
namespace {

// Elements of one page's keys (or values) in one layer.
std::int64_t page_elements(const KvPoolConfig& c) {
  return std::int64_t{c.num_kv_heads} * c.block_size * c.head_dim;
}

std::int64_t centroid_elements(const KvPoolConfig& c) {
  return std::int64_t{c.num_kv_heads} * c.head_dim;
}

}  // namespace

void validate(const KvPoolConfig& config) {
  MOBA_CHECK(config.num_layers > 0, "KV cache: num_layers is ", config.num_layers);
  MOBA_CHECK(config.num_kv_heads > 0, "KV cache: num_kv_heads is ", config.num_kv_heads);
  MOBA_CHECK(config.head_dim > 0, "KV cache: head_dim is ", config.head_dim);
  MOBA_CHECK(config.block_size > 0, "KV cache: block_size is ", config.block_size);
  MOBA_CHECK(config.moba_block_size > 0 && config.moba_block_size % config.block_size == 0,
             "KV cache: moba_block_size ", config.moba_block_size,
             " is not a multiple of block_size ", config.block_size);
  MOBA_CHECK(config.dtype == DType::kFloat32 || config.dtype == DType::kBFloat16 ||
                 config.dtype == DType::kFloat16,
             "KV cache: dtype ", dtype_name(config.dtype),
             " is neither float32, bfloat16 nor float16");
}

std::int64_t kv_page_bytes(const KvPoolConfig& config) {
  return config.num_layers * (2 * page_elements(config) + centroid_elements(config)) *
         static_cast<std::int64_t>(dtype_size(config.dtype));
}

KvPool::KvPool(Device device, const KvPoolConfig& config, std::int64_t num_pages)
    : config_(config), num_pages_(num_pages) {
  validate(config);
  MOBA_CHECK(num_pages > 0, "KV cache: num_pages is ", num_pages);
  buffer_ = Buffer(device, static_cast<std::size_t>(num_bytes()), "KV cache");

  const auto element = static_cast<std::int64_t>(dtype_size(config.dtype));
  const std::int64_t kv_bytes = page_elements(config) * num_pages * element;
  const std::int64_t centroid_bytes = centroid_elements(config) * num_pages * element;
  auto* cursor = static_cast<std::byte*>(buffer_.data());
  const auto take = [&cursor](std::int64_t bytes) {
    void* start = cursor;
    cursor += bytes;
    return start;
  };
  for (int i = 0; i < config.num_layers; ++i) {
    PagedKvView view;
    view.k = take(kv_bytes);
    view.v = take(kv_bytes);
    view.centroids = take(centroid_bytes);
    view.dtype = config.dtype;
    view.num_pages = num_pages;
    view.num_kv_heads = config.num_kv_heads;
    view.block_size = config.block_size;
    view.moba_block_size = config.moba_block_size;
    view.head_dim = config.head_dim;
    layers_.push_back(view);
  }
}

const PagedKvView& KvPool::layer(int index) const {
  MOBA_CHECK(index >= 0 && index < config_.num_layers, "KV cache: layer ", index, " of ",
             config_.num_layers);
  return layers_[static_cast<std::size_t>(index)];
}

}  // namespace moba
