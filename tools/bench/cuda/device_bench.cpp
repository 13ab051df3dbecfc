// device_bench: the operations of a decode step and of a prompt on a CUDA device, each beside what
// its bytes or its arithmetic cost at best. Shapes are those of a transformer layer.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "device/copy.h"
#include "device/cuda/cuda_context.h"
#include "device/gemm.h"
#include "device/ops.h"
#include "kvcache/kv_pool.h"
#include "kvcache/rope_and_store.h"
#include "tools/bench/bench_common.h"

namespace moba::bench {
namespace {

struct LayerShape {
  const char* name;
  std::int64_t hidden;
  std::int64_t intermediate;
  int num_q_heads;
  int num_kv_heads;
  int head_dim;
  std::int64_t vocab;
};

constexpr std::array<LayerShape, 3> kShapes = {{
    {"8b", 4096, 14336, 32, 8, 128, 128256},
    {"1b", 2048, 8192, 32, 8, 64, 128256},
    {"smollm2-135m", 576, 1536, 9, 3, 64, 49152},
}};

constexpr unsigned kSeed = 1;

class Bench {
 public:
  Bench(DeviceContext& context, int repeats)
      : context_(context),
        repeats_(repeats),
        flush_(DType::kFloat32, {static_cast<std::int64_t>(context.cuda()->l2_bytes())},
               context.device(), "flush") {}

  // Median seconds on the device, its second-level cache flushed before each run.
  double seconds(const std::function<void()>& body) {
    cuda::Context& gpu = *context_.cuda();
    body();
    std::vector<double> times;
    for (int i = 0; i < repeats_; ++i) {
      fill_bytes(context_, flush_, static_cast<unsigned char>(i));
      start_.record(gpu.stream());
      body();
      end_.record(gpu.stream());
      end_.synchronize();
      times.push_back(1e-3 * static_cast<double>(end_.since(start_)));
    }
    return median(times);
  }

  void report(const std::string& name, double bytes, double flops,
              const std::function<void()>& body) {
    const double t = seconds(body);
    std::printf("%-44s %10.2f us %9.1f GB/s %8.1f TFLOP/s\n", name.c_str(), 1e6 * t,
                1e-9 * bytes / t, 1e-12 * flops / t);
  }

  // Random numbers in (-1, 1), the same ones over and over: with constant data a device draws less
  // power and runs faster.
  Tensor tensor(DType dtype, const Shape& shape) {
    Tensor t(dtype, shape, context_.device(), "benchmark data");
    const std::vector<BFloat16>& random = random_numbers();
    const auto piece = static_cast<std::int64_t>(random.size());
    // Pairs of them are numbers of that range as float32 too.
    const std::int64_t count = static_cast<std::int64_t>(t.view().num_bytes() / sizeof(BFloat16));
    const TensorView all(t.view().raw(), DType::kBFloat16, {count}, context_.device());
    for (std::int64_t first = 0; first < count; first += piece) {
      const std::int64_t size = std::min(piece, count - first);
      copy_to_device(context_,
                     TensorView(const_cast<BFloat16*>(random.data()), DType::kBFloat16, {size}),
                     all.rows(first, first + size));
    }
    context_.synchronize();
    return t;
  }

  DeviceContext& context() { return context_; }

 private:
  const std::vector<BFloat16>& random_numbers() {
    if (random_.empty()) {
      std::mt19937 random(kSeed);
      std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
      for (int i = 0; i < (1 << 22) + 64; ++i) random_.emplace_back(uniform(random));
    }
    return random_;
  }

