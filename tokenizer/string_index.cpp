#include "tokenizer/string_index.h"

#include <cstring>

namespace moba {

std::uint64_t StringIndex::hash(std::string_view bytes) {
  constexpr std::uint64_t kMultiplier = 0x9E3779B97F4A7C15ULL;
  std::uint64_t out = bytes.size() * kMultiplier;
  const char* at = bytes.data();
  std::size_t left = bytes.size();
  while (left > 0) {
    std::uint64_t word = 0;
    const std::size_t taken = left < sizeof(word) ? left : sizeof(word);
    std::memcpy(&word, at, taken);
    out = (out ^ word) * kMultiplier;
    out ^= out >> 32;
    at += taken;
    left -= taken;
  }
  return out;
}

void StringIndex::reserve(std::size_t count, std::size_t total_bytes) {
  arena_.reserve(total_bytes);
  entries_.reserve(count);
  std::size_t slots = 16;
  while (slots < count * 2) slots *= 2;
  grow(slots);
}

void StringIndex::grow(std::size_t slots) {
  slots_.assign(slots, -1);
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    std::size_t slot = entries_[i].hash & (slots - 1);
    while (slots_[slot] >= 0) slot = (slot + 1) & (slots - 1);
    slots_[slot] = static_cast<std::int32_t>(i);
  }
}

bool StringIndex::insert(std::string_view key, std::int32_t value) {
  if ((entries_.size() + 1) * 2 > slots_.size()) grow(slots_.empty() ? 16 : slots_.size() * 2);
  const std::uint64_t key_hash = hash(key);
  std::size_t slot = key_hash & (slots_.size() - 1);
  while (slots_[slot] >= 0) {
    const Entry& entry = entries_[static_cast<std::size_t>(slots_[slot])];
    if (entry.hash == key_hash && key_of(entry) == key) return false;
    slot = (slot + 1) & (slots_.size() - 1);
  }
  slots_[slot] = static_cast<std::int32_t>(entries_.size());
  entries_.push_back({key_hash, static_cast<std::uint32_t>(arena_.size()),
                      static_cast<std::uint32_t>(key.size()), value});
  arena_.append(key);
  return true;
}

std::int32_t StringIndex::find(std::string_view key) const {
  if (slots_.empty()) return -1;
  const std::uint64_t key_hash = hash(key);
  std::size_t slot = key_hash & (slots_.size() - 1);
  while (slots_[slot] >= 0) {
    const Entry& entry = entries_[static_cast<std::size_t>(slots_[slot])];
    if (entry.hash == key_hash && key_of(entry) == key) return entry.value;
    slot = (slot + 1) & (slots_.size() - 1);
  }
  return -1;
}

}  // namespace moba
