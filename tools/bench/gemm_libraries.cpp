#include "tools/bench/gemm_libraries.h"

#include <memory>
#include <unordered_map>
#include <utility>

#if defined(MOBA_BENCH_DNNL)
#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#endif
#if defined(MOBA_BENCH_OPENBLAS)
#include <cblas.h>
#endif

namespace moba::bench {
namespace {

#if defined(MOBA_BENCH_DNNL)
// One matrix product of oneDNN. `packed`: the weights are reordered beforehand to the layout that
// it prefers, a second copy of them; else they are read as they lie.
LibraryProduct dnnl_product(dnnl::memory::data_type type, const void* x, const void* weight,
                            float* out, std::int64_t m, std::int64_t n, std::int64_t k, int threads,
                            bool packed) {
  using dnnl::memory;
  omp_set_num_threads(threads);
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  auto stream = std::make_shared<dnnl::stream>(engine);
  const memory::desc x_desc({m, k}, type, memory::format_tag::ab);
  const memory::desc stored({k, n}, type, memory::format_tag::ba);
  const memory::desc w_desc = packed ? memory::desc({k, n}, type, memory::format_tag::any) : stored;
  const memory::desc out_desc({m, n}, memory::data_type::f32, memory::format_tag::ab);
  const dnnl::matmul::primitive_desc desc({x_desc, w_desc, out_desc}, engine);
  memory x_memory(x_desc, engine, const_cast<void*>(x));
  memory weights(stored, engine, const_cast<void*>(weight));
  if (packed) {
    memory reordered(desc.weights_desc(), engine);
    dnnl::reorder(weights, reordered).execute(*stream, weights, reordered);
    stream->wait();
    weights = reordered;
  }
  memory out_memory(out_desc, engine, out);
  const std::unordered_map<int, memory> arguments = {
      {DNNL_ARG_SRC, x_memory}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, out_memory}};
  return {packed ? "oneDNN packed" : "oneDNN",
          [stream, primitive = dnnl::matmul(desc), arguments, threads] {
            omp_set_num_threads(threads);
            primitive.execute(*stream, arguments);
            stream->wait();
          }};
}

void add_dnnl(std::vector<LibraryProduct>& products, dnnl::memory::data_type type, const void* x,
              const void* weight, float* out, std::int64_t m, std::int64_t n, std::int64_t k,
              int threads) {
  for (const bool packed : {false, true}) {
    try {
      products.push_back(dnnl_product(type, x, weight, out, m, n, k, threads, packed));
    } catch (const dnnl::error&) {
      // Not on this processor.
    }
  }
}
#endif

}  // namespace

std::vector<LibraryProduct> float_products(
    [[maybe_unused]] const float* x, [[maybe_unused]] const float* weight,
    [[maybe_unused]] float* out, [[maybe_unused]] std::int64_t m, [[maybe_unused]] std::int64_t n,
    [[maybe_unused]] std::int64_t k, [[maybe_unused]] int threads) {
  std::vector<LibraryProduct> products;
#if defined(MOBA_BENCH_DNNL)
  add_dnnl(products, dnnl::memory::data_type::f32, x, weight, out, m, n, k, threads);
#endif
#if defined(MOBA_BENCH_OPENBLAS)
  products.push_back({"OpenBLAS", [=] {
                        openblas_set_num_threads(threads);
                        const auto rows = static_cast<int>(m);
                        const auto columns = static_cast<int>(n);
                        const auto depth = static_cast<int>(k);
                        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, columns, depth,
                                    1.0F, x, depth, weight, depth, 0.0F, out, columns);
                      }});
#endif
  return products;
}

std::vector<LibraryProduct> bf16_products(
    [[maybe_unused]] const std::uint16_t* x, [[maybe_unused]] const std::uint16_t* weight,
    [[maybe_unused]] float* out, [[maybe_unused]] std::int64_t m, [[maybe_unused]] std::int64_t n,
    [[maybe_unused]] std::int64_t k, [[maybe_unused]] int threads) {
  std::vector<LibraryProduct> products;
#if defined(MOBA_BENCH_DNNL)
  add_dnnl(products, dnnl::memory::data_type::bf16, x, weight, out, m, n, k, threads);
#endif
  return products;
}

}  // namespace moba::bench
