#include "model/weights.h"

#include <algorithm>
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

// The elements may lie at any address.
template <typename From>
void convert_to_bfloat16(const std::byte* from, BFloat16* to, std::int64_t begin,
                         std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    From value;
    std::memcpy(&value, from + static_cast<std::size_t>(i) * sizeof(From), sizeof(From));
    to[i] = BFloat16(static_cast<float>(value));
  }
}

}  // namespace

Weights::Weights(DeviceContext& context, const std::filesystem::path& path, DType dtype)
    : context_(context), files_(path), dtype_(dtype) {
  MOBA_CHECK(dtype == DType::kFloat32 || dtype == DType::kBFloat16, path.string(),
             ": cannot compute in ", dtype_name(dtype), ": float32 or bfloat16");
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

void Weights::check(const std::string& name, const Shape& shape) { find(name, shape); }

TensorView Weights::matrix(const std::string& name, const Shape& shape) {
  const SafetensorsEntry& entry = find(name, shape);
  return fetch(entry, dtype_ == DType::kBFloat16 ? DType::kBFloat16 : entry.tensor.dtype());
}

TensorView Weights::vector(const std::string& name, std::int64_t size) {
  const SafetensorsEntry& entry = find(name, {size});
  return fetch(entry, entry.tensor.dtype());
}

TensorView Weights::fetch(const SafetensorsEntry& entry, DType dtype) {
  const TensorView& source = entry.tensor;
  const bool aligned = reinterpret_cast<std::uintptr_t>(entry.data) % dtype_size(dtype) == 0;
  if (source.dtype() == dtype && aligned) {
    mapped_bytes_ += static_cast<std::int64_t>(entry.num_bytes);
    return source;
  }

  const Tensor& copy =
      owned_.emplace_back(dtype, source.shape(), context_.device(), entry.name.c_str());
  owned_bytes_ += static_cast<std::int64_t>(copy.view().num_bytes());
  const std::int64_t num_elements = source.num_elements();
  for (std::int64_t first = 0; first < num_elements; first += kElementsPerPiece) {
    const std::int64_t last = std::min(num_elements, first + kElementsPerPiece);
    const std::int64_t items = (last - first + kElementsPerItem - 1) / kElementsPerItem;
    context_.pool().parallel_for(items, [&](std::int64_t item, int /*thread*/) {
      const std::int64_t begin = first + item * kElementsPerItem;
      const std::int64_t end = std::min(last, begin + kElementsPerItem);
      const std::size_t size = dtype_size(dtype);
      if (source.dtype() == dtype) {
        std::memcpy(
            static_cast<std::byte*>(copy.view().raw()) + static_cast<std::size_t>(begin) * size,
            entry.data + static_cast<std::size_t>(begin) * size,
            static_cast<std::size_t>(end - begin) * size);
      } else if (source.dtype() == DType::kFloat32) {
        convert_to_bfloat16<float>(entry.data, copy.view().data<BFloat16>(), begin, end);
      } else {
        convert_to_bfloat16<Float16>(entry.data, copy.view().data<BFloat16>(), begin, end);
      }
    });
    const std::size_t source_size = dtype_size(source.dtype());
    drop_mapped_pages(entry.data + static_cast<std::size_t>(first) * source_size,
                      static_cast<std::size_t>(last - first) * source_size);
  }
  return copy.view();
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
