#include "attention/reference.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>

namespace moba {
namespace {

// Relative rounding of one float32 operation.
constexpr double kUnitRoundoff = 0x1p-24;

// A query head of one token: the row of q and the sequence it belongs to.
template <typename T>
struct Query {
  const T* q;                           // [head_dim]
  const PagedKvView* cache;             //
  std::span<const std::int32_t> pages;  // the sequence's block table
  int kv_head;                          //
  std::int64_t position;                // in the sequence
};

template <typename T>
const T* key_row(const Query<T>& query, const void* base, std::int64_t position) {
  const PagedKvView& c = *query.cache;
  const std::int64_t page = query.pages[static_cast<std::size_t>(position / c.block_size)];
  return static_cast<const T*>(base) + page * c.page_stride() + query.kv_head * c.head_stride() +
         position % c.block_size * c.head_dim;
}

template <typename T>
const T* centroid_row(const Query<T>& query, std::int64_t block) {
  const PagedKvView& c = *query.cache;
  const std::int64_t last = (block + 1) * c.pages_per_moba_block() - 1;
  const std::int64_t page = query.pages[static_cast<std::size_t>(last)];
  return static_cast<const T*>(c.centroids) + (page * c.num_kv_heads + query.kv_head) * c.head_dim;
}

template <typename T>
double dot(const T* a, const T* b, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) {
    sum += double{static_cast<float>(a[i])} * double{static_cast<float>(b[i])};
  }
  return sum;
}

// sum |a_i b_i|: what rounding errors of a dot product are relative to.
template <typename T>
double dot_magnitude(const T* a, const T* b, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) {
    sum += std::abs(double{static_cast<float>(a[i])} * double{static_cast<float>(b[i])});
  }
  return sum;
}

struct Selection {
  std::vector<std::int32_t> blocks;
  double margin = std::numeric_limits<double>::infinity();
  double rounding = 0;
};

// The query's own block and the topk - 1 past blocks of largest score, of equal ones the later.
template <typename T>
Selection select_blocks(const Query<T>& query, int topk) {
  const int head_dim = query.cache->head_dim;
  const std::int64_t own = query.position / query.cache->moba_block_size;
  std::vector<double> scores(static_cast<std::size_t>(own));
  for (std::int64_t i = 0; i < own; ++i) {
    scores[static_cast<std::size_t>(i)] = dot(query.q, centroid_row(query, i), head_dim);
  }
  std::vector<std::int32_t> order(static_cast<std::size_t>(own));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    const double sa = scores[static_cast<std::size_t>(a)];
    const double sb = scores[static_cast<std::size_t>(b)];
    return sa != sb ? sa > sb : a > b;
  });
  Selection result;
  const std::size_t chosen = std::min(order.size(), static_cast<std::size_t>(topk - 1));
  if (chosen > 0 && chosen < order.size()) {
    const std::int32_t last = order[chosen - 1];
    const std::int32_t next = order[chosen];
    result.margin = scores[static_cast<std::size_t>(last)] - scores[static_cast<std::size_t>(next)];
    result.rounding = head_dim * kUnitRoundoff *
                      (dot_magnitude(query.q, centroid_row(query, last), head_dim) +
                       dot_magnitude(query.q, centroid_row(query, next), head_dim));
  }
  result.blocks.assign(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(chosen));
  result.blocks.push_back(static_cast<std::int32_t>(own));
  std::sort(result.blocks.begin(), result.blocks.end());
  return result;
}

// softmax over the positions of (scale * q . k) applied to v. positions is not empty.
template <typename T>
void attend(const Query<T>& query, const std::vector<std::int64_t>& positions, double scale,
            double* out) {
  const int head_dim = query.cache->head_dim;
  std::vector<double> weights;
  weights.reserve(positions.size());
  for (const std::int64_t j : positions) {
    weights.push_back(scale * dot(query.q, key_row(query, query.cache->k, j), head_dim));
  }
  const double largest = *std::max_element(weights.begin(), weights.end());
  double sum = 0;
  for (double& w : weights) {
    w = std::exp(w - largest);
    sum += w;
  }
  std::fill(out, out + head_dim, 0.0);
  for (std::size_t n = 0; n < positions.size(); ++n) {
    const T* value = key_row(query, query.cache->v, positions[n]);
    for (int d = 0; d < head_dim; ++d) {
      out[d] += weights[n] / sum * double{static_cast<float>(value[d])};
    }
  }
}

template <typename T>
ReferenceAttention compute(const AttentionMetadata& m, int layer, double scale, const TensorView& q,
                           const PagedKvView& cache) {
  const std::int64_t num_tokens = q.dim(0);
  const int num_q_heads = static_cast<int>(q.dim(1));
  const int group = num_q_heads / cache.num_kv_heads;
  const auto rows = static_cast<std::size_t>(num_tokens * num_q_heads);

  ReferenceAttention result;
  result.out.resize(rows * static_cast<std::size_t>(cache.head_dim));
  result.selected.resize(rows);
  result.margin.assign(rows, std::numeric_limits<double>::infinity());
  result.margin_rounding.assign(rows, 0);
  std::vector<std::int64_t> positions;
  for (std::size_t s = 0; s < static_cast<std::size_t>(m.num_seqs); ++s) {
    const std::int64_t begin = m.cu_seqlens_q[s];
    const std::int64_t end = m.cu_seqlens_q[s + 1];
    const auto width = static_cast<std::size_t>(m.max_blocks_per_seq);
    const int topk =
        m.moba_topk[static_cast<std::size_t>(layer) * static_cast<std::size_t>(m.num_seqs) + s];
    for (std::int64_t row = begin * num_q_heads; row < end * num_q_heads; ++row) {
      const auto index = static_cast<std::size_t>(row);
      Query<T> query;
      query.q = q.data<T>() + row * cache.head_dim;
      query.cache = &cache;
      query.pages = m.block_tables.subspan(s * width, width);
      query.kv_head = static_cast<int>(row % num_q_heads) / group;
      query.position = m.seq_lens[s] - (end - row / num_q_heads);

      positions.clear();
      if (topk == 0) {
        for (std::int64_t j = 0; j <= query.position; ++j) positions.push_back(j);
      } else {
        const Selection selection = select_blocks(query, topk);
        for (const std::int64_t block : selection.blocks) {
          const std::int64_t first = block * cache.moba_block_size;
          const std::int64_t last = std::min(first + cache.moba_block_size - 1, query.position);
          for (std::int64_t j = first; j <= last; ++j) positions.push_back(j);
        }
        result.selected[index] = selection.blocks;
        result.margin[index] = selection.margin;
        result.margin_rounding[index] = selection.rounding;
      }
      attend(query, positions, scale, result.out.data() + row * cache.head_dim);
    }
  }
  return result;
}

}  // namespace

ReferenceAttention reference_attention(const AttentionMetadata& metadata, int layer,
                                       double softmax_scale, const TensorView& q,
                                       const PagedKvView& cache) {
  if (cache.dtype == DType::kBFloat16) {
    return compute<BFloat16>(metadata, layer, softmax_scale, q, cache);
  }
  return compute<float>(metadata, layer, softmax_scale, q, cache);
}

}  // namespace moba
