#include "attention/cuda/cuda_attention_backend.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "attention/attention_check.h"
#include "attention/cuda/combine.h"
#include "attention/cuda/decode.h"
#include "attention/cuda/device_metadata.h"
#include "attention/cuda/dispatch.h"
#include "attention/cuda/moba_gate.h"
#include "attention/cuda/row_attention.h"
#include "attention/cuda/tensor_map.h"
#include "attention/cuda/tile_attention.h"
#include "attention/cuda/tile_attention_sm90.h"
#include "attention/cuda/work_plan.h"
#include "attention/cuda/workspace_layout.h"
#include "device/check.h"
#include "device/cuda/cuda_check.h"
#include "device/cuda/cuda_context.h"

namespace moba {
namespace cuda {
namespace {

constexpr double kLog2E = 1.4426950408889634;

// A layer plan whose lists lie on the device.
struct PlacedPlan {
  LayerPlan plan;
  std::size_t dense_tiles, window_tiles, own_tiles, gate_tiles, rank_tiles, ranges, token_slots;
};

class CudaAttentionBackend : public AttentionBackend {
 public:
  CudaAttentionBackend(DeviceContext& context, const AttentionConfig& config,
                       const CudaAttentionOptions& options)
      : context_(*context.cuda()),
        device_(context.device()),
        config_(config),
        observer_(options.observer),
        by_rows_(config.dtype == DType::kFloat32 || config.head_dim > kMaxHalfHeadDim ||
                 config.block_size % kChunkKeys != 0 || options.kernels == KernelChoice::kRow),
        hopper_(!by_rows_ && context_.compute_capability() == 90 &&
                options.kernels == KernelChoice::kBest),
        layer_plans_(static_cast<std::size_t>(config.num_layers)),
        page_maps_(static_cast<std::size_t>(config.num_layers)) {
    MOBA_CHECK(config.head_dim <= kMaxRowHeadDim, "attention: head_dim ", config.head_dim,
               " is larger than ", kMaxRowHeadDim);
    MOBA_CHECK(config.max_model_len <= std::numeric_limits<std::int32_t>::max() / 2,
               "attention: max_model_len is ", config.max_model_len);
    const std::int64_t rows = std::int64_t{config.max_num_batched_tokens} * config.num_q_heads;
    MOBA_CHECK(rows < std::int64_t{1} << (32 - kSlotBits),
               "attention: ", config.max_num_batched_tokens, " tokens of ", config.num_q_heads,
               " heads in a batch are more than ", 1 << (32 - kSlotBits), " rows");
    const int tile_rows = hopper_ ? tile_rows_sm90(config.head_dim) : kTileRows;
    limits_ = make_plan_limits(
        config, {by_rows_, tile_rows, context_.num_multiprocessors(), options.max_partial_bytes});
    layout_ = make_workspace_layout(config, limits_, by_rows_);
    fixed_ = Buffer(device_, layout_.size, "attention workspace");
    staging_.emplace(device_, layout_.uploaded, "attention metadata");
    // Counters are zero between launches.
    MOBA_CUDA_CHECK(cudaMemsetAsync(at<void>(layout_.unit_arrivals), 0,
                                    layout_.selection_count - layout_.unit_arrivals,
                                    context_.stream()));
    MOBA_CUDA_CHECK(cudaMemsetAsync(at<void>(layout_.counts), 0, layout_.begins - layout_.counts,
                                    context_.stream()));
    fill_heads();
  }

  void plan(const AttentionMetadata& metadata) override {
    num_tokens_ = -1;
    max_page_ = check_metadata(config_, metadata);
    num_seqs_ = metadata.num_seqs;
    const auto num_seqs = static_cast<std::size_t>(metadata.num_seqs);
    // Layers whose sequences have the same topk share a plan.
    placed_.clear();
    for (std::size_t layer = 0; layer < layer_plans_.size(); ++layer) {
      const auto topk = metadata.moba_topk.subspan(layer * num_seqs, num_seqs);
      const auto same = std::find_if(placed_.begin(), placed_.end(), [&](const PlacedPlan& other) {
        return std::equal(topk.begin(), topk.end(), other.plan.topk.begin(), other.plan.topk.end());
      });
      layer_plans_[layer] = static_cast<std::size_t>(same - placed_.begin());
      if (same != placed_.end()) continue;
      placed_.emplace_back();
      placed_.back().plan = make_layer_plan(config_, metadata, topk, limits_);
    }
    upload_batch(metadata);
    upload_lists();
    num_tokens_ = metadata.cu_seqlens_q[num_seqs];
  }

