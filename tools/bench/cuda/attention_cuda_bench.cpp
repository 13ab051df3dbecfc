// One attention layer on a CUDA device: prefill of whole prompts and decode, full and MoBA, with
// the time of each stage.
//
//   attention_cuda_bench [--mode prefill|decode] [--tokens N,...] [--pairs B/K,...] [--heads Q/KV]
//                        [--head-dim N] [--page N] [--dtype bfloat16|float16] [--batch N,...]
//                        [--kernels best|sm80|row] [--partial-mib N] [--repeats N] [--seed N]
//                        [--json FILE]
//
// A pair 0/0 is full attention. Decode adds one token to each of `batch` sequences of N tokens.
// The L2 cache is flushed before every repeat; the figures are medians. TFLOP/s counts 4 x head_dim
// for each attended query-key pair, masked ones not; GB/s the keys, values and centroids that must
// be read once, for decode with MoBA as if every query head chose other blocks (an upper bound).
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "attention/cuda/cuda_attention_backend.h"
#include "device/check.h"
#include "device/cuda/cuda_check.h"
#include "device/cuda/cuda_context.h"
#include "tools/bench/bench_common.h"
#include "tools/bench/cuda/attention_cuda_data.h"

namespace moba::bench {
namespace {

using cuda::KernelChoice;

struct Options {
  bool decode = false;
  std::vector<std::int64_t> tokens{8192, 32768, 131072};
  std::vector<std::pair<int, int>> pairs{{128, 0}, {128, 8}, {512, 8}, {2048, 3}, {4096, 12}};
  int q_heads = 32;
  int kv_heads = 8;
  int head_dim = 128;
  int page = 128;
  DType dtype = DType::kBFloat16;
  std::vector<std::int64_t> batch{1};
  KernelChoice kernels = KernelChoice::kBest;
  std::int64_t partial_mib = 1024;
  int repeats = 5;
  unsigned seed = 1;
  std::string json;
};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) parts.push_back(part);
  return parts;
}

std::pair<int, int> parse_pair(const std::string& text) {
  const auto parts = split(text, '/');
  MOBA_CHECK(parts.size() == 2, text, " is not of the form A/B");
  return {std::stoi(parts[0]), std::stoi(parts[1])};
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    MOBA_CHECK(i + 1 < argc, flag, ": no value");
    const std::string value = argv[i + 1];
    const auto numbers = [&] {
      std::vector<std::int64_t> result;
      for (const std::string& part : split(value, ',')) result.push_back(std::stoll(part));
      return result;
    };
    if (flag == "--mode") {
      MOBA_CHECK(value == "prefill" || value == "decode", "--mode ", value);
      o.decode = value == "decode";
    } else if (flag == "--tokens") {
      o.tokens = numbers();
    } else if (flag == "--pairs") {
      o.pairs.clear();
      for (const std::string& part : split(value, ',')) o.pairs.push_back(parse_pair(part));
    } else if (flag == "--heads") {
      std::tie(o.q_heads, o.kv_heads) = parse_pair(value);
    } else if (flag == "--head-dim") {
      o.head_dim = std::stoi(value);
    } else if (flag == "--page") {
      o.page = std::stoi(value);
    } else if (flag == "--dtype") {
      MOBA_CHECK(value == "bfloat16" || value == "float16", "--dtype ", value);
      o.dtype = value == "bfloat16" ? DType::kBFloat16 : DType::kFloat16;
    } else if (flag == "--batch") {
      o.batch = numbers();
    } else if (flag == "--kernels") {
      MOBA_CHECK(value == "best" || value == "sm80" || value == "row", "--kernels ", value);
      o.kernels = value == "best"   ? KernelChoice::kBest
                  : value == "sm80" ? KernelChoice::kSm80
                                    : KernelChoice::kRow;
    } else if (flag == "--partial-mib") {
      o.partial_mib = std::stoll(value);
    } else if (flag == "--repeats") {
      o.repeats = std::stoi(value);
    } else if (flag == "--seed") {
      o.seed = static_cast<unsigned>(std::stoul(value));
    } else if (flag == "--json") {
      o.json = value;
    } else {
      throw Error(concat("unknown option ", flag));
    }
  }
  return o;
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

struct Result {
  std::string mode;
  std::int64_t tokens;
  std::int64_t batch;
  int block;
  int topk;
  std::map<std::string, double> ms;
  double tflops;
  double gbps;
  double copy_gbps = 0;  // decode: of a copy within the device that moves as many bytes
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

class Bench {
 public:
  Bench(DeviceContext& context, const Options& options)
      : context_(context), o_(options), flush_(device_buffer(context, std::int64_t{256} << 20)) {
    MOBA_CUDA_CHECK(cudaMemset(flush_.data(), 0, flush_.size()));
  }

