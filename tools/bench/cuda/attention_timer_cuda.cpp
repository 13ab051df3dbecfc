#include "tools/bench/attention_timer.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "attention/cuda/cuda_attention_backend.h"
#include "device/check.h"
#include "device/cuda/cuda_check.h"
#include "device/cuda/cuda_context.h"
#include "tools/bench/cuda/attention_data.h"

namespace moba::bench {
namespace {

// Repeats end when they have taken that long together.
constexpr double kMaxMilliseconds = 3000;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

Buffer device_buffer(DeviceContext& context, std::int64_t bytes) {
  return Buffer(context.device(), static_cast<std::size_t>(bytes), "benchmark data");
}

// Records an event after each stage.
class StageTimes : public cuda::StageObserver {
 public:
  explicit StageTimes(cudaStream_t stream) : stream_(stream) {}

  void begin() {
    used_ = 0;
    names_.clear();
    next().record(stream_);
  }
  void issued(const char* stage) override {
    names_.emplace_back(stage);
    next().record(stream_);
  }
  // Milliseconds by stage, "total" included. Waits.
  std::map<std::string, double> end() {
    events_[used_ - 1].synchronize();
    std::map<std::string, double> times;
    for (std::size_t i = 1; i < used_; ++i) {
      times[names_[i - 1]] += double{events_[i].since(events_[i - 1])};
    }
    times["total"] = double{events_[used_ - 1].since(events_[0])};
    return times;
  }

 private:
  cuda::Event& next() {
    if (used_ == events_.size()) events_.emplace_back(true);
    return events_[used_++];
  }

  cudaStream_t stream_;
  std::vector<cuda::Event> events_;
  std::size_t used_ = 0;
  std::vector<std::string> names_;
};

// Attended (query, key) pairs of one head for the queries [begin, end).
double attended_pairs(std::int64_t begin, std::int64_t end, std::int64_t block, std::int64_t topk) {
  double pairs = 0;
  for (std::int64_t p = begin; p < end; ++p) {
    const std::int64_t own = p / block;
    pairs += topk == 0 || own < topk
                 ? static_cast<double>(p + 1)
                 : static_cast<double>((topk - 1) * block + p - own * block + 1);
  }
  return pairs;
}

cuda::KernelChoice kernels_named(const std::string& name) {
  if (name == "best") return cuda::KernelChoice::kBest;
  if (name == "sm80") return cuda::KernelChoice::kSm80;
  MOBA_CHECK(name == "row", "bench attention: kernels ", name);
  return cuda::KernelChoice::kRow;
}

class CudaAttentionTimer final : public AttentionTimer {
 public:
  explicit CudaAttentionTimer(int device_index)
      : context_(Device{DeviceType::kCuda, device_index}, 1),
        flush_(device_buffer(context_, std::int64_t{256} << 20)) {
    MOBA_CUDA_CHECK(cudaMemset(flush_.data(), 0, flush_.size()));
  }

  TimedDevice device() const override {
    const DeviceInfo& info = context_.cuda()->info();
    return {info.name, info.driver, info.runtime};
  }

