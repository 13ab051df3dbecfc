#include "tokenizer/sentencepiece_proto.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace moba {

namespace {

// Protocol buffers' wire format: a sequence of (tag, value).
class WireReader {
 public:
  explicit WireReader(std::string_view data) : data_(data) {}

  struct Field {
    std::uint32_t number = 0;
    std::uint64_t value = 0;  // of a varint
    std::string_view bytes;   // of a length-delimited field
    float number32 = 0.0F;    // of a fixed32 field, as the float it is in these files
    bool is_fixed32 = false;
    bool is_varint = false;
    bool is_bytes = false;
  };

  bool next(Field& field) {
    if (data_.empty()) return false;
    const std::uint64_t tag = varint();
    field = Field();
    field.number = static_cast<std::uint32_t>(tag >> 3);
    if (field.number == 0) fail();
    switch (tag & 7) {
      case 0:
        field.value = varint();
        field.is_varint = true;
        break;
      case 1:
        take(8);
        break;
      case 2:
        field.bytes = take(varint());
        field.is_bytes = true;
        break;
      case 5: {
        const std::string_view bytes = take(4);
        std::memcpy(&field.number32, bytes.data(), sizeof(field.number32));
        field.is_fixed32 = true;
        break;
      }
      default:
        fail();
    }
    return true;
  }

 private:
  [[noreturn]] static void fail() {
    throw std::runtime_error("the file is cut off or is not a SentencePiece model");
  }

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (data_.empty()) fail();
      const auto byte = static_cast<unsigned char>(data_.front());
      data_.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail();
  }

  std::string_view take(std::uint64_t count) {
    if (count > data_.size()) fail();
    const std::string_view out = data_.substr(0, static_cast<std::size_t>(count));
    data_.remove_prefix(out.size());
    return out;
  }

  std::string_view data_;
};

SentencePieceSpec::Piece read_piece(std::string_view data) {
  SentencePieceSpec::Piece out;
  WireReader reader(data);
  WireReader::Field field;
  while (reader.next(field)) {
    if (field.number == 1 && field.is_bytes) out.text = field.bytes;
    if (field.number == 2 && field.is_fixed32) out.score = field.number32;
    if (field.number == 3 && field.is_varint) {
      if (field.value < 1 || field.value > 6) {
        throw std::runtime_error("a piece has the unknown type " + std::to_string(field.value));
      }
      out.type = static_cast<SentencePieceSpec::PieceType>(field.value);
    }
  }
  return out;
}

void read_trainer_spec(std::string_view data, SentencePieceSpec& out) {
  WireReader reader(data);
  WireReader::Field field;
  while (reader.next(field)) {
    if (!field.is_varint) continue;
    if (field.number == 3) {
      if (field.value < 1 || field.value > 4) {
        throw std::runtime_error("the model is of the unknown type " + std::to_string(field.value));
      }
      out.model_type = static_cast<SentencePieceSpec::ModelType>(field.value);
    }
    if (field.number == 24) out.whitespace_as_suffix = field.value != 0;
    if (field.number == 35) out.byte_fallback = field.value != 0;
  }
}

std::uint32_t little_endian(std::string_view bytes) {
  std::uint32_t out = 0;
  for (int i = 3; i >= 0; --i) out = (out << 8) | static_cast<unsigned char>(bytes[i]);
  return out;
}

// A charsmap is the size of a Darts double array in bytes, the array, and the texts that its values
// are offsets of. The library follows it without checks, so every step that it could take must stay
// inside (the layout is that of Darts-clone's DoubleArrayUnit).
void check_charsmap(std::string_view charsmap) {
  constexpr std::string_view kBroken = "the normaliser's charsmap is damaged";
  const auto require = [&](bool good) {
    if (!good) throw std::runtime_error(std::string(kBroken));
  };
  require(charsmap.size() > 4);
  const std::uint32_t array_bytes = little_endian(charsmap);
  charsmap.remove_prefix(4);
  constexpr std::uint32_t kBlock = 256;  // units are made by the block: one for each next byte
  require(array_bytes > 0 && array_bytes % (4 * kBlock) == 0 && array_bytes < charsmap.size());
  const std::uint32_t num_units = array_bytes / 4;
  const std::size_t num_texts_bytes = charsmap.size() - array_bytes;
  require(charsmap.back() == '\0');
  const auto unit = [&](std::uint32_t i) { return little_endian(charsmap.substr(4 * i, 4)); };
  for (std::uint32_t i = 0; i < num_units; ++i) {
    const std::uint32_t value = unit(i);
    const bool is_leaf = (value >> 31) != 0;
    if (is_leaf && i != 0) continue;
    const std::uint32_t offset = (value >> 10) << ((value & (1U << 9)) >> 6);
    const std::uint32_t next = i ^ offset;
    require((next | (kBlock - 1)) < num_units);
    const bool has_leaf = ((value >> 8) & 1) != 0;
    if (has_leaf) require((unit(next) & 0x7FFFFFFFU) < num_texts_bytes);
  }
}

void read_normalizer_spec(std::string_view data, SentencePieceSpec& out) {
  WireReader reader(data);
  WireReader::Field field;
  while (reader.next(field)) {
    if (field.number == 2 && field.is_bytes) {
      out.has_charsmap = !field.bytes.empty();
      if (out.has_charsmap) check_charsmap(field.bytes);
    }
    if (!field.is_varint) continue;
    if (field.number == 3) out.add_dummy_prefix = field.value != 0;
    if (field.number == 4) out.remove_extra_whitespaces = field.value != 0;
    if (field.number == 5) out.escape_whitespaces = field.value != 0;
  }
}

}  // namespace

SentencePieceSpec read_sentencepiece_spec(std::string_view serialized) {
  SentencePieceSpec out;
  WireReader reader(serialized);
  WireReader::Field field;
  while (reader.next(field)) {
    if (!field.is_bytes) continue;
    if (field.number == 1) out.pieces.push_back(read_piece(field.bytes));
    if (field.number == 2) read_trainer_spec(field.bytes, out);
    if (field.number == 3) read_normalizer_spec(field.bytes, out);
  }
  if (out.pieces.empty()) throw std::runtime_error("the model has no pieces");
  return out;
}

}  // namespace moba
