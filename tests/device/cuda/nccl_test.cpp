// Groups of GPUs over NCCL: as many ranks as the machine has devices, and fewer.
#include "device/cuda/nccl_communicator.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "device/copy.h"
#include "device/device_info.h"
#include "tests/catch.h"
#include "tests/device/cuda/gpu_ranks.h"
#include "tests/device/device_tensor.h"
#include "tests/device/random_tensor.h"
#include "tests/device/rank_threads.h"

namespace moba::test {
namespace {

void on_gpus(int num_ranks, const std::function<void(DeviceContext&)>& body) {
  moba::test::on_gpus(num_ranks, /*peer_bytes=*/0, body);
}

double tolerance(DType dtype) {
  return dtype == DType::kFloat32 ? 1e-6 : dtype == DType::kFloat16 ? 2e-3 : 2e-2;
}

}  // namespace

TEST_CASE("NCCL: sums, gathers and broadcasts") {
  std::mt19937 random(3);
  for (const int num_ranks : gpu_group_sizes()) {
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
  for (const int num_ranks : gpu_group_sizes()) {
    CAPTURE(num_ranks);
    std::vector<float> results(static_cast<std::size_t>(num_ranks));
    on_gpus(num_ranks, [&](DeviceContext& context) {
      Communicator& group = context.communicator();
      const float one = 1;
      const Tensor host(DType::kFloat32, {1}, Device{}, "one");
      host.view().data<float>()[0] = one;
      const Tensor x = on_device(context, host);
      context.synchronize();
      const RecordedWork work(context, [&] { group.all_reduce(x); });
      for (int i = 0; i < kReplays; ++i) work.launch();
      results[static_cast<std::size_t>(group.rank())] =
          static_cast<float>(element(on_host(context, x), 0));
    });
    for (const float result : results) {
      CHECK(result == std::pow(static_cast<float>(num_ranks), kReplays));
    }
  }
}

TEST_CASE("NCCL: abort ends work that waits for a rank that does not come") {
  check_abort_ends_waits(/*peer_bytes=*/0);
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
  for (const int num_ranks : gpu_group_sizes()) {
    for (const std::int64_t bytes : {8192LL, 65536LL, 524288LL, 8LL << 20, 64LL << 20}) {
      on_gpus(num_ranks, [&](DeviceContext& context) {
        const Tensor x(DType::kBFloat16, {bytes / 2}, context.device(), "x");
        const double us = time_all_reduce(context, x);
        if (context.communicator().rank() == 0) {
          std::printf("all_reduce ranks %d bytes %lld: %.2f us, %.1f GB/s bus\n", num_ranks,
                      static_cast<long long>(bytes), us,
                      static_cast<double>(bytes) * 2 * (num_ranks - 1) / num_ranks / us / 1000);
        }
      });
    }
  }
}

}  // namespace moba::test
