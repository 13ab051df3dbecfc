// Chooses which of the requests that were read goes next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "tools/batch/batch_item.h"

namespace moba::batch {

// Requests that share a long beginning come out one after another, so that it is computed once and
// still in the cache when the next one asks for it; other requests in the order in which they were
// read. Requests of a smaller priority number come before all others. Not thread-safe.
class LookAhead {
 public:
  // Beginnings shorter than this (about 256 tokens of English) are not worth changing the order
  // for.
  static constexpr std::size_t kMinSharedBytes = 1024;

  void add(ReadLine line);
  bool empty() const { return by_sequence_.empty(); }
  std::size_t size() const { return by_sequence_.size(); }
  // Takes the next one out. Not while empty().
  ReadLine take();

 private:
  struct ByKey {
    using is_transparent = void;
    bool operator()(const ReadLine* a, const ReadLine* b) const;
  };
  using Order = std::pair<int, std::int64_t>;  // priority, sequence

  const ReadLine* neighbour() const;

  std::map<Order, std::unique_ptr<ReadLine>> by_sequence_;
  std::set<const ReadLine*, ByKey> by_key_;
  // A request with the key of the one that was taken last.
  ReadLine last_;
};

}  // namespace moba::batch
