// Where a text may be cut without changing what merging makes of it.
//
// BPE over characters has no pre-tokenizer when it comes from SentencePiece: the whole text is one
// word. But every merge makes a piece of the vocabulary, and a merge across a point in the text
// makes a piece that holds the two characters beside that point next to each other. If no piece
// holds that pair, no merge ever crosses the point; merges on its two sides do not see each other,
// and within a side their order depends on that side alone. So the parts can be encoded one by one
// and the ids joined: the result is exactly the same, the cost is linear in the text, and parts
// that repeat can be looked up.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace moba {

// Built once, then read by any number of threads.
class PieceBoundaries {
 public:
  // Declares a piece (UTF-8) that merging can make or that is matched in the text as a whole.
  void add_piece(std::string_view piece);

  // True if no piece holds `left` directly before `right`.
  bool separates(char32_t left, char32_t right) const {
    if (left < 128 && right < 128) return !ascii_pairs_[left * 128 + right];
    return !contains_wide(key(left, right));
  }

 private:
  static std::uint64_t key(char32_t left, char32_t right) {
    return (static_cast<std::uint64_t>(left) << 32) | right;
  }
  bool contains_wide(std::uint64_t key) const;
  void insert_wide(std::uint64_t key);

  std::bitset<std::size_t{128} * 128> ascii_pairs_;
  std::vector<std::uint64_t> wide_pairs_;  // open addressing, 0 = empty
  std::size_t num_wide_pairs_ = 0;
};

}  // namespace moba
