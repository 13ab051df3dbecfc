#include "model/gguf_header.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "model/json_file.h"

namespace moba {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is read as little-endian");

constexpr std::string_view kMagic = "GGUF";
constexpr std::uint32_t kMinVersion = 2;
constexpr std::uint32_t kMaxVersion = 3;
constexpr std::uint64_t kDefaultAlignment = 32;
constexpr std::int64_t kMaxAlignment = std::int64_t{1} << 20;
constexpr std::uint64_t kMaxKeyBytes = 65535;
constexpr std::uint32_t kMaxDims = 4;
// The least that a key with its value, and a tensor's record, take.
constexpr std::uint64_t kMinValueBytes = 8 + 1 + 4 + 1;
constexpr std::uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;
constexpr std::string_view kAlignmentKey = "general.alignment";

// Bytes of a value; 0 for strings and arrays.
std::size_t type_bytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  return 0;
}

constexpr std::array<GgufTensorType, 35> kTensorTypes{{
    {0, "F32", 1, 4, DType::kFloat32},      {1, "F16", 1, 2, DType::kFloat16},
    {2, "Q4_0", 32, 18, DType::kQ4_0},      {3, "Q4_1", 32, 20, DType::kQ4_1},
    {6, "Q5_0", 32, 22, DType::kQ5_0},      {7, "Q5_1", 32, 24, DType::kQ5_1},
    {8, "Q8_0", 32, 34, DType::kQ8_0},      {9, "Q8_1", 32, 36, std::nullopt},
    {10, "Q2_K", 256, 84, std::nullopt},    {11, "Q3_K", 256, 110, std::nullopt},
    {12, "Q4_K", 256, 144, DType::kQ4_K},   {13, "Q5_K", 256, 176, DType::kQ5_K},
    {14, "Q6_K", 256, 210, DType::kQ6_K},   {15, "Q8_K", 256, 292, std::nullopt},
    {16, "IQ2_XXS", 256, 66, std::nullopt}, {17, "IQ2_XS", 256, 74, std::nullopt},
    {18, "IQ3_XXS", 256, 98, std::nullopt}, {19, "IQ1_S", 256, 50, std::nullopt},
    {20, "IQ4_NL", 32, 18, std::nullopt},   {21, "IQ3_S", 256, 110, std::nullopt},
    {22, "IQ2_S", 256, 82, std::nullopt},   {23, "IQ4_XS", 256, 136, std::nullopt},
    {24, "I8", 1, 1, std::nullopt},         {25, "I16", 1, 2, std::nullopt},
    {26, "I32", 1, 4, DType::kInt32},       {27, "I64", 1, 8, DType::kInt64},
    {28, "F64", 1, 8, std::nullopt},        {29, "IQ1_M", 256, 56, std::nullopt},
    {30, "BF16", 1, 2, DType::kBFloat16},   {31, "Q4_0_4_4", 32, 18, std::nullopt},
    {32, "Q4_0_4_8", 32, 18, std::nullopt}, {33, "Q4_0_8_8", 32, 18, std::nullopt},
    {34, "TQ1_0", 256, 54, std::nullopt},   {35, "TQ2_0", 256, 66, std::nullopt},
    {39, "MXFP4", 32, 17, std::nullopt},
}};

