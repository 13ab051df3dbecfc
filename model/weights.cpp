#include "model/weights.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <string_view>

#include "device/check.h"
#include "device/quant.h"
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

// `count` elements from `first` on of a tensor that begins at `data`, as `dtype`.
void convert_run(const std::byte* data, DType type, std::int64_t first, std::int64_t count,
                 DType dtype, std::byte* to) {
  const std::byte* const from = data + static_cast<std::size_t>(first) * dtype_size(type);
  if (type == dtype) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * dtype_size(type));
  } else if (type == DType::kFloat32) {
    convert_elements<float>(from, dtype, to, count);
  } else if (type == DType::kBFloat16) {
    convert_elements<BFloat16>(from, dtype, to, count);
  } else {
    convert_elements<Float16>(from, dtype, to, count);
  }
}

// The same of a block format. Begin and end may lie within a block.
void expand_run(const std::byte* data, DType type, std::int64_t first, std::int64_t count,
                DType dtype, std::byte* to) {
  std::array<float, UnpackedBlock::kMaxElements> values;
  const std::int64_t size = block_elements(type);
  while (count > 0) {
    const std::int64_t within = first % size;
    const std::int64_t taken = std::min(count, size - within);
    dequantize(type, data + storage_bytes(type, first - within), size, values.data());
    convert_elements<float>(reinterpret_cast<const std::byte*>(values.data() + within), dtype, to,
                            taken);
    to += static_cast<std::size_t>(taken) * dtype_size(dtype);
    first += taken;
    count -= taken;
  }
}

}  // namespace

Weights::Weights(DeviceContext& context, const std::filesystem::path& path, DType dtype)
    : context_(context), files_(open_checkpoint_tensors(path)), dtype_(dtype) {
  const bool on_cpu = context.device().type == DeviceType::kCpu;
  MOBA_CHECK(dtype == DType::kFloat32 || dtype == DType::kBFloat16 ||
                 (dtype == DType::kFloat16 && !on_cpu),
             path.string(), ": cannot compute in ", dtype_name(dtype),
             on_cpu ? " on the CPU: float32 or bfloat16" : ": float32, bfloat16 or float16");
}

const CheckpointTensor& Weights::find(const std::string& name, const Shape& shape) {
  const CheckpointTensor* entry = files_->find(name);
  MOBA_CHECK(entry != nullptr, files_->path().string(), ": tensor ", in_quotes(name),
             " is missing (", files_->config_name(), " asks for it, of shape ", shape.to_string(),
             ")");
  const bool usable =
      entry->shape.size() <= Shape::kMaxRank && entry->element_type &&
      (*entry->element_type == DType::kFloat32 || *entry->element_type == DType::kBFloat16 ||
       *entry->element_type == DType::kFloat16 || is_quantized(*entry->element_type));
  MOBA_CHECK(usable, entry->file.string(), ": tensor ", in_quotes(name), " of dtype ", entry->dtype,
             " and shape ", shape_text(entry->shape),
             " cannot be used: weights are F32, BF16, F16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, "
             "Q5_K or Q6_K, of at most ",
             Shape::kMaxRank, " dimensions");
  MOBA_CHECK(Shape::from(entry->shape) == shape, entry->file.string(), ": tensor ", in_quotes(name),
             " has shape ", shape_text(entry->shape), ", but ", files_->config_name(), " makes it ",
             shape.to_string());
  used_.insert(name);
  return *entry;
}

// A float32 model takes weights in any dtype, as they widen without loss; other devices have no
// products of two dtypes.
DType Weights::matrix_dtype(const CheckpointTensor& entry, const TensorPart& part) const {
  const DType type = *entry.element_type;
  if (context_.device().type != DeviceType::kCpu) return dtype_;
  if (is_quantized(type)) {
    const std::int64_t block = block_elements(type);
    const bool whole_blocks = part.axis != TensorPart::Axis::kColumns ||
                              (part.begin % block == 0 && part.end % block == 0);
    return whole_blocks ? type : dtype_;
  }
  return dtype_ == DType::kFloat32 ? type : dtype_;
}

