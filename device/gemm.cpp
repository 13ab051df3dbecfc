#include "device/gemm.h"

#include <cstddef>
#include <cstdint>

#include "device/check.h"
#include "device/cpu/gemm_cpu.h"
#include "device/cuda/gemm_cuda.h"

namespace moba {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
}

const std::byte* begin_of(const TensorView& t) { return static_cast<const std::byte*>(t.raw()); }

// Behind the last element.
const std::byte* end_of(const TensorView& t) {
  if (t.num_elements() == 0) return begin_of(t);
  const std::int64_t elements = (t.dim(0) - 1) * t.row_stride() + t.shape().row_elements();
  return begin_of(t) + static_cast<std::size_t>(elements) * dtype_size(t.dtype());
}

bool overlap(const TensorView& a, const TensorView& b) {
  const auto a_begin = reinterpret_cast<std::uintptr_t>(begin_of(a));
  const auto b_begin = reinterpret_cast<std::uintptr_t>(begin_of(b));
  const auto a_end = reinterpret_cast<std::uintptr_t>(end_of(a));
  const auto b_end = reinterpret_cast<std::uintptr_t>(end_of(b));
  if (a_begin >= b_end || b_begin >= a_end) return false;
  if (a.dtype() != b.dtype() || a.row_stride() != b.row_stride()) return true;
  // Columns of one matrix: where b's begin in a's rows.
  const std::uintptr_t stride = static_cast<std::uintptr_t>(a.row_stride()) * dtype_size(a.dtype());
  const std::uintptr_t shift = b_begin >= a_begin
                                   ? (b_begin - a_begin) % stride
                                   : (stride - (a_begin - b_begin) % stride) % stride;
  const auto width = [](const TensorView& t) {
    return static_cast<std::uintptr_t>(t.shape().row_elements()) * dtype_size(t.dtype());
  };
  return shift < width(a) || shift + width(b) > stride;
}

void check_task(const TensorView& x, const LinearTask& task) {
  const TensorView& weight = task.weight;
  MOBA_CHECK(weight.rank() == 2 && weight.dim(1) == x.dim(1), "linear: weight of shape ",
             weight.shape().to_string(), " does not fit input of shape ", x.shape().to_string());
  MOBA_CHECK(is_float(weight.dtype()) || is_quantized(weight.dtype()), "linear: weight of dtype ",
             dtype_name(weight.dtype()));
  MOBA_CHECK(weight.raw() != nullptr || weight.num_elements() == 0, "linear: weight has no memory");
  MOBA_CHECK(weight.is_contiguous(), "linear: weight whose rows are not contiguous");
  if (!task.bias.empty()) {
    MOBA_CHECK(task.bias.rank() == 1 && task.bias.dim(0) == weight.dim(0), "linear: bias of shape ",
               task.bias.shape().to_string(), " does not fit weight of shape ",
               weight.shape().to_string());
    MOBA_CHECK(is_float(task.bias.dtype()), "linear: bias of dtype ",
               dtype_name(task.bias.dtype()));
  }
  const TensorView& output = task.output;
  MOBA_CHECK(output.rank() == 2 && output.dim(0) == x.dim(0) && output.dim(1) == weight.dim(0),
             "linear: output of shape ", output.shape().to_string(),
             " does not fit input of shape ", x.shape().to_string(), " and weight of shape ",
             weight.shape().to_string());
  MOBA_CHECK(output.dtype() == x.dtype() || output.dtype() == DType::kFloat32,
             "linear: output of dtype ", dtype_name(output.dtype()), " for input of dtype ",
             dtype_name(x.dtype()));
  MOBA_CHECK(output.raw() != nullptr || output.num_elements() == 0, "linear: output has no memory");
  MOBA_CHECK(!overlap(output, x), "linear: output overlaps the input");
}

// Whether b's memory begins where a's ends.
bool follows(const TensorView& b, const TensorView& a) {
  return a.dtype() == b.dtype() && b.raw() == end_of(a);
}

bool joins(const LinearTask& before, const LinearTask& task) {
  const TensorView& a = before.output;
  const TensorView& b = task.output;
  const bool neighbours =
      a.dtype() == b.dtype() && (a.dim(0) <= 1 || a.row_stride() == b.row_stride()) &&
      begin_of(b) == begin_of(a) + static_cast<std::size_t>(a.dim(1)) * dtype_size(a.dtype());
  const bool biases = before.bias.empty() ? task.bias.empty()
                                          : !task.bias.empty() && follows(task.bias, before.bias);
  return neighbours && biases && before.accumulate == task.accumulate &&
         follows(task.weight, before.weight);
}

}  // namespace

bool merges_tasks(const DeviceContext& context) {
  return context.device().type == DeviceType::kCuda;
}

std::size_t merge_front(std::span<const LinearTask> tasks, LinearTask& merged) {
  merged = tasks[0];
  std::int64_t columns = tasks[0].weight.dim(0);
  std::size_t count = 1;
  while (count < tasks.size() && joins(tasks[count - 1], tasks[count])) {
    columns += tasks[count].weight.dim(0);
    ++count;
  }
  if (count == 1) return count;
  const LinearTask& first = tasks[0];
  merged.weight = TensorView(first.weight.raw(), first.weight.dtype(),
                             {columns, first.weight.dim(1)}, first.weight.device());
  if (!first.bias.empty()) {
    merged.bias = TensorView(first.bias.raw(), first.bias.dtype(), {columns}, first.bias.device());
  }
  const std::int64_t rows = first.output.dim(0);
  const std::int64_t stride = rows <= 1 ? columns : first.output.row_stride();
  merged.output =
      TensorView(first.output.raw(), first.output.dtype(), {rows, stride}, first.output.device())
          .columns(0, columns);
  return count;
}

void linear(DeviceContext& context, const TensorView& x, std::span<const LinearTask> tasks) {
  const bool on_cpu = context.device().type == DeviceType::kCpu;
  MOBA_CHECK(x.rank() == 2, "linear: input of shape ", x.shape().to_string(), " is not a matrix");
  MOBA_CHECK(x.dtype() == DType::kFloat32 || x.dtype() == DType::kBFloat16 ||
                 (!on_cpu && x.dtype() == DType::kFloat16),
             "linear: input of dtype ", dtype_name(x.dtype()));
  MOBA_CHECK(x.raw() != nullptr || x.num_elements() == 0, "linear: input has no memory");
  MOBA_CHECK(!on_cpu || x.is_contiguous(), "linear: input whose rows are not contiguous");
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    check_task(x, tasks[i]);
    MOBA_CHECK(on_cpu || tasks[i].weight.dtype() == x.dtype(), "linear: weight of dtype ",
               dtype_name(tasks[i].weight.dtype()), " for input of dtype ", dtype_name(x.dtype()));
    for (std::size_t j = 0; j < i; ++j) {
      MOBA_CHECK(!overlap(tasks[i].output, tasks[j].output), "linear: outputs ", j, " and ", i,
                 " overlap");
    }
  }
  if (on_cpu) {
    cpu::linear(context, x, tasks);
  } else {
    cuda::linear(context, x, tasks);
  }
}

}  // namespace moba