// Walks through the bytes; every step is held against their end.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  std::size_t position() const { return position_; }
  std::uint64_t remaining() const { return bytes_.size() - position_; }

  // `what` says what is read, for the message that the file ends before it does.
  std::span<const std::byte> take(std::uint64_t count, std::string_view what) {
    MOBA_CHECK(count <= remaining(), file_, ": the file ends within ", what, " (", count,
               " bytes at ", position_, " of ", bytes_.size(), ")");
    const auto out = bytes_.subspan(position_, static_cast<std::size_t>(count));
    position_ += static_cast<std::size_t>(count);
    return out;
  }

  template <typename T>
  T read(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::string_view read_string(std::string_view what) {
    const auto length = read<std::uint64_t>(what);
    const auto text = take(length, what);
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& file_;
  std::size_t position_ = 0;
};

GgufType read_type(Reader& reader, const std::string& file, std::string_view key) {
  const auto id = reader.read<std::uint32_t>("a value's type");
  MOBA_CHECK(id <= static_cast<std::uint32_t>(GgufType::kFloat64), file, ": key ", in_quotes(key),
             " has a value of unknown type ", id);
  return static_cast<GgufType>(id);
}

void skip_elements(Reader& reader, const std::string& file, const GgufValue& value) {
  const std::string what = concat("the value of key ", in_quotes(value.key));
  if (value.element_type != GgufType::kString) {
    const std::size_t size = type_bytes(value.element_type);
    MOBA_CHECK(value.count <= reader.remaining() / size, file, ": key ", in_quotes(value.key),
               " has an array of ", value.count, " elements, which ends past the file");
    reader.take(value.count * size, what);
    return;
  }
  MOBA_CHECK(value.count <= reader.remaining() / sizeof(std::uint64_t), file, ": key ",
             in_quotes(value.key), " has an array of ", value.count,
             " strings, which ends past the file");
  for (std::uint64_t i = 0; i < value.count; ++i) reader.read_string(what);
}

GgufValue read_value(Reader& reader, std::span<const std::byte> bytes, const std::string& file) {
  GgufValue value;
  value.key = reader.read_string("a key");
  MOBA_CHECK(!value.key.empty() && value.key.size() <= kMaxKeyBytes, file, ": a key of ",
             value.key.size(), " bytes, must be from 1 to ", kMaxKeyBytes);
  value.type = value.element_type = read_type(reader, file, value.key);
  if (value.type == GgufType::kArray) {
    value.element_type = read_type(reader, file, value.key);
    MOBA_CHECK(value.element_type != GgufType::kArray, file, ": key ", in_quotes(value.key),
               " is an array of arrays, which is not supported");
    value.count = reader.read<std::uint64_t>("the length of an array");
  }
  const std::size_t begin = reader.position();
  skip_elements(reader, file, value);
  value.bytes = bytes.subspan(begin, reader.position() - begin);
  if (value.element_type == GgufType::kBool) {
    for (const std::byte b : value.bytes) {
      MOBA_CHECK(b == std::byte{0} || b == std::byte{1}, file, ": key ", in_quotes(value.key),
                 " has a bool that is ", static_cast<int>(b));
    }
  }
  return value;
}

// Of tensors before it is known where the data begins: offsets are relative.
GgufTensor read_tensor(Reader& reader, const std::string& file) {
  GgufTensor tensor;
  tensor.name = reader.read_string("a tensor's name");
  MOBA_CHECK(!tensor.name.empty() && tensor.name.size() <= kMaxKeyBytes, file,
             ": a tensor whose name has ", tensor.name.size(), " bytes, must be from 1 to ",
             kMaxKeyBytes);
  const std::string quoted = in_quotes(tensor.name);
  const auto num_dims = reader.read<std::uint32_t>("a tensor's dimensions");
  MOBA_CHECK(num_dims >= 1 && num_dims <= kMaxDims, file, ": tensor ", quoted, " has ", num_dims,
             " dimensions, must be from 1 to ", kMaxDims);
  std::uint64_t elements = 1;
  for (std::uint32_t i = 0; i < num_dims; ++i) {
    const auto dim = reader.read<std::uint64_t>("a tensor's dimensions");
    // 2^50 elements are a petabyte: products stay far below overflow.
    constexpr std::uint64_t kMaxElements = std::uint64_t{1} << 50;
    MOBA_CHECK(dim >= 1 && dim <= kMaxElements / elements, file, ": tensor ", quoted,
               " has dimension ", dim, ", which is 0 or makes it too large");
    elements *= dim;
    tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(dim));
  }
  const auto type = reader.read<std::uint32_t>("a tensor's type");
  tensor.type = find_gguf_tensor_type(type);
  MOBA_CHECK(tensor.type != nullptr, file, ": tensor ", quoted, " has the unknown type ", type);
  MOBA_CHECK(tensor.shape.back() % tensor.type->block_elements == 0, file, ": tensor ", quoted,
             " has rows of ", tensor.shape.back(), " elements, which are no whole blocks of ",
             tensor.type->block_elements, " (", tensor.type->name, ")");
  const auto offset = reader.read<std::uint64_t>("a tensor's offset");
  const std::uint64_t size = elements / tensor.type->block_elements * tensor.type->block_bytes;
  MOBA_CHECK(offset <= std::numeric_limits<std::uint64_t>::max() - size, file, ": tensor ", quoted,
             " has offset ", offset, ", past the end of the file");
  tensor.begin = offset;
  tensor.end = offset + size;
  return tensor;
}

