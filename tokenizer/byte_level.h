// The byte alphabet of byte-level BPE: GPT-2 spells every byte as one printable character, so that
// a vocabulary of strings can hold any bytes. Printable Latin-1 characters stand for themselves;
// the other 68 bytes, in order, for U+0100 and up.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace moba::byte_level {

// The character that spells each byte.
const std::array<char32_t, 256>& alphabet();

// The bytes that a spelling stands for; nullopt if it has a character outside the alphabet.
std::optional<std::string> bytes_of(std::string_view spelling);

// The spelling of `bytes`.
std::string spell(std::string_view bytes);

}  // namespace moba::byte_level
