#include "device/cuda/gemm_cuda.h"

#include "device/cuda/bias.h"
#include "device/cuda/cuda_context.h"
#include "device/cuda/gemm_plain.h"
#include "device/cuda/gemm_plans.h"
#include "device/cuda/gemv.h"

namespace moba::cuda {
namespace {

void run(Context& context, const TensorView& x, const LinearTask& task) {
  GemmProblem problem;
  problem.x = x.raw();
  problem.weight = task.weight.raw();
  problem.out = task.output.raw();
  problem.m = x.dim(0);
  problem.n = task.weight.dim(0);
  problem.k = x.dim(1);
  problem.x_stride = x.row_stride();
  problem.weight_stride = task.weight.row_stride();
  problem.out_stride = task.output.row_stride();
  problem.dtype = x.dtype();
  problem.out_dtype = task.output.dtype();
  problem.accumulate = task.accumulate;
  if (problem.m == 0 || problem.n == 0) return;
  if (!task.bias.empty()) {
    if (task.bias.dtype() == problem.out_dtype) {
      problem.bias = task.bias.raw();
    } else {
      // The products take one of the output's dtype only: another one goes to the output first.
      put_bias(context.stream(), task.bias, task.output, task.accumulate);
      problem.accumulate = true;
    }
  }
  if (problem.m <= kMaxGemvRows) {
    gemv(context.stream(), problem);
  } else if (problem.dtype != DType::kFloat32 && is_unaligned(problem)) {
    plain_gemm(context.stream(), problem);
  } else {
    context.gemm_plans().run(context, problem);
  }
}

}  // namespace

void linear(DeviceContext& context, const TensorView& x, std::span<const LinearTask> tasks) {
  while (!tasks.empty()) {
    LinearTask merged;
    const std::size_t count = merge_front(tasks, merged);
    run(*context.cuda(), x, merged);
    tasks = tasks.subspan(count);
  }
}

}  // namespace moba::cuda