// Makes offsets absolute and checks where the tensors lie.
void place_tensors(GgufHeader& header, std::uint64_t file_size, const std::string& file) {
  for (GgufTensor& tensor : header.tensors) {
    MOBA_CHECK(tensor.begin % header.alignment == 0, file, ": tensor ", in_quotes(tensor.name),
               " has offset ", tensor.begin, ", no multiple of the alignment ", header.alignment);
    MOBA_CHECK(header.data_begin <= file_size && tensor.end <= file_size - header.data_begin, file,
               ": tensor ", in_quotes(tensor.name), " ends at ", tensor.end,
               " of the data, which has ",
               file_size - std::min<std::uint64_t>(file_size, header.data_begin), " bytes");
    tensor.begin += header.data_begin;
    tensor.end += header.data_begin;
  }
  std::vector<const GgufTensor*> by_place;
  by_place.reserve(header.tensors.size());
  for (const GgufTensor& tensor : header.tensors) by_place.push_back(&tensor);
  std::sort(by_place.begin(), by_place.end(),
            [](const GgufTensor* a, const GgufTensor* b) { return a->begin < b->begin; });
  for (std::size_t i = 1; i < by_place.size(); ++i) {
    MOBA_CHECK(by_place[i - 1]->end <= by_place[i]->begin, file, ": tensors ",
               in_quotes(by_place[i - 1]->name), " and ", in_quotes(by_place[i]->name), " overlap");
  }
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const GgufTensor& a, const GgufTensor& b) { return a.name < b.name; });
  for (std::size_t i = 1; i < header.tensors.size(); ++i) {
    MOBA_CHECK(header.tensors[i - 1].name != header.tensors[i].name, file, ": tensor ",
               in_quotes(header.tensors[i].name), " is there twice");
  }
}

template <typename T>
T element(const GgufValue& value, std::uint64_t index) {
  T out;
  std::memcpy(&out, value.bytes.data() + index * sizeof(T), sizeof(T));
  return out;
}

// Whether element `index` is of an integer type and fits int64; then `out` is it.
bool integer_at(const GgufValue& value, std::uint64_t index, std::int64_t& out) {
  switch (value.element_type) {
    case GgufType::kUint8:
      out = element<std::uint8_t>(value, index);
      return true;
    case GgufType::kInt8:
      out = element<std::int8_t>(value, index);
      return true;
    case GgufType::kUint16:
      out = element<std::uint16_t>(value, index);
      return true;
    case GgufType::kInt16:
      out = element<std::int16_t>(value, index);
      return true;
    case GgufType::kUint32:
      out = element<std::uint32_t>(value, index);
      return true;
    case GgufType::kInt32:
      out = element<std::int32_t>(value, index);
      return true;
    case GgufType::kInt64:
      out = element<std::int64_t>(value, index);
      return true;
    case GgufType::kUint64: {
      const auto wide = element<std::uint64_t>(value, index);
      out = static_cast<std::int64_t>(wide);
      return wide <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    }
    default:
      return false;
  }
}

}  // namespace

