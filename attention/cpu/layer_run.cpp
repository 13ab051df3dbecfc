#include "attention/cpu/layer_run.h"

#include <algorithm>
#include <cstddef>

#include "device/dtype.h"

namespace moba::cpu {
namespace {

constexpr std::int64_t kCacheLine = 64;

}  // namespace

void load_queries(const LayerRun& run, const QuerySpan& span, const ThreadWorkspace& workspace) {
  const std::int64_t row_bytes =
      run.cache->head_dim * static_cast<std::int64_t>(dtype_size(run.cache->dtype));
  const std::int64_t group = run.group();
  const std::int64_t num_rows = span.num_tokens * group;
  const bool widen = run.cache->dtype != DType::kFloat32;
  std::int64_t row = 0;
  for (std::int64_t t = 0; t < span.num_tokens; ++t) {
    const std::int64_t head = (span.first_token + t) * run.num_q_heads + span.kv_head * group;
    for (std::int64_t g = 0; g < group; ++g, ++row) {
      const auto* q = static_cast<const std::byte*>(run.q) + (head + g) * row_bytes;
      if (widen) {
        workspace.stored_rows[row] = q;
      } else {
        workspace.q_rows[row] = reinterpret_cast<const float*>(q);
      }
      workspace.out_rows[row] = static_cast<std::byte*>(run.out) + (head + g) * row_bytes;
    }
  }
  if (widen) {
    run.kernels.widen_rows(workspace.stored_rows, run.cache->dtype, num_rows, run.cache->head_dim,
                           workspace.q_floats);
    const std::int64_t stride = padded_dim(run.cache->head_dim);
    for (row = 0; row < num_rows; ++row) workspace.q_rows[row] = workspace.q_floats + row * stride;
  }
}

SoftmaxState rows_from(const SoftmaxState& state, std::int64_t first, int head_dim) {
  return {state.max + first, state.sum + first, state.out + first * padded_dim(head_dim)};
}

void prefetch(const void* p, std::int64_t bytes) {
  const auto* line = static_cast<const char*>(p);
  for (std::int64_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(line + at, 0, 2);
}

KvReader::KvReader(const LayerRun& run, const QuerySpan& span, const ThreadWorkspace& workspace)
    : run_(run),
      pages_(span.pages),
      kv_head_(span.kv_head),
      keys_(workspace.keys),
      value_buffer_(workspace.values) {}

void KvReader::point_at(const void* base, std::int64_t begin, int count) {
  const PagedKvView& cache = *run_.cache;
  const auto element = static_cast<std::int64_t>(dtype_size(cache.dtype));
  for (int i = 0; i < count;) {
    const std::int64_t position = begin + i;
    const std::int64_t offset = position % cache.block_size;
    const int run_length =
        static_cast<int>(std::min<std::int64_t>(count - i, cache.block_size - offset));
    const std::int64_t page = pages_[position / cache.block_size];
    const auto* row =
        static_cast<const std::byte*>(base) +
        (page * cache.page_stride() + kv_head_ * cache.head_stride() + offset * cache.head_dim) *
            element;
    for (int end = i + run_length; i < end; ++i, row += cache.head_dim * element) rows_[i] = row;
  }
}

void KvReader::load(std::int64_t begin, int count) {
  if (begin == loaded_begin_ && count == loaded_count_) return;
  loaded_begin_ = begin;
  loaded_count_ = count;
  const PagedKvView& cache = *run_.cache;
  point_at(cache.k, begin, count);
  run_.kernels.pack_keys(rows_, cache.dtype, count, cache.head_dim, keys_);
  point_at(cache.v, begin, count);
  const bool one_page = begin % cache.block_size + count <= cache.block_size;
  if (cache.dtype == DType::kFloat32 && one_page && padded_dim(cache.head_dim) == cache.head_dim) {
    values_ = static_cast<const float*>(rows_[0]);
  } else {
    run_.kernels.widen_rows(rows_, cache.dtype, count, cache.head_dim, value_buffer_);
    values_ = value_buffer_;
  }
}

void KvReader::point_next(std::int64_t begin, AttendTile& tile) const {
  const PagedKvView& cache = *run_.cache;
  const auto element = static_cast<std::int64_t>(dtype_size(cache.dtype));
  const std::int64_t offset = begin % cache.block_size;
  const std::int64_t page = pages_[begin / cache.block_size];
  const std::int64_t at =
      (page * cache.page_stride() + kv_head_ * cache.head_stride() + offset * cache.head_dim) *
      element;
  tile.next_keys = static_cast<const std::byte*>(cache.k) + at;
  tile.next_values = static_cast<const std::byte*>(cache.v) + at;
  tile.next_bytes =
      std::min<std::int64_t>(kTileKeys, cache.block_size - offset) * cache.head_dim * element;
}

const std::byte* KvReader::centroid(std::int64_t block) const {
  const PagedKvView& cache = *run_.cache;
  const std::int64_t page = pages_[(block + 1) * cache.pages_per_moba_block() - 1];
  return static_cast<const std::byte*>(cache.centroids) +
         (page * cache.num_kv_heads + kv_head_) * cache.head_dim *
             static_cast<std::int64_t>(dtype_size(cache.dtype));
}

void KvReader::load_centroids(std::int64_t begin, int count) {
  loaded_begin_ = -1;
  for (int i = 0; i < count; ++i) rows_[i] = centroid(begin + i);
  run_.kernels.pack_keys(rows_, run_.cache->dtype, count, run_.cache->head_dim, keys_);
}

void KvReader::prefetch_centroids(std::int64_t begin, int count) const {
  const std::int64_t bytes =
      run_.cache->head_dim * static_cast<std::int64_t>(dtype_size(run_.cache->dtype));
  for (int i = 0; i < count; ++i) prefetch(centroid(begin + i), bytes);
}

void attend_segment(const LayerRun& run, const SegmentRows& rows, std::int64_t begin,
                    std::int64_t end, KvReader& reader, const ThreadWorkspace& workspace,
                    const SoftmaxState& part) {
  const int group = run.group();
  const int head_dim = run.cache->head_dim;
  for (std::int64_t tile_begin = begin; tile_begin < end; tile_begin += kTileKeys) {
    AttendTile tile{};
    tile.num_keys = static_cast<int>(std::min<std::int64_t>(kTileKeys, end - tile_begin));
    reader.load(tile_begin, tile.num_keys);
    std::int64_t first = 0;
    if (rows.causal) {
      // Rows before the tile do not see it; those within see its first keys.
      first =
          std::max<std::int64_t>(0, (tile_begin - rows.first_position) * group - rows.first_row);
      if (rows.position(first, group) < tile_begin + tile.num_keys - 1) {
        for (std::int64_t r = first; r < rows.count; ++r) {
          const std::int64_t seen = rows.position(r, group) + 1 - tile_begin;
          workspace.limits[r] =
              static_cast<std::int32_t>(std::min<std::int64_t>(seen, tile.num_keys));
        }
        tile.limits = workspace.limits + first;
      }
    }
    tile.q = rows.q + first;
    tile.keys = reader.keys();
    tile.values = reader.values();
    tile.value_stride = reader.value_stride();
    tile.num_rows = rows.count - static_cast<int>(first);
    tile.head_dim = head_dim;
    tile.scale = run.softmax_scale;
    tile.first = tile_begin == begin;
    tile.state = rows_from(part, first, head_dim);
    const std::int64_t tile_end = tile_begin + tile.num_keys;
    const std::int64_t next = tile_end < end ? tile_end : rows.next_begin;
    if (next >= 0) reader.point_next(next, tile);
    run.kernels.attend_tile(tile);
  }
}

}  // namespace moba::cpu
