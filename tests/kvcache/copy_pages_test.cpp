#include "kvcache/copy_pages.h"

#include <cstdint>
#include <vector>

#include "device/check.h"
#include "tests/catch.h"

namespace moba {
namespace {

// All of a page: keys, values, centroids of every layer.
std::vector<float> page_values(const KvPool& pool, std::int64_t page) {
  std::vector<float> values;
  for (int l = 0; l < pool.config().num_layers; ++l) {
    const PagedKvView& view = pool.layer(l);
    const std::int64_t centroid = std::int64_t{view.num_kv_heads} * view.head_dim;
    const auto add = [&](void* array, std::int64_t n) {
      const float* first = static_cast<float*>(array) + page * n;
      values.insert(values.end(), first, first + n);
    };
    add(view.k, view.page_stride());
    add(view.v, view.page_stride());
    add(view.centroids, centroid);
  }
  return values;
}

TEST_CASE("pages are copied with their centroids, in order", "[copy_pages]") {
  DeviceContext context(2);
  KvPoolConfig config;
  config.num_layers = 3;
  config.num_kv_heads = 2;
  config.head_dim = 4;
  config.block_size = 4;
  config.moba_block_size = 8;
  KvPool pool(context.device(), config, 5);
  float next = 0;
  for (int l = 0; l < config.num_layers; ++l) {
    const PagedKvView& view = pool.layer(l);
    for (std::int64_t i = 0; i < 5 * view.page_stride(); ++i) {
      static_cast<float*>(view.k)[i] = ++next;
      static_cast<float*>(view.v)[i] = ++next;
    }
    for (std::int64_t i = 0; i < std::int64_t{5} * 2 * 4; ++i) {
      static_cast<float*>(view.centroids)[i] = ++next;
    }
  }
  std::vector<std::vector<float>> before;
  for (int p = 0; p < 5; ++p) before.push_back(page_values(pool, p));
  const std::vector<PageCopy> copies{{0, 3}, {4, 0}, {3, 4}};
  copy_pages(context, copies, pool);
  CHECK(page_values(pool, 3) == before[0]);
  CHECK(page_values(pool, 0) == before[4]);
  CHECK(page_values(pool, 4) == before[0]);
  CHECK(page_values(pool, 1) == before[1]);
  CHECK(page_values(pool, 2) == before[2]);
  CHECK_THROWS_AS(copy_pages(context, std::vector<PageCopy>{{0, 5}}, pool), Error);
  CHECK_THROWS_AS(copy_pages(context, std::vector<PageCopy>{{-1, 0}}, pool), Error);
}

}  // namespace
}  // namespace moba
