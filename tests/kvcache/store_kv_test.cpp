#include "kvcache/store_kv.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "device/check.h"
#include "kvcache/kv_pool.h"
#include "tests/catch.h"

namespace moba {
namespace {

struct Case {
  int num_kv_heads;
  int head_dim;
  int block_size;
  int moba_block_size;
};

// One sequence's keys and values in the model's layout, and pages for it in shuffled order.
template <typename T>
struct Sequence {
  Case shape;
  std::int64_t length;
  std::vector<T> k;  // [length, num_kv_heads, head_dim]
  std::vector<T> v;
  std::vector<std::int32_t> pages;

  Sequence(const Case& c, std::int64_t len, std::int32_t pool_pages, unsigned seed)
      : shape(c), length(len) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    const auto count = static_cast<std::size_t>(len * c.num_kv_heads * c.head_dim);
    for (std::size_t i = 0; i < count; ++i) {
      k.push_back(static_cast<T>(normal(rng) + 0.3F));
      v.push_back(static_cast<T>(normal(rng)));
    }
    pages.resize(static_cast<std::size_t>(pool_pages));
    std::iota(pages.begin(), pages.end(), 0);
    std::shuffle(pages.begin(), pages.end(), rng);
    pages.resize(static_cast<std::size_t>((len + c.block_size - 1) / c.block_size));
  }

