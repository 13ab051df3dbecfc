#include <algorithm>
#include <cfloat>

#include "device/cuda/launch.h"
#include "device/cuda/pdl.cuh"
#include "engine/cuda/row_passes.cuh"
#include "engine/cuda/sampling_kernels.h"

namespace moba::cuda {
namespace {

constexpr int kStatsThreads = 256;
constexpr int kEditThreads = 256;

__device__ inline float infinity() { return __int_as_float(0x7f800000); }

// The larger number, of equal ones the smaller index.
__device__ inline ChunkStats better(const ChunkStats& a, const ChunkStats& b) {
  const bool take_b = b.max > a.max || (b.max == a.max && b.index < a.index);
  ChunkStats result = take_b ? b : a;
  result.has_nan = a.has_nan | b.has_nan;
  return result;
}

__device__ inline ChunkStats warp_better(ChunkStats x) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const ChunkStats other{__shfl_xor_sync(0xffffffffU, x.max, offset),
                           __shfl_xor_sync(0xffffffffU, x.index, offset),
                           __shfl_xor_sync(0xffffffffU, x.has_nan, offset)};
    x = better(x, other);
  }
  return x;
}

__device__ inline ChunkStats no_stats() { return {-infinity(), INT32_MAX, 0}; }

// Grid: (chunks of a row, rows).
__global__ void __launch_bounds__(kStatsThreads) stats_kernel(SamplingArgs args) {
  __shared__ ChunkStats parts[kStatsThreads / 32];
  start_successors();
  wait_for_predecessors();
  const int row = static_cast<int>(blockIdx.y);
  const float* const logits = args.logits + std::int64_t{row} * args.vocab_size;
  const int begin = static_cast<int>(blockIdx.x) * kStatsChunk;
  const int end = min(args.vocab_size, begin + kStatsChunk);
  ChunkStats stats = no_stats();
  for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kStatsThreads) {
    const float x = logits[i];
    stats = better(stats, {x == x ? x : -infinity(), x == x ? i : INT32_MAX, x == x ? 0 : 1});
  }
  stats = warp_better(stats);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = stats;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  stats = threadIdx.x < kStatsThreads / 32 ? parts[threadIdx.x] : no_stats();
  stats = warp_better(stats);
  if (threadIdx.x == 0) args.stats[row * args.num_chunks + blockIdx.x] = stats;
}

// Of the whole row, from the chunks: the same in all threads of every warp.
__device__ ChunkStats row_stats(const SamplingArgs& args, int row) {
  ChunkStats stats = no_stats();
  const int chunks = args.num_chunks;
  for (int c = static_cast<int>(threadIdx.x) % 32; c < chunks; c += 32) {
    stats = better(stats, args.stats[row * chunks + c]);
  }
  return warp_better(stats);
}

__device__ inline float logprob_of(float logit, double normaliser) {
  return static_cast<float>(static_cast<double>(logit) - normaliser);
}

