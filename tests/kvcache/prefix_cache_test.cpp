#include "kvcache/prefix_cache.h"

#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "device/check.h"
#include "tests/catch.h"

namespace moba {
namespace {

constexpr int kBlockSize = 4;
using Table = std::vector<std::int32_t>;
using Tokens = std::vector<std::int32_t>;

// A sequence as the scheduler would hold it.
struct Holder {
  explicit Holder(Tokens t, const std::string& r = "root")
      : tokens(std::move(t)), root(std::make_shared<const std::string>(r)) {
    std::uint64_t hash = prefix_root_hash(*root);
    for (std::size_t i = 0; i + kBlockSize <= tokens.size(); i += kBlockSize) {
      hash = prefix_page_hash(hash, std::span(tokens).subspan(i, kBlockSize));
      hashes.push_back(hash);
    }
  }
  PrefixKey key() const { return {&root, tokens, hashes, &tail, tail_page}; }

  Tokens tokens;
  PrefixRoot root;
  PrefixRoot tail;
  std::size_t tail_page = SIZE_MAX;
  std::vector<std::uint64_t> hashes;
  Table table;
};

Tokens sequence(std::int32_t length, std::int32_t first = 0) {
  Tokens tokens;
  for (std::int32_t i = 0; i < length; ++i) tokens.push_back(first + i);
  return tokens;
}

// Computes all full pages that are not in the table yet.
void compute(PrefixCache& cache, Holder& holder) {
  const std::size_t had = holder.table.size();
  REQUIRE(cache.allocate(static_cast<std::int64_t>(holder.hashes.size() - had), holder.table));
  for (std::size_t i = had; i < holder.hashes.size(); ++i) {
    cache.insert(holder.key(), i, holder.table);
  }
}

TEST_CASE("pages that were let go are found again", "[prefix_cache]") {
  BlockAllocator allocator(10);
  PrefixCache cache(allocator, kBlockSize);
  Holder a(sequence(14));
  compute(cache, a);
  const Table pages = a.table;
  CHECK(cache.match(Holder(sequence(14)).key()).pages == 3);
  CHECK(cache.match(Holder(sequence(14)).key()).evictable == 0);
  CHECK(cache.num_in_use() == 3);
  cache.release(a.table);
  CHECK(a.table.empty());
  CHECK(cache.num_in_use() == 0);
  CHECK(cache.num_available() == 10);

  Holder b(sequence(9));
  CHECK(cache.match(b.key()).pages == 2);
  CHECK(cache.match(b.key()).evictable == 2);
  cache.acquire(b.key(), 2, b.table);
  CHECK(b.table == Table(pages.begin(), pages.begin() + 2));
  CHECK(cache.num_available() == 8);
  cache.release(b.table);
  CHECK(cache.num_in_use() == 0);
}

TEST_CASE("other tokens, another predecessor or another root are no hit", "[prefix_cache]") {
  BlockAllocator allocator(10);
  PrefixCache cache(allocator, kBlockSize);
  Holder a(sequence(12));
  compute(cache, a);
  Tokens changed = sequence(12);
  changed[5] = 99;
  CHECK(cache.match(Holder(changed).key()).pages == 1);
  changed = sequence(12);
  changed[0] = 99;  // the later pages' tokens are equal
  CHECK(cache.match(Holder(changed).key()).pages == 0);
  CHECK(cache.match(Holder(sequence(12), "other").key()).pages == 0);
  CHECK(cache.match(Holder(sequence(8, 4)).key()).pages == 0);
}

TEST_CASE("hashes that collide give no wrong hit", "[prefix_cache]") {
  BlockAllocator allocator(10);
  PrefixCache cache(allocator, kBlockSize);
  Holder a(sequence(8));
  compute(cache, a);
  Holder b(sequence(8, 50));
  b.hashes = a.hashes;
  CHECK(cache.match(b.key()).pages == 0);
  compute(cache, b);
  CHECK(cache.num_cached() == 2);
  CHECK(cache.match(a.key()).pages == 2);
  CHECK(cache.match(b.key()).pages == 0);
  // Equal tokens of the second page, but after another first page.
  Holder c(Tokens{9, 9, 9, 9, 4, 5, 6, 7});
  compute(cache, c);
  c.hashes[1] = a.hashes[1];
  CHECK(cache.match(c.key()).pages == 1);
  cache.release(a.table);
  cache.release(b.table);
  cache.release(c.table);
  CHECK(cache.num_in_use() == 0);
}

TEST_CASE("pages computed twice at the same time become one", "[prefix_cache]") {
  BlockAllocator allocator(10);
  PrefixCache cache(allocator, kBlockSize);
  Holder a(sequence(8));
  Holder b(sequence(8));
  compute(cache, a);
  compute(cache, b);
  CHECK(a.table == b.table);
  CHECK(cache.num_in_use() == 2);
  CHECK(allocator.num_free() == 8);
  CHECK(allocator.num_holders(a.table[0]) == 3);
  cache.release(a.table);
  CHECK(cache.num_in_use() == 2);
  cache.release(b.table);
  CHECK(cache.num_in_use() == 0);
}

TEST_CASE("the longest unused goes first, of a sequence the last page", "[prefix_cache]") {
  BlockAllocator allocator(6);
  PrefixCache cache(allocator, kBlockSize);
  Holder a(sequence(12));
  Holder b(sequence(12, 100));
  compute(cache, a);
  compute(cache, b);
  cache.release(a.table);
  cache.release(b.table);
  Table other;
  REQUIRE(cache.allocate(1, other));
  CHECK(cache.match(a.key()).pages == 2);
  REQUIRE(cache.allocate(3, other));
  CHECK(cache.match(a.key()).pages == 0);
  CHECK(cache.match(b.key()).pages == 2);
  CHECK(cache.num_evicted() == 4);
  // Used again, b's first page outlives what is older.
  Holder c(sequence(4, 100));
  cache.acquire(c.key(), 1, c.table);
  CHECK_FALSE(cache.allocate(2, other));
  REQUIRE(cache.allocate(1, other));
  CHECK(cache.match(b.key()).pages == 1);
  cache.release(c.table);
  cache.release(other);
  cache.clear();
  CHECK(cache.num_cached() == 0);
  CHECK(allocator.num_free() == 6);
}

TEST_CASE("pages after a change of attention are no others'", "[prefix_cache]") {
  BlockAllocator allocator(20);
  PrefixCache cache(allocator, kBlockSize);
  const auto with_tail = [](const std::string& tail, std::size_t page) {
    Holder holder(sequence(16));
    holder.tail = std::make_shared<const std::string>(tail);
    holder.tail_page = page;
    holder.hashes.clear();
    for (std::size_t i = 0; i < 4; ++i) {
      holder.hashes.push_back(prefix_page_hash(holder.key(), i, kBlockSize));
    }
    return holder;
  };
  Holder plain(sequence(16));
  compute(cache, plain);
  for (const std::size_t page : {0, 2}) {
    const auto shared = static_cast<std::int64_t>(page);
    Holder a = with_tail("a", page);
    CHECK(a.hashes[page] != plain.hashes[page]);
    CHECK(cache.match(a.key()).pages == shared);
    CHECK(cache.acquire(a.key(), shared, a.table) == shared);
    compute(cache, a);
    CHECK(cache.match(with_tail("a", page).key()).pages == 4);
    CHECK(cache.match(with_tail("b", page).key()).pages == shared);
    CHECK(cache.match(with_tail("a", 3).key()).pages == 3);
    // Equal hashes do not make them equal.
    Holder forged = with_tail("b", page);
    forged.hashes = a.hashes;
    CHECK(cache.match(forged.key()).pages == shared);
    forged = Holder(sequence(16));
    forged.hashes = a.hashes;
    CHECK(cache.match(forged.key()).pages == shared);
    cache.release(a.table);
  }
  CHECK(cache.match(plain.key()).pages == 4);
}

TEST_CASE("a page that another has computed takes the place of one's own", "[prefix_cache]") {
  BlockAllocator allocator(10);
  PrefixCache cache(allocator, kBlockSize);
  Holder a(sequence(12));
  compute(cache, a);
  Holder b(sequence(12));
  CHECK(cache.acquire(b.key(), 1, b.table) == 1);
  REQUIRE(cache.allocate(1, b.table));  // half computed
  const std::int32_t own = b.table[1];
  REQUIRE(cache.acquire_next(b.key(), 1, b.table));
  REQUIRE(cache.acquire_next(b.key(), 2, b.table));
  CHECK(b.table == a.table);
  CHECK(allocator.num_holders(own) == 0);
  CHECK(allocator.num_holders(a.table[2]) == 3);
  cache.release(b.table);
  // What only the cache holds leaves the list of what may go.
  cache.release(a.table);
  CHECK(cache.num_available() == 10);
  REQUIRE(cache.acquire_next(b.key(), 0, b.table));
  CHECK(cache.num_available() == 9);
  Holder c(sequence(12, 3));
  CHECK_FALSE(cache.acquire_next(c.key(), 0, c.table));
  // One whose predecessor is not the cached one is not taken.
  REQUIRE(cache.allocate(1, c.table));
  c.tokens = a.tokens;
  c.hashes = a.hashes;
  CHECK_FALSE(cache.acquire_next(c.key(), 1, c.table));
}

TEST_CASE("a cache that is not enabled keeps nothing", "[prefix_cache]") {
  BlockAllocator allocator(6);
  PrefixCache cache(allocator, kBlockSize, false);
  Holder a(sequence(12));
  compute(cache, a);
  CHECK(cache.match(a.key()).pages == 0);
  cache.release(a.table);
  CHECK(allocator.num_free() == 6);
}

TEST_CASE("random sequences: contents, counts and holders stay right", "[prefix_cache]") {
  std::mt19937 random(GENERATE(1, 2, 3));
  const auto below = [&random](std::uint32_t n) { return random() % n; };
  BlockAllocator allocator(40);
  PrefixCache cache(allocator, kBlockSize);
  // What each page was computed for: the root and all tokens up to its end.
  std::map<std::int32_t, std::pair<std::string, Tokens>> content;
  std::vector<Holder> holders;
  std::int64_t hits = 0;
  for (int step = 0; step < 40000; ++step) {
    if (holders.size() < 8 && below(2) == 0) {
      Tokens tokens(1 + below(30));
      for (std::int32_t& t : tokens) t = below(10) == 0 ? 1 : 0;  // many common beginnings
      Holder holder(tokens, below(4) == 0 ? "x" : "y");
      const PrefixCache::Match match = cache.match(holder.key());
      const PrefixCache::Match estimate = cache.estimate(holder.key());
      REQUIRE(estimate.pages == match.pages);
      REQUIRE(estimate.evictable == match.evictable);
      const std::int64_t available = cache.num_available();
      cache.acquire(holder.key(), match.pages, holder.table);
      REQUIRE(cache.num_available() == available - match.evictable);
      hits += match.pages;
      for (std::size_t i = 0; i < holder.table.size(); ++i) {
        const auto& [root, computed] = content.at(holder.table[i]);
        REQUIRE(root == *holder.root);
        REQUIRE(computed == Tokens(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(
                                                                        (i + 1) * kBlockSize)));
      }
      // The next full page of this chain, if any, is not there.
      holders.push_back(std::move(holder));
    } else if (!holders.empty()) {
      const std::size_t chosen = below(static_cast<std::uint32_t>(holders.size()));
      Holder& holder = holders[chosen];
      if (below(3) == 0 || holder.table.size() == holder.hashes.size()) {
        cache.release(holder.table);
        holders.erase(holders.begin() + static_cast<std::ptrdiff_t>(chosen));
      } else if (cache.allocate(1, holder.table)) {
        const std::size_t index = holder.table.size() - 1;
        content[holder.table.back()] = {
            *holder.root,
            Tokens(holder.tokens.begin(),
                   holder.tokens.begin() + static_cast<std::ptrdiff_t>((index + 1) * kBlockSize))};
        cache.insert(holder.key(), index, holder.table);
        const auto& now = content.at(holder.table[index]);
        REQUIRE(now.first == *holder.root);
      }
    }
    std::map<std::int32_t, std::int32_t> held;
    for (const Holder& holder : holders) {
      for (const std::int32_t page : holder.table) ++held[page];
    }
    REQUIRE(cache.num_in_use() == static_cast<std::int64_t>(held.size()));
    for (const auto& [page, count] : held) {
      const std::int32_t extra = allocator.num_holders(page) - count;
      REQUIRE((extra == 0 || extra == 1));  // the cache
    }
  }
  CHECK(hits > 1000);
  for (Holder& holder : holders) cache.release(holder.table);
  cache.clear();
  CHECK(allocator.num_free() == 40);
}

}  // namespace
}  // namespace moba
