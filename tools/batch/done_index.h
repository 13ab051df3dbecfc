// Which requests have a result already, and which were read so far.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tools/batch/hash.h"

namespace moba::batch {

// A set of hashes of custom_ids (and of line numbers, for lines that have none), 16 bytes each in a
// table that is at most three quarters full. Of a custom_id 80 bits count: among 100 million the
// probability of a single mistaken one is about 4e-9. Not thread-safe.
class DoneIndex {
 public:
  DoneIndex();

  // A result is there, of a line with that hash. False if there was one already.
  bool add_done(const Hash128& id, std::uint64_t line_hash);

  // The input has a line with that id and hash: a result of it belongs there.
  void confirm(const Hash128& id, std::uint64_t line_hash);
  bool is_confirmed(const Hash128& id) const;
  std::size_t num_unconfirmed() const { return num_done_ - num_confirmed_; }

  bool is_done(const Hash128& id) const;
  std::size_t num_done() const { return num_done_; }

  // Marks the id as read. False if it was read before.
  bool mark_read(const Hash128& id);

 private:
  static constexpr std::uint64_t kDone = 1;
  static constexpr std::uint64_t kConfirmed = 2;
  static constexpr std::uint64_t kRead = 4;
  static constexpr std::uint64_t kFlags = 7;
  // 16 bits of the id, 45 of the line, 3 flags. An entry without flags is free.
  struct Entry {
    std::uint64_t id = 0;
    std::uint64_t rest = 0;
  };

  static std::uint64_t id_bits(const Hash128& id) { return id.low & 0xFFFF'0000'0000'0000ULL; }
  static std::uint64_t line_bits(std::uint64_t line_hash) {
    return (line_hash << 3) & 0x0000'FFFF'FFFF'FFF8ULL;
  }
  // The entry of the id, or the free one where it would stand.
  std::size_t find(const Hash128& id) const;
  Entry& find_or_add(const Hash128& id);
  void grow();

  std::vector<Entry> entries_;  // a power of two
  std::size_t size_ = 0;
  std::size_t num_done_ = 0;
  std::size_t num_confirmed_ = 0;
};

}  // namespace moba::batch
