#include "tools/batch/done_index.h"

#include <utility>

namespace moba::batch {
namespace {

constexpr std::size_t kFirstCapacity = 1024;
constexpr std::uint64_t kIdBits = 0xFFFF'0000'0000'0000ULL;

}  // namespace

DoneIndex::DoneIndex() : entries_(kFirstCapacity) {}

std::size_t DoneIndex::find(const Hash128& id) const {
  const std::size_t mask = entries_.size() - 1;
  std::size_t i = id.high & mask;
  for (;; i = (i + 1) & mask) {
    const Entry& entry = entries_[i];
    if ((entry.rest & kFlags) == 0) return i;
    if (entry.id == id.high && (entry.rest & kIdBits) == id_bits(id)) return i;
  }
}

void DoneIndex::grow() {
  std::vector<Entry> old(entries_.size() * 2);
  old.swap(entries_);
  const std::size_t mask = entries_.size() - 1;
  for (const Entry& entry : old) {
    if ((entry.rest & kFlags) == 0) continue;
    std::size_t i = entry.id & mask;
    while ((entries_[i].rest & kFlags) != 0) i = (i + 1) & mask;
    entries_[i] = entry;
  }
}

// The caller sets a flag of an entry that is new.
DoneIndex::Entry& DoneIndex::find_or_add(const Hash128& id) {
  std::size_t i = find(id);
  if ((entries_[i].rest & kFlags) == 0) {
    if ((size_ + 1) * 4 > entries_.size() * 3) {
      grow();
      i = find(id);
    }
    ++size_;
    entries_[i] = {id.high, id_bits(id)};
  }
  return entries_[i];
}

bool DoneIndex::add_done(const Hash128& id, std::uint64_t line_hash) {
  Entry& entry = find_or_add(id);
  if ((entry.rest & kDone) != 0) return false;
  entry.rest |= line_bits(line_hash) | kDone;
  ++num_done_;
  return true;
}

void DoneIndex::confirm(const Hash128& id, std::uint64_t line_hash) {
  Entry& entry = entries_[find(id)];
  if ((entry.rest & kDone) == 0 || (entry.rest & kConfirmed) != 0) return;
  if ((entry.rest & ~(kFlags | kIdBits)) != line_bits(line_hash)) return;
  entry.rest |= kConfirmed;
  ++num_confirmed_;
}

bool DoneIndex::is_confirmed(const Hash128& id) const {
  return (entries_[find(id)].rest & kConfirmed) != 0;
}

bool DoneIndex::is_done(const Hash128& id) const { return (entries_[find(id)].rest & kDone) != 0; }

bool DoneIndex::mark_read(const Hash128& id) {
  Entry& entry = find_or_add(id);
  if ((entry.rest & kRead) != 0) return false;
  entry.rest |= kRead;
  return true;
}

}  // namespace moba::batch
