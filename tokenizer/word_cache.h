// Ids of the short words met most often in a text: a direct-mapped table of fixed size. Belongs to
// one call of encode(), so it needs no lock and is bounded; a colliding word replaces the one
// before it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "tokenizer/string_index.h"
#include "tokenizer/tokenizer.h"

namespace moba {

class WordCache {
 public:
  // Sized for a text of `text_bytes`; texts too short to repeat words get no table.
  explicit WordCache(std::size_t text_bytes) {
    constexpr std::size_t kMinText = 256;
    constexpr std::size_t kMaxSlots = std::size_t{1} << 15;
    if (text_bytes < kMinText) return;
    std::size_t slots = 64;
    while (slots < kMaxSlots && slots * 16 < text_bytes) slots *= 2;
    slots_.resize(slots);
  }

  // Appends the ids of `word` to `out`: from the table, or else from encode(word, out), which must
  // append them. What is appended must depend on the word alone.
  template <typename Encode>
  void append(std::string_view word, std::vector<TokenId>& out, Encode&& encode) {
    if (slots_.empty() || word.size() > kMaxKey || word.empty()) return encode(word, out);
    Slot& slot = slots_[StringIndex::hash(word) & (slots_.size() - 1)];
    if (slot.key_size == word.size() &&
        std::memcmp(slot.key.data(), word.data(), word.size()) == 0) {
      out.insert(out.end(), slot.ids.data(), slot.ids.data() + slot.num_ids);
      return;
    }
    const std::size_t before = out.size();
    encode(word, out);
    const std::size_t count = out.size() - before;
    if (count > kMaxIds) return;
    slot.key_size = static_cast<std::uint8_t>(word.size());
    std::memcpy(slot.key.data(), word.data(), word.size());
    slot.num_ids = static_cast<std::uint8_t>(count);
    std::copy(out.end() - static_cast<std::ptrdiff_t>(count), out.end(), slot.ids.data());
  }

 private:
  static constexpr std::size_t kMaxKey = 30;
  static constexpr std::size_t kMaxIds = 8;
  struct Slot {                 // one cache line
    std::uint8_t key_size = 0;  // 0 = empty
    std::uint8_t num_ids = 0;
    std::array<char, kMaxKey> key;
    std::array<TokenId, kMaxIds> ids;
  };
  static_assert(sizeof(Slot) == 64);

  std::vector<Slot> slots_;
};

}  // namespace moba
