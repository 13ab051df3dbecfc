#include "tokenizer/byte_level.h"

#include "tokenizer/utf8.h"

namespace moba::byte_level {

namespace {

constexpr std::array<char32_t, 256> make_alphabet() {
  std::array<char32_t, 256> out{};
  char32_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    out[byte] = printable ? byte : next++;
  }
  return out;
}

constexpr std::array<char32_t, 256> kAlphabet = make_alphabet();
constexpr std::size_t kEnd = 0x100 + 68;

constexpr std::array<int, kEnd> make_inverse() {
  std::array<int, kEnd> out{};
  for (int& byte : out) byte = -1;
  for (unsigned byte = 0; byte < 256; ++byte) out[kAlphabet[byte]] = static_cast<int>(byte);
  return out;
}

constexpr std::array<int, kEnd> kInverse = make_inverse();

}  // namespace

const std::array<char32_t, 256>& alphabet() { return kAlphabet; }

std::optional<std::string> bytes_of(std::string_view spelling) {
  std::string out;
  out.reserve(spelling.size());
  while (!spelling.empty()) {
    const utf8::Decoded next = utf8::decode(spelling);
    if (next.code_point >= kEnd || kInverse[next.code_point] < 0) return std::nullopt;
    out.push_back(static_cast<char>(kInverse[next.code_point]));
    spelling.remove_prefix(static_cast<std::size_t>(next.length));
  }
  return out;
}

std::string spell(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) utf8::append(out, kAlphabet[static_cast<unsigned char>(byte)]);
  return out;
}

}  // namespace moba::byte_level
