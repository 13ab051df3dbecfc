#include "device/cuda/copy_cuda.h"
#include "device/cuda/gemm_cuda.h"
#include "device/cuda/ops_cuda.h"
#include "device/no_cuda/refuse.h"

namespace moba::cuda {

void copy_bytes(DeviceContext&, const void*, void*, std::size_t) { refuse("copy"); }
void fill_bytes(DeviceContext&, void*, unsigned char, std::size_t) { refuse("fill"); }

void linear(DeviceContext&, const TensorView&, std::span<const LinearTask>) { refuse("linear"); }

void embedding(DeviceContext&, const TensorView&, const TensorView&, const TensorView&) {
  refuse("embedding");
}
void embedding_slice(DeviceContext&, const TensorView&, std::int64_t, std::int64_t,
                     const TensorView&, const TensorView&) {
  refuse("embedding_slice");
}
void rms_norm(DeviceContext&, const TensorView&, const TensorView&, float, const TensorView&) {
  refuse("rms_norm");
}
void add_rms_norm(DeviceContext&, const TensorView&, const TensorView&, const TensorView&, float,
                  const TensorView&) {
  refuse("add_rms_norm");
}
void rope_cos_sin(DeviceContext&, const TensorView&, const TensorView&, float, const TensorView&) {
  refuse("rope_cos_sin");
}
void rope(DeviceContext&, const TensorView&, const TensorView&, const TensorView&) {
  refuse("rope");
}
void silu_mul(DeviceContext&, const TensorView&, const TensorView&, const TensorView&) {
  refuse("silu_mul");
}
void gather_rows(DeviceContext&, const TensorView&, const TensorView&, const TensorView&) {
  refuse("gather_rows");
}

}  // namespace moba::cuda
