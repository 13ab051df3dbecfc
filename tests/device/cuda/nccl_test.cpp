// Groups of GPUs over NCCL: as many ranks as the machine has devices, and fewer.
#include "device/cuda/nccl_communicator.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "device/context.h"
#include "device/copy.h"
#include "device/cuda/cuda_check.h"
#include "device/cuda/cuda_context.h"
#include "device/device_info.h"
#include "tests/catch.h"
#include "tests/device/device_tensor.h"
#include "tests/device/random_tensor.h"
#include "tests/device/rank_threads.h"

namespace moba::test {
namespace {

std::vector<int> group_sizes() {
  std::vector<int> sizes;
  for (int n = 1; n <= num_cuda_devices(); n *= 2) sizes.push_back(n);
  return sizes;
}

// body(context, its NCCL communicator set) on each rank; the host group is context's too.
void on_gpus(int num_ranks, const std::function<void(DeviceContext&)>& body) {
  const std::string id = cuda::make_nccl_group_id();
  on_ranks(num_ranks, [&](int rank, std::unique_ptr<Communicator> host) {
    DeviceContext context(Device{DeviceType::kCuda, rank}, 1);
    auto group = cuda::make_nccl_communicator(context, id, *host);
    context.set_communicators(std::move(group), std::move(host));
    body(context);
    context.synchronize();
    context.host_communicator().barrier();
  });
}

double tolerance(DType dtype) {
  return dtype == DType::kFloat32 ? 1e-6 : dtype == DType::kFloat16 ? 2e-3 : 2e-2;
}

}  // namespace

TEST_CASE("NCCL: sums, gathers and broadcasts") {
  std::mt19937 random(3);
  for (const int num_ranks : group_sizes()) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      for (const std::int64_t n : {1, 7, 4096, 100003}) {
        CAPTURE(num_ranks, dtype_name(dtype), n);
        std::vector<Tensor> inputs;
        for (int r = 0; r < num_ranks; ++r) inputs.push_back(random_tensor(dtype, {n}, random));
        std::vector<Tensor> sums(inputs.size());
        std::vector<Tensor> gathers(inputs.size());
        std::vector<Tensor> copies(inputs.size());
        const int root = num_ranks - 1;
        on_gpus(num_ranks, [&](DeviceContext& context) {
          Communicator& group = context.communicator();
          const auto rank = static_cast<std::size_t>(group.rank());
          const Tensor x = on_device(context, inputs[rank]);
          const Tensor copy = on_device(context, inputs[rank]);
          const Tensor out(dtype, {num_ranks, n}, context.device(), "gathered");
          group.all_gather(x, out);
          group.broadcast(copy, root);
          group.barrier();
          group.all_reduce(x);
          sums[rank] = on_host(context, x);
          gathers[rank] = on_host(context, out);
          copies[rank] = on_host(context, copy);
        });
        for (std::size_t r = 0; r < inputs.size(); ++r) {
          double worst = 0;
          for (std::int64_t i = 0; i < n; ++i) {
            double sum = 0;
            for (const Tensor& input : inputs) sum += element(input, i);
            worst = std::max(worst, std::fabs(element(sums[r], i) - sum));
          }
          CHECK(worst <= tolerance(dtype) * num_ranks);
          const auto bytes = [](const TensorView& t) {
            return std::string(static_cast<const char*>(t.raw()), t.num_bytes());
          };
          CHECK(bytes(sums[r]) == bytes(sums[0]));
          CHECK(bytes(copies[r]) == bytes(inputs[static_cast<std::size_t>(root)]));
          std::string all;
          for (const Tensor& input : inputs) all += bytes(input);
          CHECK(bytes(gathers[r]) == all);
        }
      }
    }
  }
}

TEST_CASE("NCCL: an all-reduce in a graph") {
  constexpr int kReplays = 5;
  for (const int num_ranks : group_sizes()) {
    CAPTURE(num_ranks);
    std::vector<float> results(static_cast<std::size_t>(num_ranks));
    on_gpus(num_ranks, [&](DeviceContext& context) {
      Communicator& group = context.communicator();
      cudaStream_t stream = context.cuda()->stream();
      const float one = 1;
      const Tensor host(DType::kFloat32, {1}, Device{}, "one");
      host.view().data<float>()[0] = one;
      const Tensor x = on_device(context, host);
      context.synchronize();
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t exec = nullptr;
      MOBA_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
      group.all_reduce(x);
      MOBA_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
      MOBA_CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
      for (int i = 0; i < kReplays; ++i) MOBA_CUDA_CHECK(cudaGraphLaunch(exec, stream));
      results[static_cast<std::size_t>(group.rank())] =
          static_cast<float>(element(on_host(context, x), 0));
      context.synchronize();
      MOBA_CUDA_CHECK(cudaGraphExecDestroy(exec));
      MOBA_CUDA_CHECK(cudaGraphDestroy(graph));
    });
    for (const float result : results) {
      CHECK(result == std::pow(static_cast<float>(num_ranks), kReplays));
    }
  }
}

