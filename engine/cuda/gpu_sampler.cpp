#include "engine/cuda/gpu_sampler.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <limits>

#include "device/check.h"
#include "device/cuda/cuda_context.h"
#include "device/marker.h"
#include "engine/cuda/logits_gather.h"
#include "engine/cuda/sampling_kernels.h"
#include "engine/philox.h"

namespace moba::cuda {
namespace {

constexpr std::size_t kAlignment = 256;

std::size_t align(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

int chunks_of(std::int64_t vocab_size) {
  return static_cast<int>((vocab_size + kStatsChunk - 1) / kStatsChunk);
}

// Where things lie in the sampler's memory on the device; the host has `params`, `results` and
// `top` at the same places.
struct Layout {
  explicit Layout(const TokenSamplerConfig& config) {
    const auto rows = static_cast<std::size_t>(config.max_launched);
    const auto chunk_rows = static_cast<std::size_t>(config.max_rows);
    const auto chunks = static_cast<std::size_t>(chunks_of(config.vocab_size));
    const ShardPlan& shard = config.shard;
    const auto ranks = static_cast<std::size_t>(shard.num_ranks);
    const auto take = [this](std::size_t bytes) {
      const std::size_t offset = size;
      size += align(bytes);
      return offset;
    };
    params = take(rows * sizeof(SamplingRow));
    results = take(rows * sizeof(SamplingResult));
    top = take(rows * kMaxTopLogprobs * sizeof(TopLogprob));
    host_size = size;
    stats = take(chunk_rows * chunks * sizeof(ChunkStats));
    normalisers = take(chunk_rows * sizeof(double));
    if (ranks == 1) return;
    const auto piece_chunks = static_cast<std::size_t>(chunks_of(shard.vocab_stride));
    all_stats = take(ranks * chunk_rows * piece_chunks * sizeof(ChunkStats));
  }
  std::size_t params = 0;
  std::size_t results = 0;
  std::size_t top = 0;
  std::size_t host_size = 0;
  std::size_t stats = 0;
  std::size_t normalisers = 0;
  std::size_t all_stats = 0;  // of all ranks' pieces
  std::size_t size = 0;
};

// 1 / temperature, finite so that a difference of zero stays zero (as engine/sampler.cpp).
float inverse_temperature(float temperature) {
  return std::min(1.0F / temperature, std::numeric_limits<float>::max());
}

// The tokens that are forbidden for now.
bool forbids_any(const SamplingState& state) {
  return state.num_output_tokens < state.min_tokens && !state.forbidden_before_min_tokens.empty();
}

// Greedy, from the logits as they come.
bool is_plain(const SamplingState& state) {
  return state.greedy() && state.num_logprobs < 0 && state.logit_bias.empty() &&
         !forbids_any(state) && (!state.has_penalties() || state.counts.entries().empty());
}

const char* message_of(SamplingError error) {
  switch (error) {
    case SamplingError::kLogprobsNotFinite:
      return "the model's logits are not finite (log probabilities)";
    case SamplingError::kLogitsNotFinite:
      return "the model's logits are not finite (sampling)";
    case SamplingError::kNothingAllowed:
      return "no token is allowed: every one is forbidden or biased away";
    case SamplingError::kNone:
      break;
  }
  return "";
}

class GpuSampler : public TokenSampler {
 public:
  GpuSampler(DeviceContext& context, const TokenSamplerConfig& config)
      : context_(context),
        config_(config),
        layout_(config),
        device_(context.device(), layout_.size, "sampler"),
        gather_(context, config.shard, config.vocab_size, config.max_rows),
        slots_{Slot(context, layout_.host_size), Slot(context, layout_.host_size)} {}

  void launch(int slot_index, std::span<const SampleRow> rows,
              const LogitsSource& source) override {
    const bool plain = takes_largest(rows);
    Slot& slot = begin(slot_index, rows.size());
    if (!plain) {
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const SamplingState& state = rows[i].sequence->sampling;
        slot.rows(layout_)[i] =
            row_of(state, static_cast<std::uint64_t>(rows[i].position), slot.edits);
        slot.num_logprobs[i] = state.num_logprobs;
      }
      upload(slot, rows.size());
    }
    const auto num_rows = static_cast<std::int64_t>(rows.size());
    for (std::int64_t first = 0; first < num_rows; first += config_.max_rows) {
      const std::int64_t count = std::min(config_.max_rows, num_rows - first);
      const TensorView logits = source(first, count);
      check(logits, count);
      if (plain) {
        choose_largest_of(logits, first);
        continue;
      }
      gather_.gather(logits, [&](std::int64_t offset, const TensorView& part) {
        SamplingArgs args = args_for(part, first + offset, slot);
        args.any_sampled = true;
        args.any_edits = !slot.edits.empty();
        args.any_logprobs = slot.max_logprobs() >= 0;
        launch_sampling(args, context_.cuda()->stream());
      });
    }
    send_results(slot, config_.shard.rank == 0);
  }

  bool takes_largest(std::span<const SampleRow> rows) const override {
    return std::all_of(rows.begin(), rows.end(),
                       [](const SampleRow& row) { return is_plain(row.sequence->sampling); });
  }
  void choose_largest(const TensorView& logits) override {
    check(logits, logits.dim(0));
    choose_largest_of(logits, 0);
  }
  void send_largest(int slot_index, std::size_t num_rows) override {
    send_results(begin(slot_index, num_rows), config_.shard.rank == 0);
  }

  void collect(int slot_index, std::vector<StepResult::Sample>& out) override {
    Slot& slot = slots_[static_cast<std::size_t>(slot_index)];
    slot.done.wait();
    out.clear();
    if (config_.shard.rank != 0) return;
    out.resize(slot.num_rows);
    for (std::size_t i = 0; i < slot.num_rows; ++i) {
      const SamplingResult& result = slot.results(layout_)[i];
      if (result.error != SamplingError::kNone) {
        out[i].error = message_of(result.error);
        continue;
      }
      SampledToken& token = out[i].token;
      token.token_id = result.token;
      token.has_logprob = slot.num_logprobs[i] >= 0;
      if (token.has_logprob) token.logprob = logprob_of(slot, i);
    }
  }

  void resolve(const TensorView& sources, const TensorView& token_ids) override {
    launch_resolve(static_cast<const std::int32_t*>(sources.raw()),
                   on_device<SamplingResult>(layout_.results),
                   static_cast<std::int32_t*>(token_ids.raw()), static_cast<int>(sources.dim(0)),
                   context_.cuda()->stream());
  }

  void score(int slot_index, const TensorView& logits, std::span<const std::int32_t> targets,
             int num_top, std::span<TokenLogprob> out) override {
    Slot& slot = begin(slot_index, targets.size());
    for (std::size_t i = 0; i < targets.size(); ++i) {
      SamplingRow row{};
      row.num_logprobs = num_top;
      row.target = targets[i];
      slot.rows(layout_)[i] = row;
      slot.num_logprobs[i] = num_top;
    }
    upload(slot, targets.size());
    check(logits, static_cast<std::int64_t>(targets.size()));
    gather_.gather(logits, [&](std::int64_t first, const TensorView& part) {
      SamplingArgs args = args_for(part, first, slot);
      args.any_logprobs = true;
      launch_sampling(args, context_.cuda()->stream());
    });
    // To all ranks, so that they find the same errors.
    send_results(slot, true);
    slot.done.wait();
    for (std::size_t i = 0; i < targets.size(); ++i) {
      const SamplingError error = slot.results(layout_)[i].error;
      MOBA_CHECK(error == SamplingError::kNone, message_of(error));
      out[i] = logprob_of(slot, i);
    }
  }

 private:
  // The host's side of a launch.
  struct Slot {
    Slot(DeviceContext& context, std::size_t bytes)
        : host(Buffer::host_for(context.device(), bytes, "sampler")), done(context) {}

    template <typename T>
    T* at(std::size_t offset) const {
      return reinterpret_cast<T*>(static_cast<std::byte*>(host.data()) + offset);
    }
    SamplingRow* rows(const Layout& layout) const { return at<SamplingRow>(layout.params); }
    const SamplingResult* results(const Layout& layout) const {
      return at<SamplingResult>(layout.results);
    }
    int max_logprobs() const {
      return num_logprobs.empty() ? -1
                                  : *std::max_element(num_logprobs.begin(), num_logprobs.end());
    }

    Buffer host;  // laid out like the device's memory, up to host_size
    Marker done;
    std::size_t num_rows = 0;
    std::vector<int> num_logprobs;  // of each row
    std::vector<LogitEdit> edits;
    Buffer host_edits;  // `edits` on their way
  };

  template <typename T>
  T* on_device(std::size_t offset) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(device_.data()) + offset);
  }

