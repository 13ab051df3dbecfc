// The kernels by themselves, on every instruction set of the machine.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "attention/attention_backend.h"
#include "attention/cpu/attention_kernels.h"
#include "attention/reference.h"
#include "device/context.h"
#include "tests/attention/attention_world.h"
#include "tests/catch.h"

namespace moba {
namespace {

using cpu::kTileKeys;
using cpu::padded_dim;

// Random rows against a tile, with room for the results.
struct TileCase {
  int num_rows, num_keys, head_dim;
  std::vector<float> q, k, v, packed;
  std::vector<const float*> q_rows;
  std::vector<std::int32_t> limits;
  std::vector<float> max, sum, out;

  TileCase(const cpu::AttentionKernels& kernels, int rows, int keys, int dim, unsigned seed)
      : num_rows(rows), num_keys(keys), head_dim(dim) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& x, int n, int width) {
      x.resize(static_cast<std::size_t>(n * width));
      for (float& value : x) value = normal(rng);
    };
    fill(q, rows, dim);
    fill(k, keys, dim);
    fill(v, keys, padded_dim(dim));
    packed.assign(static_cast<std::size_t>(kTileKeys * dim), std::nanf(""));
    std::vector<const void*> k_rows;
    for (int j = 0; j < keys; ++j) k_rows.push_back(k.data() + j * dim);
    kernels.pack_keys(k_rows.data(), DType::kFloat32, keys, dim, packed.data());
    for (int r = 0; r < rows; ++r) q_rows.push_back(q.data() + r * dim);
    for (int r = 0; r < rows; ++r)
      limits.push_back(1 + static_cast<int>(rng() % static_cast<unsigned>(keys)));
    std::sort(limits.begin(), limits.end());
    max.assign(static_cast<std::size_t>(rows), std::nanf(""));
    sum = max;
    out.assign(static_cast<std::size_t>(rows * padded_dim(dim)), std::nanf(""));
  }

  cpu::AttendTile tile(bool limited, bool first, int row = 0) {
    cpu::AttendTile t{};
    t.q = q_rows.data() + row;
    t.keys = packed.data();
    t.values = v.data();
    t.value_stride = padded_dim(head_dim);
    t.limits = limited ? limits.data() + row : nullptr;
    t.num_rows = num_rows;
    t.num_keys = num_keys;
    t.head_dim = head_dim;
    t.scale = 0.7F;
    t.first = first;
    t.state = {max.data() + row, sum.data() + row, out.data() + row * padded_dim(head_dim)};
    return t;
  }
};

std::vector<cpu::Isa> isas() {
  auto all = cpu::available_isas();
  all.erase(std::remove(all.begin(), all.end(), cpu::Isa::kAvx512Bf16), all.end());
  return all;
}

TEST_CASE("a row's bits do not depend on its company in a tile", "[kernels]") {
  for (const cpu::Isa isa : isas()) {
    const cpu::AttentionKernels kernels = cpu::attention_kernels(isa);
    unsigned seed = 0;
    for (const int head_dim : {8, 64, 72, 80, 128}) {
      for (const int num_rows : {1, 2, 3, 4, 5, 6, 7, 11, 48, 49, 100}) {
        for (const int num_keys : {1, 7, 16, 33, 63, 64}) {
          const bool limited = ++seed % 2 == 0;
          TileCase together(kernels, num_rows, num_keys, head_dim, seed);
          TileCase alone = together;
          for (int r = 0; r < num_rows; ++r) {
            alone.q_rows[static_cast<std::size_t>(r)] = alone.q.data() + r * head_dim;
          }
          for (const bool first : {true, false}) {
            kernels.attend_tile(together.tile(limited, first));
            for (int r = 0; r < num_rows; ++r) {
              cpu::AttendTile t = alone.tile(limited, first, r);
              t.num_rows = 1;
              kernels.attend_tile(t);
            }
          }
          REQUIRE(std::memcmp(together.max.data(), alone.max.data(), together.max.size() * 4) == 0);
          REQUIRE(std::memcmp(together.sum.data(), alone.sum.data(), together.sum.size() * 4) == 0);
          REQUIRE(std::memcmp(together.out.data(), alone.out.data(), together.out.size() * 4) == 0);
        }
      }
    }
  }
}

TEST_CASE("a tile's softmax agrees with double precision", "[kernels]") {
  for (const cpu::Isa isa : isas()) {
    const cpu::AttentionKernels kernels = cpu::attention_kernels(isa);
    for (const int num_keys : {1, 16, 37, 64}) {
      TileCase c(kernels, 23, num_keys, 64, 5);
      kernels.attend_tile(c.tile(true, true));
      std::vector<float> out(23 * 64);
      std::vector<void*> out_rows;
      for (int r = 0; r < 23; ++r) out_rows.push_back(out.data() + r * 64);
      kernels.finish_rows(c.tile(true, true).state, 23, 64, DType::kFloat32, out_rows.data());
      for (int r = 0; r < 23; ++r) {
        const int limit = c.limits[static_cast<std::size_t>(r)];
        std::vector<double> score(static_cast<std::size_t>(limit));
        double sum = 0;
        for (int j = 0; j < limit; ++j) {
          double s = 0;
          for (int d = 0; d < 64; ++d) {
            s += double{c.q[static_cast<std::size_t>(r * 64 + d)]} *
                 double{c.k[static_cast<std::size_t>(j * 64 + d)]};
          }
          score[static_cast<std::size_t>(j)] = std::exp(0.7F * s);
          sum += score[static_cast<std::size_t>(j)];
        }
        for (int d = 0; d < 64; ++d) {
          double expected = 0;
          for (int j = 0; j < limit; ++j) {
            expected += score[static_cast<std::size_t>(j)] / sum *
                        double{c.v[static_cast<std::size_t>(j * 64 + d)]};
          }
          REQUIRE(std::abs(out[static_cast<std::size_t>(r * 64 + d)] - expected) <= 5e-6);
        }
      }
    }
  }
}

