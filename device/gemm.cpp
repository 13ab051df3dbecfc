#include "device/gemm.h"

#include <cstdint>

#include "device/check.h"
#include "device/cpu/gemm_cpu.h"

namespace moba {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
}

bool overlap(const TensorView& a, const TensorView& b) {
  const auto a_begin = reinterpret_cast<std::uintptr_t>(a.raw());
  const auto b_begin = reinterpret_cast<std::uintptr_t>(b.raw());
  return a_begin < b_begin + b.num_bytes() && b_begin < a_begin + a.num_bytes();
}

void check_task(const TensorView& x, const LinearTask& task) {
  const TensorView& weight = task.weight;
  MOBA_CHECK(weight.rank() == 2 && weight.dim(1) == x.dim(1), "linear: weight of shape ",
             weight.shape().to_string(), " does not fit input of shape ", x.shape().to_string());
  MOBA_CHECK(is_float(weight.dtype()), "linear: weight of dtype ", dtype_name(weight.dtype()));
  MOBA_CHECK(weight.raw() != nullptr || weight.num_elements() == 0, "linear: weight has no memory");
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

}  // namespace

void linear(DeviceContext& context, const TensorView& x, std::span<const LinearTask> tasks) {
  MOBA_CHECK(x.rank() == 2, "linear: input of shape ", x.shape().to_string(), " is not a matrix");
  MOBA_CHECK(x.dtype() == DType::kFloat32 || x.dtype() == DType::kBFloat16,
             "linear: input of dtype ", dtype_name(x.dtype()));
  MOBA_CHECK(x.raw() != nullptr || x.num_elements() == 0, "linear: input has no memory");
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    check_task(x, tasks[i]);
    for (std::size_t j = 0; j < i; ++j) {
      MOBA_CHECK(!overlap(tasks[i].output, tasks[j].output), "linear: outputs ", j, " and ", i,
                 " overlap");
    }
  }
  cpu::linear(context, x, tasks);
}

}  // namespace moba