DType Weights::vector_dtype(const CheckpointTensor& entry) {
  return is_quantized(*entry.element_type) ? DType::kFloat32 : *entry.element_type;
}

std::pair<std::size_t, std::size_t> Weights::Source::span() const {
  if (shape.num_elements() == 0) return {0, 0};
  // Rows in pairs stay within their head, and parts are of whole heads.
  const std::int64_t begin = first_row * row_stride + first_column;
  const std::int64_t end = begin + (shape[0] - 1) * row_stride + columns;
  const std::int64_t block = block_elements(type);
  return {storage_bytes(type, begin), storage_bytes(type, (end + block - 1) / block * block)};
}

Weights::Source Weights::part_of(const CheckpointTensor& entry, const TensorPart& part) {
  Source source;
  source.entry = &entry;
  source.type = *entry.element_type;
  source.shape = Shape::from(entry.shape);
  source.columns = source.row_stride = source.shape.row_elements();
  if (part.axis == TensorPart::Axis::kWhole) return source;
  const int axis = part.axis == TensorPart::Axis::kRows ? 0 : 1;
  MOBA_CHECK(axis < source.shape.rank() && part.begin >= 0 && part.begin <= part.end &&
                 part.end <= source.shape[axis],
             entry.name, ": part ", part.begin, " .. ", part.end, " of dimension ", axis,
             " of shape ", source.shape.to_string());
  const std::int64_t heads = entry.paired_rows;
  MOBA_CHECK(axis == 1 || heads == 0 || (part.begin % heads == 0 && part.end % heads == 0),
             entry.name, ": part ", part.begin, " .. ", part.end,
             " of rows, not of whole heads of ", heads);
  source.shape.set(axis, part.end - part.begin);
  if (axis == 1) source.columns = part.end - part.begin;
  (axis == 0 ? source.first_row : source.first_column) = part.begin;
  return source;
}

void Weights::note_checked(const Source& source, DType dtype, const TensorPart& part) {
  store_bytes_ += align(static_cast<std::size_t>(source.shape.num_elements()) * dtype_size(dtype));
  all_whole_ = all_whole_ && part.axis == TensorPart::Axis::kWhole;
  const auto [begin, end] = source.span();
  if (begin < end) parts_.emplace_back(source.entry->data + begin, end - begin);
}

void Weights::check_matrix(const std::string& name, const Shape& shape, const TensorPart& part) {
  const CheckpointTensor& entry = find(name, shape);
  note_checked(part_of(entry, part), matrix_dtype(entry, part), part);
}

void Weights::check_vector(const std::string& name, std::int64_t size, const TensorPart& part) {
  const CheckpointTensor& entry = find(name, {size});
  note_checked(part_of(entry, part), vector_dtype(entry), part);
}

void Weights::prefetch() const {
  if (all_whole_) return files_->prefetch();
  for (const auto& [data, size] : parts_) prefetch_mapped_pages(data, size);
}

TensorView Weights::matrix(const std::string& name, const Shape& shape, const TensorPart& part) {
  const CheckpointTensor& entry = find(name, shape);
  return fetch(part_of(entry, part), matrix_dtype(entry, part));
}

TensorView Weights::vector(const std::string& name, std::int64_t size, const TensorPart& part) {
  const CheckpointTensor& entry = find(name, {size});
  return fetch(part_of(entry, part), vector_dtype(entry));
}

TensorView Weights::fetch(const Source& source, DType dtype) {
  if (context_.device().type != DeviceType::kCpu) return copy_to_store(source, dtype);
  if (is_quantized(dtype)) return copy_packed(source);
  const std::byte* const data = source.entry->data + source.span().first;
  const bool aligned = reinterpret_cast<std::uintptr_t>(data) % dtype_size(dtype) == 0;
  if (source.type == dtype && aligned && source.is_contiguous()) {
    // Views carry no constness; weights are never outputs of an operation.
    const TensorView view(const_cast<std::byte*>(data), dtype, source.shape);
    mapped_bytes_ += static_cast<std::int64_t>(view.num_bytes());
    return view;
  }
  return copy_on_host(source, dtype);
}

