#include <cstring>

#include "device/cpu/quant_layout.h"
#include "device/quant.h"

namespace moba {
namespace {

using namespace cpu;  // of the layout

constexpr int kQuads = kQuantColumns / 4;
constexpr int kTilesOfSuper = 8;
constexpr int kSubGroups = 2;  // of 16 columns in a tile

bool has_mins(DType dtype) {
  return dtype == DType::kQ4_1 || dtype == DType::kQ5_1 || dtype == DType::kQ4_K ||
         dtype == DType::kQ5_K;
}

void put_half(std::byte* to, int row, std::uint16_t bits) {
  std::memcpy(to + row * 2, &bits, sizeof(bits));
}

float get_half(const std::byte* from, std::int64_t row) {
  Float16 value;
  std::memcpy(&value.bits, from + row * 2, sizeof(value.bits));
  return static_cast<float>(value);
}

// Ors the four values of a quad of row r into a tile whose bytes were zero.
void put_quad(const QuantLayout& layout, int r, int quad, const std::uint8_t* values,
              std::byte* tile) {
  std::uint32_t q;
  std::memcpy(&q, values, sizeof(q));
  const auto or_word = [r](std::byte* line, std::uint32_t bits) {
    std::uint32_t word;
    std::memcpy(&word, line + r * 4, sizeof(word));
    word |= bits;
    std::memcpy(line + r * 4, &word, sizeof(word));
  };
  if (layout.bits == 8) return or_word(tile + quad * kQuantLine, q ^ 0x80808080U);  // signed again
  or_word(tile + quad % 4 * kQuantLine, (q & 0x0f0f0f0fU) << (quad < 4 ? 0 : 4));
  std::byte* const high = tile + layout.low_bytes;
  const std::uint32_t upper = q >> 4;
  if (layout.bits == 5) or_word(high, (upper & 0x01010101U) << quad);
  if (layout.bits == 6) {
    or_word(high + quad / 4 * kQuantLine, (upper & 0x03030303U) << (2 * (quad % 4)));
  }
}

int get_value(const QuantLayout& layout, std::int64_t r, int c, const std::byte* tile) {
  const int quad = c / 4;
  const std::int64_t place = r * 4 + c % 4;
  if (layout.bits == 8) return static_cast<std::int8_t>(tile[quad * kQuantLine + place]);
  const int both = static_cast<int>(tile[quad % 4 * kQuantLine + place]);
  int q = quad < 4 ? both & 0x0f : both >> 4;
  const std::byte* const high = tile + layout.low_bytes;
  if (layout.bits == 5) q |= ((static_cast<int>(high[place]) >> quad) & 1) << 4;
  if (layout.bits == 6) {
    const int bits = static_cast<int>(high[quad / 4 * kQuantLine + place]);
    q |= ((bits >> (2 * (quad % 4))) & 3) << 4;
  }
  return q;
}

// Row r's block into a super block whose bytes were zero.
void pack_block(DType dtype, const QuantLayout& layout, const UnpackedBlock& block, int r,
                std::byte* super) {
  const bool large = layout.tiles > 1;
  const bool mins = has_mins(dtype);
  if (large) {
    put_half(super, r, block.d);
    if (mins) put_half(super + kQuantRows * 2, r, block.m);
  }
  for (int t = 0; t < layout.tiles; ++t) {
    std::byte* const tile = super + layout.header_bytes + t * layout.tile_bytes();
    for (int quad = 0; quad < kQuads; ++quad) {
      put_quad(layout, r, quad, block.q + t * kQuantColumns + quad * 4, tile);
    }
    std::byte* const scales = tile + layout.low_bytes + layout.high_bytes;
    if (!large) {
      put_half(scales, r, block.d);
      if (mins) put_half(scales + kQuantRows * 2, r, block.m);
    } else if (mins) {
      scales[r] = static_cast<std::byte>(block.group_scale[t]);
      scales[kQuantRows + r] = static_cast<std::byte>(block.group_min[t]);
    } else {
      for (int g = 0; g < kSubGroups; ++g) {
        scales[g * kQuantRows + r] = static_cast<std::byte>(block.group_scale[t * kSubGroups + g]);
      }
    }
  }
}

static_assert(kPackedRows == kQuantRows);
static_assert(UnpackedBlock::kMaxElements == kTilesOfSuper * kQuantColumns);

}  // namespace

std::size_t packed_bytes(DType dtype, std::int64_t rows, std::int64_t columns) {
  return static_cast<std::size_t>((rows + kQuantRows - 1) / kQuantRows) *
         quant_layout(dtype).group_bytes(columns);
}

void pack_row_group(DType dtype, const std::byte* const* rows, std::int64_t columns,
                    std::byte* to) {
  const QuantLayout layout = quant_layout(dtype);
  const std::int64_t blocks = columns / block_elements(dtype);
  std::memset(to, 0, layout.group_bytes(columns));
  UnpackedBlock block;
  for (std::int64_t b = 0; b < blocks; ++b, to += layout.super_bytes()) {
    for (int r = 0; r < kQuantRows; ++r) {
      if (rows[r] == nullptr) continue;
      unpack_block(dtype, rows[r] + static_cast<std::size_t>(b) * block_bytes(dtype), block);
      pack_block(dtype, layout, block, r, to);
    }
  }
}

void unpack_row(DType dtype, const std::byte* packed, std::int64_t columns, std::int64_t row,
                float* to) {
  const QuantLayout layout = quant_layout(dtype);
  const bool large = layout.tiles > 1;
  const bool mins = has_mins(dtype);
  const int zero = mins || layout.bits == 8 ? 0 : 1 << (layout.bits - 1);
  const std::byte* super =
      packed + static_cast<std::size_t>(row / kQuantRows) * layout.group_bytes(columns);
  const std::int64_t r = row % kQuantRows;
  for (std::int64_t done = 0; done < columns; super += layout.super_bytes()) {
    for (int t = 0; t < layout.tiles; ++t, done += kQuantColumns) {
      const std::byte* const tile = super + layout.header_bytes + t * layout.tile_bytes();
      const std::byte* const scales = tile + layout.low_bytes + layout.high_bytes;
      float scale[kSubGroups];
      float offset = 0.0F;
      if (!large) {
        scale[0] = scale[1] = get_half(scales, r);
        if (mins) offset = get_half(scales + kQuantRows * 2, r);
      } else if (mins) {
        scale[0] = scale[1] = get_half(super, r) * static_cast<float>(static_cast<int>(scales[r]));
        offset = -(get_half(super + kQuantRows * 2, r) *
                   static_cast<float>(static_cast<int>(scales[kQuantRows + r])));
      } else {
        for (int g = 0; g < kSubGroups; ++g) {
          scale[g] = get_half(super, r) *
                     static_cast<float>(static_cast<std::int8_t>(scales[g * kQuantRows + r]));
        }
      }
      for (int c = 0; c < kQuantColumns; ++c) {
        const auto q = static_cast<float>(get_value(layout, r, c, tile) - zero);
        to[done + c] = scale[c / (kQuantColumns / kSubGroups)] * q + offset;
      }
    }
  }
}

}  // namespace moba
