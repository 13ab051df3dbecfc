// What every token is: its name, the bytes it stands for, and whether it is special. Shared by both
// kinds of tokenizer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/string_index.h"
#include "tokenizer/tokenizer.h"

namespace moba {

// Ids above this are refused as corrupt: 16 times the largest vocabulary in use.
inline constexpr TokenId kMaxTokenId = (1 << 22) - 1;

class Vocabulary {
 public:
  void reserve(std::size_t count, std::size_t name_bytes);

  // Defines a token. Throws std::runtime_error with one line (naming no file) if the id is out of
  // range or taken, or the name is taken.
  void add(TokenId id, std::string_view name, std::string_view bytes, bool special);

  // Redefines the bytes of a token and whether it is special: what an added token does to an entry
  // of the model's vocabulary.
  void set(TokenId id, std::string_view bytes, bool special);

  // Gives a token another name; the old one keeps finding it. Throws as add() does if another token
  // has the name.
  void rename(TokenId id, std::string_view name);

  // One more than the largest id.
  std::int32_t size() const { return static_cast<std::int32_t>(entries_.size()); }
  bool contains(TokenId id) const;
  std::optional<TokenId> find(std::string_view name) const;

  // These throw std::out_of_range, naming the id, for one outside [0, size()). An id in range that
  // no token has is a token without name and bytes.
  std::string_view name(TokenId id) const;
  std::string_view bytes(TokenId id) const;
  bool is_special(TokenId id) const;

 private:
  struct Entry {
    std::uint32_t name_offset = 0;
    std::uint32_t name_length = 0;
    std::uint32_t bytes_offset = 0;
    std::uint32_t bytes_length = 0;
    bool defined = false;
    bool special = false;
  };
  const Entry& entry(TokenId id) const;

  std::string arena_;  // names and bytes
  std::vector<Entry> entries_;
  StringIndex ids_by_name_;
};

}  // namespace moba
