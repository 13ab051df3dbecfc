// How block-quantised matrices lie in memory for linear() and embedding() on the CPU: groups of 16
// rows, so that one vector holds the same columns of many rows and no sum has to be taken across
// lanes. Plain constants: kernels for several instruction sets include this.
//
// A matrix [N, K] is ceil(N / 16) row groups (missing rows are zero), one after the other; a row
// group is K / block_elements super blocks; a super block is a header and its tiles of 32 columns.
//
//   header  formats of 256 only: float16 d[16], and for Q4_K and Q5_K float16 dmin[16]
//   tile    low bits, high bits, scales
//
// Columns come in quads of 4; "quad j" of row r are 4 bytes of a 64-byte line [r][4].
//   low     4 to 6 bits a value: 4 lines; line j holds quad j in low and quad j + 4 in high nibbles
//           8 bits: 8 lines, line j is quad j, signed
//   high    5 bits: 1 line, bit j of each byte belongs to quad j
//           6 bits: 2 lines, bits 2t and 2t + 1 of line l belong to quad 4l + t
//   scales  Q8_0, Q4_0, Q5_0: float16 d[16]; Q4_1, Q5_1: float16 d[16], m[16]
//           Q4_K, Q5_K: uint8 scale[16], min[16]; Q6_K: int8 scale[2][16], of columns 0-15 and
//           16-31
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/dtype.h"

namespace moba::cpu {

inline constexpr int kQuantRows = 16;     // of a row group
inline constexpr int kQuantColumns = 32;  // of a tile
inline constexpr int kQuantLine = 64;     // bytes

struct QuantLayout {
  int bits = 0;
  int tiles = 1;         // of a super block
  int header_bytes = 0;  // of a super block
  int low_bytes = 0;
  int high_bytes = 0;
  int scale_bytes = 0;

  constexpr int tile_bytes() const { return low_bytes + high_bytes + scale_bytes; }
  constexpr int super_bytes() const { return header_bytes + tiles * tile_bytes(); }
  constexpr std::size_t group_bytes(std::int64_t columns) const {
    return static_cast<std::size_t>(columns / (tiles * kQuantColumns)) *
           static_cast<std::size_t>(super_bytes());
  }
};

constexpr QuantLayout quant_layout(DType dtype) {
  constexpr int kHalves = kQuantRows * 2;  // bytes of a float16 for every row
  switch (dtype) {
    case DType::kQ8_0:
      return {8, 1, 0, 8 * kQuantLine, 0, kHalves};
    case DType::kQ4_0:
      return {4, 1, 0, 4 * kQuantLine, 0, kHalves};
    case DType::kQ4_1:
      return {4, 1, 0, 4 * kQuantLine, 0, 2 * kHalves};
    case DType::kQ5_0:
      return {5, 1, 0, 4 * kQuantLine, kQuantLine, kHalves};
    case DType::kQ5_1:
      return {5, 1, 0, 4 * kQuantLine, kQuantLine, 2 * kHalves};
    case DType::kQ4_K:
      return {4, 8, 2 * kHalves, 4 * kQuantLine, 0, 2 * kQuantRows};
    case DType::kQ5_K:
      return {5, 8, 2 * kHalves, 4 * kQuantLine, kQuantLine, 2 * kQuantRows};
    case DType::kQ6_K:
      return {6, 8, kHalves, 4 * kQuantLine, 2 * kQuantLine, 2 * kQuantRows};
    default:
      return {};
  }
}

}  // namespace moba::cpu
