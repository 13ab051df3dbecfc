// One of several equal parts of an input file.
#pragma once

#include <cstdint>
#include <string>

namespace moba::batch {

// Part `index` of `count`, counted from 1, by bytes: the part of a line is the one in which it
// begins, so lines that stand side by side mostly stay together. Every process finds the same
// parts.
struct Shard {
  int index = 1;
  int count = 1;

  // First byte of the part, and of the next one, in a file of `size` bytes. The last part has no
  // end.
  std::int64_t begin(std::int64_t size) const;
  std::int64_t end(std::int64_t size) const;
};

// Reads "2/8". Throws std::invalid_argument.
Shard parse_shard(const std::string& text);

}  // namespace moba::batch
