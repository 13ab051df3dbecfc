// One attention layer, full and MoBA: prefill in chunks and decode.
//
//   attention_bench [--threads N] [--dtype float32|bfloat16]... [--tokens N]... [--chunk N]
//                   [--q-heads N] [--kv-heads N] [--head-dim N] [--page N] [--block N] [--topk N]
//                   [--full-up-to N] [--repeats N] [--seed N] [--clock wall|cpu]
//
// Without arguments: the embedded model's layer at 8192, 32768 and 131072 tokens in chunks of 2048.
// Every chunk is timed under full attention, then under MoBA, `repeats` times each (the best
// counts; full attention beyond 40000 tokens is timed once), and the sums over all chunks are
// printed: all of a prefill is measured, nothing extrapolated. GFLOP/s counts 4 x head_dim for each
// attended query-key pair, masked ones not. Above --full-up-to tokens full attention is left out.
// --clock cpu, with one thread, counts that thread's processor time: on a machine that others use.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "attention/attention_backend.h"
#include "attention/cpu/moba.h"
#include "attention/cpu/work_plan.h"
#include "device/check.h"
#include "kvcache/kv_pool.h"
#include "kvcache/store_kv.h"
#include "tools/bench/bench_common.h"
#include "tools/bench/fma_peak.h"

namespace moba::bench {
namespace {

struct Options {
  int threads = 0;
  std::vector<DType> dtypes;
  std::vector<std::int64_t> tokens;
  int chunk = 2048;
  int q_heads = 6;
  int kv_heads = 2;
  int head_dim = 64;
  int page = 64;
  int block = 64;
  int topk = 8;
  std::int64_t full_up_to = std::numeric_limits<std::int64_t>::max();
  int repeats = 3;
  unsigned seed = 1;
  double (*clock)() = now_seconds;
};

double thread_cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    MOBA_CHECK(i + 1 < argc, flag, ": no value");
    const std::string value = argv[i + 1];
    if (flag == "--dtype") {
      MOBA_CHECK(value == "float32" || value == "bfloat16", "--dtype ", value);
      o.dtypes.push_back(value == "float32" ? DType::kFloat32 : DType::kBFloat16);
      continue;
    }
    if (flag == "--clock") {
      MOBA_CHECK(value == "wall" || value == "cpu", "--clock ", value);
      if (value == "cpu") o.clock = thread_cpu_seconds;
      continue;
    }
    const long long number = std::stoll(value);
    if (flag == "--tokens") {
      o.tokens.push_back(number);
    } else if (flag == "--full-up-to") {
      o.full_up_to = number;
    } else {
      const int small = static_cast<int>(number);
      MOBA_CHECK(small == number && small >= 0, flag, " ", value);
      if (flag == "--threads") {
        o.threads = small;
      } else if (flag == "--chunk") {
        o.chunk = small;
      } else if (flag == "--q-heads") {
        o.q_heads = small;
      } else if (flag == "--kv-heads") {
        o.kv_heads = small;
      } else if (flag == "--head-dim") {
        o.head_dim = small;
      } else if (flag == "--page") {
        o.page = small;
      } else if (flag == "--block") {
        o.block = small;
      } else if (flag == "--topk") {
        o.topk = small;
      } else if (flag == "--repeats") {
        o.repeats = small;
      } else if (flag == "--seed") {
        o.seed = static_cast<unsigned>(small);
      } else {
        throw Error(concat("unknown option ", flag));
      }
    }
  }
  MOBA_CHECK(o.clock == now_seconds || o.threads == 1, "--clock cpu needs --threads 1");
  if (o.dtypes.empty()) o.dtypes = {DType::kFloat32, DType::kBFloat16};
  if (o.tokens.empty()) o.tokens = {8192, 32768, 131072};
  return o;
}