const GgufTensorType* find_gguf_tensor_type(std::uint32_t id) {
  const auto* it = std::find_if(kTensorTypes.begin(), kTensorTypes.end(),
                                [&](const GgufTensorType& type) { return type.id == id; });
  return it == kTensorTypes.end() ? nullptr : it;
}

const GgufTensorType* find_gguf_tensor_type(std::string_view name) {
  const auto* it = std::find_if(kTensorTypes.begin(), kTensorTypes.end(),
                                [&](const GgufTensorType& type) { return type.name == name; });
  return it == kTensorTypes.end() ? nullptr : it;
}

GgufMetadata::GgufMetadata(std::string file, std::vector<GgufValue> values)
    : file_(std::move(file)), values_(std::move(values)) {
  std::sort(values_.begin(), values_.end(),
            [](const GgufValue& a, const GgufValue& b) { return a.key < b.key; });
  for (std::size_t i = 1; i < values_.size(); ++i) {
    MOBA_CHECK(values_[i - 1].key != values_[i].key, file_, ": key ", in_quotes(values_[i].key),
               " is there twice");
  }
}

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto it = std::lower_bound(
      values_.begin(), values_.end(), key,
      [](const GgufValue& value, std::string_view wanted) { return value.key < wanted; });
  return it != values_.end() && it->key == key ? &*it : nullptr;
}

const GgufValue& GgufMetadata::value(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) fail(key, "is missing");
  return *found;
}

std::int64_t GgufMetadata::checked(const GgufValue& value, std::int64_t number, bool fits,
                                   std::int64_t min, std::int64_t max) const {
  if (!fits) fail(value.key, "is no integer, or too large for one");
  if (number < min || number > max) {
    fail(value.key, "is ", number, ", must be from ", min, " to ", max);
  }
  return number;
}

std::int64_t GgufMetadata::integer(std::string_view key, std::int64_t min, std::int64_t max) const {
  const GgufValue& found = value(key);
  std::int64_t number = 0;
  const bool fits = found.type != GgufType::kArray && integer_at(found, 0, number);
  return checked(found, number, fits, min, max);
}

std::int64_t GgufMetadata::integer_or(std::string_view key, std::int64_t fallback, std::int64_t min,
                                      std::int64_t max) const {
  return has(key) ? integer(key, min, max) : fallback;
}

double GgufMetadata::number(std::string_view key) const {
  const GgufValue& found = value(key);
  double number = std::numeric_limits<double>::quiet_NaN();
  std::int64_t whole = 0;
  if (found.type == GgufType::kFloat32) {
    number = element<float>(found, 0);
  } else if (found.type == GgufType::kFloat64) {
    number = element<double>(found, 0);
  } else if (found.type != GgufType::kArray && integer_at(found, 0, whole)) {
    number = static_cast<double>(whole);
  } else {
    fail(key, "is not a number");
  }
  if (!(number > -std::numeric_limits<double>::infinity() &&
        number < std::numeric_limits<double>::infinity())) {
    fail(key, "is not finite");
  }
  return number;
}

double GgufMetadata::number_or(std::string_view key, double fallback) const {
  return has(key) ? number(key) : fallback;
}

bool GgufMetadata::boolean_or(std::string_view key, bool fallback) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return fallback;
  if (found->type != GgufType::kBool) fail(key, "is not a bool");
  return element<std::uint8_t>(*found, 0) != 0;
}

std::string GgufMetadata::string(std::string_view key) const {
  const GgufValue& found = value(key);
  if (found.type != GgufType::kString) fail(key, "is not a string");
  const std::size_t begin = sizeof(std::uint64_t);
  return {reinterpret_cast<const char*>(found.bytes.data()) + begin, found.bytes.size() - begin};
}

std::string GgufMetadata::string_or(std::string_view key, std::string_view fallback) const {
  return has(key) ? string(key) : std::string(fallback);
}

