#include "model/weights.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string_view>

#include "device/check.h"
#include "model/json_file.h"
#include "model/mapped_file.h"
#include "model/safetensors_header.h"

namespace moba {
namespace {

// Converted in pieces of this many elements, so that the file's pages can be dropped as they are
// read: the peak is one copy, not two.
constexpr std::int64_t kElementsPerPiece = std::int64_t{1} << 20;
constexpr std::int64_t kElementsPerItem = std::int64_t{1} << 16;
// What travels to a device at a time.
constexpr std::size_t kUploadBytes = std::size_t{64} << 20;
// Between tensors on a device: what vector loads and tensor memory accelerators ask for. Small, so
// that even short tensors follow one another without a gap.
constexpr std::size_t kStoreAlignment = 64;

std::size_t align(std::size_t bytes) {
  return (bytes + kStoreAlignment - 1) / kStoreAlignment * kStoreAlignment;
}

// The elements may lie at any address.
template <typename From, typename To>
void convert_elements(const std::byte* from, std::byte* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, from + static_cast<std::size_t>(i) * sizeof(From), sizeof(From));
    const To converted(static_cast<float>(value));
    std::memcpy(to + static_cast<std::size_t>(i) * sizeof(To), &converted, sizeof(To));
  }
}

template <typename From>
void convert_elements(const std::byte* from, DType dtype, std::byte* to, std::int64_t count) {
  switch (dtype) {
    case DType::kBFloat16:
      return convert_elements<From, BFloat16>(from, to, count);
    case DType::kFloat16:
      return convert_elements<From, Float16>(from, to, count);
    default:
      return convert_elements<From, float>(from, to, count);
  }
}

}  // namespace

Weights::Weights(DeviceContext& context, const std::filesystem::path& path, DType dtype)
    : context_(context), files_(path), dtype_(dtype) {
  const bool on_cpu = context.device().type == DeviceType::kCpu;
  MOBA_CHECK(dtype == DType::kFloat32 || dtype == DType::kBFloat16 ||
                 (dtype == DType::kFloat16 && !on_cpu),
             path.string(), ": cannot compute in ", dtype_name(dtype),
             on_cpu ? " on the CPU: float32 or bfloat16" : ": float32, bfloat16 or float16");
}

const SafetensorsEntry& Weights::find(const std::string& name, const Shape& shape) {
  const SafetensorsEntry* entry = files_.find(name);
  MOBA_CHECK(entry != nullptr, files_.path().string(), ": tensor ", in_quotes(name),
             " is missing (config.json asks for it, of shape ", shape.to_string(), ")");
  MOBA_CHECK(!entry->tensor.empty() && (entry->tensor.dtype() == DType::kFloat32 ||
                                        entry->tensor.dtype() == DType::kBFloat16 ||
                                        entry->tensor.dtype() == DType::kFloat16),
             entry->file.string(), ": tensor ", in_quotes(name), " of dtype ", entry->dtype,
             " and shape ", shape_text(entry->shape),
             " cannot be used: weights are F32, BF16 or F16, of at most ", Shape::kMaxRank,
             " dimensions");
  MOBA_CHECK(entry->tensor.shape() == shape, entry->file.string(), ": tensor ", in_quotes(name),
             " has shape ", shape_text(entry->shape), ", but config.json makes it ",
             shape.to_string());
  used_.insert(name);
  return *entry;
}

// A float32 model takes weights in any dtype, as they widen without loss; other devices have no
// products of two dtypes.
DType Weights::matrix_dtype(const SafetensorsEntry& entry) const {
  const bool in_place = context_.device().type == DeviceType::kCpu && dtype_ == DType::kFloat32;
  return in_place ? entry.tensor.dtype() : dtype_;
}

// Rows of the part as the file has them, one after the other if they are neighbours there.
Weights::Source Weights::part_of(const SafetensorsEntry& entry, const TensorPart& part) {
  const TensorView& tensor = entry.tensor;
  Source source;
  source.entry = &entry;
  source.shape = tensor.shape();
  source.data = entry.data;
  source.columns = source.row_stride = tensor.shape().row_elements();
  if (part.axis == TensorPart::Axis::kWhole) return source;
  const int axis = part.axis == TensorPart::Axis::kRows ? 0 : 1;
  MOBA_CHECK(axis < tensor.rank() && part.begin >= 0 && part.begin <= part.end &&
                 part.end <= tensor.dim(axis),
             entry.name, ": part ", part.begin, " .. ", part.end, " of dimension ", axis,
             " of shape ", tensor.shape().to_string());
  source.shape.set(axis, part.end - part.begin);
  if (axis == 1) source.columns = part.end - part.begin;
  const std::int64_t offset = part.begin * (axis == 0 ? source.row_stride : 1);
  source.data += static_cast<std::size_t>(offset) * dtype_size(tensor.dtype());
  return source;
}

void Weights::note_checked(const Source& source, DType dtype, const TensorPart& part) {
  const std::int64_t rows = source.shape[0];
  store_bytes_ += align(static_cast<std::size_t>(source.shape.num_elements()) * dtype_size(dtype));
  all_whole_ = all_whole_ && part.axis == TensorPart::Axis::kWhole;
  if (rows == 0) return;
  const std::int64_t span = (rows - 1) * source.row_stride + source.columns;
  parts_.emplace_back(source.data,
                      static_cast<std::size_t>(span) * dtype_size(source.entry->tensor.dtype()));
}

void Weights::check_matrix(const std::string& name, const Shape& shape, const TensorPart& part) {
  const SafetensorsEntry& entry = find(name, shape);
  note_checked(part_of(entry, part), matrix_dtype(entry), part);
}