// One sequence of random tokens in a cache. Keys of a block share a mean, as neighbouring tokens
// do, so that the gate has favourites.
class Layer {
 public:
  Layer(DeviceContext& context, const Options& o, DType dtype, std::int64_t tokens)
      : context_(context), o_(o), tokens_(tokens), rng_(o.seed) {
    KvPoolConfig pool_config;
    pool_config.num_layers = 1;
    pool_config.num_kv_heads = o.kv_heads;
    pool_config.head_dim = o.head_dim;
    pool_config.block_size = o.page;
    pool_config.moba_block_size = o.block;
    pool_config.dtype = dtype;
    const std::int64_t pages = (tokens + o.page - 1) / o.page;
    pool_ = std::make_unique<KvPool>(Device{}, pool_config, pages);
    pages_.resize(static_cast<std::size_t>(pages));
    std::iota(pages_.begin(), pages_.end(), 0);
    std::shuffle(pages_.begin(), pages_.end(), rng_);

    config_.num_layers = 2;  // 0: MoBA, 1: full
    config_.num_q_heads = o.q_heads;
    config_.num_kv_heads = o.kv_heads;
    config_.head_dim = o.head_dim;
    config_.block_size = o.page;
    config_.moba_block_size = o.block;
    config_.softmax_scale = 1.0F / std::sqrt(static_cast<float>(o.head_dim));
    config_.dtype = dtype;
    config_.max_num_batched_tokens = o.chunk;
    config_.max_num_seqs = 1;
    config_.max_model_len = tokens;
    backend_ = create_attention_backend(context, config_);

    q_ = Tensor(dtype, {o.chunk, o.q_heads, o.head_dim}, Device{}, "q");
    out_ = Tensor(dtype, {o.chunk, o.q_heads, o.head_dim}, Device{}, "out");
    fill(q_.view(), 1, 0);
    for (std::int64_t begin = 0; begin < tokens; begin += o.chunk) store(begin);
  }

  const AttentionConfig& config() const { return config_; }
  AttentionBackend& backend() { return *backend_; }

  // The queries [begin, begin + count) are planned next.
  void plan(std::int64_t begin, std::int64_t count) {
    cu_seqlens_q_ = {0, static_cast<std::int32_t>(count)};
    seq_lens_ = {static_cast<std::int32_t>(begin + count)};
    topk_ = {o_.topk, 0};
    metadata_.num_seqs = 1;
    metadata_.cu_seqlens_q = cu_seqlens_q_;
    metadata_.seq_lens = seq_lens_;
    metadata_.block_tables = pages_;
    metadata_.max_blocks_per_seq = static_cast<int>(pages_.size());
    metadata_.moba_topk = topk_;
    backend_->plan(metadata_);
  }

  double time_run(bool full) {
    const std::int64_t count = cu_seqlens_q_[1];
    const TensorView q = q_.view().rows(0, count);
    const TensorView out = out_.view().rows(0, count);
    const double start = o_.clock();
    backend_->run(full ? 1 : 0, q, pool_->layer(0), out);
    return o_.clock() - start;
  }

  // The gate of the planned queries alone.
  double time_gate(const cpu::Workspace& workspace) {
    const cpu::WorkPlan plan = cpu::make_work_plan(
        config_, metadata_, topk_.data(), workspace.limits(), context_.pool().num_threads());
    cpu::LayerRun run{};
    run.kernels = cpu::attention_kernels(context_.isa());
    run.cache = &pool_->layer(0);
    run.q = q_.view().raw();
    run.out = out_.view().raw();
    run.num_q_heads = o_.q_heads;
    run.softmax_scale = config_.softmax_scale;
    const double start = o_.clock();
    context_.pool().parallel_for(static_cast<std::int64_t>(plan.items.size()), [&](std::int64_t i,
                                                                                   int thread) {
      const cpu::WorkItem& item = plan.items[static_cast<std::size_t>(i)];
      if (item.topk == 0) return;
      cpu::load_queries(run, item.span, workspace.thread(thread));
      cpu::choose_blocks(run, item.span, item.topk, workspace.limits(), workspace.thread(thread));
    });
    return o_.clock() - start;
  }