  void run(int layer, const TensorView& q, const PagedKvView& cache,
           const TensorView& out) override {
    MOBA_CHECK(num_tokens_ >= 0, "attention: run without a plan");
    check_run(config_, layer, num_tokens_, max_page_, q, cache, out);
    const std::size_t index = layer_plans_[static_cast<std::size_t>(layer)];
    const PlacedPlan& placed = placed_[index];
    stats_.blocks_attended += placed.plan.stats.blocks_attended;
    stats_.blocks_available += placed.plan.stats.blocks_available;
    const KvPages pages = pages_of(cache);
    if (by_rows_) {
      RowAttentionParams params{};
      params.q = q.raw();
      params.out = out.raw();
      params.heads = heads_;
      params.pages = pages;
      params.batch = batch();
      params.topk = at<const std::int32_t>(layout_.topk[index]);
      params.max_tokens = static_cast<int>(num_tokens_);
      launch_row_attention(params, config_.dtype, context_.stream());
      issued("rows");
      return;
    }
    if (hopper_) maps_ = &maps_of(layer, cache);
    run_tiles(placed, q, pages, out);
    for (const MobaChunk& chunk : placed.plan.chunks) {
      run_chunk(placed, index, chunk, q, pages, out);
    }
    if (placed.plan.decode) run_decode(placed, index, q, pages, out);
  }

  std::optional<std::uint64_t> capture_key() const override {
    if (num_tokens_ < 0) return std::nullopt;
    // Which launches a layer makes, and where they find their numbers.
    std::uint64_t key = 14695981039346656037U;
    const auto mix = [&](std::uint64_t x) { key = (key ^ x) * 1099511628211U; };
    for (const std::size_t index : layer_plans_) {
      const LayerPlan& plan = placed_[index].plan;
      const bool tiles =
          !plan.dense_tiles.empty() || !plan.window_tiles.empty() || !plan.chunks.empty();
      if (tiles && !by_rows_) return std::nullopt;
      mix(index);
      mix((plan.decode ? 1U : 0U) | (plan.decode_selects ? 2U : 0U));
    }
    return key;
  }

  AttentionStats take_stats() override {
    const AttentionStats stats = stats_;
    stats_ = {};
    return stats;
  }

  std::int64_t workspace_bytes() const override {
    return static_cast<std::int64_t>(fixed_.size() + lists_.size());
  }

 private:
  template <typename T>
  T* at(std::size_t offset) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(fixed_.data()) + offset);
  }
  template <typename T>
  const T* list(std::size_t offset) const {
    return reinterpret_cast<const T*>(static_cast<const std::byte*>(lists_.data()) + offset);
  }

  void issued(const char* stage) {
    if (observer_ != nullptr) observer_->issued(stage);
  }

  void fill_heads() {
    heads_ = {};
    heads_.num_q_heads = config_.num_q_heads;
    heads_.num_kv_heads = config_.num_kv_heads;
    heads_.head_dim = config_.head_dim;
    heads_.group = config_.num_q_heads / config_.num_kv_heads;
    heads_.group_div = FastDiv(static_cast<std::uint32_t>(heads_.group));
    heads_.scale = config_.softmax_scale;
    heads_.scale_log2 = static_cast<float>(double{config_.softmax_scale} * kLog2E);
  }

  static KvPages pages_of(const PagedKvView& cache) {
    KvPages pages{};
    pages.k = cache.k;
    pages.v = cache.v;
    pages.centroids = cache.centroids;
    pages.page_stride = cache.page_stride();
    pages.head_stride = cache.head_stride();
    pages.block_size = cache.block_size;
    pages.moba_block_size = cache.moba_block_size;
    pages.pages_per_moba_block = cache.pages_per_moba_block();
    pages.block_size_div = FastDiv(static_cast<std::uint32_t>(cache.block_size));
    pages.moba_block_div = FastDiv(static_cast<std::uint32_t>(cache.moba_block_size));
    return pages;
  }

  const PageMaps& maps_of(int layer, const PagedKvView& cache) {
    LayerMaps& known = page_maps_[static_cast<std::size_t>(layer)];
    if (known.k != cache.k || known.v != cache.v || known.num_pages != cache.num_pages) {
      const std::int64_t rows = cache.num_pages * cache.num_kv_heads * cache.block_size;
      MOBA_CHECK(rows <= std::numeric_limits<std::int32_t>::max(), "attention: a cache of ", rows,
                 " rows of keys is larger than its tensor map");
      const int box_rows = page_box_rows(cache.block_size);
      known = {cache.k,
               cache.v,
               cache.num_pages,
               {make_tensor_map(cache.k, cache.dtype, rows, cache.head_dim, box_rows),
                make_tensor_map(cache.v, cache.dtype, rows, cache.head_dim, box_rows)}};
    }
    return known.maps;
  }