TEST_CASE("merging parts gives what one pass over all keys gives", "[kernels]") {
  for (const cpu::Isa isa : isas()) {
    const cpu::AttentionKernels kernels = cpu::attention_kernels(isa);
    for (const int rows : {1, 5, 16, 33}) {
      TileCase a(kernels, rows, 64, 80, 1);
      TileCase b(kernels, rows, 64, 80, 2);
      TileCase whole = a;
      for (int r = 0; r < rows; ++r) {
        a.q_rows[static_cast<std::size_t>(r)] = b.q_rows[static_cast<std::size_t>(r)];
        whole.q_rows[static_cast<std::size_t>(r)] = b.q_rows[static_cast<std::size_t>(r)];
      }
      kernels.attend_tile(a.tile(false, true));
      kernels.attend_tile(b.tile(false, true));
      kernels.attend_tile(whole.tile(false, true));
      cpu::AttendTile second = whole.tile(false, false);
      second.keys = b.packed.data();
      second.values = b.v.data();
      kernels.attend_tile(second);
      // Into a total whose rows are in reverse order; nothing in it is set but the sums.
      TileCase total = a;
      std::fill(total.max.begin(), total.max.end(), std::nanf(""));
      std::fill(total.sum.begin(), total.sum.end(), 0.0F);
      std::fill(total.out.begin(), total.out.end(), std::nanf(""));
      std::vector<std::int32_t> order;
      for (int r = 0; r < rows; ++r) order.push_back(rows - 1 - r);
      for (TileCase* part : {&a, &b}) {
        kernels.merge_rows(part->tile(false, true).state, rows, 80, order.data(),
                           total.tile(false, true).state);
      }
      for (int r = 0; r < rows; ++r) {
        const auto from = static_cast<std::size_t>(order[static_cast<std::size_t>(r)]);
        const auto to = static_cast<std::size_t>(r);
        REQUIRE(total.max[from] == whole.max[to]);
        REQUIRE(total.sum[from] == Approx(whole.sum[to]).epsilon(1e-6));
        for (std::size_t d = 0; d < 80; ++d) {
          REQUIRE(total.out[from * 80 + d] == Approx(whole.out[to * 80 + d]).margin(2e-5));
        }
      }
    }
  }
}

TEST_CASE("scores of any size give weights without overflow", "[kernels]") {
  for (const cpu::Isa isa : isas()) {
    const cpu::AttentionKernels kernels = cpu::attention_kernels(isa);
    for (const float size : {1e-30F, 1e3F, 1e10F, 1e18F}) {
      TileCase c(kernels, 7, 64, 64, 3);
      for (float& x : c.q) x *= size;
      kernels.attend_tile(c.tile(false, true));
      kernels.attend_tile(c.tile(false, false));
      for (const float s : c.sum) {
        REQUIRE(s >= 2.0F * (1 - 1e-5F));
        REQUIRE(s <= 128.0F * (1 + 1e-5F));
      }
      for (const float x : c.out) REQUIRE(std::isfinite(x));
    }
  }
}

// A cache whose last pages lie past 2^31 elements; only what is touched takes memory.
TEST_CASE("offsets past 2^31 elements do not wrap", "[attention]") {
  const testing::AttentionShape shape{2, 1, 128, 128, 256};
  const std::int64_t page_elements = std::int64_t{128} * 128;
  const std::int64_t num_pages = (std::int64_t{1} << 31) / page_elements + 64;
  const auto bytes = static_cast<std::size_t>(2 * num_pages * page_elements * 2);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    WARN("SKIPPED: no " << bytes << " bytes of address space");
    return;
  }
  testing::AttentionWorld<BFloat16> world(shape, {1500}, 8, 2.0F);
  DeviceContext context(2);
  auto backend = create_attention_backend(context, world.config());
  const auto expected = world.run(*backend, {{0, 1400, 1500, 3}, {0, 1400, 1500, 0}});

  // The same pages at the far end of the large cache. Centroids lie with the small one's ids in
  // front of a pointer that is moved back, as that array is small.
  PagedKvView large = world.cache();
  large.k = memory;
  large.v = static_cast<BFloat16*>(memory) + num_pages * page_elements;
  large.num_pages = num_pages;
  std::vector<BFloat16> centroids(static_cast<std::size_t>(num_pages * 128));
  large.centroids = centroids.data();
  auto b = world.batch({{0, 1400, 1500, 3}, {0, 1400, 1500, 0}});
  const auto move = [&](std::int32_t page) {
    return static_cast<std::int32_t>(num_pages - 1 - page);
  };
  for (const std::int32_t page : world.sequences()[0].pages) {
    const auto copy = [&](void* to, const void* from, std::int64_t elements) {
      std::memcpy(static_cast<BFloat16*>(to) + move(page) * elements,
                  static_cast<const BFloat16*>(from) + page * elements,
                  static_cast<std::size_t>(elements) * 2);
    };
    copy(large.k, world.cache().k, page_elements);
    copy(large.v, world.cache().v, page_elements);
    copy(large.centroids, world.cache().centroids, 128);
  }
  for (std::int32_t& page : b.block_tables) {
    if (page >= 0) page = move(page);
  }
  backend->plan(b.metadata);
  backend->run(0, world.view(b.q), large, world.view(b.out));
  CHECK(std::memcmp(b.out.data(), expected.data(), expected.size() * sizeof(BFloat16)) == 0);
  munmap(memory, bytes);
}

}  // namespace
}  // namespace moba