 private:
  // Sums of uniform numbers, near enough to normal, plus a mean for each `run` rows.
  void fill(const TensorView& x, float scale, int run) {
    const std::int64_t row = x.dim(1) * x.dim(2);
    std::vector<float> mean(static_cast<std::size_t>(row), 0.0F);
    const auto next = [&] {
      const std::uint32_t a = rng_();
      return (static_cast<float>(a & 0xffffU) + static_cast<float>(a >> 16)) / 65536.0F - 1.0F;
    };
    for (std::int64_t r = 0; r < x.dim(0); ++r) {
      if (run > 0 && r % run == 0) {
        for (float& m : mean) m = next();
      }
      for (std::int64_t i = 0; i < row; ++i) {
        const float value = 2.4F * scale * next() + mean[static_cast<std::size_t>(i)];
        if (x.dtype() == DType::kBFloat16) {
          x.data<BFloat16>()[r * row + i] = static_cast<BFloat16>(value);
        } else {
          x.data<float>()[r * row + i] = value;
        }
      }
    }
  }

  void store(std::int64_t begin) {
    const std::int64_t count = std::min<std::int64_t>(o_.chunk, tokens_ - begin);
    Tensor k(config_.dtype, {count, o_.kv_heads, o_.head_dim}, Device{}, "k");
    Tensor v(config_.dtype, {count, o_.kv_heads, o_.head_dim}, Device{}, "v");
    fill(k.view(), 1, o_.block);
    fill(v.view(), 1, 0);
    KvWritePlan plan;
    plan.append(pages_, begin, count, o_.page, o_.block);
    store_kv(context_, k, v, plan, pool_->layer(0));
  }

  DeviceContext& context_;
  const Options& o_;
  std::int64_t tokens_;
  std::mt19937 rng_;
  AttentionConfig config_;
  std::unique_ptr<KvPool> pool_;
  std::vector<std::int32_t> pages_;
  std::unique_ptr<AttentionBackend> backend_;
  Tensor q_, out_;
  AttentionMetadata metadata_;
  std::vector<std::int32_t> cu_seqlens_q_, seq_lens_, topk_;
};

// Query-key pairs of all query heads for the queries [0, tokens).
double full_pairs(const Options& o, std::int64_t tokens) {
  return o.q_heads * 0.5 * static_cast<double>(tokens) * static_cast<double>(tokens + 1);
}

double moba_pairs(const Options& o, std::int64_t tokens) {
  double pairs = 0;
  for (std::int64_t p = 0; p < tokens; ++p) {
    const std::int64_t past = std::min<std::int64_t>(p / o.block, o.topk - 1);
    pairs += static_cast<double>(past * o.block + p % o.block + 1);
  }
  return pairs * o.q_heads;
}

double gate_pairs(const Options& o, std::int64_t tokens) {
  double pairs = 0;
  for (std::int64_t p = std::int64_t{o.topk} * o.block; p < tokens; ++p) {
    pairs += static_cast<double>(p / o.block);
  }
  return pairs * o.q_heads;
}

