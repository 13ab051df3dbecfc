#include "tools/batch/look_ahead.h"

namespace moba::batch {

bool LookAhead::ByKey::operator()(const ReadLine* a, const ReadLine* b) const {
  const auto order = a->item->key <=> b->item->key;
  return order != 0 ? order < 0 : a->sequence < b->sequence;
}

void LookAhead::add(ReadLine line) {
  const Order order{line.item->key.priority, line.sequence};
  auto owned = std::make_unique<ReadLine>(std::move(line));
  by_key_.insert(owned.get());
  by_sequence_.emplace(order, std::move(owned));
}

// The one that shares most with the last one taken, if that is enough. It stands beside it in the
// order of keys.
const ReadLine* LookAhead::neighbour() const {
  if (last_.item == nullptr) return nullptr;
  const auto after = by_key_.lower_bound(&last_);
  const ReadLine* best = nullptr;
  std::size_t most = kMinSharedBytes - 1;
  const auto look_at = [&](const ReadLine* line) {
    const std::size_t shared = shared_bytes(line->item->key, last_.item->key);
    if (shared <= most) return;
    most = shared;
    best = line;
  };
  if (after != by_key_.end()) look_at(*after);
  if (after != by_key_.begin()) look_at(*std::prev(after));
  return best;
}

ReadLine LookAhead::take() {
  auto chosen = by_sequence_.begin();
  const ReadLine* near = neighbour();
  // Not past one that is more urgent.
  if (near != nullptr && near->item->key.priority == chosen->first.first) {
    chosen = by_sequence_.find({near->item->key.priority, near->sequence});
  }
  by_key_.erase(chosen->second.get());
  ReadLine line = std::move(*chosen->second);
  by_sequence_.erase(chosen);
  // The key is all that is needed of it: the request itself goes.
  last_.sequence = line.sequence;
  if (last_.item == nullptr) last_.item = std::make_unique<BatchItem>();
  last_.item->key = line.item->key;
  return line;
}

}  // namespace moba::batch