// A row that wants log probabilities, from the logits as they came: its normaliser, the most
// probable tokens, and the target's own where there is one. Grid: rows.
__global__ void __launch_bounds__(kRowThreads) logprob_kernel(SamplingArgs args) {
  __shared__ RowShared shared;
  __shared__ int found[kMaxTopLogprobs];
  __shared__ int num_found;
  start_successors();
  wait_for_predecessors();
  const int row = static_cast<int>(blockIdx.x);
  const SamplingRow& params = args.rows[row];
  SamplingResult& result = args.results[row];
  if (threadIdx.x == 0) {
    result = {params.target, SamplingError::kNone, 0.0F, 0};
    num_found = 0;
  }
  if (params.num_logprobs < 0) return;
  const float* const logits = args.logits + std::int64_t{row} * args.vocab_size;
  const ChunkStats stats = row_stats(args, row);
  if (stats.has_nan != 0 || stats.max == infinity()) {
    if (threadIdx.x == 0) result.error = SamplingError::kLogprobsNotFinite;
    return;
  }
  double sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < args.vocab_size; i += kRowThreads) {
    sum += static_cast<double>(exp_core(logits[i] - stats.max));
  }
  sum = block_total(sum, shared);
  const double normaliser = static_cast<double>(stats.max) + log(sum);
  if (threadIdx.x == 0) {
    args.normalisers[row] = normaliser;
    if (params.target >= 0) result.logprob = logprob_of(logits[params.target], normaliser);
  }
  const int wanted = min(params.num_logprobs, args.vocab_size);
  if (wanted == 0) return;
  const Threshold threshold = select(
      args.vocab_size, static_cast<Mass>(wanted), [](int) { return true; },
      [&](int i) { return static_cast<int>(fminf((stats.max - logits[i]) * 32.0F, kBins - 1)); },
      [&](int i) { return key_of(logits[i]); }, [](int) { return Mass{1}; }, shared);
  for (int i = static_cast<int>(threadIdx.x); i < args.vocab_size; i += kRowThreads) {
    if (!threshold.keeps(key_of(logits[i]), i)) continue;
    const int place = atomicAdd(&num_found, 1);
    if (place < kMaxTopLogprobs) found[place] = i;
  }
  __syncthreads();
  const int count = min(num_found, wanted);
  if (static_cast<int>(threadIdx.x) < count) {
    const int mine = found[threadIdx.x];
    const std::uint32_t key = key_of(logits[mine]);
    int rank = 0;
    for (int j = 0; j < count; ++j) {
      const std::uint32_t other = key_of(logits[found[j]]);
      if (other > key || (other == key && found[j] < mine)) ++rank;
    }
    args.top[row * kMaxTopLogprobs + rank] = {mine, logprob_of(logits[mine], normaliser)};
  }
  if (threadIdx.x == 0) result.num_top = count;
}

enum class EditKind : int { kBias, kPenalty, kForbid };

// Grid: (blocks over a row's edits, rows). One kind at a time, since a token may have one of each.
__global__ void __launch_bounds__(kEditThreads) edit_kernel(SamplingArgs args, EditKind kind) {
  start_successors();
  wait_for_predecessors();
  const int row = static_cast<int>(blockIdx.y);
  const SamplingRow& params = args.rows[row];
  const int begin = kind == EditKind::kBias      ? params.first_bias
                    : kind == EditKind::kPenalty ? params.first_penalty
                                                 : params.first_forbidden;
  const int end = kind == EditKind::kBias      ? params.first_penalty
                  : kind == EditKind::kPenalty ? params.first_forbidden
                                               : params.end_edits;
  float* const logits = args.logits + std::int64_t{row} * args.vocab_size;
  const int step = static_cast<int>(gridDim.x) * kEditThreads;
  for (int e = begin + static_cast<int>(blockIdx.x) * kEditThreads + static_cast<int>(threadIdx.x);
       e < end; e += step) {
    const LogitEdit edit = args.edits[e];
    float logit = logits[edit.token];
    args.originals[e] = logit;
    if (kind == EditKind::kBias) {
      logit = __fadd_rn(logit, edit.value);
    } else if (kind == EditKind::kPenalty) {
      logit = logit > 0 ? __fdiv_rn(logit, params.repetition_penalty)
                        : __fmul_rn(logit, params.repetition_penalty);
      if (edit.value > 0) {
        logit = __fsub_rn(logit, __fadd_rn(params.presence_penalty,
                                           __fmul_rn(params.frequency_penalty, edit.value)));
      }
    } else {
      logit = -infinity();
    }
    logits[edit.token] = logit;
  }
}

