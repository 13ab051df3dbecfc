// How decode's work is divided. Pure host functions and the constants they share with the kernels.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moba::cuda {

// Keys that a warp takes at a time; pages and MoBA blocks are whole numbers of them.
inline constexpr int kChunkKeys = 16;
// Query heads of a unit: (sequence, KV head, group of up to kUnitRows of its query heads).
inline constexpr int kUnitRows = 16;
// Blocks that the rows of a unit may choose together, the own one included.
inline constexpr int kMaxUnion = kUnitRows * 31 + 1;
// Least chunks of a part: fewer cost more in putting results together than they save.
inline constexpr int kMinPartChunks = 8;

// Where a part of the work begins: the chunks of units lie one after the other.
struct DecodeStart {
  std::int32_t unit;
  std::int32_t chunk;
};

// Chunks of each part when `total` are divided into `num_parts`.
constexpr std::int64_t chunks_per_part(std::int64_t total, int num_parts) {
  const std::int64_t even = (total + num_parts - 1) / num_parts;
  return even > kMinPartChunks ? even : kMinPartChunks;
}

// Starts of num_parts parts and, last, the end: part p is [starts[p], starts[p + 1]). Parts past
// the work are empty. unit_chunks [num_units]: chunks of each unit, 0 for units without work.
void divide_decode(std::span<const std::int32_t> unit_chunks, int num_parts,
                   std::span<DecodeStart> starts, std::int32_t& part_chunks);

}  // namespace moba::cuda
