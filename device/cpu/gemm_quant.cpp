#include "device/cpu/gemm_quant.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "device/cpu/gemm_quant_kernels.h"
#include "device/cpu/quant_layout.h"

namespace moba::cpu {
namespace {

// Packed bytes of weights in one item of streamed products.
constexpr std::int64_t kMinStreamBytes = 8 << 10;
constexpr std::int64_t kMaxStreamBytes = 256 << 10;
// Row groups in one item of products with many rows.
constexpr std::int64_t kMaxItemGroups = 8;
// Rows of x in one item: they stay in the second-level cache while row groups of the weight pass.
constexpr std::int64_t kMinBlockRows = 32;
constexpr std::int64_t kMaxBlockRows = 256;
constexpr std::int64_t kItemsPerThread = 8;
// Elements of x below which the threads are not asked to help to quantise it.
constexpr std::int64_t kMinSharedElements = 32768;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::byte* at(const TensorView& t, std::int64_t element) {
  return static_cast<std::byte*>(t.raw()) +
         static_cast<std::size_t>(element) * dtype_size(t.dtype());
}

QuantizedRows from_row(const QuantizedRows& rows, std::int64_t row, std::int64_t k) {
  return {rows.q + row * k, rows.scale + row * (k / kQuantColumns),
          rows.sum32 + row * (k / kQuantColumns), rows.sum16 + row * (k / 16)};
}

// x as 8-bit numbers, in the context's shared workspace.
QuantizedRows quantize_input(DeviceContext& context, const TensorView& x) {
  const std::int64_t m = x.dim(0);
  const std::int64_t k = x.dim(1);
  const std::int64_t blocks = m * (k / kQuantColumns);
  auto* memory = static_cast<std::byte*>(context.workspace().shared(
      static_cast<std::size_t>(m * k) + static_cast<std::size_t>(blocks) * 4 * sizeof(float)));
  QuantizedRows rows;
  rows.q = reinterpret_cast<std::int8_t*>(memory);
  rows.scale = reinterpret_cast<float*>(memory + m * k);
  rows.sum32 = rows.scale + blocks;
  rows.sum16 = rows.sum32 + blocks;
  const auto quantize = MOBA_SIMD_SELECT(context.isa(), quantize_rows);
  if (m == 1 || m * k < kMinSharedElements) {
    quantize(x.raw(), x.dtype(), m, k, rows);
    return rows;
  }
  const std::int64_t items = std::min<std::int64_t>(m, context.pool().num_threads() * 4);
  const std::int64_t rows_per_item = ceil_div(m, items);
  context.pool().parallel_for(ceil_div(m, rows_per_item), [&](std::int64_t item, int /*thread*/) {
    const std::int64_t first = item * rows_per_item;
    const std::int64_t count = std::min(rows_per_item, m - first);
    quantize(at(x, first * k), x.dtype(), count, k, from_row(rows, first, k));
  });
  return rows;
}

// Rows [m0, m0 + m) and row groups [g0, g0 + groups) of a task.
QuantBlock make_block(const QuantizedRows& x, const LinearTask& task, std::int64_t m0,
                      std::int64_t m, std::int64_t g0, std::int64_t groups) {
  QuantBlock block;
  const std::int64_t n0 = g0 * kQuantRows;
  block.k = task.weight.dim(1);
  block.x = from_row(x, m0, block.k);
  block.weight_dtype = task.weight.dtype();
  block.weight =
      static_cast<const std::byte*>(task.weight.raw()) +
      static_cast<std::size_t>(g0) * quant_layout(block.weight_dtype).group_bytes(block.k);
  block.bias = task.bias.empty() ? nullptr : at(task.bias, n0);
  block.bias_dtype = task.bias.dtype();
  block.output_stride = task.output.row_stride();
  block.output = at(task.output, m0 * block.output_stride + n0);
  block.output_dtype = task.output.dtype();
  block.m = m;
  block.n = std::min(groups * kQuantRows, task.weight.dim(0) - n0);
  block.accumulate = task.accumulate;
  return block;
}

std::int64_t groups_of(const LinearTask& task) { return ceil_div(task.weight.dim(0), kQuantRows); }

// Calls body(task, item of the task, thread) for the items of all tasks in one loop.
template <typename NumItems, typename Body>
void for_items(ThreadPool& pool, std::span<const LinearTask> tasks, NumItems&& num_items,
               Body&& body) {
  std::int64_t total = 0;
  for (const LinearTask& task : tasks) total += num_items(task);
  pool.parallel_for(total, [&](std::int64_t item, int thread) {
    for (const LinearTask& task : tasks) {
      const std::int64_t count = num_items(task);
      if (item < count) return body(task, item, thread);
      item -= count;
    }
  });
}

}  // namespace

void linear_quantized(DeviceContext& context, const TensorView& x,
                      std::span<const LinearTask> tasks) {
  const std::int64_t m = x.dim(0);
  const std::int64_t k = x.dim(1);
  const QuantizedRows rows = quantize_input(context, x);
  ThreadPool& pool = context.pool();
  std::int64_t total_bytes = 0;
  std::int64_t total_groups = 0;
  for (const LinearTask& task : tasks) {
    total_bytes += static_cast<std::int64_t>(task.weight.num_bytes());
    total_groups += groups_of(task);
  }
  if (m <= kQuantMaxDirectRows) {
    const std::int64_t item_bytes = std::clamp(total_bytes / (pool.num_threads() * kItemsPerThread),
                                               kMinStreamBytes, kMaxStreamBytes);
    const auto groups_per_item = [&](const LinearTask& task) {
      const auto bytes =
          static_cast<std::int64_t>(quant_layout(task.weight.dtype()).group_bytes(k));
      return std::max<std::int64_t>(1, item_bytes / std::max<std::int64_t>(1, bytes));
    };
    const auto kernel = MOBA_SIMD_SELECT(context.isa(), quant_direct);
    for_items(
        pool, tasks,
        [&](const LinearTask& task) { return ceil_div(groups_of(task), groups_per_item(task)); },
        [&](const LinearTask& task, std::int64_t item, int /*thread*/) {
          const std::int64_t per_item = groups_per_item(task);
          const std::int64_t first = item * per_item;
          kernel(make_block(rows, task, 0, m, first, std::min(per_item, groups_of(task) - first)));
        });
    return;
  }

  const std::int64_t block_rows =
      std::clamp(l2_cache_bytes() / 2 / std::max<std::int64_t>(k, 1), kMinBlockRows, kMaxBlockRows);
  const std::int64_t row_blocks = ceil_div(m, block_rows);
  const std::int64_t rows_per_item = ceil_div(ceil_div(m, row_blocks), 4) * 4;
  const std::int64_t groups_per_item = std::clamp<std::int64_t>(
      total_groups * row_blocks / (pool.num_threads() * kItemsPerThread), 1, kMaxItemGroups);
  const auto kernel = MOBA_SIMD_SELECT(context.isa(), quant_block);
  const std::size_t scratch = MOBA_SIMD_SELECT(context.isa(), quant_scratch_bytes)(k);
  // Row blocks are the inner index: the threads go through the rows with the same weights.
  for_items(
      pool, tasks,
      [&](const LinearTask& task) {
        return ceil_div(groups_of(task), groups_per_item) * row_blocks;
      },
      [&](const LinearTask& task, std::int64_t item, int thread) {
        const std::int64_t m0 = item % row_blocks * rows_per_item;
        const std::int64_t count = std::min(rows_per_item, m - m0);
        const std::int64_t first = item / row_blocks * groups_per_item;
        if (count <= 0) return;
        kernel(make_block(rows, task, m0, count, first,
                          std::min(groups_per_item, groups_of(task) - first)),
               context.workspace().of_thread(thread, scratch));
      });
}

}  // namespace moba::cpu
