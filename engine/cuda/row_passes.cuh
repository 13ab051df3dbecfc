// Passes of a block over a row of logits: exponentials, sums and selections. All results are the
// same whatever order threads run in: masses are integers.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace moba::cuda {

inline constexpr int kRowThreads = 1024;
inline constexpr int kRowWarps = kRowThreads / 32;
inline constexpr int kBins = 2048;

using Mass = unsigned long long;
// Weights are at most 1 and rows shorter than 2^23, so sums stay below 2^63.
inline constexpr float kMassUnit = 1099511627776.0F;  // 2^40

__device__ inline Mass mass_of(float weight) { return __float2ull_rn(weight * kMassUnit); }

// exp_core() of engine/logits_math.cpp, operation by operation: the same float.
__device__ inline float exp_core(float x) {
  constexpr float kLog2E = 1.44269504088896341F;
  constexpr float kLn2High = 0.693359375F;
  constexpr float kLn2Low = -2.12194440e-4F;
  constexpr float kRound = 12582912.0F;
  const bool too_small = !(x >= -87.0F);  // NaN too
  const float clamped = too_small ? -87.0F : x;
  const float shifted = __fadd_rn(__fmul_rn(clamped, kLog2E), kRound);
  const float n = __fsub_rn(shifted, kRound);
  const float r = __fsub_rn(__fsub_rn(clamped, __fmul_rn(n, kLn2High)), __fmul_rn(n, kLn2Low));
  float p = 1.9875691500e-4F;
  p = __fadd_rn(__fmul_rn(p, r), 1.3981999507e-3F);
  p = __fadd_rn(__fmul_rn(p, r), 8.3334519073e-3F);
  p = __fadd_rn(__fmul_rn(p, r), 4.1665795894e-2F);
  p = __fadd_rn(__fmul_rn(p, r), 1.6666665459e-1F);
  p = __fadd_rn(__fmul_rn(p, r), 5.0000001201e-1F);
  p = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(p, r), r), r), 1.0F);
  const int exponent = (__float_as_int(shifted) - __float_as_int(kRound) + 127) * (1 << 23);
  return too_small ? 0.0F : __fmul_rn(p, __int_as_float(exponent));
}

// Larger floats have larger keys; both zeros have one.
__device__ inline std::uint32_t key_of(float x) {
  const std::uint32_t bits = __float_as_uint(x + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// Shared memory of a row's block.
struct RowShared {
  Mass mass[kBins];  // of a selection's bins; their counts where it counts
  Mass warp_mass[kRowWarps];
  double warp_double[kRowWarps];
  int warp_int[kRowWarps];
  Mass broadcast_mass;
  int broadcast_int;
};

__device__ inline int warp_index() { return static_cast<int>(threadIdx.x) / 32; }
__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % 32; }

__device__ inline Mass warp_total(Mass x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffU, x, offset);
  return x;
}

// Sum of all lanes up to this one.
__device__ inline Mass warp_prefix(Mass x) {
  for (int offset = 1; offset < 32; offset *= 2) {
    const Mass below = __shfl_up_sync(0xffffffffU, x, offset);
    if (lane_index() >= offset) x += below;
  }
  return x;
}

// Total over the block, the same in all threads.
__device__ inline Mass block_total(Mass x, RowShared& shared) {
  x = warp_total(x);
  __syncthreads();
  if (lane_index() == 0) shared.warp_mass[warp_index()] = x;
  __syncthreads();
  return warp_total(shared.warp_mass[lane_index()]);
}

__device__ inline double block_total(double x, RowShared& shared) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffU, x, offset);
  __syncthreads();
  if (lane_index() == 0) shared.warp_double[warp_index()] = x;
  __syncthreads();
  x = shared.warp_double[lane_index()];
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffU, x, offset);
  return x;
}

// Elements of the row that each warp takes where the order of elements counts: contiguous.
struct WarpRange {
  int begin;
  int end;
};
__device__ inline WarpRange warp_range(int size) {
  const int each = (size + kRowThreads - 1) / kRowThreads * 32;
  const int begin = min(size, warp_index() * each);
  return {begin, min(size, begin + each)};
}

// The first element, in order, at which the running total of mass(i) exceeds `target`; `size` if it
// never does. The same in all threads.
template <typename MassFn>
__device__ int find_running_total(int size, Mass target, const MassFn& mass, RowShared& shared) {
  const WarpRange range = warp_range(size);
  Mass sum = 0;
  for (int i = range.begin + lane_index(); i < range.end; i += 32) sum += mass(i);
  sum = warp_total(sum);
  __syncthreads();
  if (lane_index() == 0) shared.warp_mass[warp_index()] = sum;
  if (threadIdx.x == 0) shared.broadcast_int = size;
  __syncthreads();
  const Mass through = warp_prefix(shared.warp_mass[lane_index()]);
  const unsigned beyond = __ballot_sync(0xffffffffU, through > target);
  if (beyond != 0 && warp_index() == __ffs(static_cast<int>(beyond)) - 1) {
    Mass before = warp_index() == 0 ? 0 : __shfl_sync(0xffffffffU, through, warp_index() - 1);
    for (int first = range.begin; first < range.end; first += 32) {
      const int i = first + lane_index();
      const Mass running = before + warp_prefix(i < range.end ? mass(i) : 0);
      const unsigned found = __ballot_sync(0xffffffffU, running > target);
      if (found != 0) {
        if (lane_index() == 0) {
          shared.broadcast_int = first + __ffs(static_cast<int>(found)) - 1;
        }
        break;
      }
      before = __shfl_sync(0xffffffffU, running, 31);
    }
  }
  __syncthreads();
  return shared.broadcast_int;
}

