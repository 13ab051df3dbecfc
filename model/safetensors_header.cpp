#include "model/safetensors_header.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>
#include <utility>

#include "device/check.h"
#include "model/json_file.h"

namespace moba {
namespace {

using nlohmann::json;

constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // as the reference library
constexpr std::size_t kMaxRank = 32;

struct FormatDType {
  std::string_view name;
  unsigned bits;
};

// Every dtype of the format (safetensors 0.6).
constexpr std::array<FormatDType, 20> kFormatDTypes{{
    {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"BOOL", 8},    {"U8", 8},
    {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},
    {"U16", 16}, {"F16", 16},    {"BF16", 16},   {"I32", 32},    {"U32", 32},
    {"F32", 32}, {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
}};

// Takes the header as a stream of JSON events, so that nothing is built but the records. Knows only
// the one structure a header may have; anything else throws.
class HeaderReader final : public json::json_sax_t {
 public:
  HeaderReader(std::string file, std::size_t data_begin, std::size_t data_size)
      : file_(std::move(file)), data_begin_(data_begin), data_size_(data_size) {}

  std::vector<SafetensorsRecord> take_records() { return std::move(records_); }

  bool start_object(std::size_t /*elements*/) override {
    if (skipped_ > 0) {
      ++skipped_;
      return true;
    }
    switch (state_) {
      case State::kStart:
        state_ = State::kTensors;
        return true;
      case State::kTensorValue:
        state_ = State::kTensor;
        return true;
      case State::kMetadataValue:
        state_ = State::kMetadata;
        return true;
      case State::kUnknownField:
        skipped_ = 1;
        return true;
      default:
        unexpected("an object");
    }
  }

  bool end_object() override {
    if (skipped_ > 0) {
      leave_skipped();
    } else if (state_ == State::kTensor) {
      finish_tensor();
      state_ = State::kTensors;
    } else if (state_ == State::kMetadata) {
      state_ = State::kTensors;
    } else {
      state_ = State::kEnd;
    }
    return true;
  }

  bool key(std::string& name) override {
    if (skipped_ > 0) return true;
    if (state_ == State::kTensors) {
      name_ = name;
      if (name == "__metadata__") {
        if (std::exchange(has_metadata_, true)) fail("given twice");
        state_ = State::kMetadataValue;
      } else {
        dtype_.reset();
        offsets_.clear();
        shape_.clear();
        has_shape_ = has_offsets_ = false;
        state_ = State::kTensorValue;
      }
    } else if (state_ == State::kTensor) {
      if (name == "dtype") {
        if (dtype_) fail("dtype given twice");
        state_ = State::kDType;
      } else if (name == "shape") {
        if (std::exchange(has_shape_, true)) fail("shape given twice");
        state_ = State::kShapeValue;
      } else if (name == "data_offsets") {
        if (std::exchange(has_offsets_, true)) fail("data_offsets given twice");
        state_ = State::kOffsetsValue;
      } else {
        state_ = State::kUnknownField;
      }
    }
    return true;  // in metadata: any key
  }

  bool start_array(std::size_t /*elements*/) override {
    if (skipped_ > 0) {
      ++skipped_;
      return true;
    }
    switch (state_) {
      case State::kShapeValue:
        state_ = State::kShape;
        return true;
      case State::kOffsetsValue:
        state_ = State::kOffsets;
        return true;
      case State::kUnknownField:
        skipped_ = 1;
        return true;
      default:
        unexpected("a list");
    }
  }

  bool end_array() override {
    if (skipped_ > 0) {
      leave_skipped();
    } else {
      state_ = State::kTensor;
    }
    return true;
  }

  bool number_unsigned(json::number_unsigned_t value) override {
    if (skipped_ > 0) return true;
    constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (state_ == State::kShape) {
      if (shape_.size() == kMaxRank) fail("shape of more than ", kMaxRank, " dimensions");
      if (value > kMax) fail("dimension ", value, " is too large");
      shape_.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (state_ == State::kOffsets) {
      if (offsets_.size() == 2) fail("data_offsets of more than two numbers");
      offsets_.push_back(value);
      return true;
    }
    return scalar("a number");
  }

  bool number_integer(json::number_integer_t value) override {
    return scalar(concat("the number ", value));
  }
  bool number_float(json::number_float_t value, const std::string& /*text*/) override {
    return scalar(concat("the number ", value));
  }
  bool null() override { return scalar("null"); }
  bool boolean(bool /*value*/) override { return scalar("a boolean"); }
  bool binary(json::binary_t& /*value*/) override { return scalar("binary data"); }

  bool string(std::string& value) override {
    if (skipped_ == 0 && state_ == State::kDType) {
      const auto* found = std::find_if(kFormatDTypes.begin(), kFormatDTypes.end(),
                                       [&](const FormatDType& d) { return d.name == value; });
      if (found == kFormatDTypes.end()) fail("unknown dtype ", in_quotes(value));
      dtype_ = *found;
      state_ = State::kTensor;
      return true;
    }
    if (state_ == State::kMetadata) return true;
    return scalar("a string");
  }

  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const json::exception& /*error*/) override {
    throw Error(concat(file_, ": header is not JSON (at byte ", position, " of it)"));
  }

 private:
  enum class State : std::uint8_t {
    kStart,
    kTensors,        // in the outer object: a tensor's name or __metadata__ comes next
    kMetadataValue,  // its object comes next
    kMetadata,
    kTensorValue,  // its object comes next
    kTensor,       // a field's name comes next
    kDType,
    kShapeValue,
    kShape,
    kOffsetsValue,
    kOffsets,
    kUnknownField,  // a field that a later version of the format may add: its value is skipped
    kEnd,
  };

  template <typename... Args>
  [[noreturn]] void fail(const Args&... args) const {
    throw Error(concat(file_, ": tensor ", in_quotes(name_), ": ", args...));
  }

  [[noreturn]] void unexpected(std::string_view what) const {
    switch (state_) {
      case State::kStart:
        throw Error(concat(file_, ": header is not a JSON object"));
      case State::kMetadataValue:
      case State::kMetadata:
        throw Error(concat(file_, ": __metadata__ must be an object of strings, not hold ", what));
      case State::kDType:
        fail("dtype must be a string, not ", what);
      case State::kShapeValue:
      case State::kShape:
        fail("shape must be a list of non-negative integers, not hold ", what);
      case State::kOffsetsValue:
      case State::kOffsets:
        fail("data_offsets must be two non-negative integers, not hold ", what);
      default:
        fail("must be an object, not ", what);
    }
  }

  // A value that is right only where fields are skipped.
  bool scalar(std::string_view what) {
    if (skipped_ > 0) return true;
    if (state_ != State::kUnknownField) unexpected(what);
    state_ = State::kTensor;
    return true;
  }

  void leave_skipped() {
    if (--skipped_ == 0) state_ = State::kTensor;
  }

  void finish_tensor() {
    if (!dtype_) fail("no dtype");
    if (!has_shape_) fail("no shape");
    if (offsets_.size() != 2) fail("no data_offsets of two numbers");
    const std::uint64_t begin = offsets_[0];
    const std::uint64_t end = offsets_[1];
    if (begin > end) fail("data_offsets [", begin, ", ", end, "] are reversed");
    if (end > data_size_) {
      fail("data_offsets [", begin, ", ", end, "] go past the end of the file's ", data_size_,
           " bytes of data");
    }
    std::uint64_t bits = dtype_->bits;
    for (const std::int64_t dim : shape_) {
      if (__builtin_mul_overflow(bits, static_cast<std::uint64_t>(dim), &bits)) {
        fail("shape ", shape_text(shape_), " overflows");
      }
    }
    if (bits % 8 != 0 || bits / 8 != end - begin) {
      fail("shape ", shape_text(shape_), " of ", dtype_->name, " does not fit data_offsets [",
           begin, ", ", end, "], which span ", end - begin, " bytes");
    }
    records_.push_back({name_, dtype_->name, shape_, data_begin_ + begin, data_begin_ + end});
  }

  std::string file_;
  std::size_t data_begin_;
  std::size_t data_size_;
  State state_ = State::kStart;
  std::size_t skipped_ = 0;  // depth inside a skipped value
  bool has_metadata_ = false;
  // Of the tensor being read.
  std::string name_;
  std::optional<FormatDType> dtype_;
  std::vector<std::int64_t> shape_;
  std::vector<std::uint64_t> offsets_;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  std::vector<SafetensorsRecord> records_;
};

void check_names(const std::string& file, const std::vector<SafetensorsRecord>& records) {
  std::vector<std::string_view> names;
  names.reserve(records.size());
  for (const SafetensorsRecord& record : records) names.push_back(record.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end())
    throw Error(concat(file, ": tensor ", in_quotes(*twice), ": given twice"));
}

void check_coverage(const std::string& file, std::vector<SafetensorsRecord>& records,
                    std::size_t data_begin, std::size_t data_end) {
  std::sort(records.begin(), records.end(),
            [](const SafetensorsRecord& a, const SafetensorsRecord& b) {
              return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
            });
  std::size_t covered = data_begin;
  std::string_view previous;
  for (const SafetensorsRecord& record : records) {
    MOBA_CHECK(record.begin >= covered, file, ": tensor ", in_quotes(record.name),
               ": its data overlaps that of ", in_quotes(previous));
    MOBA_CHECK(record.begin == covered, file, ": tensor ", in_quotes(record.name), ": a hole of ",
               record.begin - covered, " bytes lies before its data");
    covered = record.end;
    previous = record.name;
  }
  MOBA_CHECK(covered == data_end, file, ": ", data_end - covered,
             " bytes at the end belong to no tensor",
             previous.empty() ? "" : concat(" (the last is ", in_quotes(previous), ")"));
}

}  // namespace

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (const std::int64_t dim : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(dim);
  }
  return text + "]";
}

std::vector<SafetensorsRecord> read_safetensors_header(const std::filesystem::path& path,
                                                       const MappedFile& file) {
  const std::string name = path.string();
  MOBA_CHECK(file.size() > 0, name, ": empty file");
  MOBA_CHECK(file.size() >= kLengthBytes, name, ": ", file.size(),
             " bytes are too few for a safetensors file");
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    length |= std::to_integer<std::uint64_t>(file.data()[i]) << (8 * i);
  }
  MOBA_CHECK(length <= kMaxHeaderBytes, name, ": a header of ", length, " bytes is more than the ",
             kMaxHeaderBytes, " allowed");
  MOBA_CHECK(length <= file.size() - kLengthBytes, name, ": a header of ", length,
             " bytes goes past the end of the file of ", file.size(), " bytes");

  const auto* text = reinterpret_cast<const char*>(file.data()) + kLengthBytes;
  MOBA_CHECK(length > 0 && text[0] == '{', name, ": header is not a JSON object");
  // The parser would take a zero byte for the end.
  MOBA_CHECK(std::memchr(text, 0, length) == nullptr, name, ": header is not JSON (a zero byte)");
  const std::size_t data_begin = kLengthBytes + static_cast<std::size_t>(length);
  HeaderReader reader(name, data_begin, file.size() - data_begin);
  json::sax_parse(text, text + length, &reader);
  std::vector<SafetensorsRecord> records = reader.take_records();
  check_names(name, records);
  check_coverage(name, records, data_begin, file.size());
  return records;
}

}  // namespace moba
