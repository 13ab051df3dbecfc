// Writing and copying the paged cache on a CUDA device against the CPU's.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "device/check.h"
#include "device/ops.h"
#include "kvcache/copy_pages.h"
#include "kvcache/kv_pool.h"
#include "kvcache/rope_and_store.h"
#include "kvcache/store_kv.h"
#include "tests/catch.h"
#include "tests/device/device_tensor.h"
#include "tests/device/random_tensor.h"

namespace moba::test {
namespace {

struct Case {
  int num_q_heads;
  int num_kv_heads;
  int head_dim;
  int block_size;
  int moba_block_size;
};

const std::vector<Case> kCases = {{4, 1, 64, 16, 16},  {9, 3, 64, 16, 48},   {8, 2, 128, 64, 512},
                                  {3, 3, 96, 32, 64},  {2, 1, 8, 4, 12},     {4, 2, 128, 64, 64},
                                  {2, 2, 256, 16, 64}, {32, 8, 128, 64, 128}};

KvPool make_pool(DeviceContext& context, const Case& c, DType dtype, std::int64_t num_pages) {
  KvPoolConfig config;
  config.num_layers = 2;
  config.num_kv_heads = c.num_kv_heads;
  config.head_dim = c.head_dim;
  config.block_size = c.block_size;
  config.moba_block_size = c.moba_block_size;
  config.dtype = dtype;
  KvPool pool(context.device(), config, num_pages);
  // Every byte 0xff is a NaN in all formats.
  fill_bytes(
      context,
      TensorView(pool.layer(0).k, DType::kBFloat16, {pool.num_bytes() / 2}, context.device()),
      0xff);
  return pool;
}

// All bytes of a pool as 16-bit words.
std::vector<std::uint16_t> bytes_of(DeviceContext& context, const KvPool& pool) {
  const Shape shape{pool.num_bytes() / 2};
  const Tensor host =
      on_host(context, TensorView(pool.layer(0).k, DType::kBFloat16, shape, context.device()));
  std::vector<std::uint16_t> words(static_cast<std::size_t>(shape[0]));
  std::memcpy(words.data(), host.view().raw(), host.view().num_bytes());
  return words;
}

// Sequences whose pages lie in random order in one pool, growing by random chunks.
struct World {
  World(const Case& c, int num_seqs, std::int64_t capacity, std::mt19937& rng) : shape(c) {
    const std::int64_t pages_each = (capacity + c.block_size - 1) / c.block_size;
    num_pages = pages_each * num_seqs + 3;
    std::vector<std::int32_t> pages(static_cast<std::size_t>(num_pages));
    std::iota(pages.begin(), pages.end(), 0);
    std::shuffle(pages.begin(), pages.end(), rng);
    for (int s = 0; s < num_seqs; ++s) {
      const auto first = pages.begin() + static_cast<std::ptrdiff_t>(s * pages_each);
      tables.emplace_back(first, first + static_cast<std::ptrdiff_t>(pages_each));
      lengths.push_back(0);
    }
  }

  // `count` tokens of sequence s.
  void append(int s, std::int64_t count) {
    auto& length = lengths[static_cast<std::size_t>(s)];
    plan.append(tables[static_cast<std::size_t>(s)], length, count, shape.block_size,
                shape.moba_block_size);
    for (std::int64_t i = 0; i < count; ++i) {
      positions.push_back(static_cast<std::int32_t>(length + i));
    }
    length += count;
  }
  void begin_batch() {
    plan.clear();
    positions.clear();
  }

