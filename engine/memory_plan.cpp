#include "engine/memory_plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

#include "engine/status_error.h"

namespace moba {
namespace {

// Page ids, positions and lengths are 32-bit in the kernels' tables.
constexpr std::int64_t kMaxPages = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaxLen = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaxBytes = std::numeric_limits<std::int64_t>::max();
constexpr double kDefaultShare = 0.8;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

template <typename... Args>
void require(bool condition, StatusCode code, const Args&... args) {
  if (!condition) throw StatusError(code, concat(args...));
}

}  // namespace

std::string format_bytes(std::int64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (std::abs(value) >= 1024.0 && unit + 1 < kUnits.size()) {
    value /= 1024.0;
    ++unit;
  }
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.2f %s", value, kUnits[unit]);
  return text.data();
}

std::int64_t longest_model_len(const ModelConfig& config) {
  const auto stretched = [&](std::int64_t base) {
    const double length = static_cast<double>(base) * config.rope.factor;
    return std::max(config.max_position_embeddings,
                    static_cast<std::int64_t>(std::min(length, static_cast<double>(kMaxLen))));
  };
  switch (config.rope.type) {
    case RopeType::kLinear:
      return stretched(config.max_position_embeddings);
    case RopeType::kDynamic:
    case RopeType::kYarn:
      return stretched(config.rope.original_max_position > 0 ? config.rope.original_max_position
                                                             : config.max_position_embeddings);
    case RopeType::kDefault:
    case RopeType::kLlama3:
      break;
  }
  return config.max_position_embeddings;
}

MemoryPlan plan_memory(const MemoryPlanInput& in) {
  require(in.max_model_len >= 0, StatusCode::kInvalidArgument, "max_model_len is ",
          in.max_model_len, "; it must be positive, or 0 for the checkpoint's");
  require(in.max_model_len <= in.longest_model_len, StatusCode::kInvalidArgument, "max_model_len ",
          in.max_model_len, " is more than the checkpoint's position embedding reaches, ",
          in.longest_model_len);
  require(in.cache_bytes >= 0, StatusCode::kInvalidArgument, "kv cache memory is ", in.cache_bytes,
          " bytes; it must be positive, or 0 to have it chosen");

  const std::int64_t fixed = in.weight_bytes + in.workspace_bytes;
  const std::int64_t free = std::max<std::int64_t>(0, in.available_bytes - fixed);
  const std::int64_t wanted_len =
      std::min(kMaxLen, in.max_model_len > 0 ? in.max_model_len
                                             : std::max<std::int64_t>(1, in.default_model_len));
  const std::int64_t wanted_pages = ceil_div(wanted_len, in.block_size);
  const std::int64_t side_by_side =
      in.max_num_seqs * ceil_div(std::min(wanted_len, kTypicalLen), in.block_size);
  // Written without a product of two large numbers, which might overflow.
  const std::int64_t budget =
      in.cache_bytes > 0 ? in.cache_bytes
      : in.takes_all     ? free
                         : static_cast<std::int64_t>(kDefaultShare * static_cast<double>(free));
  require(in.cache_bytes <= free, StatusCode::kResourceExhausted, "kv cache memory of ",
          format_bytes(in.cache_bytes), " does not fit: ", format_bytes(in.available_bytes),
          " of memory are available, weights take ", format_bytes(in.weight_bytes),
          " and the workspace ", format_bytes(in.workspace_bytes));
  const std::int64_t affordable = std::min(kMaxPages, budget / in.page_bytes);

  MemoryPlan plan;
  plan.num_pages = in.cache_bytes > 0 || in.takes_all
                       ? affordable
                       : std::min(std::max(wanted_pages, side_by_side), affordable);
  const std::int64_t capacity = std::min(kMaxLen, plan.num_pages * in.block_size);
  const auto page = format_bytes(in.page_bytes);
  require(plan.num_pages > 0, StatusCode::kResourceExhausted,
          "the KV cache has no room for one page"
          " of ",
          in.block_size, " tokens (", page, "): ", format_bytes(budget),
          in.cache_bytes > 0 ? " were given" : " are free beside weights and workspace, of ",
          in.cache_bytes > 0 ? "" : format_bytes(in.available_bytes));
  require(in.max_model_len <= capacity, StatusCode::kResourceExhausted, "max_model_len ",
          in.max_model_len, " needs ", wanted_pages, " pages of KV cache (",
          format_bytes(wanted_pages > kMaxBytes / in.page_bytes ? kMaxBytes
                                                                : wanted_pages * in.page_bytes),
          "), ", in.cache_bytes > 0 ? "the given " : "", format_bytes(budget), " hold ",
          plan.num_pages, " pages: ", capacity, " tokens");
  plan.max_model_len = in.max_model_len > 0 ? in.max_model_len : std::min(wanted_len, capacity);
  plan.kv_cache_bytes = plan.num_pages * in.page_bytes;
  return plan;
}

}  // namespace moba