std::vector<std::string_view> GgufMetadata::strings(std::string_view key) const {
  const GgufValue& found = value(key);
  if (found.type != GgufType::kArray || found.element_type != GgufType::kString) {
    fail(key, "is not an array of strings");
  }
  std::vector<std::string_view> out;
  out.reserve(static_cast<std::size_t>(found.count));  // held against the file when it was read
  const std::byte* at = found.bytes.data();
  for (std::uint64_t i = 0; i < found.count; ++i) {
    std::uint64_t length = 0;
    std::memcpy(&length, at, sizeof(length));
    at += sizeof(length);
    out.emplace_back(reinterpret_cast<const char*>(at), length);
    at += length;
  }
  return out;
}

std::vector<std::int64_t> GgufMetadata::integers(std::string_view key, std::int64_t min,
                                                 std::int64_t max) const {
  const GgufValue& found = value(key);
  std::vector<std::int64_t> out;
  if (found.element_type == GgufType::kString) fail(key, "is not an array of integers");
  out.reserve(static_cast<std::size_t>(found.count));
  for (std::uint64_t i = 0; i < found.count; ++i) {
    std::int64_t number = 0;
    const bool fits = integer_at(found, i, number);
    out.push_back(checked(found, number, fits, min, max));
  }
  return out;
}

std::vector<float> GgufMetadata::floats(std::string_view key) const {
  const GgufValue& found = value(key);
  if (found.type != GgufType::kArray || found.element_type != GgufType::kFloat32) {
    fail(key, "is not an array of float32");
  }
  std::vector<float> out(static_cast<std::size_t>(found.count));
  if (!out.empty()) std::memcpy(out.data(), found.bytes.data(), out.size() * sizeof(float));
  return out;
}

GgufHeader read_gguf_header(std::span<const std::byte> bytes, const std::string& file) {
  Reader reader(bytes, file);
  const auto magic = reader.take(kMagic.size(), "its first 4 bytes");
  MOBA_CHECK(std::memcmp(magic.data(), kMagic.data(), kMagic.size()) == 0, file,
             ": not a GGUF file (it does not begin with GGUF)");
  GgufHeader header;
  header.version = reader.read<std::uint32_t>("the version");
  // A version in the upper half is one of a big-endian file.
  MOBA_CHECK(header.version == 0 || (header.version & 0xffffU) != 0, file,
             ": GGUF in big-endian byte order is not supported");
  MOBA_CHECK(header.version >= kMinVersion && header.version <= kMaxVersion, file,
             ": GGUF version ", header.version, " is not supported; known: ", kMinVersion, ", ",
             kMaxVersion);
  const auto num_tensors = reader.read<std::uint64_t>("the number of tensors");
  const auto num_values = reader.read<std::uint64_t>("the number of keys");
  MOBA_CHECK(num_values <= reader.remaining() / kMinValueBytes, file, ": says it has ", num_values,
             " keys, more than ", bytes.size(), " bytes can hold");
  MOBA_CHECK(num_tensors <= reader.remaining() / kMinTensorBytes, file, ": says it has ",
             num_tensors, " tensors, more than ", bytes.size(), " bytes can hold");

  std::vector<GgufValue> values;
  for (std::uint64_t i = 0; i < num_values; ++i) values.push_back(read_value(reader, bytes, file));
  header.metadata = GgufMetadata(file, std::move(values));
  header.alignment = static_cast<std::uint64_t>(header.metadata.integer_or(
      kAlignmentKey, static_cast<std::int64_t>(kDefaultAlignment), 1, kMaxAlignment));
  if (!std::has_single_bit(header.alignment)) {
    header.metadata.fail(kAlignmentKey, "is ", header.alignment, ", must be a power of two");
  }
  for (std::uint64_t i = 0; i < num_tensors; ++i) {
    header.tensors.push_back(read_tensor(reader, file));
  }
  const std::uint64_t mask = header.alignment - 1;
  header.data_begin = static_cast<std::size_t>((reader.position() + mask) & ~mask);
  place_tensors(header, bytes.size(), file);
  return header;
}

}  // namespace moba