  Case shape;
  std::int64_t num_pages = 0;
  std::vector<std::vector<std::int32_t>> tables;
  std::vector<std::int64_t> lengths;
  KvWritePlan plan;
  std::vector<std::int32_t> positions;
};

struct DeviceSlots {
  DeviceSlots(DeviceContext& context, const KvWriteSlots& host)
      : mapping(on_device(context, host.slot_mapping)),
        blocks(on_device(context, host.completed_blocks)),
        slots{mapping, blocks, host.one_per_token} {}
  Tensor mapping;
  Tensor blocks;
  KvWriteSlots slots;
};

float decoded(DType dtype, const std::byte* from) {
  std::uint16_t half = 0;
  std::memcpy(&half, from, sizeof(half));
  if (dtype == DType::kBFloat16) {
    BFloat16 value;
    value.bits = half;
    return static_cast<float>(value);
  }
  if (dtype == DType::kFloat16) {
    Float16 value;
    value.bits = half;
    return static_cast<float>(value);
  }
  float value = 0;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

float rounded(DType dtype, float value) {
  if (dtype == DType::kBFloat16) return static_cast<float>(BFloat16(value));
  if (dtype == DType::kFloat16) return static_cast<float>(Float16(value));
  return value;
}

float at(const std::vector<std::uint16_t>& words, const KvPool& pool, const void* array,
         std::int64_t index) {
  const DType dtype = pool.config().dtype;
  const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(array) -
                                               static_cast<const std::byte*>(pool.layer(0).k));
  return decoded(dtype, reinterpret_cast<const std::byte*>(words.data()) + offset +
                            static_cast<std::size_t>(index) * dtype_size(dtype));
}

// The centroid that the stored keys of a block give.
float centroid_of(const std::vector<std::uint16_t>& words, const KvPool& pool, int layer,
                  const std::int32_t* pages, int head, int d) {
  const PagedKvView& view = pool.layer(layer);
  float sum = 0;
  for (int p = 0; p < view.pages_per_moba_block(); ++p) {
    for (int row = 0; row < view.block_size; ++row) {
      sum +=
          at(words, pool, view.k,
             pages[p] * view.page_stride() + head * view.head_stride() + row * view.head_dim + d);
    }
  }
  return rounded(view.dtype, sum / static_cast<float>(view.moba_block_size));
}

}  // namespace

TEST_CASE("store_kv on CUDA writes the same bytes as on the CPU") {
  DeviceContext cpu(2);
  DeviceContext gpu(first_gpu(), 1);
  const unsigned seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 rng(seed);
  for (const Case& c : kCases) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      INFO("heads " << c.num_kv_heads << " of " << c.head_dim << " page " << c.block_size
                    << " block " << c.moba_block_size << " " << dtype_name(dtype));
      World world(c, 3, 2 * c.moba_block_size + 40, rng);
      KvPool cpu_pool = make_pool(cpu, c, dtype, world.num_pages);
      KvPool gpu_pool = make_pool(gpu, c, dtype, world.num_pages);
      for (int step = 0; step < 6; ++step) {
        world.begin_batch();
        for (int s = 0; s < 3; ++s) {
          const std::int64_t room =
              2 * c.moba_block_size + 40 - world.lengths[static_cast<std::size_t>(s)];
          world.append(s, std::min<std::int64_t>(
                              room, static_cast<std::int64_t>(
                                        rng() % static_cast<unsigned>(c.moba_block_size))));
        }
        if (world.plan.slot_mapping.empty()) continue;
        // Padding: a token that is not stored, a block that is none.
        if (step % 2 == 1) {
          world.plan.slot_mapping.push_back(-1);
          world.plan.completed_blocks.insert(
              world.plan.completed_blocks.end(),
              static_cast<std::size_t>(c.moba_block_size / c.block_size), -1);
        }
        const auto tokens = static_cast<std::int64_t>(world.plan.slot_mapping.size());
        const Tensor k = random_tensor(dtype, {tokens, c.num_kv_heads, c.head_dim}, rng);
        const Tensor v = random_tensor(dtype, {tokens, c.num_kv_heads, c.head_dim}, rng);
        store_kv(cpu, k, v, world.plan, cpu_pool.layer(1));
        store_kv(gpu, on_device(gpu, k), on_device(gpu, v), world.plan, gpu_pool.layer(1));
      }
      REQUIRE(bytes_of(gpu, gpu_pool) == bytes_of(cpu, cpu_pool));
    }
  }
}

