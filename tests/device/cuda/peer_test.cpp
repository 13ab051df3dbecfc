// Small messages over peer memory: what there is of two GPUs and more. One GPU has no peer.
#include "device/cuda/peer_communicator.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "device/copy.h"
#include "device/ops.h"
#include "tests/catch.h"
#include "tests/device/cuda/gpu_ranks.h"
#include "tests/device/device_tensor.h"
#include "tests/device/random_tensor.h"

namespace moba::test {
namespace {

std::vector<int> peer_group_sizes() {
  std::vector<int> sizes = gpu_group_sizes();
  sizes.erase(sizes.begin());
  return sizes;
}

std::string bytes_of(const TensorView& t) {
  return {static_cast<const char*>(t.raw()), t.num_bytes()};
}

// Their sum in the order of ranks, as the host takes it.
Tensor sum_of(const std::vector<Tensor>& inputs) {
  const TensorView first = inputs.front();
  Tensor sum(first.dtype(), first.shape(), Device{}, "sum");
  std::vector<const std::byte*> from;
  for (const Tensor& input : inputs) {
    from.push_back(static_cast<const std::byte*>(input.view().raw()));
  }
  sum_in_order(first.dtype(), from.data(), static_cast<int>(from.size()),
               static_cast<std::size_t>(first.num_elements()),
               static_cast<std::byte*>(sum.view().raw()));
  return sum;
}

}  // namespace

TEST_CASE("peer memory: sums have the bits of the host's, on every rank") {
  std::mt19937 random(5);
  for (const int num_ranks : peer_group_sizes()) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      const auto per_piece = static_cast<std::int64_t>(16 / dtype_size(dtype));
      // Pieces of 16 bytes: within a block, at its edges, over many; the last does not fit and goes
      // through NCCL, as the odd ones do.
      std::vector<std::int64_t> sizes{1, 3, 7 * per_piece + 1};
      for (const std::int64_t pieces :
           {1, 2, 255, 256, 257, 512, 1000, 4096, 16384, 16385, 30000, 65536, 65537}) {
        sizes.push_back(pieces * per_piece);
      }
      std::vector<std::vector<Tensor>> inputs(sizes.size());
      std::vector<std::vector<Tensor>> sums(sizes.size());
      std::vector<std::vector<Tensor>> gathers(sizes.size());
      for (std::size_t s = 0; s < sizes.size(); ++s) {
        for (int r = 0; r < num_ranks; ++r) {
          inputs[s].push_back(random_tensor(dtype, {sizes[s]}, random));
        }
        sums[s].resize(inputs[s].size());
        gathers[s].resize(inputs[s].size());
      }
      on_gpus(num_ranks, cuda::max_peer_message(), [&](DeviceContext& context) {
        Communicator& group = context.communicator();
        const auto rank = static_cast<std::size_t>(group.rank());
        for (std::size_t s = 0; s < sizes.size(); ++s) {
          const Tensor x = on_device(context, inputs[s][rank]);
          const Tensor out(dtype, {num_ranks, sizes[s]}, context.device(), "gathered");
          group.all_gather(x, out);
          group.all_reduce(x);
          sums[s][rank] = on_host(context, x);
          gathers[s][rank] = on_host(context, out);
        }
      });
      for (std::size_t s = 0; s < sizes.size(); ++s) {
        CAPTURE(num_ranks, dtype_name(dtype), sizes[s]);
        const bool over_peers = sizes[s] % per_piece == 0 && sizes[s] / per_piece <= 65536;
        const std::string expected = bytes_of(sum_of(inputs[s]));
        std::string all;
        for (const Tensor& input : inputs[s]) all += bytes_of(input);
        for (std::size_t r = 0; r < inputs[s].size(); ++r) {
          if (over_peers) CHECK((bytes_of(sums[s][r]) == expected));
          CHECK((bytes_of(sums[s][r]) == bytes_of(sums[s][0])));
          CHECK((bytes_of(gathers[s][r]) == all));
        }
      }
    }
  }
}

