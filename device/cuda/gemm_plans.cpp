#include "device/cuda/gemm_plans.h"

#include <algorithm>
#include <bit>
#include <initializer_list>

#include "device/check.h"
#include "device/cuda/cuda_check.h"
#include "device/cuda/cuda_context.h"

namespace moba::cuda {
namespace {

// Plans beyond which the store starts anew: prompts of every length ask for one each.
constexpr std::size_t kMaxPlans = 4096;
constexpr int kMaxAlignmentLog2 = 8;  // the most that cuBLASLt asks for

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return CUDA_R_16BF;
    case DType::kFloat16:
      return CUDA_R_16F;
    default:
      return CUDA_R_32F;
  }
}

std::uint32_t alignment_log2(const void* pointer) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  return static_cast<std::uint32_t>(
      address == 0 ? kMaxAlignmentLog2 : std::min(kMaxAlignmentLog2, std::countr_zero(address)));
}

template <typename T>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, T value) {
  MOBA_CUDA_CHECK(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)));
}

template <typename T>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
         T value) {
  MOBA_CUDA_CHECK(
      cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
}

// Column-major, as cuBLAS has it: a row-major matrix [columns, rows].
cublasLtMatrixLayout_t make_layout(DType dtype, std::int64_t rows, std::int64_t columns,
                                   std::int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  MOBA_CUDA_CHECK(cublasLtMatrixLayoutCreate(&layout, data_type(dtype),
                                             static_cast<std::uint64_t>(rows),
                                             static_cast<std::uint64_t>(columns), stride));
  return layout;
}

class Preference {
 public:
  Preference() { MOBA_CUDA_CHECK(cublasLtMatmulPreferenceCreate(&preference_)); }
  ~Preference() { static_cast<void>(cublasLtMatmulPreferenceDestroy(preference_)); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  cublasLtMatmulPreference_t get() const { return preference_; }

 private:
  cublasLtMatmulPreference_t preference_ = nullptr;
};

}  // namespace

std::size_t GemmPlans::KeyHash::operator()(const Key& key) const {
  std::uint64_t hash = 0;
  for (const std::int64_t value :
       {key.m, key.n, key.k, key.x_stride, key.weight_stride, key.out_stride,
        static_cast<std::int64_t>(key.alignment), static_cast<std::int64_t>(key.dtype),
        static_cast<std::int64_t>(key.out_dtype), std::int64_t{key.bias},
        std::int64_t{key.accumulate}}) {
    hash = (hash ^ static_cast<std::uint64_t>(value)) * 0x9E3779B97F4A7C15U;
    hash ^= hash >> 29;
  }
  return hash;
}

GemmPlans::~GemmPlans() {
  for (auto& [key, plan] : plans_) destroy(plan);
}

void GemmPlans::destroy(Plan& plan) {
  if (plan.operation != nullptr) static_cast<void>(cublasLtMatmulDescDestroy(plan.operation));
  for (const cublasLtMatrixLayout_t layout : {plan.weight, plan.x, plan.out}) {
    if (layout != nullptr) static_cast<void>(cublasLtMatrixLayoutDestroy(layout));
  }
  plan = {};
}

GemmPlans::Key GemmPlans::key_of(const GemmProblem& p) {
  Key key{};
  key.m = p.m;
  key.n = p.n;
  key.k = p.k;
  key.x_stride = p.x_stride;
  key.weight_stride = p.weight_stride;
  key.out_stride = p.out_stride;
  for (const void* pointer : std::initializer_list<const void*>{p.x, p.weight, p.bias, p.out}) {
    key.alignment = key.alignment << 4 | alignment_log2(pointer);
  }
  key.dtype = p.dtype;
  key.out_dtype = p.out_dtype;
  key.bias = p.bias != nullptr;
  key.accumulate = p.accumulate;
  return key;
}

// In cuBLAS's column-major words the product is out^T = weight * x^T, with the weight transposed.
void GemmPlans::make_plan(Context& context, const GemmProblem& p, const Key& key, Plan& plan) {
  MOBA_CUDA_CHECK(cublasLtMatmulDescCreate(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
  if (key.bias) {
    set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(p.out_dtype));
  }
  plan.weight = make_layout(p.dtype, p.k, p.n, p.weight_stride);
  plan.x = make_layout(p.dtype, p.k, p.m, p.x_stride);
  plan.out = make_layout(p.out_dtype, p.n, p.m, p.out_stride);

  const Preference preference;
  set(preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
      static_cast<std::uint64_t>(context.workspace_bytes()));
  // Parts of a sum are put together in float32, not in the output's dtype.
  set(preference.get(), CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(preference.get(), CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
      std::uint32_t{1} << alignment_log2(p.weight));
  set(preference.get(), CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
      std::uint32_t{1} << alignment_log2(p.x));
  for (const auto side :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    set(preference.get(), side, std::uint32_t{1} << alignment_log2(p.out));
  }
  cublasLtMatmulHeuristicResult_t choice{};
  int num_choices = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(context.blas(), plan.operation, plan.weight, plan.x, plan.out,
                                     plan.out, preference.get(), 1, &choice, &num_choices);
  MOBA_CHECK(status == CUBLAS_STATUS_SUCCESS && num_choices > 0,
             "linear: cuBLASLt has no algorithm for ", p.m, " x ", p.n, " x ", p.k, " in ",
             dtype_name(p.dtype), " (", cublasLtGetStatusName(status), ")");
  plan.algorithm = choice.algo;
}

void GemmPlans::run(Context& context, const GemmProblem& problem) {
  const Key key = key_of(problem);
  auto it = plans_.find(key);
  if (it == plans_.end()) {
    if (plans_.size() >= kMaxPlans) {
      for (auto& [old_key, plan] : plans_) destroy(plan);
      plans_.clear();
    }
    Plan plan;
    try {
      make_plan(context, problem, key, plan);
      it = plans_.emplace(key, plan).first;
    } catch (...) {
      destroy(plan);
      throw;
    }
  }
  const Plan& plan = it->second;
  if (key.bias) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, problem.bias);
  const float alpha = 1.0F;
  const float beta = problem.accumulate ? 1.0F : 0.0F;
  MOBA_CUDA_CHECK(cublasLtMatmul(context.blas(), plan.operation, &alpha, problem.weight,
                                 plan.weight, problem.x, plan.x, &beta, problem.out, plan.out,
                                 problem.out, plan.out, &plan.algorithm, context.workspace(),
                                 context.workspace_bytes(), context.stream()));
}

}  // namespace moba::cuda
