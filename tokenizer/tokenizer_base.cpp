#include "tokenizer/tokenizer_base.h"

#include <algorithm>
#include <stdexcept>

namespace moba {

std::string bytes_of_piece(std::string_view piece, bool byte_tokens) {
  const auto hex = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  if (byte_tokens && piece.size() == 6 && piece.starts_with("<0x") && piece.ends_with('>') &&
      hex(piece[3]) >= 0 && hex(piece[4]) >= 0) {
    return std::string(1, static_cast<char>(hex(piece[3]) * 16 + hex(piece[4])));
  }
  std::string out;
  out.reserve(piece.size());
  while (!piece.empty()) {
    const std::size_t found = std::min(piece.find(kMetaspace), piece.size());
    out.append(piece.substr(0, found));
    piece.remove_prefix(found);
    if (piece.empty()) break;
    out.push_back(' ');
    piece.remove_prefix(kMetaspace.size());
  }
  return out;
}

std::string TokenizerBase::decode(const std::vector<TokenId>& ids, bool skip_special_tokens) const {
  const Vocabulary& vocabulary = table_.vocabulary;
  std::string out;
  for (const TokenId id : ids) {
    if (skip_special_tokens && vocabulary.is_special(id)) continue;
    out.append(vocabulary.bytes(id));
  }
  std::size_t spaces = 0;
  if (table_.leading_space != LeadingSpace::kKeep)
    spaces = std::min(out.find_first_not_of(' '), out.size());
  if (table_.leading_space == LeadingSpace::kStripOne) spaces = std::min<std::size_t>(spaces, 1);
  out.erase(0, spaces);
  return out;
}

std::string TokenizerBase::token_bytes(TokenId id, bool skip_special_tokens) const {
  const Vocabulary& vocabulary = table_.vocabulary;
  if (skip_special_tokens && vocabulary.is_special(id)) return "";
  return std::string(vocabulary.bytes(id));
}

std::string TokenizerBase::token_name(TokenId id) const {
  return std::string(table_.vocabulary.name(id));
}

std::optional<TokenId> TokenizerBase::token_id(std::string_view name) const {
  return table_.vocabulary.find(name);
}

void TokenizerBase::check_text_size(std::string_view text) {
  constexpr std::size_t kMaxText = std::size_t{1} << 31;
  if (text.size() >= kMaxText) {
    throw std::runtime_error("the text has " + std::to_string(text.size()) +
                             " bytes, the most that is tokenized at once is " +
                             std::to_string(kMaxText - 1));
  }
}

}  // namespace moba
