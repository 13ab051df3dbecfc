// A compact map from strings to non-negative integers: one arena for all keys, open addressing.
// Built once, then read by any number of threads.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moba {

class StringIndex {
 public:
  // The hash of a key: fast, not for adversaries (a probe is at most as long as the number of
  // keys).
  static std::uint64_t hash(std::string_view bytes);

  // Makes room for `count` keys with `total_bytes` bytes in all.
  void reserve(std::size_t count, std::size_t total_bytes);

  // Adds a key that must not be present yet: returns false and changes nothing if it is.
  bool insert(std::string_view key, std::int32_t value);

  // Value of a key, -1 if it is absent.
  std::int32_t find(std::string_view key) const;

  std::size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::uint64_t hash;
    std::uint32_t offset;
    std::uint32_t length;
    std::int32_t value;
  };
  std::string_view key_of(const Entry& entry) const {
    return std::string_view(arena_).substr(entry.offset, entry.length);
  }
  void grow(std::size_t slots);

  std::string arena_;
  std::vector<Entry> entries_;
  std::vector<std::int32_t> slots_;  // index into entries_, -1 = empty; a power of two long
};

}  // namespace moba