  // The slot, empty; waits for what it held.
  Slot& begin(int index, std::size_t num_rows) {
    MOBA_CHECK(static_cast<std::int64_t>(num_rows) <= config_.max_launched, "sampling: ", num_rows,
               " rows, at most ", config_.max_launched);
    Slot& slot = slots_[static_cast<std::size_t>(index)];
    slot.done.wait();
    slot.num_rows = num_rows;
    slot.num_logprobs.assign(num_rows, -1);
    slot.edits.clear();
    return slot;
  }

  // Logits as the model computes them: this rank's piece of `count` rows.
  void check(const TensorView& logits, std::int64_t count) const {
    const std::int64_t columns =
        config_.shard.num_ranks == 1 ? config_.vocab_size : config_.shard.vocab.size();
    MOBA_CHECK(logits.shape() == (Shape{count, columns}) && count <= config_.max_rows &&
                   logits.is_contiguous() && logits.device() == context_.device(),
               "sampling: logits ", logits.shape().to_string(), " for ", count, " rows, at most ",
               config_.max_rows, " of ", columns);
  }

  // Of the launch's rows from `first` on.
  SamplingArgs plain_args(const TensorView& logits, std::int64_t first) const {
    SamplingArgs args{};
    args.logits = logits.data<float>();
    args.num_rows = static_cast<int>(logits.dim(0));
    args.vocab_size = static_cast<int>(logits.dim(1));
    args.num_chunks = chunks_of(logits.dim(1));
    args.stats = on_device<ChunkStats>(layout_.stats);
    args.results = on_device<SamplingResult>(layout_.results) + first;
    return args;
  }

