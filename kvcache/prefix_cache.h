// Pages that several sequences share because they begin with the same tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kvcache/block_allocator.h"

namespace moba {

// What must be equal, beside the tokens, for keys and values to be equal: the attention of the
// layers that computed them, and a salt that keeps tenants apart. Compared byte by byte.
using PrefixRoot = std::shared_ptr<const std::string>;

// Hash of a page in a chain: of the page before it (or of the root) and its own tokens.
std::uint64_t prefix_root_hash(std::string_view root);
std::uint64_t prefix_page_hash(std::uint64_t parent, std::span<const std::int32_t> tokens);

// The first pages of one sequence as the cache looks them up. Borrowed.
struct PrefixKey {
  const PrefixRoot* root = nullptr;
  std::span<const std::int32_t> tokens;   // from the start of the sequence
  std::span<const std::uint64_t> hashes;  // one for each full page of them, or fewer
  // Where the attention changes: from this page on, `tail` stands for the root. It must say what
  // the root says and from which token of the page on which attention is used.
  const PrefixRoot* tail = nullptr;
  std::size_t tail_page = SIZE_MAX;
};

// The hash of page `index`, whose tokens are key.tokens [index * block_size ...); those of the
// pages before it are in key.hashes.
std::uint64_t prefix_page_hash(const PrefixKey& key, std::size_t index, int block_size);

// Keeps full pages when their sequences let go of them, until their memory is needed. A page is
// found by the hash of its chain, and taken only if its tokens, its predecessor in the chain and
// the root are equal too: hashes that collide can cost a hit, never give a wrong one. Centroids lie
// in the pages' slots, so they come with them. A page that is in the cache has its predecessors
// there, and who holds it holds them.
//
// A page in the cache has the cache as a holder beside the sequences. Those that only the cache
// holds are evicted when pages run out, the longest unused first, and of one sequence the last page
// first, so that what stays is a usable beginning. Not thread-safe.
class PrefixCache {
 public:
  // Borrows the allocator, whose pages go through here from now on. Not enabled: nothing is kept.
  PrefixCache(BlockAllocator& allocator, int block_size, bool enabled = true);

  // Pages that allocate() can give.
  std::int64_t num_available() const { return allocator_.num_free() + num_evictable_; }
  std::int64_t num_cached() const { return static_cast<std::int64_t>(by_hash_.size()); }
  // Pages that sequences hold.
  std::int64_t num_in_use() const { return allocator_.num_blocks() - num_available(); }
  std::int64_t num_evicted() const { return num_evicted_; }
  bool is_cached(std::int32_t page) const { return enabled_ && entry(page).cached; }

  // Appends `count` pages to `table`, evicting as needed; all or none.
  bool allocate(std::int64_t count, std::vector<std::int32_t>& table);

  // Pages from the start of the sequence that are in the cache; how many of them nobody else holds
  // (taking them makes those unavailable to allocate()).
  struct Match {
    std::int64_t pages = 0;
    std::int64_t evictable = 0;
  };
  Match match(const PrefixKey& key) const;
  // The same in O(log pages), by hashes alone: where hashes collide it can be too much.
  Match estimate(const PrefixKey& key) const;
  // Appends the pages of a match to the empty `table` and holds them, at most `count`. Returns how
  // many there were.
  std::int64_t acquire(const PrefixKey& key, std::int64_t count, std::vector<std::int32_t>& table);
  // If page `index`, whose predecessor the table has, is in the cache, holds it and makes it the
  // table's last: in the place of its page `index`, which is given back, if it has one.
  bool acquire_next(const PrefixKey& key, std::size_t index, std::vector<std::int32_t>& table);

  // Page `index` of the sequence with that key and table is computed: others may have it. If an
  // equal one is there already, the table's is given back and replaced by that one: true. Pages go
  // in in order: one whose predecessor is not in the cache stays out.
  bool insert(const PrefixKey& key, std::size_t index, std::vector<std::int32_t>& table);

  // A sequence lets go of its pages; clears the table.
  void release(std::vector<std::int32_t>& table);
  // Of one page.
  void release(std::int32_t page);

  // Evicts all that only the cache holds.
  void clear();
  // All pages are free, whoever held them. Takes no memory.
  void reset();

 private:
  static constexpr std::int32_t kNone = -1;
  struct Entry {
    bool cached = false;
    std::uint64_t hash = 0;
    std::uint64_t serial = 0;         // unique in the life of the cache
    std::uint64_t parent_serial = 0;  // 0: first of a chain
    PrefixRoot root;                  // of the first of a chain, and of the first of a tail
    std::int32_t older = kNone;       // neighbours in the list of evictable pages
    std::int32_t newer = kNone;
  };

  Entry& entry(std::int32_t page) { return entries_[static_cast<std::size_t>(page)]; }
  const Entry& entry(std::int32_t page) const { return entries_[static_cast<std::size_t>(page)]; }
  std::span<std::int32_t> page_tokens(std::int32_t page);
  std::span<const std::int32_t> key_tokens(const PrefixKey& key, std::size_t index) const;
  // Holds a cached page for one more sequence.
  void hold(std::int32_t page);
  // The cached page that is page `index` of the key after the page `parent` (kNone for index 0), or
  // kNone.
  std::int32_t find(const PrefixKey& key, std::size_t index, std::int32_t parent) const;
  bool equals(std::int32_t page, const PrefixKey& key, std::size_t index,
              std::int32_t parent) const;
  void append_evictable(std::int32_t page);
  void remove_evictable(std::int32_t page);
  void evict_oldest();

  BlockAllocator& allocator_;
  const std::size_t block_size_;
  const bool enabled_;
  std::vector<Entry> entries_;        // [num_blocks]
  std::vector<std::int32_t> tokens_;  // [num_blocks, block_size]: of cached pages
  std::unordered_map<std::uint64_t, std::int32_t> by_hash_;
  std::int32_t oldest_ = kNone;
  std::int32_t newest_ = kNone;
  std::int64_t num_evictable_ = 0;
  std::int64_t num_evicted_ = 0;
  std::uint64_t next_serial_ = 1;
};

}  // namespace moba