// The logit of a token as it came: what its first edit found. All threads call it.
__device__ float original_logit(const SamplingArgs& args, const SamplingRow& params,
                                const float* logits, int token, RowShared& shared) {
  __syncthreads();
  if (threadIdx.x == 0) shared.broadcast_int = INT32_MAX;
  __syncthreads();
  for (int e = params.first_bias + static_cast<int>(threadIdx.x); e < params.end_edits;
       e += kRowThreads) {
    if (args.edits[e].token == token) atomicMin(&shared.broadcast_int, e);
  }
  __syncthreads();
  const int first = shared.broadcast_int;
  return first == INT32_MAX ? logits[token] : args.originals[first];
}

__device__ int draw(const float* logits, int size, float max, const SamplingRow& params,
                    RowShared& shared) {
  const auto weight = [&](int i) { return exp_core((logits[i] - max) * params.scale); };
  const auto all = [](int) { return true; };
  Threshold by_logit{0, size};
  if (params.top_k > 0) {
    by_logit = select(
        size, static_cast<Mass>(params.top_k), all,
        [&](int i) { return static_cast<int>(fminf((max - logits[i]) * 32.0F, kBins - 1)); },
        [&](int i) { return key_of(logits[i]); }, [](int) { return Mass{1}; }, shared);
  }
  const auto in_top_k = [&](int i) {
    return params.top_k == 0 || by_logit.keeps(key_of(logits[i]), i);
  };
  Threshold by_weight{0, size};
  if (params.top_p < 1.0F) {
    Mass sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < size; i += kRowThreads) {
      if (in_top_k(i)) sum += mass_of(weight(i));
    }
    sum = block_total(sum, shared);
    const Mass goal =
        static_cast<Mass>(ceil(static_cast<double>(params.top_p) * static_cast<double>(sum)));
    // Sixteen bins for each factor of two.
    by_weight = select(
        size, goal, in_top_k,
        [&](int i) { return min(kBins - 1, (0x3f800000 - __float_as_int(weight(i))) >> 19); },
        [&](int i) { return __float_as_uint(weight(i)); },
        [&](int i) { return mass_of(weight(i)); }, shared);
  }
  const auto mass = [&](int i) -> Mass {
    if (!in_top_k(i)) return 0;
    const float w = weight(i);
    if (params.top_p < 1.0F && !by_weight.keeps(__float_as_uint(w), i)) return 0;
    if (w < params.min_p) return 0;
    return mass_of(w);
  };
  Mass kept = 0;
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kRowThreads) kept += mass(i);
  kept = block_total(kept, shared);
  Mass target = static_cast<Mass>(params.uniform * static_cast<double>(kept));
  if (target >= kept) target = kept - 1;
  return find_running_total(size, target, mass, shared);
}

__device__ SamplingError error_of(const ChunkStats& stats) {
  if (stats.has_nan != 0 || stats.max == infinity()) return SamplingError::kLogitsNotFinite;
  return stats.max == -infinity() ? SamplingError::kNothingAllowed : SamplingError::kNone;
}

// The token with the largest logit. One that is not to be used still is one of the vocabulary, as
// the next step may have been launched.
__device__ SamplingResult largest_of(const ChunkStats& stats) {
  const SamplingError error = error_of(stats);
  return {error == SamplingError::kNone ? stats.index : 0, error, 0.0F, 0};
}

// Grid: rows.
__global__ void __launch_bounds__(kRowThreads) sample_kernel(SamplingArgs args) {
  __shared__ RowShared shared;
  start_successors();
  wait_for_predecessors();
  const int row = static_cast<int>(blockIdx.x);
  const float* const logits = args.logits + std::int64_t{row} * args.vocab_size;
  SamplingResult& result = args.results[row];
  const ChunkStats stats = row_stats(args, row);
  const SamplingError error = error_of(stats);
  if (args.rows == nullptr) {
    if (threadIdx.x == 0) result = largest_of(stats);
    return;
  }
  const SamplingRow& params = args.rows[row];
  if (params.target >= 0) return;
  const SamplingError before = args.any_logprobs ? result.error : SamplingError::kNone;
  if (before != SamplingError::kNone) return;
  if (error != SamplingError::kNone) {
    if (threadIdx.x == 0) result = {0, error, 0.0F, 0};
    return;
  }
  int token = stats.index;
  if (params.scale > 0) token = draw(logits, args.vocab_size, stats.max, params, shared);
  if (params.num_logprobs < 0) {
    if (threadIdx.x == 0) result = {token, SamplingError::kNone, 0.0F, 0};
    return;
  }
  const float logit = original_logit(args, params, logits, token, shared);
  if (threadIdx.x == 0) {
    result.token = token;
    result.logprob = logprob_of(logit, args.normalisers[row]);
  }
}