void Weights::convert(const Source& source, DType dtype, std::int64_t first, std::int64_t last,
                      std::byte* to) {
  const auto convert_part = is_quantized(source.type) ? expand_run : convert_run;
  const std::int64_t items = (last - first + kElementsPerItem - 1) / kElementsPerItem;
  context_.pool().parallel_for(items, [&](std::int64_t item, int /*thread*/) {
    const std::int64_t end = std::min(last, first + (item + 1) * kElementsPerItem);
    for (std::int64_t i = first + item * kElementsPerItem; i < end;) {
      const std::int64_t run =
          source.is_contiguous() ? end - i : std::min(end - i, source.columns - i % source.columns);
      convert_part(source.entry->data, source.type, source.element(i), run, dtype,
                   to + static_cast<std::size_t>(i - first) * dtype_size(dtype));
      i += run;
    }
  });
}

// Pages of the file that hold elements [first, last) of a part are not wanted any more.
void Weights::drop(const Source& source, std::int64_t first, std::int64_t last) {
  if (first >= last) return;
  // Rows in pairs: those of the heads that are done.
  const std::int64_t unit = std::max<std::int64_t>(1, source.entry->paired_rows) * source.columns;
  if (source.entry->paired_rows != 0) {
    first = first / unit * unit;
    last = last / unit * unit;
    if (first >= last) return;
  }
  Source part = source;
  part.first_row += first / source.columns;
  part.shape.set(0, (last - 1) / source.columns + 1 - first / source.columns);
  const auto [begin, end] = part.span();
  drop_mapped_pages(source.entry->data + begin, end - begin);
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
    drop(source, first, last);
  }
  return copy;
}

// Some row groups at a time, so that the file's pages can be dropped as they are read.
TensorView Weights::copy_packed(const Source& source) {
  const DType type = source.type;
  const std::int64_t rows = source.shape[0];
  const TensorView& copy =
      owned_.emplace_back(type, source.shape, Device{}, source.entry->name.c_str()).view();
  owned_bytes_ += static_cast<std::int64_t>(copy.num_bytes());
  const std::size_t group_bytes = packed_bytes(type, kPackedRows, source.columns);
  const std::int64_t per_piece = std::max<std::int64_t>(
      1, kElementsPerPiece * 4 / std::max<std::int64_t>(1, kPackedRows * source.columns));
  const std::int64_t groups = (rows + kPackedRows - 1) / kPackedRows;
  for (std::int64_t first = 0; first < groups; first += per_piece) {
    const std::int64_t last = std::min(groups, first + per_piece);
    context_.pool().parallel_for(last - first, [&](std::int64_t item, int /*thread*/) {
      const std::int64_t group = first + item;
      std::array<const std::byte*, kPackedRows> from{};
      for (std::int64_t r = 0; r < kPackedRows && group * kPackedRows + r < rows; ++r) {
        const std::int64_t element = source.element((group * kPackedRows + r) * source.columns);
        from[static_cast<std::size_t>(r)] = source.entry->data + storage_bytes(type, element);
      }
      pack_row_group(
          type, from.data(), source.columns,
          static_cast<std::byte*>(copy.raw()) + static_cast<std::size_t>(group) * group_bytes);
    });
    drop(source, first * kPackedRows * source.columns,
         std::min(rows, last * kPackedRows) * source.columns);
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
    drop(source, first, last);
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
  for (const CheckpointTensor& entry : files_->entries()) {
    // Older checkpoints store the RoPE frequencies, which follow from config.json (GGUF's are a
    // part of the config); a tied output matrix is sometimes stored twice.
    const bool of_no_use = entry.name.ends_with(".rotary_emb.inv_freq") ||
                           entry.name == "rope_freqs.weight" || entry.name == "lm_head.weight";
    if (!of_no_use && !used_.contains(entry.name)) names.push_back(entry.name);
  }
  return names;
}

}  // namespace moba