  Result measure(std::int64_t tokens, std::int64_t batch, int block, int topk) {
    const cudaStream_t stream = context_.cuda()->stream();
    const std::int64_t bytes = static_cast<std::int64_t>(dtype_size(o_.dtype));
    const std::int64_t pages_a_seq = (tokens + o_.page - 1) / o_.page;
    const std::int64_t num_pages = pages_a_seq * batch;
    PagedKvView cache;
    cache.dtype = o_.dtype;
    cache.num_pages = num_pages;
    cache.num_kv_heads = o_.kv_heads;
    cache.block_size = o_.page;
    cache.moba_block_size = std::max(block, o_.page);
    cache.head_dim = o_.head_dim;
    const std::int64_t kv = num_pages * cache.page_stride();
    const std::int64_t centroids = num_pages * o_.kv_heads * o_.head_dim;
    const std::int64_t queries = o_.decode ? batch : tokens * batch;
    const std::int64_t elements = queries * o_.q_heads * o_.head_dim;
    const Buffer k = device_buffer(context_, kv * bytes);
    const Buffer v = device_buffer(context_, kv * bytes);
    const Buffer c = device_buffer(context_, centroids * bytes);
    const Buffer q = device_buffer(context_, elements * bytes);
    const Buffer out = device_buffer(context_, elements * bytes);
    cache.k = k.data();
    cache.v = v.data();
    cache.centroids = c.data();
    fill_normal(k.data(), kv, o_.dtype, o_.seed, stream);
    fill_normal(v.data(), kv, o_.dtype, o_.seed + 1, stream);
    fill_normal(q.data(), elements, o_.dtype, o_.seed + 2, stream);
    std::vector<std::int32_t> tables(static_cast<std::size_t>(num_pages));
    std::iota(tables.begin(), tables.end(), 0);
    std::mt19937 rng(o_.seed);
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
    config.num_q_heads = o_.q_heads;
    config.num_kv_heads = o_.kv_heads;
    config.head_dim = o_.head_dim;
    config.block_size = o_.page;
    config.moba_block_size = cache.moba_block_size;
    config.softmax_scale = 1.0F / std::sqrt(static_cast<float>(o_.head_dim));
    config.dtype = o_.dtype;
    config.max_num_batched_tokens = static_cast<int>(queries);
    config.max_num_seqs = static_cast<int>(batch);
    config.max_model_len = tokens;
    StageTimes times(stream);
    cuda::CudaAttentionOptions attention;
    attention.kernels = o_.kernels;
    attention.max_partial_bytes = o_.partial_mib << 20;
    attention.observer = &times;
    auto backend = create_cuda_attention_backend(context_, config, attention);

    std::vector<std::int32_t> cu_seqlens_q(static_cast<std::size_t>(batch) + 1);
    for (std::size_t s = 0; s < cu_seqlens_q.size(); ++s) {
      cu_seqlens_q[s] =
          static_cast<std::int32_t>(static_cast<std::int64_t>(s) * (o_.decode ? 1 : tokens));
    }
    const std::vector<std::int32_t> seq_lens(static_cast<std::size_t>(batch),
                                             static_cast<std::int32_t>(tokens));
    const std::vector<std::int32_t> topks(static_cast<std::size_t>(batch), topk);
    AttentionMetadata metadata;
    metadata.num_seqs = static_cast<int>(batch);
    metadata.cu_seqlens_q = cu_seqlens_q;
    metadata.seq_lens = seq_lens;
    metadata.block_tables = tables;
    metadata.max_blocks_per_seq = static_cast<int>(pages_a_seq);
    metadata.moba_topk = topks;
    backend->plan(metadata);
    const Shape shape{queries, o_.q_heads, o_.head_dim};
    const TensorView q_view(q.data(), o_.dtype, shape, context_.device());
    const TensorView out_view(out.data(), o_.dtype, shape, context_.device());

    std::map<std::string, std::vector<double>> all;
    for (int i = 0; i < o_.repeats + 1; ++i) {
      read_all(flush_.data(), static_cast<std::int64_t>(flush_.size()), flush_.data(), stream);
      times.begin();
      backend->run(0, q_view, cache, out_view);
      for (const auto& [stage, ms] : times.end()) {
        if (i > 0) all[stage].push_back(ms);
      }
    }
    Result r{o_.decode ? "decode" : "prefill",
             tokens,
             batch,
             topk == 0 ? 0 : cache.moba_block_size,
             topk,
             {},
             0,
             0};
    for (const auto& [stage, values] : all) r.ms[stage] = median(values);
    const double seconds = r.ms["total"] * 1e-3;
    const double pairs =
        static_cast<double>(batch) *
        attended_pairs(o_.decode ? tokens - 1 : 0, tokens, cache.moba_block_size, topk);
    r.tflops = 4.0 * o_.head_dim * o_.q_heads * pairs / seconds * 1e-12;
    const bool sparse = topk > 0 && (tokens - 1) / cache.moba_block_size >= topk;
    double read = static_cast<double>(batch) * static_cast<double>(tokens) * 2 * o_.kv_heads *
                  o_.head_dim * static_cast<double>(bytes);
    if (sparse) {
      const double heads =
          std::min<double>(o_.q_heads, static_cast<double>(o_.kv_heads) *
                                           (static_cast<double>(tokens) / cache.moba_block_size));
      read =
          static_cast<double>(batch) * (2.0 * static_cast<double>(bytes) * o_.head_dim *
                                            (heads * (topk - 1) * cache.moba_block_size +
                                             o_.kv_heads * cache.moba_block_size / 2.0) +
                                        static_cast<double>(tokens) / cache.moba_block_size *
                                            o_.kv_heads * o_.head_dim * static_cast<double>(bytes));
    }
    r.gbps = read / seconds * 1e-9;
    if (o_.decode) r.copy_gbps = copy_bandwidth(read);
    return r;
  }