  AttentionTiming measure(const AttentionCase& c) override {
    const std::int64_t tokens = c.tokens;
    const std::int64_t batch = c.batch;
    MOBA_CHECK(c.dtype == "bfloat16" || c.dtype == "float16", "bench attention: dtype ", c.dtype);
    const DType dtype = c.dtype == "bfloat16" ? DType::kBFloat16 : DType::kFloat16;
    const cudaStream_t stream = context_.cuda()->stream();
    const std::int64_t bytes = static_cast<std::int64_t>(dtype_size(dtype));
    const std::int64_t pages_a_seq = (tokens + c.page - 1) / c.page;
    const std::int64_t num_pages = pages_a_seq * batch;
    PagedKvView cache;
    cache.dtype = dtype;
    cache.num_pages = num_pages;
    cache.num_kv_heads = c.kv_heads;
    cache.block_size = c.page;
    cache.moba_block_size = std::max(c.block, c.page);
    cache.head_dim = c.head_dim;
    const std::int64_t kv = num_pages * cache.page_stride();
    const std::int64_t centroids = num_pages * c.kv_heads * c.head_dim;
    const std::int64_t queries = c.decode ? batch : tokens * batch;
    const std::int64_t elements = queries * c.q_heads * c.head_dim;
    const Buffer k = device_buffer(context_, kv * bytes);
    const Buffer v = device_buffer(context_, kv * bytes);
    const Buffer mean = device_buffer(context_, centroids * bytes);
    const Buffer q = device_buffer(context_, elements * bytes);
    const Buffer out = device_buffer(context_, elements * bytes);
    cache.k = k.data();
    cache.v = v.data();
    cache.centroids = mean.data();
    fill_normal(k.data(), kv, dtype, c.seed, stream);
    fill_normal(v.data(), kv, dtype, c.seed + 1, stream);
    fill_normal(q.data(), elements, dtype, c.seed + 2, stream);
    std::vector<std::int32_t> tables(static_cast<std::size_t>(num_pages));
    std::iota(tables.begin(), tables.end(), 0);
    std::mt19937 rng(c.seed);
    std::shuffle(tables.begin(), tables.end(), rng);
    const Buffer device_tables = device_buffer(context_, num_pages * 4);
    MOBA_CUDA_CHECK(
        cudaMemcpy(device_tables.data(), tables.data(), tables.size() * 4, cudaMemcpyHostToDevice));
    for (std::int64_t s = 0; s < batch; ++s) {
      compute_centroids(cache,
                        static_cast<const std::int32_t*>(device_tables.data()) + s * pages_a_seq,
                        tokens / cache.moba_block_size, stream);
    }

    AttentionConfig config;
    config.num_layers = 1;
    config.num_q_heads = c.q_heads;
    config.num_kv_heads = c.kv_heads;
    config.head_dim = c.head_dim;
    config.block_size = c.page;
    config.moba_block_size = cache.moba_block_size;
    config.softmax_scale = 1.0F / std::sqrt(static_cast<float>(c.head_dim));
    config.dtype = dtype;
    config.max_num_batched_tokens = static_cast<int>(queries);
    config.max_num_seqs = static_cast<int>(batch);
    config.max_model_len = tokens;
    StageTimes times(stream);
    cuda::CudaAttentionOptions attention;
    attention.kernels = kernels_named(c.kernels);
    attention.max_partial_bytes = c.partial_bytes;
    attention.observer = &times;
    auto backend = create_cuda_attention_backend(context_, config, attention);

    std::vector<std::int32_t> cu_seqlens_q(static_cast<std::size_t>(batch) + 1);
    for (std::size_t s = 0; s < cu_seqlens_q.size(); ++s) {
      cu_seqlens_q[s] =
          static_cast<std::int32_t>(static_cast<std::int64_t>(s) * (c.decode ? 1 : tokens));
    }
    const std::vector<std::int32_t> seq_lens(static_cast<std::size_t>(batch),
                                             static_cast<std::int32_t>(tokens));
    const std::vector<std::int32_t> topks(static_cast<std::size_t>(batch), c.topk);
    AttentionMetadata metadata;
    metadata.num_seqs = static_cast<int>(batch);
    metadata.cu_seqlens_q = cu_seqlens_q;
    metadata.seq_lens = seq_lens;
    metadata.block_tables = tables;
    metadata.max_blocks_per_seq = static_cast<int>(pages_a_seq);
    metadata.moba_topk = topks;
    backend->plan(metadata);
    const Shape shape{queries, c.q_heads, c.head_dim};
    const TensorView q_view(q.data(), dtype, shape, context_.device());
    const TensorView out_view(out.data(), dtype, shape, context_.device());

    std::map<std::string, std::vector<double>> all;
    double spent = 0;
    for (int i = 0; i < c.repeats + 1 && spent < kMaxMilliseconds; ++i) {
      read_all(flush_.data(), static_cast<std::int64_t>(flush_.size()), flush_.data(), stream);
      times.begin();
      backend->run(0, q_view, cache, out_view);
      for (const auto& [stage, ms] : times.end()) {
        if (i == 0) continue;  // not warm
        all[stage].push_back(ms);
        if (stage == "total") spent += ms;
      }
    }
    AttentionTiming r;
    r.repeats = static_cast<int>(all.at("total").size());
    for (const auto& [stage, values] : all) r.ms[stage] = median(values);
    const double seconds = r.ms["total"] * 1e-3;
    const double pairs =
        static_cast<double>(batch) *
        attended_pairs(c.decode ? tokens - 1 : 0, tokens, cache.moba_block_size, c.topk);
    r.tflops = 4.0 * c.head_dim * c.q_heads * pairs / seconds * 1e-12;
    const bool sparse = c.topk > 0 && (tokens - 1) / cache.moba_block_size >= c.topk;
    double read = static_cast<double>(batch) * static_cast<double>(tokens) * 2 * c.kv_heads *
                  c.head_dim * static_cast<double>(bytes);
    if (sparse) {
      const double heads =
          std::min<double>(c.q_heads, static_cast<double>(c.kv_heads) *
                                          (static_cast<double>(tokens) / cache.moba_block_size));
      read =
          static_cast<double>(batch) * (2.0 * static_cast<double>(bytes) * c.head_dim *
                                            (heads * (c.topk - 1) * cache.moba_block_size +
                                             c.kv_heads * cache.moba_block_size / 2.0) +
                                        static_cast<double>(tokens) / cache.moba_block_size *
                                            c.kv_heads * c.head_dim * static_cast<double>(bytes));
    }
    r.gbps = read / seconds * 1e-9;
    if (c.decode) r.copy_gbps = copy_bandwidth(read, c.repeats);
    return r;
  }

 private:
  // Reads half of the bytes and writes half.
  double copy_bandwidth(double bytes, int repeats) {
    const cudaStream_t stream = context_.cuda()->stream();
    const auto half = static_cast<std::int64_t>(bytes / 2);
    const Buffer from = device_buffer(context_, half);
    const Buffer to = device_buffer(context_, half);
    StageTimes times(stream);
    std::vector<double> seconds;
    for (int i = 0; i < repeats + 1; ++i) {
      read_all(flush_.data(), static_cast<std::int64_t>(flush_.size()), flush_.data(), stream);
      times.begin();
      MOBA_CUDA_CHECK(cudaMemcpyAsync(to.data(), from.data(), static_cast<std::size_t>(half),
                                      cudaMemcpyDeviceToDevice, stream));
      times.issued("copy");
      const double ms = times.end().at("total");
      if (i > 0) seconds.push_back(ms * 1e-3);
    }
    return bytes / median(seconds) * 1e-9;
  }

  DeviceContext context_;
  Buffer flush_;
};

}  // namespace

std::unique_ptr<AttentionTimer> make_attention_timer(int device_index) {
  return std::make_unique<CudaAttentionTimer>(device_index);
}

}  // namespace moba::bench
