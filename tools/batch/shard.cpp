#include "tools/batch/shard.h"

#include <limits>
#include <stdexcept>

#include "tools/moba/parse.h"

namespace moba::batch {
namespace {

constexpr int kMaxShards = 1'000'000;

// size * index / count without overflow.
std::int64_t part_of(std::int64_t size, int index, int count) {
  return size / count * index + size % count * index / count;
}

}  // namespace

std::int64_t Shard::begin(std::int64_t size) const { return part_of(size, index - 1, count); }

std::int64_t Shard::end(std::int64_t size) const {
  // A file that is not regular has no size, and may have grown since it was looked at.
  return index == count ? std::numeric_limits<std::int64_t>::max() : part_of(size, index, count);
}

Shard parse_shard(const std::string& text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string::npos) {
    throw std::invalid_argument("expected I/N, for example 1/8, got " + cli::in_quotes(text));
  }
  const std::int64_t index = cli::parse_integer(text.substr(0, slash));
  const std::int64_t count = cli::parse_integer(text.substr(slash + 1));
  if (count < 1 || count > kMaxShards || index < 1 || index > count) {
    throw std::invalid_argument("expected I/N with I from 1 to N, got " + cli::in_quotes(text));
  }
  return {static_cast<int>(index), static_cast<int>(count)};
}

}  // namespace moba::batch