// Which elements were chosen: those whose key is above `key`, and of those with that key the ones
// up to index `last`.
struct Threshold {
  std::uint32_t key;
  int last;
  __device__ bool keeps(std::uint32_t k, int index) const {
    return k > key || (k == key && index <= last);
  }
};

// The bin, counted from 0, in which the running total reaches `goal`, the total before that bin,
// and what it holds; the last that holds anything if `goal` is beyond all. Called by all threads.
struct BinChoice {
  int bin;
  Mass before;
  Mass inside;
};
__device__ inline BinChoice choose_bin(const Mass* bins, Mass goal, RowShared& shared) {
  // A thread takes two neighbouring bins.
  const int first = 2 * static_cast<int>(threadIdx.x);
  const Mass a = bins[first];
  const Mass b = bins[first + 1];
  const Mass in_warp = warp_prefix(a + b);
  __syncthreads();
  if (lane_index() == 31) shared.warp_mass[warp_index()] = in_warp;
  __syncthreads();
  const Mass warps = warp_prefix(shared.warp_mass[lane_index()]);
  const Mass before_warp =
      __shfl_sync(0xffffffffU, warps, warp_index() == 0 ? 0 : warp_index() - 1);
  const Mass before = (warp_index() == 0 ? 0 : before_warp) + in_warp - a - b;
  const Mass all = __shfl_sync(0xffffffffU, warps, 31);
  if (goal > all) goal = all;
  if (goal == 0) goal = 1;
  __shared__ BinChoice choice;
  if (before < goal && before + a >= goal) choice = {first, before, a};
  if (before + a < goal && before + a + b >= goal) choice = {first + 1, before + a, b};
  if (threadIdx.x == 0 && all == 0) choice = {0, 0, 0};
  __syncthreads();
  const BinChoice result = choice;
  __syncthreads();
  return result;
}

// Orders elements by key, largest first, of equal ones the smaller index first, and keeps the least
// number of them whose masses reach `goal` together. `coarse(i)` is a bin in [0, kBins) that does
// not rise where keys do not fall, and spreads elements well; `takes(i)`: whether i takes part at
// all; elements of equal keys have equal masses.
template <typename TakesFn, typename CoarseFn, typename KeyFn, typename MassFn>
__device__ Threshold select(int size, Mass goal, const TakesFn& takes, const CoarseFn& coarse,
                            const KeyFn& key, const MassFn& mass, RowShared& shared) {
  const auto pass = [&](const auto& bin_of) {
    for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kRowThreads) shared.mass[i] = 0;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < size; i += kRowThreads) {
      if (!takes(i)) continue;
      const int bin = bin_of(i);
      const Mass m = bin < 0 ? 0 : mass(i);
      if (m != 0) atomicAdd(&shared.mass[bin], m);
    }
    __syncthreads();
  };
  Mass before = 0;
  pass([&](int i) { return coarse(i); });
  const BinChoice coarse_choice = choose_bin(shared.mass, goal, shared);
  before += coarse_choice.before;
  const auto rest = [&] { return goal > before ? goal - before : 1; };
  // Within the bin by the bits of the key: 11, 11 and 10 of them. Bins count from the largest.
  std::uint32_t prefix = 0;
  Mass equal_mass = 0;
  constexpr int kShifts[3] = {21, 10, 0};
  constexpr int kWidths[3] = {11, 11, 10};
#pragma unroll
  for (int p = 0; p < 3; ++p) {
    const std::uint32_t mask = (1U << kWidths[p]) - 1;
    pass([&](int i) {
      if (coarse(i) != coarse_choice.bin) return -1;
      const std::uint32_t k = key(i);
      const int above = kShifts[p] + kWidths[p];
      if (above < 32 && (k >> above) != prefix) return -1;
      return static_cast<int>(mask - ((k >> kShifts[p]) & mask));
    });
    const BinChoice choice = choose_bin(shared.mass, rest(), shared);
    before += choice.before;
    prefix = prefix << kWidths[p] | (mask - static_cast<std::uint32_t>(choice.bin));
    equal_mass = choice.inside;
  }
  // All elements of the key count alike, in the order of their indices.
  const Mass wanted = rest();
  if (wanted >= equal_mass) return {prefix, size};
  const int last = find_running_total(
      size, wanted - 1,
      [&](int i) {
        return takes(i) && coarse(i) == coarse_choice.bin && key(i) == prefix ? mass(i) : 0;
      },
      shared);
  return {prefix, last};
}

}  // namespace moba::cuda
