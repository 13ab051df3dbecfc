// Random sequences in a paged cache for the attention tests: everything that must not be read is
// NaN.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "attention/attention_backend.h"
#include "attention/reference.h"
#include "device/check.h"
#include "kvcache/kv_pool.h"
#include "kvcache/store_kv.h"

namespace moba::testing {

struct AttentionShape {
  int num_q_heads = 2;
  int num_kv_heads = 1;
  int head_dim = 64;
  int block_size = 16;
  int moba_block_size = 16;

  std::string describe() const {
    return concat(num_q_heads, "/", num_kv_heads, " heads of ", head_dim, ", pages of ", block_size,
                  ", MoBA blocks of ", moba_block_size);
  }
};

// New tokens [begin, end) of a sequence, whose earlier ones are in the cache.
struct Chunk {
  int sequence;
  std::int64_t begin;
  std::int64_t end;
  int topk = 0;
};

template <typename T>
class AttentionWorld {
 public:
  struct Sequence {
    std::int64_t length;
    std::vector<T> q;  // [length, num_q_heads, head_dim]
    std::vector<T> k;  // [length, num_kv_heads, head_dim]
    std::vector<T> v;
    std::vector<std::int32_t> pages;
    std::int64_t stored = 0;
  };

  // `sharpness` scales the queries: larger values make softmax and gate more selective.
  AttentionWorld(const AttentionShape& shape, const std::vector<std::int64_t>& lengths,
                 unsigned seed, float sharpness = 1.0F)
      : shape_(shape), context_(1), rng_(seed) {
    std::int64_t num_pages = 7;
    for (const std::int64_t length : lengths) num_pages += length / shape.block_size + 1;
    for (const std::int64_t length : lengths) {
      sequences_.push_back(random_sequence(length, sharpness));
    }
    KvPoolConfig config;
    config.num_layers = 1;
    config.num_kv_heads = shape.num_kv_heads;
    config.head_dim = shape.head_dim;
    config.block_size = shape.block_size;
    config.moba_block_size = shape.moba_block_size;
    config.dtype = kDTypeOf<T>;
    pool_ = std::make_unique<KvPool>(Device{}, config, num_pages);
    place_pages();
  }

  const AttentionShape& shape() const { return shape_; }
  std::vector<Sequence>& sequences() { return sequences_; }
  const PagedKvView& cache() const { return pool_->layer(0); }
  std::mt19937& rng() { return rng_; }