TEST_CASE("rope_and_store on CUDA: prompts, decode steps, QK-norm and padding") {
  DeviceContext cpu(2);
  DeviceContext gpu(first_gpu(), 1);
  const unsigned seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 rng(seed);
  for (const Case& c : kCases) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      for (const bool norm : {false, true}) {
        INFO("heads " << c.num_q_heads << "/" << c.num_kv_heads << " of " << c.head_dim << " page "
                      << c.block_size << " block " << c.moba_block_size << " " << dtype_name(dtype)
                      << " norm " << norm);
        const std::int64_t capacity = 2 * c.moba_block_size + 40;
        World world(c, 3, capacity, rng);
        // float16 stands beside float32 with the same values.
        const DType reference = dtype == DType::kFloat16 ? DType::kFloat32 : dtype;
        KvPool cpu_pool = make_pool(cpu, c, reference, world.num_pages);
        KvPool gpu_pool = make_pool(gpu, c, dtype, world.num_pages);
        const Tensor q_norm = random_tensor(DType::kBFloat16, {c.head_dim}, rng);
        const Tensor k_norm = random_tensor(DType::kFloat32, {c.head_dim}, rng);
        const Tensor gpu_q_norm = on_device(gpu, q_norm);
        const Tensor gpu_k_norm = on_device(gpu, k_norm);
        Tensor inv_freq(DType::kFloat32, {c.head_dim / 2}, Device{}, "frequencies");
        for (int i = 0; i < c.head_dim / 2; ++i) {
          set_element(
              inv_freq, i,
              std::pow(10000.0F, -2.0F * static_cast<float>(i) / static_cast<float>(c.head_dim)));
        }
        // A prompt up to shortly before a block is full, then single tokens past its end.
        for (int step = 0; step < 9; ++step) {
          world.begin_batch();
          const bool decode = step > 0;
          for (int s = 0; s < 3; ++s) world.append(s, decode ? 1 : c.moba_block_size - 3 - s);
          const auto pages = static_cast<std::size_t>(c.moba_block_size / c.block_size);
          KvWritePlan plan = world.plan;
          if (decode) {
            plan.completed_blocks.clear();
            for (int s = 0; s < 3; ++s) {
              const auto index = static_cast<std::size_t>(s);
              const bool full = world.lengths[index] % c.moba_block_size == 0;
              const auto block = static_cast<std::size_t>(world.lengths[index] / c.moba_block_size);
              for (std::size_t p = 0; p < pages; ++p) {
                plan.completed_blocks.push_back(full ? world.tables[index][(block - 1) * pages + p]
                                                     : -1);
              }
            }
            plan.slot_mapping.push_back(-1);
            plan.completed_blocks.insert(plan.completed_blocks.end(), pages, -1);
            world.positions.push_back(0);
          }
          const auto tokens = static_cast<std::int64_t>(plan.slot_mapping.size());
          const std::int64_t q_size = c.num_q_heads * c.head_dim;
          const std::int64_t kv_size = c.num_kv_heads * c.head_dim;
          const Tensor all = random_tensor(dtype, {tokens, q_size + 2 * kv_size}, rng);
          Tensor parts[3] = {Tensor(reference, {tokens, c.num_q_heads, c.head_dim}, {}, "q"),
                             Tensor(reference, {tokens, c.num_kv_heads, c.head_dim}, {}, "k"),
                             Tensor(reference, {tokens, c.num_kv_heads, c.head_dim}, {}, "v")};
          for (std::int64_t t = 0; t < tokens; ++t) {
            for (std::int64_t i = 0; i < q_size + 2 * kv_size; ++i) {
              const auto value = static_cast<float>(element(all, t * (q_size + 2 * kv_size) + i));
              if (i < q_size) {
                set_element(parts[0], t * q_size + i, value);
              } else if (i < q_size + kv_size) {
                set_element(parts[1], t * kv_size + i - q_size, value);
              } else {
                set_element(parts[2], t * kv_size + i - q_size - kv_size, value);
              }
            }
          }
          const Tensor cos_sin(DType::kFloat32, {tokens, c.head_dim}, {}, "table");
          rope_cos_sin(cpu, TensorView(world.positions.data(), DType::kInt32, {tokens}), inv_freq,
                       1.0F, cos_sin);
          std::vector<std::int32_t> rows(static_cast<std::size_t>(tokens));
          std::iota(rows.begin(), rows.end(), 0);
          const TensorView row_view(rows.data(), DType::kInt32, {tokens});

          ProjectedHeads heads{parts[0], parts[1], parts[2], {}, {}, 1e-5F, row_view, cos_sin};
          if (norm) {
            heads.q_norm = q_norm;
            heads.k_norm = k_norm;
          }
          KvWriteSlots slots = slots_of(plan, static_cast<int>(pages));
          slots.one_per_token = decode;
          rope_and_store(cpu, heads, slots, cpu_pool.layer(1), parts[0]);

          const Tensor gpu_all = on_device(gpu, all);
          const Tensor gpu_rows = on_device(gpu, row_view);
          const Tensor gpu_cos_sin = on_device(gpu, cos_sin);
          const TensorView view = gpu_all;
          const auto part = [&](std::int64_t first, std::int64_t count, int num_heads) {
            return view.columns(first, first + count).reshape({tokens, num_heads, c.head_dim});
          };
          ProjectedHeads gpu_heads{part(0, q_size, c.num_q_heads),
                                   part(q_size, kv_size, c.num_kv_heads),
                                   part(q_size + kv_size, kv_size, c.num_kv_heads),
                                   {},
                                   {},
                                   1e-5F,
                                   gpu_rows,
                                   gpu_cos_sin};
          if (norm) {
            gpu_heads.q_norm = gpu_q_norm;
            gpu_heads.k_norm = gpu_k_norm;
          }
          const DeviceSlots gpu_slots(gpu, slots);
          const Tensor q_out =
              on_device(gpu, poisoned_tensor(dtype, {tokens, c.num_q_heads, c.head_dim}));
          rope_and_store(gpu, gpu_heads, gpu_slots.slots, gpu_pool.layer(1), q_out);
          const Tensor got = on_host(gpu, q_out);
          double worst = 0;
          for (std::int64_t i = 0; i < tokens * q_size; ++i) {
            const double e = element(parts[0], i);
            const double difference = std::abs(element(got, i) - e) / (std::abs(e) + 1);
            REQUIRE(difference == difference);
            worst = std::max(worst, difference);
          }
          REQUIRE(worst <= (dtype == DType::kFloat32 ? 1e-5 : 0.02));
        }

        const auto cpu_words = bytes_of(cpu, cpu_pool);
        const auto gpu_words = bytes_of(gpu, gpu_pool);
        double worst = 0;
        int num_stored = 0;
        const PagedKvView& cpu_view = cpu_pool.layer(1);
        const PagedKvView& gpu_view = gpu_pool.layer(1);
        for (std::int64_t i = 0; i < world.num_pages * cpu_view.page_stride(); ++i) {
          const float key = at(cpu_words, cpu_pool, cpu_view.k, i);
          const float gpu_key = at(gpu_words, gpu_pool, gpu_view.k, i);
          REQUIRE((key == key) == (gpu_key == gpu_key));
          const float value = at(cpu_words, cpu_pool, cpu_view.v, i);
          const float gpu_value = at(gpu_words, gpu_pool, gpu_view.v, i);
          REQUIRE((value == gpu_value || (value != value && gpu_value != gpu_value)));
          if (key != key) continue;
          ++num_stored;
          worst = std::max(worst, std::abs(static_cast<double>(key) - gpu_key) /
                                      (std::abs(static_cast<double>(key)) + 1));
        }
        CHECK(num_stored > 0);
        REQUIRE(worst <= (dtype == DType::kFloat32 ? 1e-5 : 0.02));
        // Centroids are exactly those of the keys as stored.
        for (const auto& table : world.tables) {
          for (int h = 0; h < c.num_kv_heads; ++h) {
            const std::int64_t last =
                table[static_cast<std::size_t>(c.moba_block_size / c.block_size - 1)];
            for (int d = 0; d < c.head_dim; ++d) {
              REQUIRE(at(gpu_words, gpu_pool, gpu_view.centroids,
                         (last * c.num_kv_heads + h) * c.head_dim + d) ==
                      centroid_of(gpu_words, gpu_pool, 1, table.data(), h, d));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("copy_pages on CUDA copies one after the other") {
  DeviceContext cpu(2);
  DeviceContext gpu(first_gpu(), 1);
  std::mt19937 rng(std::random_device{}());
  const Case c{4, 2, 64, 16, 32};
  KvPool cpu_pool = make_pool(cpu, c, DType::kBFloat16, 9);
  KvPool gpu_pool = make_pool(gpu, c, DType::kBFloat16, 9);
  const Tensor content = random_tensor(DType::kBFloat16, {cpu_pool.num_bytes() / 2}, rng);
  std::memcpy(cpu_pool.layer(0).k, content.view().raw(), content.view().num_bytes());
  copy_to_device(
      gpu, content,
      TensorView(gpu_pool.layer(0).k, DType::kBFloat16, content.view().shape(), gpu.device()));
  const std::vector<PageCopy> copies = {{0, 5}, {5, 6}, {3, 0}, {8, 8}, {6, 1}};
  copy_pages(cpu, copies, cpu_pool);
  copy_pages(gpu, copies, gpu_pool);
  CHECK(bytes_of(gpu, gpu_pool) == bytes_of(cpu, cpu_pool));
  CHECK_THROWS_AS(copy_pages(gpu, std::vector<PageCopy>{{0, 9}}, gpu_pool), Error);
}

}  // namespace moba::test