  SamplingArgs args_for(const TensorView& logits, std::int64_t first, const Slot& slot) const {
    SamplingArgs args = plain_args(logits, first);
    args.rows = on_device<SamplingRow>(layout_.params) + first;
    args.normalisers = on_device<double>(layout_.normalisers);
    args.top = on_device<TopLogprob>(layout_.top) + first * kMaxTopLogprobs;
    if (!slot.edits.empty()) {
      args.edits = static_cast<const LogitEdit*>(edits_.data());
      args.originals = static_cast<float*>(originals_.data());
    }
    return args;
  }

  // The results from row `first` on: the ranks tell each other the largest of each chunk of theirs.
  void choose_largest_of(const TensorView& logits, std::int64_t first) {
    const cudaStream_t stream = context_.cuda()->stream();
    SamplingArgs args = plain_args(logits, first);
    const ShardPlan& shard = config_.shard;
    if (shard.num_ranks == 1) {
      args.any_sampled = true;
      return launch_sampling(args, stream);
    }
    args.num_chunks = chunks_of(shard.vocab_stride);
    launch_stats(args, stream);
    auto* const all = on_device<ChunkStats>(layout_.all_stats);
    const std::int64_t words = std::int64_t{args.num_rows} * args.num_chunks *
                               static_cast<std::int64_t>(sizeof(ChunkStats) / sizeof(float));
    context_.communicator().all_gather(
        TensorView(args.stats, DType::kFloat32, {words}, context_.device()),
        TensorView(all, DType::kFloat32, {shard.num_ranks * words}, context_.device()));
    launch_merge(all, shard.num_ranks, args.num_rows, args.num_chunks,
                 static_cast<int>(shard.vocab_stride), args.results, stream);
  }

