#include "tokenizer/vocabulary.h"

#include <stdexcept>

#include "tokenizer/json_view.h"

namespace moba {

void Vocabulary::reserve(std::size_t count, std::size_t name_bytes) {
  entries_.reserve(count);
  arena_.reserve(name_bytes * 2);
  ids_by_name_.reserve(count, name_bytes);
}

void Vocabulary::add(TokenId id, std::string_view name, std::string_view bytes, bool special) {
  if (id < 0 || id > kMaxTokenId) {
    throw std::runtime_error("token " + in_double_quotes(name) + " has id " + std::to_string(id) +
                             ", outside [0, " + std::to_string(kMaxTokenId) + "]");
  }
  if (contains(id)) {
    throw std::runtime_error("tokens " + in_double_quotes(this->name(id)) + " and " +
                             in_double_quotes(name) + " both have id " + std::to_string(id));
  }
  if (!ids_by_name_.insert(name, id)) {
    throw std::runtime_error("token " + in_double_quotes(name) + " is defined twice, with ids " +
                             std::to_string(ids_by_name_.find(name)) + " and " +
                             std::to_string(id));
  }
  if (id >= size()) entries_.resize(static_cast<std::size_t>(id) + 1);
  Entry& entry = entries_[static_cast<std::size_t>(id)];
  entry.name_offset = static_cast<std::uint32_t>(arena_.size());
  entry.name_length = static_cast<std::uint32_t>(name.size());
  arena_.append(name);
  entry.defined = true;
  set(id, bytes, special);
}

void Vocabulary::set(TokenId id, std::string_view bytes, bool special) {
  Entry& entry = entries_.at(static_cast<std::size_t>(id));
  if (bytes == name(id)) {
    entry.bytes_offset = entry.name_offset;
  } else {
    entry.bytes_offset = static_cast<std::uint32_t>(arena_.size());
    arena_.append(bytes);
  }
  entry.bytes_length = static_cast<std::uint32_t>(bytes.size());
  entry.special = special;
}

void Vocabulary::rename(TokenId id, std::string_view name) {
  if (name == this->name(id)) return;
  if (!ids_by_name_.insert(name, id) && ids_by_name_.find(name) != id) {
    throw std::runtime_error("token " + in_double_quotes(name) + " is defined twice, with ids " +
                             std::to_string(ids_by_name_.find(name)) + " and " +
                             std::to_string(id));
  }
  Entry& entry = entries_[static_cast<std::size_t>(id)];
  entry.name_offset = static_cast<std::uint32_t>(arena_.size());
  entry.name_length = static_cast<std::uint32_t>(name.size());
  arena_.append(name);
}

bool Vocabulary::contains(TokenId id) const {
  return id >= 0 && id < size() && entries_[static_cast<std::size_t>(id)].defined;
}

std::optional<TokenId> Vocabulary::find(std::string_view name) const {
  const std::int32_t id = ids_by_name_.find(name);
  if (id < 0) return std::nullopt;
  return id;
}

const Vocabulary::Entry& Vocabulary::entry(TokenId id) const {
  if (id < 0 || id >= size()) {
    throw std::out_of_range("token id " + std::to_string(id) + " is outside the vocabulary [0, " +
                            std::to_string(size()) + ")");
  }
  return entries_[static_cast<std::size_t>(id)];
}

std::string_view Vocabulary::name(TokenId id) const {
  const Entry& e = entry(id);
  return std::string_view(arena_).substr(e.name_offset, e.name_length);
}

std::string_view Vocabulary::bytes(TokenId id) const {
  const Entry& e = entry(id);
  return std::string_view(arena_).substr(e.bytes_offset, e.bytes_length);
}

bool Vocabulary::is_special(TokenId id) const { return entry(id).special; }

}  // namespace moba
