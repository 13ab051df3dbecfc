// Compiled once for each instruction set; see device/cpu/simd.h for what may stand here.
#include "tests/device/simd_probe.h"

#include "device/cpu/simd.h"

namespace moba::cpu::MOBA_SIMD_NS {
namespace {

template <typename From, typename To, typename Function>
void for_vectors(const From* x, To* out, std::int64_t n, Function function) {
  std::int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(out + i, function(load(x + i)));
  const int rest = static_cast<int>(n - i);
  store_partial(out + i, function(load_partial(x + i, rest)), rest);
}

}  // namespace

void probe_exp(const float* x, float* out, std::int64_t n) {
  for_vectors(x, out, n, [](Vec v) { return exp(v); });
}
void probe_exp_nonpositive(const float* x, float* out, std::int64_t n) {
  for_vectors(x, out, n, [](Vec v) { return exp_nonpositive(v); });
}
void probe_widen_bf16(const BFloat16* x, float* out, std::int64_t n) {
  for_vectors(x, out, n, [](Vec v) { return v; });
}
void probe_widen_f16(const Float16* x, float* out, std::int64_t n) {
  for_vectors(x, out, n, [](Vec v) { return v; });
}
void probe_narrow_bf16(const float* x, BFloat16* out, std::int64_t n) {
  for_vectors(x, out, n, [](Vec v) { return v; });
}
void probe_round_bf16(const float* x, float* out, std::int64_t n) {
  const BFloat16* type = nullptr;
  for_vectors(x, out, n, [type](Vec v) { return round_to(type, v); });
}
void probe_reduce(const float* x, float* out) {
  Vec v[4];
  for (int i = 0; i < 4; ++i) v[i] = load(x + i * kWidth);
  reduce_add4(v[0], v[1], v[2], v[3], out);
  for (int i = 0; i < 4; ++i) {
    out[4 + i] = reduce_add(v[i]);
    out[8 + i] = reduce_max(v[i]);
  }
}
void probe_select(const float* x, const float* y, float* out, int n) {
  const Vec a = load(x);
  const Vec b = load(y);
  store(out, select(first_lanes(n), select(less(a, b), a, b), broadcast(-1.0F)));
}
int probe_width() { return kWidth; }

}  // namespace moba::cpu::MOBA_SIMD_NS