  TensorView rows(std::vector<T>& data, std::int64_t begin, std::int64_t end) const {
    const std::int64_t row = std::int64_t{shape.num_kv_heads} * shape.head_dim;
    return {
        data.data() + begin * row, kDTypeOf<T>, {end - begin, shape.num_kv_heads, shape.head_dim}};
  }
};

template <typename T>
KvPool make_pool(const Case& c, std::int64_t num_pages) {
  KvPoolConfig config;
  config.num_layers = 2;
  config.num_kv_heads = c.num_kv_heads;
  config.head_dim = c.head_dim;
  config.block_size = c.block_size;
  config.moba_block_size = c.moba_block_size;
  config.dtype = kDTypeOf<T>;
  KvPool pool({}, config, num_pages);
  // Every byte 0xff is a NaN in both formats.
  std::memset(pool.layer(0).k, 0xff, static_cast<std::size_t>(pool.num_bytes()));
  return pool;
}

template <typename T>
T* key_of(const PagedKvView& view, void* base, const std::vector<std::int32_t>& pages,
          std::int64_t position, int head) {
  return static_cast<T*>(base) +
         pages[static_cast<std::size_t>(position / view.block_size)] * view.page_stride() +
         head * view.head_stride() + position % view.block_size * view.head_dim;
}

template <typename T>
T* centroid_of(const PagedKvView& view, std::int32_t page, int head) {
  return static_cast<T*>(view.centroids) +
         (std::int64_t{page} * view.num_kv_heads + head) * view.head_dim;
}

// Stores [0, length) in chunks that end at `ends`.
template <typename T>
void store_in_chunks(DeviceContext& context, Sequence<T>& sequence,
                     const std::vector<std::int64_t>& ends, const PagedKvView& view) {
  std::int64_t begin = 0;
  KvWritePlan plan;
  for (const std::int64_t end : ends) {
    plan.clear();
    plan.append(sequence.pages, begin, end - begin, view.block_size, view.moba_block_size);
    store_kv(context, sequence.rows(sequence.k, begin, end), sequence.rows(sequence.v, begin, end),
             plan, view);
    begin = end;
  }
}

std::vector<std::int64_t> random_ends(std::int64_t length, std::mt19937& rng) {
  std::vector<std::int64_t> ends;
  for (std::int64_t at = 0; at < length;) {
    at = std::min(length, at + 1 + static_cast<std::int64_t>(rng() % 200));
    ends.push_back(at);
  }
  return ends;
}

TEMPLATE_TEST_CASE("keys, values and centroids land where the layout says", "[store_kv]", float,
                   BFloat16) {
  const Case c = GENERATE(Case{1, 64, 16, 16}, Case{2, 64, 64, 64}, Case{3, 80, 16, 48},
                          Case{2, 128, 32, 256}, Case{1, 8, 4, 12});
  const std::int64_t length = GENERATE(1, 15, 16, 64, 300, 777);
  DeviceContext context(2);
  const auto num_pages = static_cast<std::int32_t>(length / c.block_size + 5);
  KvPool pool = make_pool<TestType>(c, num_pages);
  const PagedKvView& view = pool.layer(1);
  Sequence<TestType> sequence(c, length, num_pages, 11);
  store_in_chunks(context, sequence, {length}, view);

  for (std::int64_t j = 0; j < length; ++j) {
    for (int h = 0; h < c.num_kv_heads; ++h) {
      const std::size_t row = static_cast<std::size_t>((j * c.num_kv_heads + h) * c.head_dim);
      const std::size_t bytes = static_cast<std::size_t>(c.head_dim) * sizeof(TestType);
      REQUIRE(std::memcmp(key_of<TestType>(view, view.k, sequence.pages, j, h),
                          sequence.k.data() + row, bytes) == 0);
      REQUIRE(std::memcmp(key_of<TestType>(view, view.v, sequence.pages, j, h),
                          sequence.v.data() + row, bytes) == 0);
    }
  }

  // Centroids: the mean in double, within the rounding of a float32 sum and of the storage.
  const std::int64_t pages_per_block = view.pages_per_moba_block();
  std::vector<bool> is_slot(static_cast<std::size_t>(num_pages), false);
  for (std::int64_t block = 0; block < length / c.moba_block_size; ++block) {
    const std::int32_t page =
        sequence.pages[static_cast<std::size_t>((block + 1) * pages_per_block - 1)];
    is_slot[static_cast<std::size_t>(page)] = true;
    for (int h = 0; h < c.num_kv_heads; ++h) {
      for (int d = 0; d < c.head_dim; ++d) {
        double mean = 0;
        double magnitude = 0;
        for (std::int64_t j = block * c.moba_block_size; j < (block + 1) * c.moba_block_size; ++j) {
          const double key = static_cast<float>(
              sequence.k[static_cast<std::size_t>((j * c.num_kv_heads + h) * c.head_dim + d)]);
          mean += key / c.moba_block_size;
          magnitude += std::abs(key) / c.moba_block_size;
        }
        const double tolerance = magnitude * c.moba_block_size * 0x1p-24 +
                                 std::abs(mean) * (sizeof(TestType) == 2 ? 0x1p-8 : 0x1p-23);
        const auto got = static_cast<float>(centroid_of<TestType>(view, page, h)[d]);
        REQUIRE(std::abs(got - mean) <= tolerance);
      }
    }
  }
  // Nothing else is written: other slots, tails of pages and the other layer keep their NaNs.
  for (std::int32_t page = 0; page < num_pages; ++page) {
    const auto first = static_cast<float>(*centroid_of<TestType>(view, page, 0));
    REQUIRE(std::isnan(first) == !is_slot[static_cast<std::size_t>(page)]);
  }
  if (length % c.block_size != 0) {
    REQUIRE(
        std::isnan(static_cast<float>(*key_of<TestType>(view, view.k, sequence.pages, length, 0))));
  }
  const auto* other = static_cast<const TestType*>(pool.layer(0).k);
  const std::int64_t other_elements =
      num_pages * (2 * view.page_stride() + std::int64_t{c.num_kv_heads} * c.head_dim);
  REQUIRE(std::all_of(other, other + other_elements,
                      [](TestType x) { return std::isnan(static_cast<float>(x)); }));
}

TEMPLATE_TEST_CASE("the cache does not depend on chunks, placement or threads", "[store_kv]", float,
                   BFloat16) {
  const Case c = GENERATE(Case{2, 64, 16, 64}, Case{2, 80, 32, 32}, Case{1, 96, 16, 160});
  std::mt19937 rng(3);
  const std::int64_t length = 1000;
  const std::int32_t num_pages = 80;
  DeviceContext one_thread(1);
  DeviceContext many_threads(4);
  KvPool expected = make_pool<TestType>(c, num_pages);
  Sequence<TestType> sequence(c, length, num_pages, 21);
  store_in_chunks(one_thread, sequence, {length}, expected.layer(0));

  for (int round = 0; round < 4; ++round) {
    Sequence<TestType> again = sequence;
    std::vector<std::int32_t> ids(num_pages);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), rng);
    std::copy_n(ids.begin(), again.pages.size(), again.pages.begin());
    std::vector<std::int64_t> ends = random_ends(length, rng);
    if (round == 0) {  // a token at a time
      ends.resize(length);
      std::iota(ends.begin(), ends.end(), 1);
    }
    KvPool pool = make_pool<TestType>(c, num_pages);
    store_in_chunks(many_threads, again, ends, pool.layer(0));
    const PagedKvView& a = expected.layer(0);
    const PagedKvView& b = pool.layer(0);
    for (std::size_t i = 0; i < sequence.pages.size(); ++i) {
      const std::size_t bytes = static_cast<std::size_t>(a.page_stride()) * sizeof(TestType);
      const std::int64_t from = sequence.pages[i] * a.page_stride();
      const std::int64_t to = again.pages[i] * b.page_stride();
      REQUIRE(std::memcmp(static_cast<TestType*>(a.k) + from, static_cast<TestType*>(b.k) + to,
                          bytes) == 0);
      REQUIRE(std::memcmp(static_cast<TestType*>(a.v) + from, static_cast<TestType*>(b.v) + to,
                          bytes) == 0);
      REQUIRE(std::memcmp(
                  centroid_of<TestType>(a, sequence.pages[i], 0),
                  centroid_of<TestType>(b, again.pages[i], 0),
                  static_cast<std::size_t>(c.num_kv_heads * c.head_dim) * sizeof(TestType)) == 0);
    }
  }
}

