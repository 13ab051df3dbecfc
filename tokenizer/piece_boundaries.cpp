#include "tokenizer/piece_boundaries.h"

#include "tokenizer/utf8.h"

namespace moba {

namespace {

std::size_t slot_of(std::uint64_t key, std::size_t slots) {
  return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15ULL) >> 32) & (slots - 1);
}

}  // namespace

void PieceBoundaries::add_piece(std::string_view piece) {
  char32_t left = 0;
  bool first = true;
  while (!piece.empty()) {
    const utf8::Decoded next = utf8::decode(piece);
    if (!first) {
      if (left < 128 && next.code_point < 128) {
        ascii_pairs_[left * 128 + next.code_point] = true;
      } else {
        insert_wide(key(left, next.code_point));
      }
    }
    first = false;
    left = next.code_point;
    piece.remove_prefix(static_cast<std::size_t>(next.length));
  }
}

bool PieceBoundaries::contains_wide(std::uint64_t key) const {
  if (wide_pairs_.empty()) return false;
  std::size_t slot = slot_of(key, wide_pairs_.size());
  while (wide_pairs_[slot] != 0) {
    if (wide_pairs_[slot] == key) return true;
    slot = (slot + 1) & (wide_pairs_.size() - 1);
  }
  return false;
}

void PieceBoundaries::insert_wide(std::uint64_t key) {
  if (contains_wide(key)) return;
  if ((num_wide_pairs_ + 1) * 2 > wide_pairs_.size()) {
    std::vector<std::uint64_t> old(wide_pairs_.empty() ? 1024 : wide_pairs_.size() * 2, 0);
    old.swap(wide_pairs_);
    num_wide_pairs_ = 0;
    for (const std::uint64_t pair : old) {
      if (pair != 0) insert_wide(pair);
    }
  }
  std::size_t slot = slot_of(key, wide_pairs_.size());
  while (wide_pairs_[slot] != 0) slot = (slot + 1) & (wide_pairs_.size() - 1);
  wide_pairs_[slot] = key;
  ++num_wide_pairs_;
}

}  // namespace moba