void Weights::check_vector(const std::string& name, std::int64_t size, const TensorPart& part) {
  const SafetensorsEntry& entry = find(name, {size});
  note_checked(part_of(entry, part), entry.tensor.dtype(), part);
}

void Weights::prefetch() const {
  if (all_whole_) return files_.prefetch();
  for (const auto& [data, size] : parts_) prefetch_mapped_pages(data, size);
}

TensorView Weights::matrix(const std::string& name, const Shape& shape, const TensorPart& part) {
  const SafetensorsEntry& entry = find(name, shape);
  return fetch(part_of(entry, part), matrix_dtype(entry));
}

TensorView Weights::vector(const std::string& name, std::int64_t size, const TensorPart& part) {
  const SafetensorsEntry& entry = find(name, {size});
  return fetch(part_of(entry, part), entry.tensor.dtype());
}

TensorView Weights::fetch(const Source& source, DType dtype) {
  if (context_.device().type != DeviceType::kCpu) return copy_to_store(source, dtype);
  const bool aligned = reinterpret_cast<std::uintptr_t>(source.data) % dtype_size(dtype) == 0;
  if (source.entry->tensor.dtype() == dtype && aligned && source.is_contiguous()) {
    // Views carry no constness; weights are never outputs of an operation.
    const TensorView view(const_cast<std::byte*>(source.data), dtype, source.shape);
    mapped_bytes_ += static_cast<std::int64_t>(view.num_bytes());
    return view;
  }
  return copy_on_host(source, dtype);
}

void Weights::convert(const Source& source, DType dtype, std::int64_t first, std::int64_t last,
                      std::byte* to) {
  const DType from = source.entry->tensor.dtype();
  const std::size_t from_size = dtype_size(from);
  const std::size_t to_size = dtype_size(dtype);
  const auto convert_run = [&](const std::byte* in, std::byte* out, std::int64_t count) {
    if (from == dtype) {
      std::memcpy(out, in, static_cast<std::size_t>(count) * to_size);
    } else if (from == DType::kFloat32) {
      convert_elements<float>(in, dtype, out, count);
    } else if (from == DType::kBFloat16) {
      convert_elements<BFloat16>(in, dtype, out, count);
    } else {
      convert_elements<Float16>(in, dtype, out, count);
    }
  };
  // Where element `index` of the part lies in the file.
  const auto at = [&](std::int64_t index) {
    const std::int64_t offset = index / source.columns * source.row_stride + index % source.columns;
    return source.data + static_cast<std::size_t>(offset) * from_size;
  };
  const std::int64_t items = (last - first + kElementsPerItem - 1) / kElementsPerItem;
  context_.pool().parallel_for(items, [&](std::int64_t item, int /*thread*/) {
    const std::int64_t end = std::min(last, first + (item + 1) * kElementsPerItem);
    for (std::int64_t i = first + item * kElementsPerItem; i < end;) {
      const std::int64_t run =
          source.is_contiguous() ? end - i : std::min(end - i, source.columns - i % source.columns);
      convert_run(at(i), to + static_cast<std::size_t>(i - first) * to_size, run);
      i += run;
    }
  });
  const std::byte* const begin = at(first);
  drop_mapped_pages(begin, static_cast<std::size_t>(at(last - 1) - begin) + from_size);
}

TensorView Weights::copy_on_host(const Source& source, DType dtype) {
  const TensorView& copy =
      owned_.emplace_back(dtype, source.shape, Device{}, source.entry->name.c_str()).view();
  owned_bytes_ += static_cast<std::int64_t>(copy.num_bytes());
  const std::int64_t num_elements = copy.num_elements();
  for (std::int64_t first = 0; first < num_elements; first += kElementsPerPiece) {
    const std::int64_t last = std::min(num_elements, first + kElementsPerPiece);
    convert(
        source, dtype, first, last,
        static_cast<std::byte*>(copy.raw()) + static_cast<std::size_t>(first) * dtype_size(dtype));
  }
  return copy;
}

TensorView Weights::copy_to_store(const Source& source, DType dtype) {
  if (store_.data() == nullptr) {
    store_ = Buffer(context_.device(), store_bytes_, "weights");
    uploader_ = std::make_unique<Uploader>(context_, kUploadBytes);
  }
  const std::size_t size = dtype_size(dtype);
  const std::int64_t num_elements = source.shape.num_elements();
  const std::size_t bytes = static_cast<std::size_t>(num_elements) * size;
  MOBA_CHECK(store_cursor_ + bytes <= store_bytes_, source.entry->name,
             ": was not checked before loading");
  std::byte* const to = static_cast<std::byte*>(store_.data()) + store_cursor_;
  store_cursor_ += align(bytes);
  owned_bytes_ += static_cast<std::int64_t>(bytes);
  const auto per_piece = static_cast<std::int64_t>(kUploadBytes / size);
  for (std::int64_t first = 0; first < num_elements; first += per_piece) {
    const std::int64_t last = std::min(num_elements, first + per_piece);
    convert(source, dtype, first, last, uploader_->next());
    uploader_->send(static_cast<std::size_t>(last - first) * size,
                    to + static_cast<std::size_t>(first) * size);
  }
  return {to, dtype, source.shape, context_.device()};
}

void Weights::finish() {
  uploader_.reset();
  context_.synchronize();
}

std::vector<std::string> Weights::unused() const {
  std::vector<std::string> names;
  for (const SafetensorsEntry& entry : files_.entries()) {
    // Older checkpoints store the RoPE frequencies, which follow from config.json; a tied output
    // matrix is sometimes stored twice.
    const bool of_no_use =
        entry.name.ends_with(".rotary_emb.inv_freq") || entry.name == "lm_head.weight";
    if (!of_no_use && !used_.contains(entry.name)) names.push_back(entry.name);
  }
  return names;
}

}  // namespace moba