  void attend_row_tiles(const TileAttentionParams& params) {
    if (hopper_) {
      launch_row_tiles_sm90(params, *maps_, at<std::int32_t>(layout_.tile_counter), config_.dtype,
                            context_.num_multiprocessors(), context_.stream());
    } else {
      launch_row_tiles(params, config_.dtype, context_.stream());
    }
  }
  void attend_list_tiles(const TileAttentionParams& params) {
    if (hopper_) {
      launch_list_tiles_sm90(params, *maps_, at<std::int32_t>(layout_.tile_counter), config_.dtype,
                             context_.num_multiprocessors(), context_.stream());
    } else {
      launch_list_tiles(params, config_.dtype, context_.num_multiprocessors(), context_.stream());
    }
  }

  BatchArrays batch() const {
    return {at<const std::int32_t>(layout_.cu_seqlens_q), at<const std::int32_t>(layout_.seq_lens),
            at<const std::int64_t>(layout_.table_begin), at<const std::int32_t>(layout_.tables),
            num_seqs_};
  }

  // Everything but the tile lists, to addresses that are always the same.
  void upload_batch(const AttentionMetadata& m) {
    std::byte* staging = staging_->begin();
    const auto num_seqs = static_cast<std::size_t>(m.num_seqs);
    put(staging, layout_.cu_seqlens_q, m.cu_seqlens_q);
    put(staging, layout_.seq_lens, m.seq_lens);
    std::int64_t entries = 0;
    for (std::size_t s = 0; s < num_seqs; ++s) {
      put(staging, layout_.table_begin + s * sizeof(std::int64_t),
          std::span<const std::int64_t>(&entries, 1));
      if (m.cu_seqlens_q[s + 1] == m.cu_seqlens_q[s]) continue;
      const std::int64_t pages =
          (std::int64_t{m.seq_lens[s]} + config_.block_size - 1) / config_.block_size;
      MOBA_CHECK(entries + pages <= layout_.table_entries,
                 "attention: the batch's sequences have more than ", layout_.table_entries,
                 " pages");
      put(staging, layout_.tables + static_cast<std::size_t>(entries) * sizeof(std::int32_t),
          m.block_tables.subspan(s * static_cast<std::size_t>(m.max_blocks_per_seq),
                                 static_cast<std::size_t>(pages)));
      entries += pages;
    }
    for (std::size_t i = 0; i < placed_.size(); ++i) {
      const LayerPlan& plan = placed_[i].plan;
      put<std::int32_t>(staging, layout_.decode_lens, plan.decode_lens);  // the same for all
      put<std::int32_t>(staging, layout_.topk[i], plan.topk);
      put<DecodeStart>(staging, layout_.decode_starts[i], plan.decode_starts);
      put(staging, layout_.decode_part_chunks[i],
          std::span<const std::int32_t>(&plan.decode_part_chunks, 1));
    }
    const std::size_t plans_end =
        placed_.size() < layout_.topk.size() ? layout_.topk[placed_.size()] : layout_.tables;
    staging_->copy(fixed_.data(), 0, plans_end, context_.stream());
    staging_->copy(fixed_.data(), layout_.tables,
                   static_cast<std::size_t>(entries) * sizeof(std::int32_t), context_.stream());
    staging_->end(context_.stream());
  }

  // The tile lists of prefill. Their memory grows to the largest batch and stays.
  void upload_lists() {
    Layout l;
    for (PlacedPlan& p : placed_) {
      p.dense_tiles = l.add<RowTile>(static_cast<std::int64_t>(p.plan.dense_tiles.size()));
      p.window_tiles = l.add<RowTile>(static_cast<std::int64_t>(p.plan.window_tiles.size()));
      p.own_tiles = l.add<RowTile>(static_cast<std::int64_t>(p.plan.own_tiles.size()));
      p.gate_tiles = l.add<GateTile>(static_cast<std::int64_t>(p.plan.gate_tiles.size()));
      p.rank_tiles = l.add<RankTile>(static_cast<std::int64_t>(p.plan.rank_tiles.size()));
      p.ranges = l.add<BucketRange>(static_cast<std::int64_t>(p.plan.ranges.size()));
      p.token_slots = l.add<std::uint8_t>(static_cast<std::int64_t>(p.plan.token_slots.size()));
    }
    if (l.size() == 0) return;
    if (!list_staging_ || list_staging_->capacity() < l.size()) {
      list_staging_.reset();
      const std::size_t capacity = std::max<std::size_t>(l.size() * 3 / 2, std::size_t{1} << 20);
      list_staging_.emplace(device_, capacity, "attention tile lists");
      lists_ = Buffer();
      lists_ = Buffer(device_, capacity, "attention tile lists");
    }
    std::byte* staging = list_staging_->begin();
    for (const PlacedPlan& p : placed_) {
      put<RowTile>(staging, p.dense_tiles, p.plan.dense_tiles);
      put<RowTile>(staging, p.window_tiles, p.plan.window_tiles);
      put<RowTile>(staging, p.own_tiles, p.plan.own_tiles);
      put<GateTile>(staging, p.gate_tiles, p.plan.gate_tiles);
      put<RankTile>(staging, p.rank_tiles, p.plan.rank_tiles);
      put<BucketRange>(staging, p.ranges, p.plan.ranges);
      put<std::uint8_t>(staging, p.token_slots, p.plan.token_slots);
    }
    list_staging_->copy(lists_.data(), 0, l.size(), context_.stream());
    list_staging_->end(context_.stream());
  }