TEST_CASE("NCCL: abort ends work that waits for a rank that does not come") {
  if (num_cuda_devices() < 2) return;
  const auto start = std::chrono::steady_clock::now();
  std::atomic<int> ended{0};
  on_gpus(2, [&](DeviceContext& context) {
    Communicator& group = context.communicator();
    const Tensor x(DType::kFloat32, {1000}, context.device(), "x");
    group.all_reduce(x);
    context.synchronize();
    if (group.rank() == 0) {
      group.all_reduce(x);
      std::thread watchdog([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        group.control()->abort("rank 1 stalled");
      });
      try {
        context.synchronize();
      } catch (const Error&) {
      }
      watchdog.join();
      std::string error;
      try {
        group.all_reduce(x);
      } catch (const Error& e) {
        error = e.what();
      }
      if (error == "rank 1 stalled") ++ended;
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(600));
      group.control()->abort("rank 1 stalled");
      ++ended;
    }
  });
  CHECK(ended == 2);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(60));
}

TEST_CASE("NCCL: a group whose ranks do not all come is given up") {
  if (num_cuda_devices() < 2) return;
  const std::string id = cuda::make_nccl_group_id();
  std::string error;
  try {
    on_ranks(2, [&](int rank, std::unique_ptr<Communicator> host) {
      DeviceContext context(Device{DeviceType::kCuda, rank}, 1);
      if (rank == 1) throw Error("rank 1 has no memory");
      auto group = cuda::make_nccl_communicator(context, id, *host);
    });
  } catch (const Error& e) {
    error = e.what();
  }
  CHECK(error == "rank 1 has no memory");
}

// Not a check: what an all-reduce of a step takes, beside what the links could do.
TEST_CASE("NCCL: times", "[.][times]") {
  for (const int num_ranks : group_sizes()) {
    for (const std::int64_t bytes : {8192LL, 65536LL, 524288LL, 8LL << 20, 64LL << 20}) {
      on_gpus(num_ranks, [&](DeviceContext& context) {
        Communicator& group = context.communicator();
        const Tensor x(DType::kBFloat16, {bytes / 2}, context.device(), "x");
        cudaStream_t stream = context.cuda()->stream();
        MOBA_CUDA_CHECK(
            cudaMemsetAsync(x.view().raw(), 0, static_cast<std::size_t>(bytes), stream));
        for (int i = 0; i < 20; ++i) group.all_reduce(x);
        context.synchronize();
        context.host_communicator().barrier();
        cuda::Event begin(true);
        cuda::Event end(true);
        // In a graph, as decode steps run: what is timed is not the launches.
        constexpr int kInGraph = 65;
        constexpr int kReplays = 10;
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t exec = nullptr;
        MOBA_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        for (int i = 0; i < kInGraph; ++i) group.all_reduce(x);
        MOBA_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
        MOBA_CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
        MOBA_CUDA_CHECK(cudaGraphLaunch(exec, stream));
        context.synchronize();
        context.host_communicator().barrier();
        begin.record(stream);
        for (int i = 0; i < kReplays; ++i) MOBA_CUDA_CHECK(cudaGraphLaunch(exec, stream));
        end.record(stream);
        end.synchronize();
        const double us = 1000.0 * static_cast<double>(end.since(begin)) / (kReplays * kInGraph);
        MOBA_CUDA_CHECK(cudaGraphExecDestroy(exec));
        MOBA_CUDA_CHECK(cudaGraphDestroy(graph));
        if (group.rank() == 0) {
          std::printf("all_reduce ranks %d bytes %lld: %.2f us, %.1f GB/s bus\n", num_ranks,
                      static_cast<long long>(bytes), us,
                      static_cast<double>(bytes) * 2 * (num_ranks - 1) / num_ranks / us / 1000);
        }
      });
    }
  }
}

}  // namespace moba::test
