// Communicators of ranks that are threads or connected by sockets, against sums taken one by one.
#include "device/collectives.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "device/check.h"
#include "tests/catch.h"
#include "tests/device/random_tensor.h"
#include "tests/device/rank_threads.h"
#include "tests/device/socket_ranks.h"

namespace moba::test {
namespace {

using Inputs = std::vector<Tensor>;

Inputs random_inputs(int num_ranks, DType dtype, const Shape& shape, unsigned seed) {
  std::mt19937 random(seed);
  Inputs inputs;
  for (int rank = 0; rank < num_ranks; ++rank) {
    inputs.push_back(random_tensor(dtype, shape, random));
  }
  return inputs;
}

std::string bytes_of(const TensorView& t) {
  return {static_cast<const char*>(t.raw()), t.num_bytes()};
}

// In the order of ranks, rounded once.
std::string sum_of(const Inputs& inputs) {
  const TensorView first = inputs.front();
  const Tensor sum(first.dtype(), first.shape(), Device{}, "sum");
  for (std::int64_t i = 0; i < first.num_elements(); ++i) {
    auto total = static_cast<float>(element(first, i));
    for (std::size_t r = 1; r < inputs.size(); ++r) {
      total += static_cast<float>(element(inputs[r], i));
    }
    set_element(sum, i, total);
  }
  return bytes_of(sum);
}

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("collectives: sums, gathers and broadcasts of any size and dtype") {
  std::mt19937 random(7);
  const bool sockets = GENERATE(false, true);
  CAPTURE(sockets);
  for (const int num_ranks : {1, 2, 3, 4, 5}) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      for (int round = 0; round < 6; ++round) {
        const auto n = static_cast<std::int64_t>(
            round < 3 ? round + 1 : random() % (round < 5 ? 5000 : 200000));
        CAPTURE(num_ranks, dtype_name(dtype), n);
        const Shape shape{n, 3};
        Inputs inputs = random_inputs(num_ranks, dtype, shape, random());
        const std::string sum = sum_of(inputs);
        std::string all;
        for (const Tensor& input : inputs) all += bytes_of(input);
        const int root = static_cast<int>(random() % static_cast<unsigned>(num_ranks));
        const std::string from_root = bytes_of(inputs[static_cast<std::size_t>(root)]);
        std::vector<std::string> sums(inputs.size());
        std::vector<std::string> gathers(inputs.size());
        std::vector<std::string> broadcasts(inputs.size());
        const auto run = sockets ? on_socket_ranks : on_ranks;
        run(num_ranks, [&](int rank, std::unique_ptr<Communicator> group) {
          const auto index = static_cast<std::size_t>(rank);
          const TensorView x = inputs[index];
          const Tensor out(dtype, {num_ranks, n, 3}, Device{}, "out");
          group->all_gather(x, out);
          gathers[index] = bytes_of(out);
          const Tensor copy(dtype, shape, Device{}, "copy");
          std::memcpy(copy.view().raw(), x.raw(), x.num_bytes());
          group->broadcast(copy, root);
          broadcasts[index] = bytes_of(copy);
          group->barrier();
          group->all_reduce(x);
          sums[index] = bytes_of(x);
        });
        for (std::size_t r = 0; r < inputs.size(); ++r) {
          CHECK(sums[r] == sum);
          CHECK(gathers[r] == all);
          CHECK(broadcasts[r] == from_root);
        }
      }
    }
  }
}

TEST_CASE("collectives over sockets: a rank that goes, fails or stalls ends the others") {
  const auto errors_of = [](const std::function<void(SocketGroup&)>& last) {
    std::vector<std::string> errors(3);
    const int port = free_port();
    std::vector<std::thread> threads;
    for (int rank = 0; rank < 3; ++rank) {
      threads.emplace_back([&, rank] {
        errors[static_cast<std::size_t>(rank)] = error_of([&] {
          const auto group = connect_rank(rank, 3, port);
          group->set_time_limit(std::chrono::milliseconds(500));
          const auto communicator = make_socket_communicator(group);
          communicator->barrier();
          if (rank == 2) return last(*group);
          const Tensor x(DType::kFloat32, {100000}, Device{}, "x");
          for (int i = 0; i < 3; ++i) communicator->all_reduce(x);
        });
      });
    }
    for (std::thread& thread : threads) thread.join();
    return errors;
  };
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& error : {errors_of([](SocketGroup&) {})[0]}) {
    CHECK(error.find("rank 2 was lost: ") == 0);
  }
  auto errors = errors_of([](SocketGroup& group) { group.abort("rank 2 failed in step 3: boom"); });
  CHECK(errors[0] == "rank 2 failed in step 3: boom");
  CHECK(errors[1] == "rank 2 failed in step 3: boom");
  errors =
      errors_of([](SocketGroup&) { std::this_thread::sleep_for(std::chrono::milliseconds(1500)); });
  // One notices, and tells the other why.
  CHECK(errors[0].find("rank 2 stalled") == 0);
  CHECK(errors[1].find("rank 2 stalled") == 0);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));
}