  TileAttentionParams tile_params(const TensorView& q, const KvPages& pages,
                                  const TensorView& out) const {
    TileAttentionParams params{};
    params.q = q.raw();
    params.out = out.raw();
    params.heads = heads_;
    params.pages = pages;
    params.batch = batch();
    params.partial_slot = -1;
    return params;
  }

  void run_tiles(const PlacedPlan& placed, const TensorView& q, const KvPages& pages,
                 const TensorView& out) {
    TileAttentionParams params = tile_params(q, pages, out);
    params.row_tiles = list<RowTile>(placed.dense_tiles);
    params.num_row_tiles = static_cast<int>(placed.plan.dense_tiles.size());
    attend_row_tiles(params);
    params.row_tiles = list<RowTile>(placed.window_tiles);
    params.num_row_tiles = static_cast<int>(placed.plan.window_tiles.size());
    params.window = config_.moba_block_size;
    attend_row_tiles(params);
    if (!placed.plan.dense_tiles.empty() || !placed.plan.window_tiles.empty()) issued("dense");
  }

  void run_chunk(const PlacedPlan& placed, std::size_t index, const MobaChunk& chunk,
                 const TensorView& q, const KvPages& pages, const TensorView& out) {
    const cudaStream_t stream = context_.stream();
    const std::int64_t first_row = std::int64_t{chunk.token_begin} * config_.num_q_heads;
    const std::int64_t num_rows =
        std::int64_t{chunk.token_end - chunk.token_begin} * config_.num_q_heads;

    MobaGateParams gate{};
    gate.q = q.raw();
    gate.heads = heads_;
    gate.pages = pages;
    gate.batch = batch();
    gate.topk = at<const std::int32_t>(layout_.topk[index]);
    gate.tiles = list<GateTile>(placed.gate_tiles) + chunk.first_gate_tile;
    gate.num_tiles = chunk.num_gate_tiles;
    gate.rank_tiles = list<RankTile>(placed.rank_tiles) + chunk.first_rank_tile;
    gate.num_rank_tiles = chunk.num_rank_tiles;
    gate.ranges = list<BucketRange>(placed.ranges) + chunk.first_range;
    gate.num_ranges = chunk.num_ranges;
    gate.num_buckets = chunk.num_buckets;
    gate.tile_rows = limits_.tile_rows;
    gate.first_row = first_row;
    gate.num_rows = num_rows;
    gate.slots = chunk.topk;
    gate.token_slots = list<std::uint8_t>(placed.token_slots);
    gate.lse = at<float>(layout_.partial_lse);
    gate.chosen = at<std::int32_t>(layout_.chosen);
    gate.ranks = at<std::int32_t>(layout_.ranks);
    gate.counts = at<std::int32_t>(layout_.counts);
    gate.begins = at<std::int32_t>(layout_.begins);
    gate.entries = at<std::uint32_t>(layout_.entries);
    gate.list_tiles = at<ListTile>(layout_.list_tiles);
    gate.num_list_tiles = at<std::int32_t>(layout_.num_list_tiles);
    launch_moba_gate(gate, chunk.topk, config_.dtype, stream);
    issued("gate");
    launch_moba_lists(gate, stream);
    issued("lists");

    TileAttentionParams params = tile_params(q, pages, out);
    params.partials = {at<void>(layout_.partial_out), at<float>(layout_.partial_lse), chunk.topk,
                       first_row};
    params.list_tiles = gate.list_tiles;
    params.num_list_tiles = gate.num_list_tiles;
    params.entries = gate.entries;
    attend_list_tiles(params);
    issued("attention");
    params.row_tiles = list<RowTile>(placed.own_tiles) + chunk.first_own_tile;
    params.num_row_tiles = chunk.num_own_tiles;
    params.window = config_.moba_block_size;
    if (hopper_) {
      params.merge_slots = chunk.topk;
      attend_row_tiles(params);
      issued("own");
      return;
    }
    params.partial_slot = 0;
    attend_row_tiles(params);
    issued("own");

    CombineParams combine{};
    combine.out = out.raw();
    combine.partials = params.partials;
    combine.num_rows = num_rows;
    combine.token_slots = gate.token_slots;
    combine.num_q_heads = config_.num_q_heads;
    combine.head_dim = config_.head_dim;
    launch_combine(combine, config_.dtype, stream);
    issued("combine");
  }

