#include "kvcache/prefix_cache.h"

#include <algorithm>

#include "device/check.h"

namespace moba {
namespace {

// A step of a multiply-and-shift hash; every bit of the value reaches every bit of the result.
std::uint64_t mix(std::uint64_t hash, std::uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15U;
  hash = (hash ^ (hash >> 32)) * 0xD6E8FEB86659FD93U;
  return hash ^ (hash >> 32);
}

// What is compared beside tokens and predecessor; null: nothing.
const PrefixRoot* root_of_page(const PrefixKey& key, std::size_t index) {
  if (index == key.tail_page) return key.tail;
  return index == 0 ? key.root : nullptr;
}

// The largest n <= count so that holds(i) for all i < n, where it holds up to some i and not after.
template <typename F>
std::size_t count_leading(std::size_t count, F&& holds) {
  std::size_t low = 0;
  while (low < count) {
    const std::size_t middle = low + (count - low) / 2;
    if (holds(middle)) {
      low = middle + 1;
    } else {
      count = middle;
    }
  }
  return low;
}

}  // namespace

std::uint64_t prefix_root_hash(std::string_view root) {
  std::uint64_t hash = 0x243F6A8885A308D3U;
  for (const char c : root) hash = mix(hash, static_cast<unsigned char>(c));
  return mix(hash, root.size());
}

std::uint64_t prefix_page_hash(std::uint64_t parent, std::span<const std::int32_t> tokens) {
  std::uint64_t hash = mix(parent, tokens.size());
  for (const std::int32_t token : tokens) hash = mix(hash, static_cast<std::uint32_t>(token));
  return hash;
}

std::uint64_t prefix_page_hash(const PrefixKey& key, std::size_t index, int block_size) {
  std::uint64_t parent = index == 0 ? prefix_root_hash(**key.root) : key.hashes[index - 1];
  if (index == key.tail_page) parent = mix(parent, prefix_root_hash(**key.tail));
  const auto size = static_cast<std::size_t>(block_size);
  return prefix_page_hash(parent, key.tokens.subspan(index * size, size));
}

PrefixCache::PrefixCache(BlockAllocator& allocator, int block_size, bool enabled)
    : allocator_(allocator),
      block_size_(static_cast<std::size_t>(block_size)),
      enabled_(enabled),
      entries_(enabled ? static_cast<std::size_t>(allocator.num_blocks()) : 0),
      tokens_(entries_.size() * block_size_) {
  MOBA_CHECK(block_size >= 1, "prefix cache: block_size is ", block_size);
}

std::span<std::int32_t> PrefixCache::page_tokens(std::int32_t page) {
  return {tokens_.data() + static_cast<std::size_t>(page) * block_size_, block_size_};
}

std::span<const std::int32_t> PrefixCache::key_tokens(const PrefixKey& key,
                                                      std::size_t index) const {
  return key.tokens.subspan(index * block_size_, block_size_);
}

bool PrefixCache::equals(std::int32_t page, const PrefixKey& key, std::size_t index,
                         std::int32_t parent) const {
  const Entry& e = entry(page);
  if (e.parent_serial != (parent == kNone ? 0 : entry(parent).serial)) return false;
  const PrefixRoot* root = root_of_page(key, index);
  if ((root == nullptr) != (e.root == nullptr)) return false;
  if (root != nullptr && *e.root != **root) return false;
  const auto tokens = key_tokens(key, index);
  return std::equal(
      tokens.begin(), tokens.end(),
      tokens_.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(page) * block_size_));
}

std::int32_t PrefixCache::find(const PrefixKey& key, std::size_t index, std::int32_t parent) const {
  const auto it = by_hash_.find(key.hashes[index]);
  if (it == by_hash_.end() || !equals(it->second, key, index, parent)) return kNone;
  return it->second;
}

PrefixCache::Match PrefixCache::match(const PrefixKey& key) const {
  Match result;
  if (!enabled_) return result;
  std::int32_t parent = kNone;
  for (std::size_t i = 0; i < key.hashes.size(); ++i) {
    parent = find(key, i, parent);
    if (parent == kNone) break;
    ++result.pages;
    if (allocator_.num_holders(parent) == 1) ++result.evictable;
  }
  return result;
}

PrefixCache::Match PrefixCache::estimate(const PrefixKey& key) const {
  if (!enabled_) return {};
  const auto page_of = [&](std::size_t i) {
    const auto it = by_hash_.find(key.hashes[i]);
    return it == by_hash_.end() ? kNone : it->second;
  };
  const std::size_t pages =
      count_leading(key.hashes.size(), [&](std::size_t i) { return page_of(i) != kNone; });
  const std::size_t held =
      count_leading(pages, [&](std::size_t i) { return allocator_.num_holders(page_of(i)) > 1; });
  return {static_cast<std::int64_t>(pages), static_cast<std::int64_t>(pages - held)};
}

