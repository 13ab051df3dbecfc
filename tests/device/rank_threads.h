// Runs a function on the ranks of a group, a thread each.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "device/collectives.h"
#include "device/cpu/thread_communicator.h"

namespace moba::test {

// Calls body(rank, its communicator, which it may keep) on every rank; rethrows the first error by
// rank once all are done. A rank that fails aborts the group.
inline void on_ranks(int num_ranks,
                     const std::function<void(int, std::unique_ptr<Communicator>)>& body) {
  auto communicators = cpu::make_thread_communicators(num_ranks, /*may_spin=*/false);
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(num_ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < num_ranks; ++rank) {
    threads.emplace_back([&, rank] {
      const auto index = static_cast<std::size_t>(rank);
      const auto control = communicators[index]->control();
      try {
        body(rank, std::move(communicators[index]));
      } catch (const std::exception& error) {
        errors[index] = std::current_exception();
        control->abort(error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace moba::test