// Sums of 0 .. num_ranks - 1 that grow from replay to replay; messages of several sizes take turns,
// so that blocks' generations go apart, and ranks fall behind each other in turn.
TEST_CASE("peer memory: recorded sums, replayed many times") {
  constexpr int kReplays = 3000;
  for (const int num_ranks : peer_group_sizes()) {
    CAPTURE(num_ranks);
    std::vector<int> errors(static_cast<std::size_t>(num_ranks), 0);
    on_gpus(num_ranks, cuda::max_peer_message(), [&](DeviceContext& context) {
      Communicator& group = context.communicator();
      const auto rank = static_cast<std::size_t>(group.rank());
      const std::vector<std::int64_t> sizes{4, 4096, 100000, 2048};
      std::vector<Tensor> xs;
      std::vector<Tensor> ones;
      for (const std::int64_t n : sizes) {
        Tensor host(DType::kFloat32, {n}, Device{}, "x");
        for (std::int64_t i = 0; i < n; ++i) {
          host.view().data<float>()[i] = static_cast<float>(group.rank() + i % 7);
        }
        ones.push_back(on_device(context, host));
        xs.push_back(on_device(context, host));
      }
      context.synchronize();
      const RecordedWork work(context, [&] {
        for (std::size_t s = 0; s < sizes.size(); ++s) {
          const TensorView& x = xs[s];
          MOBA_CUDA_CHECK(cudaMemcpyAsync(x.raw(), ones[s].view().raw(), x.num_bytes(),
                                          cudaMemcpyDeviceToDevice, context.cuda()->stream()));
          group.all_reduce(x);
        }
      });
      for (int i = 0; i < kReplays; ++i) {
        if (i % 500 == static_cast<int>(rank) * 100) {
          context.synchronize();
          std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
        work.launch();
        if (i % 300 != 0) continue;
        for (std::size_t s = 0; s < sizes.size(); ++s) {
          const Tensor sum = on_host(context, xs[s]);
          const float ranks = static_cast<float>(num_ranks);
          for (std::int64_t k = 0; k < sizes[s]; ++k) {
            const float expected = ranks * (ranks - 1) / 2 + ranks * static_cast<float>(k % 7);
            if (sum.view().data<float>()[k] != expected) ++errors[rank];
          }
        }
      }
    });
    for (const int count : errors) CHECK(count == 0);
  }
}

TEST_CASE("peer memory: a sum and its norm in one go") {
  constexpr float kEps = 1e-5F;
  // Of each rank: its input, its sum, its norm, and the norm of that sum by itself.
  struct Results {
    std::vector<Tensor> inputs, sums, norms, expected;
    Tensor weight;
    std::atomic<int> num_fused{0};
  };
  std::mt19937 random(6);
  for (const int num_ranks : peer_group_sizes()) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      // The longest row that fits a block, short ones, one of a length that the threads do not
      // divide.
      const auto most = static_cast<std::int64_t>(1024 * 16 / dtype_size(dtype));
      const std::vector<Shape> shapes{{1, 64}, {64, 384}, {3, 4000}, {1, most}, {33, most}};
      std::vector<Results> cases(shapes.size());
      for (std::size_t c = 0; c < cases.size(); ++c) {
        for (int r = 0; r < num_ranks; ++r) {
          cases[c].inputs.push_back(random_tensor(dtype, shapes[c], random));
        }
        cases[c].weight = random_tensor(dtype, {shapes[c][1]}, random);
        for (auto* list : {&cases[c].sums, &cases[c].norms, &cases[c].expected}) {
          list->resize(cases[c].inputs.size());
        }
      }
      on_gpus(num_ranks, cuda::max_peer_message(), [&](DeviceContext& context) {
        Communicator& group = context.communicator();
        const auto rank = static_cast<std::size_t>(group.rank());
        for (Results& of : cases) {
          const Tensor x = on_device(context, of.inputs[rank]);
          const Tensor weight = on_device(context, of.weight);
          const Tensor out(dtype, x.view().shape(), context.device(), "normed");
          if (group.try_all_reduce_norm(x, weight, kEps, out)) ++of.num_fused;
          of.sums[rank] = on_host(context, x);
          of.norms[rank] = on_host(context, out);
          rms_norm(context, x, weight, kEps, out);
          of.expected[rank] = on_host(context, out);
        }
      });
      for (const Results& of : cases) {
        const TensorView first = of.norms.front();
        CAPTURE(num_ranks, dtype_name(dtype), first.shape().to_string());
        CHECK(of.num_fused == num_ranks);
        const std::string sum = bytes_of(sum_of(of.inputs));
        for (std::size_t r = 0; r < of.inputs.size(); ++r) {
          CHECK((bytes_of(of.sums[r]) == sum));
          CHECK((bytes_of(of.norms[r]) == bytes_of(first)));
          double worst = 0;
          for (std::int64_t i = 0; i < first.num_elements(); ++i) {
            const double want = element(of.expected[r], i);
            const double off = std::fabs(element(of.norms[r], i) - want);
            worst = std::max(worst, off / std::max(1.0, std::fabs(want)));
          }
          CHECK(worst <= (dtype == DType::kFloat32 ? 1e-5 : 1.6e-2));
        }
      }
    }
  }
}

TEST_CASE("peer memory: abort ends work that waits for a rank that does not come") {
  check_abort_ends_waits(cuda::max_peer_message());
}

// Not a check: what a step's all-reduces take, beside NCCL's.
TEST_CASE("peer memory: times", "[.][times]") {
  const std::vector<std::int64_t> kib{8, 16, 32, 64, 128, 256, 512, 1024};
  for (const int num_ranks : peer_group_sizes()) {
    std::vector<double> times[2];
    for (const bool peer : {false, true}) {
      on_gpus(num_ranks, peer ? cuda::max_peer_message() : 0, [&](DeviceContext& context) {
        for (const std::int64_t size : kib) {
          const Tensor x(DType::kBFloat16, {512 * size}, context.device(), "x");
          const double time = time_all_reduce(context, x);
          if (context.communicator().rank() == 0) times[peer ? 1 : 0].push_back(time);
        }
      });
    }
    for (std::size_t i = 0; i < kib.size(); ++i) {
      std::printf("all_reduce ranks %d, %4lld KiB: NCCL %6.2f us, peer memory %6.2f us\n",
                  num_ranks, static_cast<long long>(kib[i]), times[0][i], times[1][i]);
    }
  }
}

}  // namespace moba::test