  DeviceContext& context_;
  int repeats_;
  Tensor flush_;
  std::vector<BFloat16> random_;
  cuda::Event start_{true};
  cuda::Event end_{true};
};

void bench_copy(Bench& bench) {
  const std::int64_t words = std::int64_t{256} << 20;
  const Tensor from = bench.tensor(DType::kFloat32, {words});
  const Tensor to = bench.tensor(DType::kFloat32, {words});
  const double bytes = 4.0 * static_cast<double>(words);
  bench.report("device copy, 1 GiB", 2 * bytes, 0, [&] {
    MOBA_CUDA_CHECK(cudaMemcpyAsync(to.view().raw(), from.view().raw(), from.view().num_bytes(),
                                    cudaMemcpyDeviceToDevice, bench.context().cuda()->stream()));
  });
}

void bench_linear(Bench& bench, const std::string& name, std::int64_t n, std::int64_t k,
                  const std::vector<std::int64_t>& rows, DType out_dtype) {
  const Tensor weight = bench.tensor(DType::kBFloat16, {n, k});
  for (const std::int64_t m : rows) {
    const Tensor x = bench.tensor(DType::kBFloat16, {m, k});
    const Tensor out = bench.tensor(out_dtype, {m, n});
    const std::array<LinearTask, 1> task{{{weight, {}, out}}};
    const double bytes =
        2.0 * static_cast<double>(n * k + m * k) + static_cast<double>(out.view().num_bytes());
    bench.report(name + " m=" + std::to_string(m), bytes, 2.0 * static_cast<double>(m * n * k),
                 [&] { linear(bench.context(), x, task); });
  }
}

void bench_small(Bench& bench, const LayerShape& s, std::int64_t tokens) {
  DeviceContext& context = bench.context();
  const std::string suffix = std::string(" ") + s.name + " tokens=" + std::to_string(tokens);
  const Tensor x = bench.tensor(DType::kBFloat16, {tokens, s.hidden});
  const Tensor out = bench.tensor(DType::kBFloat16, {tokens, s.hidden});
  const Tensor weight = bench.tensor(DType::kBFloat16, {s.hidden});
  bench.report("rms_norm" + suffix, 4.0 * static_cast<double>(tokens * s.hidden), 0,
               [&] { rms_norm(context, x, weight, 1e-5F, out); });
  const Tensor both = bench.tensor(DType::kBFloat16, {tokens, 2 * s.intermediate});
  const TensorView gate = both.view().columns(0, s.intermediate);
  const TensorView up = both.view().columns(s.intermediate, 2 * s.intermediate);
  bench.report("silu_mul" + suffix, 6.0 * static_cast<double>(tokens * s.intermediate), 0,
               [&] { silu_mul(context, gate, up, gate); });

  constexpr int kPage = 64;
  constexpr int kMobaBlock = 512;
  const std::int64_t num_pages = tokens / kPage + 2;
  KvPool pool(context.device(),
              {1, s.num_kv_heads, s.head_dim, kPage, kMobaBlock, DType::kBFloat16}, num_pages);
  KvWritePlan plan;
  std::vector<std::int32_t> table;
  for (std::int64_t i = 0; i < num_pages; ++i) table.push_back(static_cast<std::int32_t>(i));
  plan.append(table, 0, tokens, kPage, kMobaBlock);
  const KvWriteSlots host = slots_of(plan, kMobaBlock / kPage);
  const Tensor mapping(DType::kInt64, host.slot_mapping.shape(), context.device(), "slots");
  const Tensor blocks(DType::kInt32, host.completed_blocks.shape(), context.device(), "slots");
  copy_to_device(context, host.slot_mapping, mapping);
  copy_to_device(context, host.completed_blocks, blocks);
  std::vector<std::int32_t> rows;
  for (std::int64_t i = 0; i < tokens; ++i) rows.push_back(static_cast<std::int32_t>(i));
  const Tensor positions(DType::kInt32, {tokens}, context.device(), "rows");
  copy_to_device(context, TensorView(rows.data(), DType::kInt32, {tokens}), positions);
  const Tensor cos_sin = bench.tensor(DType::kFloat32, {tokens, s.head_dim});
  const std::int64_t q_size = std::int64_t{s.num_q_heads} * s.head_dim;
  const std::int64_t kv_size = std::int64_t{s.num_kv_heads} * s.head_dim;
  const Tensor qkv = bench.tensor(DType::kBFloat16, {tokens, q_size + 2 * kv_size});
  const Tensor q_out = bench.tensor(DType::kBFloat16, {tokens, s.num_q_heads, s.head_dim});
  const auto part = [&](std::int64_t first, int heads) {
    return qkv.view()
        .columns(first, first + std::int64_t{heads} * s.head_dim)
        .reshape({tokens, heads, s.head_dim});
  };
  const ProjectedHeads heads{part(0, s.num_q_heads),
                             part(q_size, s.num_kv_heads),
                             part(q_size + kv_size, s.num_kv_heads),
                             {},
                             {},
                             1e-5F,
                             positions,
                             cos_sin};
  bench.report("rope_and_store" + suffix,
               4.0 * static_cast<double>(tokens * (q_size + 2 * kv_size)), 0, [&] {
                 rope_and_store(context, heads, {mapping, blocks}, pool.layer(0), q_out);
               });
}

int run(const std::vector<std::string>& names, int repeats) {
  refuse_debug_build();
  DeviceContext context({DeviceType::kCuda, 0}, 1);
  print_environment(context);
  const DeviceInfo& info = context.cuda()->info();
  std::printf("# device      %s, compute capability %d.%d, driver CUDA %s, built with CUDA %s\n",
              info.name.c_str(), info.compute_major, info.compute_minor, info.driver.c_str(),
              info.runtime.c_str());
  std::printf("# seed        %u\n", kSeed);
  std::printf("# repeats     %d, medians; second-level cache flushed before each\n\n", repeats);
  Bench bench(context, repeats);
  bench_copy(bench);
  for (const LayerShape& s : kShapes) {
    if (std::find(names.begin(), names.end(), s.name) == names.end()) continue;
    const std::string prefix = std::string(s.name) + " ";
    const std::int64_t q_size = std::int64_t{s.num_q_heads} * s.head_dim;
    const std::int64_t kv_size = std::int64_t{s.num_kv_heads} * s.head_dim;
    const std::vector<std::int64_t> rows = {1, 2, 4, 8, 9, 16, 32, 64, 128, 256, 2048, 8192};
    const std::vector<std::int64_t> few = {1, 2, 4, 8, 9, 16, 64};
    std::printf("\n");
    bench_linear(bench, prefix + "qkv", q_size + 2 * kv_size, s.hidden, rows, DType::kBFloat16);
    bench_linear(bench, prefix + "o", s.hidden, q_size, rows, DType::kBFloat16);
    bench_linear(bench, prefix + "gate up", 2 * s.intermediate, s.hidden, rows, DType::kBFloat16);
    bench_linear(bench, prefix + "down", s.hidden, s.intermediate, rows, DType::kBFloat16);
    bench_linear(bench, prefix + "logits", s.vocab, s.hidden, few, DType::kFloat32);
    for (const std::int64_t tokens : {1, 64, 8192}) bench_small(bench, s, tokens);
  }
  return 0;
}

}  // namespace
}  // namespace moba::bench

// device_bench [--repeats N] [shape...]: shapes 8b, 1b, smollm2-135m; 8b if none is named.
int main(int argc, char** argv) {
  std::vector<std::string> names;
  int repeats = 20;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--repeats") == 0 && i + 1 < argc) {
      repeats = std::max(1, std::atoi(argv[++i]));
    } else {
      names.emplace_back(argv[i]);
    }
  }
  if (names.empty()) names.emplace_back("8b");
  try {
    return moba::bench::run(names, repeats);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "device_bench: %s\n", error.what());
    return 1;
  }
}
