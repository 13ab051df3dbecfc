// The header of a GGUF file: metadata and where each tensor lies. Pure; knows nothing of models.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/check.h"
#include "device/dtype.h"

namespace moba {

enum class GgufType : std::uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// A value as the file has it, checked to lie within the file. Borrows the file.
struct GgufValue {
  std::string_view key;
  GgufType type = GgufType::kUint8;          // kArray: see element_type
  GgufType element_type = GgufType::kUint8;  // of an array; else the same as type
  std::uint64_t count = 1;                   // elements of an array
  std::span<const std::byte> bytes;          // of the elements; strings with their lengths
};

// How a tensor's elements are stored: a row of the table of ggml's types.
struct GgufTensorType {
  std::uint32_t id = 0;
  std::string_view name;         // "Q4_K"
  std::uint32_t block_elements;  // elements of one block, consecutive in a row
  std::uint32_t block_bytes;
  std::optional<DType>
      dtype;  // the same in the engine's words; nullopt: it does not compute with it
};

// Null for an id that no version of the format had or has.
const GgufTensorType* find_gguf_tensor_type(std::uint32_t id);
const GgufTensorType* find_gguf_tensor_type(std::string_view name);

struct GgufTensor {
  std::string_view name;  // lies in the file
  const GgufTensorType* type = nullptr;
  std::vector<std::int64_t> shape;  // outermost first, as the rest of the engine has it
  std::size_t begin = 0;            // bytes of the file
  std::size_t end = 0;
};

// Metadata by key, with accessors that say what is wrong in one line naming the file and the key.
// Borrows the file.
class GgufMetadata {
 public:
  GgufMetadata() = default;
  // Sorts by key. Throws Error if one is there twice.
  GgufMetadata(std::string file, std::vector<GgufValue> values);

  const std::string& file() const { return file_; }
  const std::vector<GgufValue>& values() const { return values_; }  // in order of key
  const GgufValue* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }

  // A whole number of any integer type, in [min, max].
  std::int64_t integer(std::string_view key, std::int64_t min, std::int64_t max) const;
  std::int64_t integer_or(std::string_view key, std::int64_t fallback, std::int64_t min,
                          std::int64_t max) const;
  // A finite number of any type but bool.
  double number(std::string_view key) const;
  double number_or(std::string_view key, double fallback) const;
  bool boolean_or(std::string_view key, bool fallback) const;
  std::string string(std::string_view key) const;
  std::string string_or(std::string_view key, std::string_view fallback) const;
  // Arrays; views lie in the file. A scalar where an array is asked for is an error, but for
  // integers(), which takes it for an array of one.
  std::vector<std::string_view> strings(std::string_view key) const;
  std::vector<std::int64_t> integers(std::string_view key, std::int64_t min,
                                     std::int64_t max) const;
  std::vector<float> floats(std::string_view key) const;

  template <typename... Args>
  [[noreturn]] void fail(std::string_view key, const Args&... args) const {
    throw Error(concat(file_, ": ", key, " ", args...));
  }

 private:
  const GgufValue& value(std::string_view key) const;
  std::int64_t checked(const GgufValue& value, std::int64_t number, bool fits, std::int64_t min,
                       std::int64_t max) const;

  std::string file_;
  std::vector<GgufValue> values_;
};

struct GgufHeader {
  std::uint32_t version = 0;
  std::uint64_t alignment = 0;
  std::size_t data_begin = 0;  // of the file
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // in order of name
};

// Reads the header of versions 2 and 3, little-endian. `bytes` is the whole file and is borrowed by
// the result; `file` is for messages. Everything is checked before it is used, nothing is allocated
// on the word of a number in the file: magic, version, counts, keys, strings, arrays, types, double
// keys and names, alignment, dimensions, offsets, tensors that overlap or end past the file. Throws
// Error with one line that names the file and the key or tensor.
GgufHeader read_gguf_header(std::span<const std::byte> bytes, const std::string& file);

}  // namespace moba
