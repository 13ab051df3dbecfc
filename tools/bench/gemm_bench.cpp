// Speed of linear() beside oneDNN and OpenBLAS: same machine, threads, shapes and run.
//
//   gemm_bench [--threads N] [--repeats N] [--shape MxKxN]... [--dtype float32|bfloat16]
//              [--isa generic|avx2|avx512|avx512_bf16]
//
// GFLOP/s is 2 m n k / median time; GB/s counts the weights once. The libraries multiply in the
// weights' dtype where they can on this processor; beside bfloat16 weights the float32 products
// are shown as well (on float copies: twice the memory).
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "device/check.h"
#include "device/context.h"
#include "device/gemm.h"
#include "tools/bench/bench_common.h"
#include "tools/bench/gemm_libraries.h"

namespace moba::bench {
namespace {

constexpr unsigned kSeed = 1;
constexpr std::size_t kBandwidthBytes = std::size_t{512} << 20;

struct ProductShape {
  std::int64_t m, k, n;
};

struct Options {
  int threads = 0;
  int repeats = 9;
  cpu::Isa isa = cpu::best_isa();
  std::vector<ProductShape> shapes;
  std::vector<DType> dtypes;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    MOBA_CHECK(i + 1 < argc, flag, ": no value");
    const std::string value = argv[i + 1];
    if (flag == "--threads") {
      options.threads = std::stoi(value);
    } else if (flag == "--repeats") {
      options.repeats = std::stoi(value);
    } else if (flag == "--shape") {
      ProductShape s{};
      MOBA_CHECK(std::sscanf(value.c_str(), "%ldx%ldx%ld", &s.m, &s.k, &s.n) == 3 && s.m > 0 &&
                     s.k > 0 && s.n > 0,
                 "--shape ", value, " is not MxKxN");
      options.shapes.push_back(s);
    } else if (flag == "--dtype") {
      MOBA_CHECK(value == "float32" || value == "bfloat16", "--dtype ", value);
      options.dtypes.push_back(value == "float32" ? DType::kFloat32 : DType::kBFloat16);
    } else if (flag == "--isa") {
      const std::vector<cpu::Isa> isas = cpu::available_isas();
      const auto found = std::find_if(isas.begin(), isas.end(),
                                      [&](cpu::Isa isa) { return value == cpu::isa_name(isa); });
      MOBA_CHECK(found != isas.end(), "--isa ", value, ": not on this processor");
      options.isa = *found;
    } else {
      throw Error(concat("unknown option ", flag));
    }
  }
  if (options.shapes.empty()) {
    options.shapes = {{512, 576, 1536}, {512, 576, 49152}, {2048, 384, 1024}, {512, 4096, 14336},
                      {8, 4096, 14336}, {1, 576, 49152},   {1, 4096, 14336}};
  }
  if (options.dtypes.empty()) options.dtypes = {DType::kFloat32, DType::kBFloat16};
  return options;
}

Tensor random_matrix(std::int64_t rows, std::int64_t columns, unsigned seed) {
  Tensor tensor(DType::kFloat32, {rows, columns}, Device{}, "benchmark data");
  std::minstd_rand random(seed);
  std::uniform_real_distribution<float> uniform(-1.0F, 1.0F);
  auto* data = tensor.view().data<float>();
  for (std::int64_t i = 0; i < rows * columns; ++i) data[i] = uniform(random);
  return tensor;
}

Tensor to_bf16(const Tensor& from) {
  Tensor to(DType::kBFloat16, from.view().shape(), Device{}, "benchmark data");
  const auto* in = from.view().data<float>();
  auto* out = to.view().data<BFloat16>();
  for (std::int64_t i = 0; i < from.view().num_elements(); ++i) out[i] = BFloat16(in[i]);
  return to;
}

void run_shape(DeviceContext& context, const Options& options, const ProductShape& s, DType dtype,
               double bandwidth) {
  const int threads = context.pool().num_threads();
  const Tensor x = random_matrix(s.m, s.k, kSeed);
  const Tensor weight = random_matrix(s.n, s.k, kSeed + 1);
  const Tensor out(DType::kFloat32, {s.m, s.n}, Device{}, "benchmark output");
  const Tensor library_out(DType::kFloat32, {s.m, s.n}, Device{}, "benchmark output");
  std::vector<Candidate> candidates;
  std::vector<LibraryProduct> libraries =
      float_products(x.view().data<float>(), weight.view().data<float>(),
                     library_out.view().data<float>(), s.m, s.n, s.k, threads);
  Tensor x16;
  Tensor weight16;
  LinearTask task{weight, {}, out};
  TensorView input = x;
  if (dtype == DType::kBFloat16) {
    x16 = to_bf16(x);
    weight16 = to_bf16(weight);
    task.weight = weight16;
    input = x16;
    for (LibraryProduct& library : libraries) library.name += " (float32)";
    auto more = bf16_products(static_cast<const std::uint16_t*>(x16.view().raw()),
                              static_cast<const std::uint16_t*>(weight16.view().raw()),
                              library_out.view().data<float>(), s.m, s.n, s.k, threads);
    libraries.insert(libraries.end(), more.begin(), more.end());
  }
  candidates.push_back({"linear", [&] { linear(context, input, std::array{task}); }, {}});
  for (LibraryProduct& library : libraries) {
    candidates.push_back({library.name, std::move(library.run), {}});
  }
  measure(candidates, options.repeats);

  const double flops =
      2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k);
  const double bytes = static_cast<double>(task.weight.num_bytes());
  std::printf("\n%ld x %ld x %ld, weights %s\n", s.m, s.k, s.n,
              std::string(dtype_name(dtype)).c_str());
  const double ours = median(candidates.front().seconds);
  for (const Candidate& candidate : candidates) {
    const double seconds = median(candidate.seconds);
    const bool same_bytes = candidate.name.find("(float32)") == std::string::npos;
    const double read = same_bytes ? bytes : 2 * bytes;
    std::printf("  %-24s %9.3f ms %8.1f GFLOP/s %7.2f GB/s (%3.0f%% of read bandwidth)",
                candidate.name.c_str(), seconds * 1e3, flops / seconds * 1e-9,
                read / seconds * 1e-9, read / seconds / bandwidth * 100);
    if (&candidate != &candidates.front()) std::printf("  linear is %.2fx", seconds / ours);
    std::printf("\n");
  }
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  refuse_debug_build();
  const Options options = parse(argc, argv);
  DeviceContext context(options.threads, options.isa);
  print_environment(context);
  const double bandwidth = read_bandwidth(context, kBandwidthBytes);
  std::printf("# bandwidth   %.2f GB/s read, %zu MiB\n", bandwidth * 1e-9, kBandwidthBytes >> 20);
  std::printf("# repeats     %d in turn, medians; seed %u\n", options.repeats, kSeed);
  for (const DType dtype : options.dtypes) {
    for (const ProductShape& s : options.shapes) run_shape(context, options, s, dtype, bandwidth);
  }
  return 0;
}

}  // namespace
}  // namespace moba::bench

int main(int argc, char** argv) {
  try {
    return moba::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gemm_bench: %s\n", error.what());
    return 1;
  }
}
