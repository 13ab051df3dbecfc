#include "engine/parallel_setup.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "device/check.h"
#include "device/cpu/thread_communicator.h"
#include "device/cuda/nccl_communicator.h"
#include "device/device_info.h"
#include "device/socket_group.h"
#include "device/thread_pool.h"
#include "engine/device_setup.h"
#include "engine/parallel_runner.h"
#include "engine/status_error.h"
#include "engine/worker.h"

namespace moba {
namespace {

constexpr int kMaxRanks = 1024;
constexpr double kLongestTimeout = 1e6;  // seconds
constexpr std::int64_t kMaxPeerMessageBytes = std::int64_t{1} << 20;
constexpr std::chrono::minutes kSetUpLimit{30};
// By how much the watch of rank 0 is more patient than its sockets, which know whom they wait for.
constexpr std::chrono::seconds kSocketHeadStart{2};

void check_options(const ParallelOptions& options) {
  MOBA_CHECK(options.tensor_parallel_size >= 1 && options.tensor_parallel_size <= kMaxRanks,
             "tensor_parallel_size is ", options.tensor_parallel_size, ", not in 1 .. ", kMaxRanks);
  const double timeout = options.rank_timeout_seconds;
  MOBA_CHECK(timeout >= 0 && timeout <= kLongestTimeout, "rank_timeout_seconds is ", timeout,
             ", not in 0 .. ", kLongestTimeout);
  MOBA_CHECK(options.peer_message_bytes >= 0 && options.peer_message_bytes <= kMaxPeerMessageBytes,
             "peer_message_bytes is ", options.peer_message_bytes, ", not in 0 .. ",
             kMaxPeerMessageBytes);
  MOBA_CHECK(options.min_overlapped_tokens >= 0, "min_overlapped_tokens is ",
             options.min_overlapped_tokens, ", less than 0");
  const int processes = options.num_processes;
  MOBA_CHECK(processes == 1 || processes == options.tensor_parallel_size,
             "tensor_parallel_size is ", options.tensor_parallel_size, " over ", processes,
             " processes: it must be one rank for each, or all in one process");
  MOBA_CHECK(options.process_rank >= 0 && options.process_rank < processes, "process ",
             options.process_rank, " of ", processes);
}

std::chrono::milliseconds timeout_of(const ParallelOptions& options) {
  return std::chrono::milliseconds(
      static_cast<std::int64_t>(std::ceil(1000 * options.rank_timeout_seconds)));
}

// The device of this process's first rank; the next ones have those that follow it. Refuses fewer
// devices than ranks, and GPUs of different kinds.
Device check_devices(const EngineConfig& config) {
  Device first = choose_device(config.device);
  if (first.type == DeviceType::kCpu) return first;
  const ParallelOptions& options = config.parallel;
  const int num_local = options.tensor_parallel_size / options.num_processes;
  if (options.num_processes > 1 && options.local_rank > 0) first.index += options.local_rank;
  const int num_devices = num_cuda_devices();
  MOBA_CHECK(first.index + num_local <= num_devices, "tensor_parallel_size ",
             options.tensor_parallel_size, " takes ", num_local, " GPU(s) from ",
             device_name(first), " on, and this machine has ", num_devices);
  const std::string name = device_info(first).name;
  for (int i = 1; i < num_local; ++i) {
    const Device other{first.type, first.index + i};
    MOBA_CHECK(device_info(other).name == name, "GPUs of different kinds: ", device_name(first),
               " is ", name, ", ", device_name(other), " is ", device_info(other).name);
  }
  return first;
}

// What the ranks' NCCL group is called; empty on the CPU. Rank 0 tells the other processes.
std::string name_group(Device device, SocketGroup* processes, bool is_first) {
  if (device.type == DeviceType::kCpu) return {};
  if (!is_first) {
    const std::vector<std::byte> id = processes->receive_message(0);
    return {reinterpret_cast<const char*>(id.data()), id.size()};
  }
  std::string id = cuda::make_nccl_group_id();
  if (processes != nullptr) processes->send_message(std::as_bytes(std::span(id)));
  return id;
}

// Of the processes of a group; while they are set up, one may take long to read its part.
std::shared_ptr<SocketGroup> connect_processes(const ParallelOptions& options) {
  SocketGroupOptions socket_options;
  socket_options.rank = options.process_rank;
  socket_options.size = options.num_processes;
  socket_options.address = options.master_address;
  socket_options.port = options.master_port;
  auto group = std::make_shared<SocketGroup>(socket_options);
  group->set_time_limit(kSetUpLimit);
  return group;
}

// Threads of a rank, so that all ranks together have those asked for, and each at least one.
int threads_of(int rank, int num_ranks, int num_threads) {
  return std::max(1, num_threads / num_ranks + (rank < num_threads % num_ranks ? 1 : 0));
}

}  // namespace

MemoryPlan agree(MemoryPlan plan, std::int64_t page_bytes, Communicator& group) {
  if (group.size() == 1) return plan;
  std::array<std::int64_t, 2> mine{plan.num_pages, plan.max_model_len};
  std::vector<std::int64_t> all(mine.size() * static_cast<std::size_t>(group.size()));
  group.all_gather(TensorView(mine.data(), DType::kInt64, {2}),
                   TensorView(all.data(), DType::kInt64, {static_cast<std::int64_t>(all.size())}));
  for (std::size_t i = 0; i < all.size(); i += mine.size()) {
    plan.num_pages = std::min(plan.num_pages, all[i]);
    plan.max_model_len = std::min(plan.max_model_len, all[i + 1]);
  }
  plan.kv_cache_bytes = plan.num_pages * page_bytes;
  return plan;
}

ParallelParts set_up_ranks(const EngineConfig& config) {
  const int num_ranks = config.parallel.tensor_parallel_size;
  with_code(StatusCode::kInvalidArgument, [&] { check_options(config.parallel); });
  ParallelParts parts;
  if (num_ranks == 1) {
    std::string group_id;
    if (config.parallel.communicate_alone) {
      group_id = with_code(StatusCode::kInvalidArgument, [&] {
        return name_group(check_devices(config), nullptr, /*is_first=*/true);
      });
    }
    parts.first = set_up_rank(config, {make_single_communicator(), group_id, 0, false});
    parts.runner = std::move(parts.first.runner);
    return parts;
  }
  // Refused before threads are started.
  const ModelConfig model =
      with_code(StatusCode::kInvalidCheckpoint, [&] { return load_model_config(config.model); });
  with_code(StatusCode::kInvalidArgument, [&] { make_shard_plan(model, 0, num_ranks); });

  const Device device =
      with_code(StatusCode::kInvalidArgument, [&] { return check_devices(config); });
  const int processors = num_available_processors();
  const int num_threads = config.num_threads == 0 ? processors : config.num_threads;
  const int num_local = num_ranks / config.parallel.num_processes;
  const bool may_spin = std::max(num_threads, num_local) <= processors;
  std::shared_ptr<SocketGroup> processes;
  std::vector<std::unique_ptr<Communicator>> communicators;
  if (num_local == num_ranks) {
    communicators = cpu::make_thread_communicators(num_ranks, may_spin);
  } else {
    processes =
        with_code(StatusCode::kInvalidArgument, [&] { return connect_processes(config.parallel); });
    communicators.push_back(make_socket_communicator(processes));
  }
  const std::shared_ptr<GroupControl> group = communicators.front()->control();
  auto workers = std::make_unique<WorkerGroup>(0, num_local, may_spin);
  WorkerGroup::Watch watch;
  watch.abort = [group](const std::string& why) { group->abort(why); };
  workers->set_watch(watch);

  const std::string group_id = with_code(StatusCode::kInvalidArgument, [&] {
    return name_group(device, processes.get(), /*is_first=*/true);
  });
  std::vector<RankParts> built(static_cast<std::size_t>(num_local));
  workers->call([&](int rank) {
    const auto index = static_cast<std::size_t>(rank);
    EngineConfig mine = config;
    mine.num_threads = threads_of(rank, num_local, num_threads);
    mine.device = device_name({device.type, device.index + rank});
    const std::int64_t peer_bytes = num_local == num_ranks ? config.parallel.peer_message_bytes : 0;
    built[index] = set_up_rank(mine, {std::move(communicators[index]), group_id, peer_bytes,
                                      config.parallel.skip_communication});
  });

  std::vector<Rank> ranks;
  EngineInfo& info = built.front().info;
  for (RankParts& rank : built) {
    info.weight_bytes = std::max(info.weight_bytes, rank.info.weight_bytes);
    info.workspace_bytes = std::max(info.workspace_bytes, rank.info.workspace_bytes);
    ranks.push_back({std::move(rank.context), std::move(rank.runner)});
  }
  info.num_threads = 0;
  for (const Rank& rank : ranks) info.num_threads += rank.context->pool().num_threads();

  // Work on the devices that waits for a rank is ended too.
  std::vector<std::shared_ptr<GroupControl>> controls{group};
  if (device.type == DeviceType::kCuda) {
    for (const Rank& rank : ranks) controls.push_back(rank.context->communicator().control());
  }
  watch.abort = [controls](const std::string& why) {
    for (const std::shared_ptr<GroupControl>& control : controls) control->abort(why);
  };
  watch.progress = [group](int rank) { return group->num_operations(rank); };
  watch.limit = timeout_of(config.parallel);
  if (processes != nullptr) {
    processes->set_time_limit(watch.limit);
    if (watch.limit.count() > 0) watch.limit += kSocketHeadStart;
  }
  workers->set_watch(watch);
  parts.first = std::move(built.front());
  parts.runner =
      std::make_unique<ParallelRunner>(std::move(workers), std::move(ranks), std::move(processes));
  return parts;
}

void run_remote_rank(const EngineConfig& config) {
  with_code(StatusCode::kInvalidArgument, [&] {
    check_options(config.parallel);
    MOBA_CHECK(config.parallel.process_rank > 0, "rank 0 is the engine itself");
  });
  const std::shared_ptr<SocketGroup> processes =
      with_code(StatusCode::kInvalidArgument, [&] { return connect_processes(config.parallel); });
  RankParts rank;
  try {
    const Device device =
        with_code(StatusCode::kInvalidArgument, [&] { return check_devices(config); });
    EngineConfig mine = config;
    mine.device = device_name(device);
    const std::string group_id = name_group(device, processes.get(), /*is_first=*/false);
    rank = set_up_rank(mine, {make_socket_communicator(processes), group_id, 0,
                              config.parallel.skip_communication});
  } catch (const std::exception& error) {
    processes->abort(concat("rank ", processes->rank(), " failed: ", error.what()));
    throw;
  }
  processes->set_time_limit(timeout_of(config.parallel));
  const Rank mine{std::move(rank.context), std::move(rank.runner)};
  serve_batches(mine, *processes, rank.core.model.vocab_size);
}

}  // namespace moba
