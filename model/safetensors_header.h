// The header of a safetensors file: which tensors it holds and where.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/mapped_file.h"

namespace moba {

struct SafetensorsRecord {
  std::string name;
  std::string_view dtype;           // one of the format's names; static storage
  std::vector<std::int64_t> shape;  // at most 32 dimensions
  std::size_t begin = 0;            // bytes from the start of the file
  std::size_t end = 0;
};

// Parses and checks the header of a mapped file (the format: 8 bytes little-endian length, a JSON
// object of that length, the data). The records come in the order of their data, which they cover
// without overlap or hole. Throws Error naming `path` and the tensor for anything else; memory
// grows with the header that is really there, never with a number written in it.
std::vector<SafetensorsRecord> read_safetensors_header(const std::filesystem::path& path,
                                                       const MappedFile& file);

// "[2, 3]", for any rank.
std::string shape_text(std::span<const std::int64_t> shape);

}  // namespace moba