  void run_decode(const PlacedPlan& placed, std::size_t index, const TensorView& q,
                  const KvPages& pages, const TensorView& out) {
    const bool selects = placed.plan.decode_selects;
    const int tiles_per_head = (heads_.group + kUnitRows - 1) / kUnitRows;
    DecodeParams p{};
    p.q = q.raw();
    p.out = out.raw();
    p.heads = heads_;
    p.pages = pages;
    p.batch = batch();
    p.heads_div = FastDiv(static_cast<std::uint32_t>(config_.num_kv_heads * tiles_per_head));
    p.tiles_div = FastDiv(static_cast<std::uint32_t>(tiles_per_head));
    p.chunks_per_block_div =
        FastDiv(static_cast<std::uint32_t>(config_.moba_block_size / kChunkKeys));
    p.decode_lens = at<const std::int32_t>(layout_.decode_lens);
    p.topk = at<const std::int32_t>(layout_.topk[index]);
    p.num_units = decode_units(config_, num_seqs_);
    p.num_parts = limits_.decode_parts;
    p.starts = at<const DecodeStart>(layout_.decode_starts[index]);
    p.part_chunks = at<const std::int32_t>(layout_.decode_part_chunks[index]);
    p.selection = {at<std::int32_t>(layout_.selection_count),
                   at<std::int32_t>(layout_.selection_blocks),
                   at<std::uint32_t>(layout_.selection_masks)};
    p.part_out = at<float>(layout_.part_out);
    p.part_stats = at<float2>(layout_.part_stats);
    p.unit_arrivals = at<std::int32_t>(layout_.unit_arrivals);
    p.gate_arrivals = at<std::int32_t>(layout_.gate_arrivals);
    p.gate_splits = gate_splits(config_, p.num_units);
    p.candidate_scores = at<float>(layout_.candidate_scores);
    p.candidate_blocks = at<std::int32_t>(layout_.candidate_blocks);
    p.unit_chunks = at<std::int32_t>(layout_.unit_chunks);
    if (selects) {
      launch_decode_gate(p, config_.dtype, context_.stream());
      issued("gate");
    }
    launch_decode_attention(p, selects, config_.dtype, context_.max_shared_bytes(),
                            context_.stream());
    issued("decode");
  }

  Context& context_;
  Device device_;
  AttentionConfig config_;
  StageObserver* observer_;
  bool by_rows_;  // the kernels without matrix instructions
  bool hopper_;   // the kernels of compute capability 9.0
  PlanLimits limits_;
  HeadShape heads_{};
  WorkspaceLayout layout_{};
  Buffer fixed_;
  Buffer lists_;
  std::optional<UploadStaging> staging_;
  std::optional<UploadStaging> list_staging_;

  // The planned batch; num_tokens_ -1: none.
  std::int64_t num_tokens_ = -1;
  int num_seqs_ = 0;
  std::int32_t max_page_ = -1;
  std::vector<PlacedPlan> placed_;
  std::vector<std::size_t> layer_plans_;  // [num_layers] index into placed_
  AttentionStats stats_;

  // Of the layer's cache, as run() last saw it.
  struct LayerMaps {
    const void* k = nullptr;
    const void* v = nullptr;
    std::int64_t num_pages = 0;
    PageMaps maps;
  };
  std::vector<LayerMaps> page_maps_;
  const PageMaps* maps_ = nullptr;  // of the layer that runs
};

}  // namespace
}  // namespace cuda

std::unique_ptr<AttentionBackend> create_cuda_attention_backend(
    DeviceContext& context, const AttentionConfig& config,
    const cuda::CudaAttentionOptions& options) {
  return std::make_unique<cuda::CudaAttentionBackend>(context, config, options);
}

}  // namespace moba
