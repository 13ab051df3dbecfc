// Hashes that stand for custom_ids and lines.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace moba::batch {

struct Hash128 {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  bool operator==(const Hash128&) const = default;
};

// FNV-1a with 128 bits, its halves mixed once more at the end. Not made against inputs that are
// chosen to collide. Stable: it is written into files.
Hash128 hash_bytes(std::string_view bytes);

// 16 hexadecimal digits.
std::string to_hex(std::uint64_t value);

}  // namespace moba::batch
