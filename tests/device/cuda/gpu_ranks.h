// Runs a function on the ranks of a group of GPUs, a thread and a device each.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "device/context.h"
#include "device/cuda/cuda_check.h"
#include "device/cuda/cuda_context.h"
#include "device/cuda/nccl_communicator.h"
#include "device/cuda/peer_communicator.h"
#include "device/device_info.h"
#include "tests/catch.h"
#include "tests/device/rank_threads.h"

namespace moba::test {

// 1, 2, 4 ... as far as there are devices.
inline std::vector<int> gpu_group_sizes() {
  std::vector<int> sizes;
  for (int n = 1; n <= num_cuda_devices(); n *= 2) sizes.push_back(n);
  return sizes;
}

// body(context, its communicators set) on each rank: NCCL's, with messages of up to peer_bytes over
// peer memory.
inline void on_gpus(int num_ranks, std::int64_t peer_bytes,
                    const std::function<void(DeviceContext&)>& body) {
  const std::string id = cuda::make_nccl_group_id();
  on_ranks(num_ranks, [&](int rank, std::unique_ptr<Communicator> host) {
    DeviceContext context(Device{DeviceType::kCuda, rank}, 1);
    auto group = cuda::make_nccl_communicator(context, id, *host);
    if (peer_bytes > 0) {
      group = cuda::make_peer_communicator(context, std::move(group), *host, peer_bytes);
    }
    context.set_communicators(std::move(group), std::move(host));
    body(context);
    context.synchronize();
    context.host_communicator().barrier();
  });
}

// Rank 1 does not come to a sum that rank 0 waits for on its device. Abort ends the wait, and what
// rank 0 asks for afterwards fails with the reason. Checks nothing where there are not two devices.
inline void check_abort_ends_waits(std::int64_t peer_bytes) {
  if (num_cuda_devices() < 2) return;
  const auto start = std::chrono::steady_clock::now();
  std::atomic<int> ended{0};
  on_gpus(2, peer_bytes, [&](DeviceContext& context) {
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

// A recorded sequence of operations of a rank's stream. The stream's thread alone uses it.
class RecordedWork {
 public:
  template <typename Issue>
  RecordedWork(DeviceContext& context, Issue&& issue) : stream_(context.cuda()->stream()) {
    MOBA_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    issue();
    MOBA_CUDA_CHECK(cudaStreamEndCapture(stream_, &graph_));
    MOBA_CUDA_CHECK(cudaGraphInstantiate(&executable_, graph_, 0));
  }
  ~RecordedWork() {
    static_cast<void>(cudaStreamSynchronize(stream_));
    static_cast<void>(cudaGraphExecDestroy(executable_));
    static_cast<void>(cudaGraphDestroy(graph_));
  }
  RecordedWork(const RecordedWork&) = delete;
  RecordedWork& operator=(const RecordedWork&) = delete;

  void launch() const { MOBA_CUDA_CHECK(cudaGraphLaunch(executable_, stream_)); }

 private:
  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

// Microseconds of one all_reduce among many recorded ones, as decode steps have them: what is timed
// is not the launches.
inline double time_all_reduce(DeviceContext& context, const TensorView& x) {
  constexpr int kInGraph = 65;
  constexpr int kReplays = 10;
  Communicator& group = context.communicator();
  cudaStream_t stream = context.cuda()->stream();
  MOBA_CUDA_CHECK(cudaMemsetAsync(x.raw(), 0, x.num_bytes(), stream));
  for (int i = 0; i < 20; ++i) group.all_reduce(x);
  context.synchronize();
  const RecordedWork work(context, [&] {
    for (int i = 0; i < kInGraph; ++i) group.all_reduce(x);
  });
  work.launch();
  context.synchronize();
  context.host_communicator().barrier();
  cuda::Event begin(true);
  cuda::Event end(true);
  begin.record(stream);
  for (int i = 0; i < kReplays; ++i) work.launch();
  end.record(stream);
  end.synchronize();
  return 1000.0 * static_cast<double>(end.since(begin)) / (kReplays * kInGraph);
}

}  // namespace moba::test