void bench_prefill(DeviceContext& context, const Options& o, DType dtype, std::int64_t tokens,
                   double peak) {
  Layer layer(context, o, dtype, tokens);
  const cpu::Workspace gate_workspace(layer.config(), context.pool().num_threads());
  const bool with_full = tokens <= o.full_up_to;
  double full = 0;
  double moba = 0;
  double gate = 0;
  const auto best_of = [](int repeats, const auto& time) {
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i < repeats; ++i) best = std::min(best, time());
    return best;
  };
  for (std::int64_t begin = 0; begin < tokens; begin += o.chunk) {
    layer.plan(begin, std::min<std::int64_t>(o.chunk, tokens - begin));
    if (with_full) {
      full += best_of(tokens > 40000 ? 1 : o.repeats, [&] { return layer.time_run(true); });
    }
    moba += best_of(o.repeats, [&] { return layer.time_run(false); });
    gate += best_of(o.repeats, [&] { return layer.time_gate(gate_workspace); });
  }
  const double d = o.head_dim;
  const double full_rate = 4 * d * full_pairs(o, tokens) / full;
  const double moba_rate = 4 * d * moba_pairs(o, tokens) / moba;
  const double attended_rate = 4 * d * moba_pairs(o, tokens) / (moba - gate);
  const double gate_rate = 2 * d * gate_pairs(o, tokens) / gate;
  std::printf("%-9s %7lld", std::string(dtype_name(dtype)).c_str(), static_cast<long long>(tokens));
  if (with_full) {
    std::printf("  full %10.1f ms %6.1f GFLOP/s (%2.0f%%)", full * 1e3, full_rate / 1e9,
                100 * full_rate / peak);
  }
  std::printf("  moba %8.1f ms %6.1f GFLOP/s (%2.0f%%; without gate %2.0f%%)", moba * 1e3,
              moba_rate / 1e9, 100 * moba_rate / peak, 100 * attended_rate / peak);
  std::printf("  gate %2.0f%% of it, %5.1f GFLOP/s (%2.0f%%)", 100 * gate / moba, gate_rate / 1e9,
              100 * gate_rate / peak);
  if (with_full) std::printf("  full/moba %5.1fx", full / moba);
  std::printf("\n");
  std::fflush(stdout);
}

void bench_decode(DeviceContext& context, const Options& o, DType dtype, std::int64_t tokens,
                  double bandwidth) {
  Layer layer(context, o, dtype, tokens);
  layer.plan(tokens - 1, 1);
  std::vector<double> full;
  std::vector<double> moba;
  for (int i = 0; i < 5 + 10 * o.repeats; ++i) {
    full.push_back(layer.time_run(true));
    moba.push_back(layer.time_run(false));
  }
  const double bytes = 2.0 * static_cast<double>(tokens) * o.kv_heads * o.head_dim *
                       static_cast<double>(dtype_size(dtype));
  const double rate = bytes / median(full);
  std::printf("%-9s %7lld  full %9.1f us %6.2f GB/s (%3.0f%% of read bandwidth)  moba %8.1f us\n",
              std::string(dtype_name(dtype)).c_str(), static_cast<long long>(tokens),
              median(full) * 1e6, rate / 1e9, 100 * rate / bandwidth, median(moba) * 1e6);
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  refuse_debug_build();
  const Options o = parse(argc, argv);
  DeviceContext context(o.threads);
  print_environment(context);
  const double peak = fma_peak(context, o.clock);
  const double bandwidth = read_bandwidth(context, std::size_t{512} << 20);
  std::printf("# fma peak    %.1f GFLOP/s, read bandwidth %.1f GB/s\n", peak / 1e9,
              bandwidth / 1e9);
  std::printf(
      "# layer       %d query heads, %d KV heads of %d, MoBA blocks of %d, top %d, pages of "
      "%d; seed %u\n",
      o.q_heads, o.kv_heads, o.head_dim, o.block, o.topk, o.page, o.seed);
  std::printf("# prefill in chunks of %d\n", o.chunk);
  for (const DType dtype : o.dtypes) {
    for (const std::int64_t tokens : o.tokens) bench_prefill(context, o, dtype, tokens, peak);
  }
  std::printf("# decode of one token\n");
  for (const DType dtype : o.dtypes) {
    for (const std::int64_t tokens : o.tokens) bench_decode(context, o, dtype, tokens, bandwidth);
  }
  return 0;
}

}  // namespace
}  // namespace moba::bench

int main(int argc, char** argv) {
  try {
    return moba::bench::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "attention_bench: %s\n", e.what());
    return 1;
  }
}