// A warp takes a row.
__global__ void merge_kernel(const ChunkStats* all, int num_pieces, int num_rows, int num_chunks,
                             int piece_stride, SamplingResult* results) {
  start_successors();
  wait_for_predecessors();
  const int row = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / 32;
  if (row >= num_rows) return;
  ChunkStats stats = no_stats();
  for (int i = lane_index(); i < num_pieces * num_chunks; i += 32) {
    const int piece = i / num_chunks;
    ChunkStats part = all[(piece * num_rows + row) * num_chunks + i % num_chunks];
    if (part.index != INT32_MAX) part.index += piece * piece_stride;
    stats = better(stats, part);
  }
  stats = warp_better(stats);
  if (lane_index() == 0) results[row] = largest_of(stats);
}

__global__ void resolve_kernel(const std::int32_t* sources, const SamplingResult* results,
                               std::int32_t* token_ids, int count) {
  start_successors();
  wait_for_predecessors();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count || sources[i] < 0) return;
  token_ids[i] = results[sources[i]].token;
}

}  // namespace

void launch_stats(const SamplingArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return;
  const dim3 grid(static_cast<unsigned>(args.num_chunks), static_cast<unsigned>(args.num_rows));
  launch(stream, {grid, dim3(kStatsThreads)}, true, "stats_kernel", stats_kernel, args);
}

void launch_merge(const ChunkStats* all, int num_pieces, int num_rows, int num_chunks,
                  int piece_stride, SamplingResult* results, cudaStream_t stream) {
  if (num_rows == 0) return;
  constexpr int kThreads = 128;
  const int blocks = (num_rows * 32 + kThreads - 1) / kThreads;
  launch(stream, {dim3(static_cast<unsigned>(blocks)), dim3(kThreads)}, true, "merge_kernel",
         merge_kernel, all, num_pieces, num_rows, num_chunks, piece_stride, results);
}

void launch_resolve(const std::int32_t* sources, const SamplingResult* results,
                    std::int32_t* token_ids, int count, cudaStream_t stream) {
  if (count == 0) return;
  constexpr int kThreads = 256;
  launch(stream, {dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)), dim3(kThreads)},
         true, "resolve_kernel", resolve_kernel, sources, results, token_ids, count);
}

void launch_sampling(const SamplingArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return;
  const auto rows = static_cast<unsigned>(args.num_rows);
  if (args.any_logprobs) {
    launch_stats(args, stream);
    launch(stream, {dim3(rows), dim3(kRowThreads)}, true, "logprob_kernel", logprob_kernel, args);
  }
  if (!args.any_sampled) return;
  if (args.any_edits) {
    constexpr unsigned kBlocks = 16;
    for (const EditKind kind : {EditKind::kBias, EditKind::kPenalty, EditKind::kForbid}) {
      launch(stream, {dim3(kBlocks, rows), dim3(kEditThreads)}, true, "edit_kernel", edit_kernel,
             args, kind);
    }
  }
  if (args.any_edits || !args.any_logprobs) {
    launch_stats(args, stream);
  }
  launch(stream, {dim3(rows), dim3(kRowThreads)}, true, "sample_kernel", sample_kernel, args);
}

}  // namespace moba::cuda