void PrefixCache::hold(std::int32_t page) {
  if (allocator_.num_holders(page) == 1) remove_evictable(page);
  allocator_.add_holder(page);
}

std::int64_t PrefixCache::acquire(const PrefixKey& key, std::int64_t count,
                                  std::vector<std::int32_t>& table) {
  if (!enabled_) return 0;
  std::int32_t parent = kNone;
  for (std::int64_t i = 0; i < count; ++i) {
    parent = find(key, static_cast<std::size_t>(i), parent);
    if (parent == kNone) return i;
    table.push_back(parent);
    hold(parent);
  }
  return count;
}

bool PrefixCache::acquire_next(const PrefixKey& key, std::size_t index,
                               std::vector<std::int32_t>& table) {
  if (!enabled_) return false;
  const std::int32_t parent = index == 0 ? kNone : table[index - 1];
  if (parent != kNone && !entry(parent).cached) return false;
  const std::int32_t page = find(key, index, parent);
  if (page == kNone || (index < table.size() && table[index] == page)) return false;
  if (index == table.size()) {
    table.push_back(page);
    hold(page);
  } else {
    hold(page);
    release(table[index]);
    table[index] = page;
  }
  return true;
}

bool PrefixCache::insert(const PrefixKey& key, std::size_t index,
                         std::vector<std::int32_t>& table) {
  if (!enabled_) return false;
  const std::int32_t page = table[index];
  if (entry(page).cached) return false;
  const std::int32_t parent = index == 0 ? kNone : table[index - 1];
  if (parent != kNone && !entry(parent).cached) return false;
  const auto [it, is_new] = by_hash_.try_emplace(key.hashes[index], page);
  if (!is_new) {
    // Equal: computed twice at the same time. Else two chains of one hash; the first stays.
    const std::int32_t other = it->second;
    if (!equals(other, key, index, parent)) return false;
    hold(other);
    table[index] = other;
    allocator_.free(page);
    return true;
  }
  Entry& e = entry(page);
  e.cached = true;
  e.hash = key.hashes[index];
  e.serial = next_serial_++;
  e.parent_serial = parent == kNone ? 0 : entry(parent).serial;
  if (const PrefixRoot* root = root_of_page(key, index)) e.root = *root;
  const auto tokens = key_tokens(key, index);
  std::copy(tokens.begin(), tokens.end(), page_tokens(page).begin());
  allocator_.add_holder(page);
  return false;
}

void PrefixCache::append_evictable(std::int32_t page) {
  Entry& e = entry(page);
  e.older = newest_;
  e.newer = kNone;
  (newest_ == kNone ? oldest_ : entry(newest_).newer) = page;
  newest_ = page;
  ++num_evictable_;
}

void PrefixCache::remove_evictable(std::int32_t page) {
  Entry& e = entry(page);
  (e.older == kNone ? oldest_ : entry(e.older).newer) = e.newer;
  (e.newer == kNone ? newest_ : entry(e.newer).older) = e.older;
  e.older = e.newer = kNone;
  --num_evictable_;
}

void PrefixCache::evict_oldest() {
  const std::int32_t page = oldest_;
  remove_evictable(page);
  by_hash_.erase(entry(page).hash);
  entry(page) = Entry();
  allocator_.free(page);
  ++num_evicted_;
}

bool PrefixCache::allocate(std::int64_t count, std::vector<std::int32_t>& table) {
  if (count > num_available()) return false;
  while (allocator_.num_free() < count) evict_oldest();
  return allocator_.allocate(static_cast<std::int32_t>(count), table);
}

void PrefixCache::release(std::int32_t page) {
  allocator_.free(page);
  if (enabled_ && entry(page).cached && allocator_.num_holders(page) == 1) append_evictable(page);
}

void PrefixCache::release(std::vector<std::int32_t>& table) {
  // Last page first: it becomes the older one.
  for (auto it = table.rbegin(); it != table.rend(); ++it) release(*it);
  table.clear();
}

void PrefixCache::clear() {
  while (oldest_ != kNone) evict_oldest();
}

void PrefixCache::reset() {
  by_hash_.clear();
  std::fill(entries_.begin(), entries_.end(), Entry());
  oldest_ = newest_ = kNone;
  num_evictable_ = 0;
  allocator_.reset();
}

}  // namespace moba
