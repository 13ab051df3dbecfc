// Block formats: how GGUF files store quantised weights (ggml's formats), and how operations take
// them. Pure functions on host memory.
//
// A row of a matrix is a sequence of blocks. Formats of 32 elements a block: value = d * (q - z),
// q of 4, 5 or 8 bits (Q4_0, Q5_0, Q8_0; z = 8, 16, 0), or value = d * q + m (Q4_1, Q5_1).
// Formats of 256 ("K"): 8 groups of 32 with value = d * s * q - dmin * m (Q4_K, Q5_K; s and m of 6
// bits for each group), or 16 groups of 16 with value = d * s * (q - 32) (Q6_K; s of 8 bits).
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/dtype.h"

namespace moba {

// Elements and bytes of a block; 1 and dtype_size() for dtypes that are not block formats.
std::int64_t block_elements(DType dtype);
std::size_t block_bytes(DType dtype);

// Bytes of `elements` consecutive elements of a row, which are whole blocks.
std::size_t storage_bytes(DType dtype, std::int64_t elements);

// A block, unpacked: element e has value scale[g] * (q[e] - zero) + offset[g], g = e /
// group_elements. What format is what stands above; scales are products already (d * s, -dmin * m).
struct UnpackedBlock {
  static constexpr int kMaxElements = 256;
  static constexpr int kMaxGroups = 16;
  std::uint8_t q[kMaxElements];  // of Q8_0: the signed value plus 128
  int zero = 0;
  int group_elements = 0;
  float scale[kMaxGroups];
  float offset[kMaxGroups];
  // The parts of scale and offset as the block has them: d and m or dmin (bits of float16), and the
  // K formats' integer scales and mins (Q6_K: scales as two's complement).
  std::uint16_t d = 0;
  std::uint16_t m = 0;
  std::uint8_t group_scale[kMaxGroups];
  std::uint8_t group_min[kMaxGroups];
};

// `block` need not be aligned.
void unpack_block(DType dtype, const std::byte* block, UnpackedBlock& out);

// to[i] = value of element i of whole blocks, as the gguf Python package computes them: bit for
// bit.
void dequantize(DType dtype, const std::byte* blocks, std::int64_t num_elements, float* to);

// The reverse, for Q8_0 and Q4_0, bit for bit as the gguf Python package does it. NaN and infinite
// elements make their block meaningless. Throws Error for other formats.
void quantize(DType dtype, const float* from, std::int64_t num_elements, std::byte* to);

// How operations take a matrix of a block format: packed for the products, rows interleaved
// (device/cpu/quant_layout.h).

// Rows that are packed together.
inline constexpr std::int64_t kPackedRows = 16;

// Bytes of a packed matrix.
std::size_t packed_bytes(DType dtype, std::int64_t rows, std::int64_t columns);

// Packs one row group. rows[r], for r < kPackedRows, is row r's first block, or null: then the row
// is zero. `columns` are whole blocks. `to` gets packed_bytes(dtype, kPackedRows, columns).
void pack_row_group(DType dtype, const std::byte* const* rows, std::int64_t columns, std::byte* to);

// to[c] = the values of one row of a packed matrix, bit for bit as dequantize() gives them.
void unpack_row(DType dtype, const std::byte* packed, std::int64_t columns, std::int64_t row,
                float* to);

}  // namespace moba
