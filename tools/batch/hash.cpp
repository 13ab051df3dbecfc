#include "tools/batch/hash.h"

namespace moba::batch {
namespace {

__extension__ using Uint128 = unsigned __int128;

constexpr Uint128 make_128(std::uint64_t high, std::uint64_t low) {
  return (Uint128{high} << 64) | low;
}

constexpr Uint128 kOffset = make_128(0x6C62272E07BB0142ULL, 0x62B821756295C58DULL);
constexpr Uint128 kPrime = make_128(0x0000000001000000ULL, 0x000000000000013BULL);

// The finalizer of MurmurHash3: every bit of the input reaches every bit of the result.
std::uint64_t mix(std::uint64_t x) {
  x ^= x >> 33;
  x *= 0xFF51AFD7ED558CCDULL;
  x ^= x >> 33;
  x *= 0xC4CEB9FE1A85EC53ULL;
  return x ^ (x >> 33);
}

}  // namespace

Hash128 hash_bytes(std::string_view bytes) {
  Uint128 hash = kOffset;
  for (const char c : bytes) {
    hash ^= static_cast<unsigned char>(c);
    hash *= kPrime;
  }
  const auto high = static_cast<std::uint64_t>(hash >> 64);
  const auto low = static_cast<std::uint64_t>(hash);
  const std::uint64_t mixed = mix(low ^ mix(high));
  return {mix(high + mixed), mixed};
}

std::string to_hex(std::uint64_t value) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text(16, '0');
  for (std::size_t i = 16; i-- > 0; value >>= 4) text[i] = kDigits[value & 15];
  return text;
}

}  // namespace moba::batch
