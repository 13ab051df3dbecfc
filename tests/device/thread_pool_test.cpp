#include "device/thread_pool.h"

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "device/check.h"
#include "tests/catch.h"

using moba::ThreadPool;

TEST_CASE("every item runs exactly once", "[thread_pool]") {
  for (int threads = 1; threads <= 8; ++threads) {
    ThreadPool pool(threads);
    CHECK(pool.num_threads() == threads);
    for (const int items : {0, 1, 2, 3, 7, 8, 64, 1000}) {
      std::vector<int> hits(static_cast<std::size_t>(items), 0);
      std::atomic<bool> thread_in_range{true};
      pool.parallel_for(items, [&](std::int64_t item, int thread) {
        ++hits[static_cast<std::size_t>(item)];
        if (thread < 0 || thread >= threads) thread_in_range = false;
      });
      CHECK(thread_in_range);
      for (const int hit : hits) REQUIRE(hit == 1);
    }
  }
}

TEST_CASE("many small loops in a row see each other's writes", "[thread_pool]") {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    std::vector<std::int64_t> values(16, 0);
    constexpr int kLoops = 3000;
    for (int loop = 0; loop < kLoops; ++loop) {
      // Each item reads what another thread may have written in the loop before.
      std::vector<std::int64_t> next(16);
      pool.parallel_for(16, [&](std::int64_t item, int) {
        const auto i = static_cast<std::size_t>(item);
        next[i] = values[(i + 1) % 16] + 1;
      });
      values = next;
    }
    for (const std::int64_t value : values) CHECK(value == kLoops);
  }
}

TEST_CASE("workers that sleep wake up again", "[thread_pool]") {
  ThreadPool pool(4);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::atomic<int> sum{0};
    // Long enough for a woken worker to take part, and for the caller to wait for it.
    pool.parallel_for(8, [&](std::int64_t item, int) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      sum += static_cast<int>(item);
    });
    REQUIRE(sum == 28);
  }
}

TEST_CASE("several threads take part in a loop", "[thread_pool]") {
  ThreadPool pool(3);
  std::vector<std::atomic<int>> per_thread(3);
  pool.parallel_for(30, [&](std::int64_t, int thread) {
    ++per_thread[static_cast<std::size_t>(thread)];
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  });
  int active = 0;
  for (const auto& count : per_thread) active += count > 0 ? 1 : 0;
  CHECK(active == 3);
}

TEST_CASE("the first exception reaches the caller and the pool stays usable", "[thread_pool]") {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 50; ++round) {
      std::atomic<int> done{0};
      std::string message;
      try {
        pool.parallel_for(1000, [&](std::int64_t item, int) {
          if (item >= 10) throw std::runtime_error("item failed");
          ++done;
        });
      } catch (const std::runtime_error& error) {
        message = error.what();
      }
      CHECK(message == "item failed");
      CHECK(done <= 10);
      std::atomic<int> sum{0};
      pool.parallel_for(100, [&](std::int64_t, int) { ++sum; });
      REQUIRE(sum == 100);
    }
  }
}

TEST_CASE("a loop inside a loop is refused", "[thread_pool]") {
  ThreadPool pool(2);
  CHECK_THROWS_AS(
      pool.parallel_for(4,
                        [&](std::int64_t, int) { pool.parallel_for(4, [](std::int64_t, int) {}); }),
      moba::Error);
  std::atomic<int> sum{0};
  pool.parallel_for(10, [&](std::int64_t, int) { ++sum; });
  CHECK(sum == 10);
}

TEST_CASE("thread counts", "[thread_pool]") {
  CHECK(ThreadPool(0).num_threads() >= 1);
  CHECK_THROWS_AS(ThreadPool(-1), moba::Error);
  CHECK_THROWS_AS(ThreadPool(1 << 20), moba::Error);
}
