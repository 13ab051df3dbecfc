// The attention tests' worlds on a CUDA device: their cache is copied there, page for page.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "attention/cuda/cuda_attention_backend.h"
#include "device/cuda/cuda_check.h"
#include "device/cuda/cuda_context.h"
#include "tests/attention/attention_world.h"

namespace moba::testing {

// The kernels under test: the device's best, or those that MOBA_TEST_KERNELS (sm80, row) names.
inline cuda::CudaAttentionOptions tested_kernels() {
  cuda::CudaAttentionOptions options;
  const char* name = std::getenv("MOBA_TEST_KERNELS");
  if (name != nullptr && std::string(name) == "sm80") options.kernels = cuda::KernelChoice::kSm80;
  if (name != nullptr && std::string(name) == "row") options.kernels = cuda::KernelChoice::kRow;
  return options;
}

// New every run; printed once, and taken from the first line of a failed run's output to repeat it.
inline unsigned fresh_seed() {
  static std::mt19937 rng = [] {
    const unsigned seed = std::random_device{}();
    std::printf("random seed of this run: %u\n", seed);
    return std::mt19937(seed);
  }();
  return static_cast<unsigned>(rng());
}

// Elements of another dtype; NaN stays NaN.
template <typename To, typename From>
std::vector<To> converted(const From* from, std::size_t count) {
  std::vector<To> to(count);
  for (std::size_t i = 0; i < count; ++i) to[i] = static_cast<To>(static_cast<float>(from[i]));
  return to;
}

// Writes are on the device when they return: the backend's stream does not wait for others.
class DeviceBytes {
 public:
  explicit DeviceBytes(std::size_t bytes) : bytes_(bytes) {
    MOBA_CUDA_CHECK(cudaMalloc(&data_, bytes == 0 ? 1 : bytes));
  }
  ~DeviceBytes() { static_cast<void>(cudaFree(data_)); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;

  void* data() const { return data_; }
  void upload(const void* from, std::size_t bytes) {
    MOBA_CUDA_CHECK(cudaMemcpy(data_, from, bytes, cudaMemcpyHostToDevice));
    MOBA_CUDA_CHECK(cudaDeviceSynchronize());
  }
  void download(void* to, std::size_t bytes) const {
    MOBA_CUDA_CHECK(cudaMemcpy(to, data_, bytes, cudaMemcpyDeviceToHost));
  }
  void poison() {
    MOBA_CUDA_CHECK(cudaMemset(data_, 0xff, bytes_));
    MOBA_CUDA_CHECK(cudaDeviceSynchronize());
  }

 private:
  void* data_ = nullptr;
  std::size_t bytes_;
};

// Runs batches of a world on the device in dtype T; the world's own dtype W is that of the oracle.
template <typename T, typename W = T>
class CudaWorld {
 public:
  using World = AttentionWorld<W>;
  using Batch = typename World::Batch;

  CudaWorld(DeviceContext& context, World& world)
      : context_(context), world_(world), cache_(world.cache()) {
    const PagedKvView& host = world.cache();
    const auto pages = static_cast<std::size_t>(host.num_pages);
    kv_elements_ = pages * static_cast<std::size_t>(host.page_stride());
    centroid_elements_ = pages * static_cast<std::size_t>(host.num_kv_heads * host.head_dim);
    k_ = std::make_unique<DeviceBytes>(kv_elements_ * sizeof(T));
    v_ = std::make_unique<DeviceBytes>(kv_elements_ * sizeof(T));
    centroids_ = std::make_unique<DeviceBytes>(centroid_elements_ * sizeof(T));
    cache_.k = k_->data();
    cache_.v = v_->data();
    cache_.centroids = centroids_->data();
    cache_.dtype = kDTypeOf<T>;
  }

  AttentionConfig config(int num_layers = 1) const {
    AttentionConfig c = world_.config(num_layers);
    c.dtype = kDTypeOf<T>;
    return c;
  }

  const PagedKvView& cache() const { return cache_; }

  void upload_cache() {
    const PagedKvView& host = world_.cache();
    const auto send = [&](DeviceBytes& to, const void* from, std::size_t count) {
      const auto values = converted<T>(static_cast<const W*>(from), count);
      to.upload(values.data(), count * sizeof(T));
    };
    context_.synchronize();
    send(*k_, host.k, kv_elements_);
    send(*v_, host.v, kv_elements_);
    send(*centroids_, host.centroids, centroid_elements_);
  }

  // The batch's outputs of `layer`, having stored its chunks.
  std::vector<T> run(AttentionBackend& backend, const std::vector<Chunk>& chunks) {
    store(chunks);
    Batch b = world_.batch(chunks);
    backend.plan(b.metadata);
    return run_layer(backend, 0, b);
  }

  void store(const std::vector<Chunk>& chunks) {
    for (const Chunk& c : chunks) world_.store(c.sequence, c.end);
    upload_cache();
  }

  // Of a planned batch.
  std::vector<T> run_layer(AttentionBackend& backend, int layer, const Batch& b) {
    const auto values = converted<T>(b.q.data(), b.q.size());
    DeviceBytes q(values.size() * sizeof(T));
    DeviceBytes out(values.size() * sizeof(T));
    q.upload(values.data(), values.size() * sizeof(T));
    out.poison();
    backend.run(layer, view(q, b.q.size()), cache_, view(out, b.q.size()));
    context_.synchronize();
    std::vector<T> result(values.size());
    out.download(result.data(), result.size() * sizeof(T));
    return result;
  }

  TensorView view(const DeviceBytes& bytes, std::size_t elements) const {
    const AttentionShape& shape = world_.shape();
    const std::int64_t row = std::int64_t{shape.num_q_heads} * shape.head_dim;
    return {bytes.data(),
            kDTypeOf<T>,
            {static_cast<std::int64_t>(elements) / row, shape.num_q_heads, shape.head_dim},
            context_.device()};
  }

 private:
  DeviceContext& context_;
  World& world_;
  PagedKvView cache_;
  std::size_t kv_elements_ = 0;
  std::size_t centroid_elements_ = 0;
  std::unique_ptr<DeviceBytes> k_, v_, centroids_;
};

// float16 worlds have bfloat16 ones beside them on the host, whose values they share.
template <typename T>
struct OracleType {
  using type = T;
};
template <>
struct OracleType<Float16> {
  using type = BFloat16;
};
template <typename T>
using OracleTypeOf = typename OracleType<T>::type;

// The device that all tests share.
inline DeviceContext& cuda_context() {
  static DeviceContext context(Device{DeviceType::kCuda, 0}, 2);
  return context;
}

}  // namespace moba::testing