  // Appends the row's edits.
  SamplingRow row_of(const SamplingState& state, std::uint64_t position,
                     std::vector<LogitEdit>& edits) {
    SamplingRow row{};
    row.uniform = philox_uniform(state.seed, state.stream, position);
    row.scale = state.greedy() ? 0.0F : inverse_temperature(state.temperature);
    row.top_k = state.top_k;
    row.top_p = state.top_p;
    row.min_p = state.min_p;
    row.repetition_penalty = state.repetition_penalty;
    row.presence_penalty = state.presence_penalty;
    row.frequency_penalty = state.frequency_penalty;
    row.num_logprobs = state.num_logprobs;
    row.target = -1;
    const auto end = [&edits] { return static_cast<int>(edits.size()); };
    row.first_bias = end();
    for (const auto& [id, bias] : state.logit_bias) edits.push_back({id, bias});
    row.first_penalty = end();
    if (state.has_penalties()) {
      for (const TokenCounts::Entry& entry : state.counts.entries()) {
        edits.push_back({entry.token_id, static_cast<float>(entry.output_count)});
      }
    }
    row.first_forbidden = end();
    if (forbids_any(state)) {
      forbidden_ = state.forbidden_before_min_tokens;
      std::sort(forbidden_.begin(), forbidden_.end());
      forbidden_.erase(std::unique(forbidden_.begin(), forbidden_.end()), forbidden_.end());
      for (const std::int32_t id : forbidden_) edits.push_back({id, 0.0F});
    }
    row.end_edits = end();
    return row;
  }

  void upload(Slot& slot, std::size_t num_rows) {
    const cudaStream_t stream = context_.cuda()->stream();
    MOBA_CUDA_CHECK(cudaMemcpyAsync(on_device<SamplingRow>(layout_.params), slot.rows(layout_),
                                    num_rows * sizeof(SamplingRow), cudaMemcpyHostToDevice,
                                    stream));
    if (slot.edits.empty()) return;
    // Penalties of long sequences have an edit for each of their tokens: the room for them grows.
    const std::size_t bytes = slot.edits.size() * sizeof(LogitEdit);
    if (slot.host_edits.size() < bytes) {
      slot.host_edits = Buffer();
      slot.host_edits = Buffer::host_for(context_.device(), 2 * bytes, "sampler");
    }
    if (edits_.size() < bytes) {
      context_.synchronize();
      edits_ = Buffer();
      originals_ = Buffer();
      edits_ = Buffer(context_.device(), 2 * bytes, "sampler");
      originals_ = Buffer(context_.device(), 2 * slot.edits.size() * sizeof(float), "sampler");
    }
    std::memcpy(slot.host_edits.data(), slot.edits.data(), bytes);
    MOBA_CUDA_CHECK(cudaMemcpyAsync(edits_.data(), slot.host_edits.data(), bytes,
                                    cudaMemcpyHostToDevice, stream));
  }

  // What begin() was told of, behind what is issued; `wanted`: else the slot is only marked.
  void send_results(Slot& slot, bool wanted) {
    const std::size_t num_rows = slot.num_rows;
    if (num_rows > 0 && wanted) {
      const cudaStream_t stream = context_.cuda()->stream();
      const auto send = [&](std::size_t offset, std::size_t bytes) {
        MOBA_CUDA_CHECK(cudaMemcpyAsync(slot.at<std::byte>(offset), on_device<std::byte>(offset),
                                        bytes, cudaMemcpyDeviceToHost, stream));
      };
      send(layout_.results, num_rows * sizeof(SamplingResult));
      if (slot.max_logprobs() > 0) {
        send(layout_.top, num_rows * kMaxTopLogprobs * sizeof(TopLogprob));
      }
    }
    slot.done.record();
  }

  TokenLogprob logprob_of(const Slot& slot, std::size_t row) const {
    const SamplingResult& result = slot.results(layout_)[row];
    TokenLogprob logprob;
    logprob.token_id = result.token;
    logprob.logprob = result.logprob;
    const TopLogprob* const top = slot.at<TopLogprob>(layout_.top) + row * kMaxTopLogprobs;
    logprob.top.reserve(static_cast<std::size_t>(result.num_top));
    for (int i = 0; i < result.num_top; ++i) {
      logprob.top.emplace_back(top[i].token, top[i].logprob);
    }
    return logprob;
  }

  DeviceContext& context_;
  TokenSamplerConfig config_;
  Layout layout_;
  Buffer device_;
  LogitsGather gather_;
  std::array<Slot, 2> slots_;
  Buffer edits_;      // on the device
  Buffer originals_;  // likewise: logits before their edits
  std::vector<std::int32_t> forbidden_;
};

}  // namespace

std::unique_ptr<TokenSampler> create_gpu_sampler(DeviceContext& context,
                                                 const TokenSamplerConfig& config) {
  return std::make_unique<GpuSampler>(context, config);
}

std::int64_t gpu_sampler_bytes(const TokenSamplerConfig& config) {
  return static_cast<std::int64_t>(Layout(config).size);
}

}  // namespace moba::cuda
