#include "device/cpu/gemm_cpu.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "device/cpu/gemm_kernels.h"
#include "device/cpu/gemm_quant.h"

namespace moba::cpu {
namespace {

// Rows of x in one item. The more, the fewer times weights are packed, as long as the packed rows
// stay in the second-level cache beside the weights that come.
constexpr std::int64_t kMinBlockRows = 96;
constexpr std::int64_t kMaxBlockRows = 384;
// Columns of one item of packed products.
constexpr std::int64_t kMinBlockColumns = 32;
constexpr std::int64_t kMaxBlockColumns = 256;
// Bytes of weights in one item of streamed products.
constexpr std::int64_t kMinStreamBytes = 16 << 10;
constexpr std::int64_t kMaxStreamBytes = 256 << 10;
// Streams that the kernels read at a time: an item of fewer rows would waste some.
constexpr std::int64_t kStreams = 8;
// Items for each thread, so that one that is held up does not hold up the rest.
constexpr std::int64_t kItemsPerThread = 8;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Rounds up to a multiple.
std::int64_t round_up(std::int64_t a, std::int64_t multiple) {
  return ceil_div(a, multiple) * multiple;
}

std::byte* at(const TensorView& t, std::int64_t element) {
  return static_cast<std::byte*>(t.raw()) +
         static_cast<std::size_t>(element) * dtype_size(t.dtype());
}

std::int64_t block_rows(std::int64_t k) {
  const std::int64_t row_bytes =
      std::min(k, linear_k_block(k)) * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t rows = l2_cache_bytes() / 8 * 5 / std::max<std::int64_t>(row_bytes, 1);
  return std::clamp(rows, kMinBlockRows, kMaxBlockRows);
}

LinearKernels kernels_for(Isa isa, DType x, DType weight) {
#if MOBA_SIMD_X86
  if (isa >= Isa::kAvx512Bf16 && x == DType::kBFloat16 && weight == DType::kBFloat16) {
    return avx512_bf16::linear_kernels();
  }
#else
  static_cast<void>(x);
  static_cast<void>(weight);
#endif
  return MOBA_SIMD_SELECT(isa, linear_kernels)();
}

// Rows [m0, m0 + m) and columns [n0, n0 + n) of a task.
LinearBlock make_block(const TensorView& x, const LinearTask& task, std::int64_t m0, std::int64_t m,
                       std::int64_t n0, std::int64_t n) {
  LinearBlock block;
  const std::int64_t k = x.dim(1);
  const std::int64_t stride = task.output.row_stride();
  block.x = at(x, m0 * k);
  block.weight = at(task.weight, n0 * k);
  block.bias = task.bias.empty() ? nullptr : at(task.bias, n0);
  block.output = at(task.output, m0 * stride + n0);
  block.m = m;
  block.n = n;
  block.k = k;
  block.k_block = linear_k_block(k);
  block.output_stride = stride;
  block.l1_bytes = l1_cache_bytes();
  block.x_dtype = x.dtype();
  block.weight_dtype = task.weight.dtype();
  block.bias_dtype = task.bias.dtype();
  block.output_dtype = task.output.dtype();
  block.accumulate = task.accumulate;
  return block;
}

// Calls body(task, item of the task, thread) for the items of all tasks in one loop.
template <typename NumItems, typename Body>
void for_items(ThreadPool& pool, std::span<const LinearTask> tasks, NumItems&& num_items,
               Body&& body) {
  std::int64_t total = 0;
  for (const LinearTask& task : tasks) total += num_items(task);
  const auto item_body = [&](std::int64_t item, int thread) {
    for (const LinearTask& task : tasks) {
      const std::int64_t count = num_items(task);
      if (item < count) return body(task, item, thread);
      item -= count;
    }
  };
  pool.parallel_for(total, item_body);
}

void linear_few_rows(DeviceContext& context, const TensorView& x,
                     std::span<const LinearTask> tasks) {
  const std::int64_t m = x.dim(0);
  const std::int64_t k = x.dim(1);
  Workspace& workspace = context.workspace();

  // x as floats, and as bfloat16 where there are kernels for it.
  const LinearKernels plain = MOBA_SIMD_SELECT(context.isa(), linear_kernels)();
  const LinearKernels bf16 = kernels_for(context.isa(), x.dtype(), DType::kBFloat16);
  const std::size_t plain_bytes = plain.prepared_bytes(m, k);
  auto* plain_x =
      static_cast<std::byte*>(workspace.shared(plain_bytes + bf16.prepared_bytes(m, k)));
  std::byte* bf16_x = plain_x;
  const bool split = bf16.direct != plain.direct;
  if (split) {
    bf16_x = plain_x + plain_bytes;
    bf16.prepare(x.raw(), x.dtype(), m, k, bf16_x);
  }
  const bool all_bf16 = std::all_of(tasks.begin(), tasks.end(), [](const LinearTask& task) {
    return task.weight.dtype() == DType::kBFloat16;
  });
  if (!split || !all_bf16) plain.prepare(x.raw(), x.dtype(), m, k, plain_x);

  std::int64_t total_bytes = 0;
  for (const LinearTask& task : tasks) {
    total_bytes += static_cast<std::int64_t>(task.weight.num_bytes());
  }
  const std::int64_t item_bytes =
      std::clamp(total_bytes / (context.pool().num_threads() * kItemsPerThread), kMinStreamBytes,
                 kMaxStreamBytes);
  const auto rows_per_item = [&](const LinearTask& task) {
    const auto row_bytes = static_cast<std::int64_t>(dtype_size(task.weight.dtype())) * k;
    return round_up(std::max<std::int64_t>(1, item_bytes / std::max<std::int64_t>(1, row_bytes)),
                    kStreams);
  };
  const auto num_items = [&](const LinearTask& task) {
    return ceil_div(task.weight.dim(0), rows_per_item(task));
  };
  for_items(
      context.pool(), tasks, num_items, [&](const LinearTask& task, std::int64_t item, int thread) {
        const std::int64_t n0 = item * rows_per_item(task);
        const std::int64_t n = std::min(rows_per_item(task), task.weight.dim(0) - n0);
        LinearBlock block = make_block(x, task, 0, m, n0, n);
        const bool is_bf16 = task.weight.dtype() == DType::kBFloat16;
        const LinearKernels& kernels = is_bf16 ? bf16 : plain;
        block.x = is_bf16 ? bf16_x : plain_x;
        kernels.direct(block, workspace.of_thread(thread, kernels.direct_scratch_bytes(m, n)));
      });
}

void linear_many_rows(DeviceContext& context, const TensorView& x,
                      std::span<const LinearTask> tasks) {
  const std::int64_t m_total = x.dim(0);
  const std::int64_t num_row_blocks = ceil_div(m_total, block_rows(x.dim(1)));
  std::int64_t total_columns = 0;
  for (const LinearTask& task : tasks) total_columns += task.weight.dim(0);
  const std::int64_t columns_per_item = round_up(
      std::clamp(total_columns * num_row_blocks / (context.pool().num_threads() * kItemsPerThread),
                 kMinBlockColumns, kMaxBlockColumns),
      kStreams);

  // Row blocks are the inner index: the threads go through the rows with the same weights.
  const auto num_items = [&](const LinearTask& task) {
    return ceil_div(task.weight.dim(0), columns_per_item) * num_row_blocks;
  };
  for_items(
      context.pool(), tasks, num_items, [&](const LinearTask& task, std::int64_t item, int thread) {
        const LinearKernels kernels = kernels_for(context.isa(), x.dtype(), task.weight.dtype());
        const std::int64_t rows_per_item =
            round_up(ceil_div(m_total, num_row_blocks), kernels.row_tile);
        const std::int64_t m0 = item % num_row_blocks * rows_per_item;
        const std::int64_t n0 = item / num_row_blocks * columns_per_item;
        const std::int64_t m = std::min(rows_per_item, m_total - m0);
        const std::int64_t n = std::min(columns_per_item, task.weight.dim(0) - n0);
        if (m <= 0) return;
        kernels.block(make_block(x, task, m0, m, n0, n),
                      context.workspace().of_thread(thread, kernels.block_scratch_bytes(m, n)));
      });
}

}  // namespace

void linear(DeviceContext& context, const TensorView& x, std::span<const LinearTask> tasks) {
  if (x.dim(0) == 0) return;
  // Runs of tasks of one kind.
  const auto quantized = [](const LinearTask& task) { return is_quantized(task.weight.dtype()); };
  while (!tasks.empty()) {
    const bool first = quantized(tasks[0]);
    std::size_t count = 1;
    while (count < tasks.size() && quantized(tasks[count]) == first) ++count;
    const std::span<const LinearTask> run = tasks.first(count);
    if (first) {
      linear_quantized(context, x, run);
    } else if (x.dim(0) <= kLinearMaxDirectRows) {
      linear_few_rows(context, x, run);
    } else {
      linear_many_rows(context, x, run);
    }
    tasks = tasks.subspan(count);
  }
}

}  // namespace moba::cpu
