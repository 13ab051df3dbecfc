#include "kvcache/block_allocator.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <set>
#include <vector>

#include "device/check.h"
#include "tests/catch.h"

namespace moba {
namespace {

using Table = std::vector<std::int32_t>;

TEST_CASE("a fresh allocator hands out every page once", "[block_allocator]") {
  BlockAllocator allocator(5);
  Table table;
  REQUIRE(allocator.num_blocks() == 5);
  REQUIRE(allocator.num_free() == 5);
  REQUIRE(allocator.allocate(5, table));
  REQUIRE(allocator.num_free() == 0);
  std::sort(table.begin(), table.end());
  REQUIRE(table == Table{0, 1, 2, 3, 4});
}

TEST_CASE("an allocation that does not fit changes nothing", "[block_allocator]") {
  BlockAllocator allocator(4);
  Table table{77};
  REQUIRE_FALSE(allocator.allocate(5, table));
  REQUIRE(table == Table{77});
  REQUIRE(allocator.num_free() == 4);
  REQUIRE(allocator.allocate(4, table));
  REQUIRE(table.size() == 5);
  REQUIRE_FALSE(allocator.allocate(1, table));
  REQUIRE(table.size() == 5);
  REQUIRE(allocator.allocate(0, table));
  REQUIRE_THROWS_AS(allocator.allocate(-1, table), Error);
}

TEST_CASE("pages given back come again in the same order", "[block_allocator]") {
  BlockAllocator allocator(8);
  Table first;
  Table second;
  REQUIRE(allocator.allocate(3, first));
  allocator.free(first);
  REQUIRE(allocator.allocate(3, second));
  REQUIRE(first == second);
}

TEST_CASE("a wrong free is refused", "[block_allocator]") {
  BlockAllocator allocator(3);
  Table table;
  REQUIRE(allocator.allocate(2, table));
  REQUIRE_THROWS_AS(allocator.free({3}), Error);
  REQUIRE_THROWS_AS(allocator.free({-1}), Error);
  REQUIRE_THROWS_AS(allocator.free({2}), Error);  // never handed out
  REQUIRE(allocator.num_free() == 1);
  allocator.free(table);
  REQUIRE_THROWS_AS(allocator.free({table[0]}), Error);
  REQUIRE(allocator.num_free() == 3);
  REQUIRE_THROWS_AS(BlockAllocator(-1), Error);
}

TEST_CASE("random allocations and frees never share or lose a page", "[block_allocator]") {
  constexpr std::int32_t kPages = 97;
  std::mt19937 rng(5);
  BlockAllocator allocator(kPages);
  std::vector<Table> owners;
  for (int step = 0; step < 5000; ++step) {
    if (owners.empty() || rng() % 2 == 0) {
      const auto count = static_cast<std::int32_t>(rng() % 12);
      const std::int32_t free_before = allocator.num_free();
      Table table;
      const bool done = allocator.allocate(count, table);
      REQUIRE(done == (count <= free_before));
      REQUIRE(static_cast<std::int32_t>(table.size()) == (done ? count : 0));
      owners.push_back(table);
    } else {
      const std::size_t which = rng() % owners.size();
      allocator.free(owners[which]);
      owners.erase(owners.begin() + static_cast<std::ptrdiff_t>(which));
    }
    std::set<std::int32_t> in_use;
    std::size_t held = 0;
    for (const Table& table : owners) {
      held += table.size();
      in_use.insert(table.begin(), table.end());
    }
    REQUIRE(in_use.size() == held);
    REQUIRE(allocator.num_free() == kPages - static_cast<std::int32_t>(held));
    if (!in_use.empty()) {
      REQUIRE(*in_use.begin() >= 0);
      REQUIRE(*in_use.rbegin() < kPages);
    }
  }
}

}  // namespace
}  // namespace moba