TEST_CASE("the write plan of a chunk", "[kv_write_plan]") {
  const std::vector<std::int32_t> table{7, 3, 9, 0};
  KvWritePlan plan;
  plan.append(table, 3, 6, 4, 8);  // positions 3..8: the end of page 7, page 3, the start of page 9
  REQUIRE(plan.slot_mapping == std::vector<std::int64_t>{31, 12, 13, 14, 15, 36});
  REQUIRE(plan.completed_blocks == std::vector<std::int32_t>{7, 3});
  plan.append(table, 9, 7, 4, 8);
  REQUIRE(plan.slot_mapping.size() == 13);
  REQUIRE(plan.completed_blocks == std::vector<std::int32_t>{7, 3, 9, 0});
  plan.clear();
  plan.append(table, 0, 7, 4, 8);
  REQUIRE(plan.slot_mapping.size() == 7);
  REQUIRE(plan.completed_blocks.empty());
  plan.append(table, 7, 0, 4, 8);
  REQUIRE(plan.slot_mapping.size() == 7);
  REQUIRE_THROWS_AS(plan.append(table, 10, 7, 4, 8), Error);
  REQUIRE_THROWS_AS(plan.append(table, -1, 2, 4, 8), Error);

  // Slots past 2^31 do not wrap.
  plan.clear();
  plan.append(std::vector<std::int32_t>{std::numeric_limits<std::int32_t>::max()}, 0, 1, 64, 64);
  REQUIRE(plan.slot_mapping[0] == std::int64_t{std::numeric_limits<std::int32_t>::max()} * 64);
}

TEST_CASE("store_kv skips padding and refuses shapes that do not fit", "[store_kv]") {
  const Case c{2, 16, 4, 8};
  DeviceContext context(1);
  KvPool pool = make_pool<float>(c, 3);
  const PagedKvView& view = pool.layer(0);
  Sequence<float> sequence(c, 3, 3, 1);
  KvWritePlan plan;
  plan.slot_mapping = {5, -1, 6};
  store_kv(context, sequence.rows(sequence.k, 0, 3), sequence.rows(sequence.v, 0, 3), plan, view);
  const std::vector<std::int32_t> identity{0, 1, 2};
  REQUIRE(*key_of<float>(view, view.k, identity, 5, 1) == sequence.k[16]);
  REQUIRE(*key_of<float>(view, view.v, identity, 6, 0) == sequence.v[64]);
  REQUIRE(std::isnan(*key_of<float>(view, view.k, identity, 4, 0)));
  REQUIRE(std::isnan(*key_of<float>(view, view.k, identity, 7, 0)));

  plan.slot_mapping = {5, 6};
  REQUIRE_THROWS_AS(store_kv(context, sequence.rows(sequence.k, 0, 3),
                             sequence.rows(sequence.v, 0, 3), plan, view),
                    Error);
  Sequence<BFloat16> other(c, 2, 3, 1);
  REQUIRE_THROWS_AS(
      store_kv(context, other.rows(other.k, 0, 2), other.rows(other.v, 0, 2), plan, view), Error);
  KvPoolConfig bad = pool.config();
  bad.moba_block_size = 6;
  REQUIRE_THROWS_AS(KvPool({}, bad, 3), Error);
  bad = pool.config();
  bad.dtype = DType::kInt32;
  REQUIRE_THROWS_AS(KvPool({}, bad, 3), Error);
  REQUIRE_THROWS_AS(KvPool({}, pool.config(), 0), Error);
  REQUIRE(kv_page_bytes(pool.config()) == 2 * (2 * 2 * 4 * 16 + 2 * 16) * 4);
}

}  // namespace
}  // namespace moba