TEST_CASE("collectives over sockets: messages of any length") {
  const int port = free_port();
  std::vector<std::string> got(3);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      const auto group = connect_rank(rank, 3, port);
      for (const std::size_t size : {0, 1, 100000, 3}) {
        const std::string message(size, 'm');
        if (rank == 0) {
          group->send_message(std::as_bytes(std::span(message)));
        } else {
          const std::vector<std::byte> bytes = group->receive_message(0);
          got[static_cast<std::size_t>(rank)] += concat(bytes.size(), ' ');
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(got[1] == "0 1 100000 3 ");
  CHECK(got[2] == "0 1 100000 3 ");
}

TEST_CASE("sockets: ranks that do not come, come twice, or cannot be reached") {
  SocketGroupOptions options;
  options.size = 3;
  options.port = free_port();
  options.connect_limit = std::chrono::milliseconds(300);
  CHECK(error_of([&] { const SocketGroup group(options); }) ==
        "ranks 1, 2 of 3 have not come to rank 0 within 0.3 s");
  options.rank = 1;
  CHECK(error_of([&] {
          const SocketGroup group(options);
        }).find("rank 0 does not answer at 127.0.0.1:") == 0);
  options.port = 0;
  CHECK(error_of([&] { const SocketGroup group(options); }) ==
        "master port is 0, not in 1 .. 65535");
  options.port = 1;
  options.address = "no.such.host.invalid";
  CHECK(error_of([&] { const SocketGroup group(options); }).find("no.such.host.invalid") !=
        std::string::npos);
  options.rank = 3;
  CHECK(error_of([&] { const SocketGroup group(options); }) == "rank 3 of 3 processes");
}

TEST_CASE("collectives of threads: a barrier holds everybody") {
  std::atomic<int> arrived{0};
  std::atomic<bool> early{false};
  on_ranks(4, [&](int rank, std::unique_ptr<Communicator> group) {
    for (int round = 1; round <= 200; ++round) {
      if (rank == round % 4) std::this_thread::yield();
      ++arrived;
      group->barrier();
      if (arrived.load() < 4 * round) early = true;
      group->barrier();
    }
  });
  CHECK_FALSE(early.load());
}

TEST_CASE("collectives of threads: ranks that do not agree are told so") {
  const std::string error = error_of([] {
    on_ranks(3, [](int rank, std::unique_ptr<Communicator> group) {
      const Tensor x(DType::kFloat32, {rank == 2 ? 5 : 4}, Device{}, "x");
      group->all_reduce(x);
    });
  });
  CHECK(error.find("ranks do not agree") != std::string::npos);
  CHECK(error.find("20 bytes") != std::string::npos);
  CHECK(error.find('\n') == std::string::npos);
}

TEST_CASE("collectives of threads: abort wakes those who wait, and ends the group") {
  auto communicators = cpu::make_thread_communicators(3, false);
  const auto control = communicators.front()->control();
  std::vector<std::string> errors(3);
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < 2; ++rank) {
    threads.emplace_back(
        [&, rank] { errors[rank] = error_of([&] { communicators[rank]->barrier(); }); });
  }
  while (control->num_operations(0) + control->num_operations(1) < 2) std::this_thread::yield();
  CHECK(control->why_aborted().empty());
  control->abort("rank 2 has left");
  control->abort("another reason");
  for (std::thread& thread : threads) thread.join();
  CHECK(errors[0] == "rank 2 has left");
  CHECK(errors[1] == "rank 2 has left");
  CHECK(error_of([&] { communicators[2]->barrier(); }) == "rank 2 has left");
}

TEST_CASE("collectives: what does not fit is refused") {
  const auto single = make_single_communicator();
  const Tensor ids(DType::kInt32, {4}, Device{}, "ids");
  const Tensor x(DType::kFloat32, {2, 4}, Device{}, "x");
  CHECK(error_of([&] { single->all_reduce(ids); }) == "all_reduce: dtype int32");
  CHECK(error_of([&] { single->all_reduce(x.view().columns(0, 2)); }).find("not contiguous") !=
        std::string::npos);
  CHECK(error_of([&] { single->all_gather(x, ids); }).find("all_gather") != std::string::npos);
  CHECK(error_of([&] { single->broadcast(x, 1); }) == "broadcast: root 1 of 1 ranks");
  CHECK(single->control() == nullptr);
}

}  // namespace moba::test