 private:
  // Reads half of the bytes and writes half.
  double copy_bandwidth(double bytes) {
    const cudaStream_t stream = context_.cuda()->stream();
    const auto half = static_cast<std::int64_t>(bytes / 2);
    const Buffer from = device_buffer(context_, half);
    const Buffer to = device_buffer(context_, half);
    StageTimes times(stream);
    std::vector<double> seconds;
    for (int i = 0; i < o_.repeats + 1; ++i) {
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

  DeviceContext& context_;
  const Options& o_;
  Buffer flush_;
};

void print(const Result& r) {
  std::printf("%-7s n %8lld batch %3lld %5d/%-2d total %9.3f ms %7.1f TFLOP/s %7.1f GB/s |",
              r.mode.c_str(), static_cast<long long>(r.tokens), static_cast<long long>(r.batch),
              r.block, r.topk, r.ms.at("total"), r.tflops, r.gbps);
  for (const auto& [stage, ms] : r.ms) {
    if (stage != "total") std::printf(" %s %.3f", stage.c_str(), ms);
  }
  if (r.copy_gbps > 0) std::printf(" | copy %.1f GB/s", r.copy_gbps);
  std::printf("\n");
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  const Options o = parse(argc, argv);
  refuse_debug_build();
  DeviceContext context(Device{DeviceType::kCuda, 0}, 1);
  const DeviceInfo& info = context.cuda()->info();
  std::printf(
      "# %s, driver %s, runtime %s; heads %d/%d of %d, pages of %d, %s, seed %u, %d repeats\n",
      info.name.c_str(), info.driver.c_str(), info.runtime.c_str(), o.q_heads, o.kv_heads,
      o.head_dim, o.page, std::string(dtype_name(o.dtype)).c_str(), o.seed, o.repeats);
  Bench bench(context, o);
  std::ofstream json;
  if (!o.json.empty()) json.open(o.json, std::ios::app);
  for (const std::int64_t tokens : o.tokens) {
    for (const std::int64_t batch : o.batch) {
      for (const auto& [block, topk] : o.pairs) {
        const Result r = bench.measure(tokens, batch, block, topk);
        print(r);
        if (!json.is_open()) continue;
        json << "{\"mode\": \"" << r.mode << "\", \"device\": \"" << info.name
             << "\", \"q_heads\": " << o.q_heads << ", \"kv_heads\": " << o.kv_heads
             << ", \"head_dim\": " << o.head_dim << ", \"page\": " << o.page
             << ", \"tokens\": " << r.tokens << ", \"batch\": " << r.batch
             << ", \"block\": " << r.block << ", \"topk\": " << r.topk
             << ", \"tflops\": " << r.tflops << ", \"gbps\": " << r.gbps
             << ", \"copy_gbps\": " << r.copy_gbps << ", \"ms\": {";
        const char* comma = "";
        for (const auto& [stage, ms] : r.ms) {
          json << comma << "\"" << stage << "\": " << ms;
          comma = ", ";
        }
        json << "}}\n";
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace moba::bench

int main(int argc, char** argv) {
  try {
    return moba::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "attention_cuda_bench: %s\n", error.what());
    return 1;
  }
}