  // Empties the cache (all NaN) and gives the sequences pages in a new random order.
  void place_pages() {
    std::memset(pool_->layer(0).k, 0xff, static_cast<std::size_t>(pool_->num_bytes()));
    std::vector<std::int32_t> ids(static_cast<std::size_t>(pool_->num_pages()));
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), rng_);
    std::size_t next = 0;
    for (Sequence& s : sequences_) {
      s.stored = 0;
      for (std::int32_t& page : s.pages) page = ids[next++];
    }
  }

  // Puts the keys and values up to `end` into the cache.
  void store(int sequence, std::int64_t end) {
    Sequence& s = sequences_[static_cast<std::size_t>(sequence)];
    if (end <= s.stored) return;
    const std::int64_t row = std::int64_t{shape_.num_kv_heads} * shape_.head_dim;
    const Shape shape{end - s.stored, shape_.num_kv_heads, shape_.head_dim};
    KvWritePlan plan;
    plan.append(s.pages, s.stored, end - s.stored, shape_.block_size, shape_.moba_block_size);
    store_kv(context_, TensorView(s.k.data() + s.stored * row, kDTypeOf<T>, shape),
             TensorView(s.v.data() + s.stored * row, kDTypeOf<T>, shape), plan, cache());
    s.stored = end;
  }

  AttentionConfig config(int num_layers = 1) const {
    AttentionConfig c;
    c.num_layers = num_layers;
    c.num_q_heads = shape_.num_q_heads;
    c.num_kv_heads = shape_.num_kv_heads;
    c.head_dim = shape_.head_dim;
    c.block_size = shape_.block_size;
    c.moba_block_size = shape_.moba_block_size;
    c.softmax_scale = 1.0F / std::sqrt(static_cast<float>(shape_.head_dim));
    c.dtype = kDTypeOf<T>;
    c.max_num_batched_tokens = 8192;
    c.max_num_seqs = 64;
    c.max_model_len = 1 << 17;
    return c;
  }

  // The metadata of a batch of chunks; owns what it refers to.
  struct Batch {
    std::vector<std::int32_t> cu_seqlens_q{0};
    std::vector<std::int32_t> seq_lens;
    std::vector<std::int32_t> block_tables;
    std::vector<std::int32_t> moba_topk;
    AttentionMetadata metadata;
    std::vector<T> q;
    std::vector<T> out;
  };

  // `layers` rows of topk: row l has chunk topk where l is even and full attention where it is odd.
  Batch batch(const std::vector<Chunk>& chunks, int layers = 1) const {
    Batch b;
    std::size_t width = 1;
    for (const Sequence& s : sequences_) width = std::max(width, s.pages.size());
    for (const Chunk& c : chunks) {
      b.cu_seqlens_q.push_back(b.cu_seqlens_q.back() + static_cast<std::int32_t>(c.end - c.begin));
      b.seq_lens.push_back(static_cast<std::int32_t>(c.end));
      const Sequence& s = sequences_[static_cast<std::size_t>(c.sequence)];
      // Entries past the sequence's end are not to be read.
      std::vector<std::int32_t> table(width, -1000000);
      std::copy_n(s.pages.begin(), (c.end + shape_.block_size - 1) / shape_.block_size,
                  table.begin());
      b.block_tables.insert(b.block_tables.end(), table.begin(), table.end());
      const std::int64_t row = std::int64_t{shape_.num_q_heads} * shape_.head_dim;
      b.q.insert(b.q.end(), s.q.begin() + c.begin * row, s.q.begin() + c.end * row);
    }
    for (int layer = 0; layer < layers; ++layer) {
      for (const Chunk& c : chunks) b.moba_topk.push_back(layer % 2 == 0 ? c.topk : 0);
    }
    b.out.resize(b.q.size());
    if (!b.out.empty()) {
      std::memset(static_cast<void*>(b.out.data()), 0xff, b.out.size() * sizeof(T));
    }
    b.metadata.num_seqs = static_cast<int>(chunks.size());
    b.metadata.cu_seqlens_q = b.cu_seqlens_q;
    b.metadata.seq_lens = b.seq_lens;
    b.metadata.block_tables = b.block_tables;
    b.metadata.max_blocks_per_seq = static_cast<int>(width);
    b.metadata.moba_topk = b.moba_topk;
    return b;
  }

  TensorView view(std::vector<T>& rows) const {
    const std::int64_t row = std::int64_t{shape_.num_q_heads} * shape_.head_dim;
    return {rows.data(),
            kDTypeOf<T>,
            {static_cast<std::int64_t>(rows.size()) / row, shape_.num_q_heads, shape_.head_dim}};
  }

  // The outputs of a batch, [tokens of all chunks, num_q_heads, head_dim], having stored the
  // chunks.
  std::vector<T> run(AttentionBackend& backend, const std::vector<Chunk>& chunks) {
    for (const Chunk& c : chunks) store(c.sequence, c.end);
    Batch b = batch(chunks);
    backend.plan(b.metadata);
    backend.run(0, view(b.q), cache(), view(b.out));
    return b.out;
  }

  ReferenceAttention reference(const std::vector<Chunk>& chunks) {
    for (const Chunk& c : chunks) store(c.sequence, c.end);
    Batch b = batch(chunks);
    return reference_attention(b.metadata, 0, config().softmax_scale, view(b.q), cache());
  }

 private:
  Sequence random_sequence(std::int64_t length, float sharpness) {
    Sequence s;
    s.length = length;
    // The sum of four uniform numbers: near enough to normal, and quick.
    const auto normal = [](std::mt19937& rng) {
      const std::uint32_t a = rng();
      const std::uint32_t sum = (a & 0xffU) + (a >> 8 & 0xffU) + (a >> 16 & 0xffU) + (a >> 24);
      return (static_cast<float>(sum) - 510.0F) / 147.8F;
    };
    const auto fill = [&](std::vector<T>& x, int heads, float scale) {
      x.resize(static_cast<std::size_t>(length * heads * shape_.head_dim));
      for (T& value : x) value = static_cast<T>(normal(rng_) * scale);
    };
    fill(s.q, shape_.num_q_heads, sharpness);
    fill(s.k, shape_.num_kv_heads, 1.0F);
    fill(s.v, shape_.num_kv_heads, 1.0F);
    // Blocks differ in their mean, so that the gate has something to find.
    const std::int64_t row = std::int64_t{shape_.num_kv_heads} * shape_.head_dim;
    std::vector<float> mean(static_cast<std::size_t>(row));
    for (std::int64_t j = 0; j < length; ++j) {
      if (j % shape_.moba_block_size == 0) {
        for (float& m : mean) m = 0.5F * normal(rng_);
      }
      for (std::int64_t i = 0; i < row; ++i) {
        T& k = s.k[static_cast<std::size_t>(j * row + i)];
        k = static_cast<T>(static_cast<float>(k) + mean[static_cast<std::size_t>(i)]);
      }
    }
    s.pages.resize(static_cast<std::size_t>((length + shape_.block_size - 1) / shape_.block_size));
    return s;
  }

  AttentionShape shape_;
  DeviceContext context_;
  std::mt19937 rng_;
  std::vector<Sequence> sequences_;
  std::unique_ptr<KvPool> pool_;
};

// How far a batch's outputs are from the oracle's.
struct Deviation {
  double worst = 0;            // of a row: largest difference / largest magnitude of the row
  std::int64_t rows = 0;       //
  std::int64_t near_ties = 0;  // rows left out: rounding may have chosen another block
  bool all_written = true;     // no NaN
};

template <typename T>
Deviation compare(const std::vector<T>& out, const ReferenceAttention& expected, int head_dim) {
  Deviation result;
  const auto width = static_cast<std::size_t>(head_dim);
  for (std::size_t row = 0; row < out.size() / width; ++row) {
    ++result.rows;
    double magnitude = 0;
    double difference = 0;
    for (std::size_t d = row * width; d < (row + 1) * width; ++d) {
      const double got = static_cast<float>(out[d]);
      if (std::isnan(got)) result.all_written = false;
      magnitude = std::max(magnitude, std::abs(expected.out[d]));
      difference = std::max(difference, std::abs(got - expected.out[d]));
    }
    if (expected.margin[row] <= expected.margin_rounding[row]) {
      ++result.near_ties;
      continue;
    }
    result.worst = std::max(result.worst, difference / magnitude);
  }
  return result;
}

// What the issue of correctness asks for: relative to the largest magnitude of a row.
template <typename T>
constexpr double tolerance() {
  return sizeof(T) == 2 ? 1e-2 : 1e-5;
}

}  // namespace moba::testing
