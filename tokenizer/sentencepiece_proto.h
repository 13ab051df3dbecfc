// The few fields of a SentencePiece model file (sentencepiece_model.proto) that the library's
// interface does not tell.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace moba {

struct SentencePieceSpec {
  enum class ModelType { kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4 };
  enum class PieceType {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6
  };
  struct Piece {
    std::string_view text;  // lies in the serialized model
    PieceType type = PieceType::kNormal;
    float score = 0.0F;
  };

  std::vector<Piece> pieces;
  ModelType model_type = ModelType::kUnigram;
  bool byte_fallback = false;
  bool whitespace_as_suffix = false;
  bool has_charsmap = false;  // rewrites characters (NFKC and the like)
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

// Reads a serialized ModelProto. Throws std::runtime_error with one line, naming no file, if it is
// cut off or malformed.
SentencePieceSpec read_sentencepiece_spec(std::string_view serialized);

}  // namespace moba
