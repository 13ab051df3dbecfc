#include "engine/attention_policy.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <string>

#include "device/check.h"

namespace moba {
namespace {

constexpr int kDefaultBlockSize = 64;
// Far above any sensible block; keeps products of sizes within range.
constexpr int kMaxBlockSize = 1 << 24;

// A non-negative decimal number that is the whole of `text`, or -1.
int parse_number(std::string_view text) {
  int value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole && value >= 0 ? value : -1;
}

std::vector<bool> checkpoint_full_layers(const ModelConfig& model) {
  std::vector<bool> full(static_cast<std::size_t>(model.num_layers), false);
  for (std::size_t i = 0; i < full.size() && i < model.layer_kinds.size(); ++i) {
    full[i] = model.layer_kinds[i] == AttentionKind::kFull;
  }
  return full;
}

}  // namespace

std::vector<bool> parse_full_attention_layers(std::string_view text, int num_layers) {
  std::vector<bool> full(static_cast<std::size_t>(num_layers), false);
  if (text == "none") return full;
  constexpr std::string_view kLast = "last:";
  if (text.substr(0, kLast.size()) == kLast) {
    const int count = parse_number(text.substr(kLast.size()));
    MOBA_CHECK(count >= 0 && count <= num_layers, "full_attention_layers '", text,
               "': the number after 'last:' must be 0 to ", num_layers);
    std::fill(full.end() - count, full.end(), true);
    return full;
  }
  std::string_view rest = text;
  for (;;) {
    const std::size_t comma = rest.find(',');
    const std::string_view item = rest.substr(0, comma);
    const int layer = parse_number(item);
    MOBA_CHECK(layer >= 0, "full_attention_layers '", text, "': '", item,
               "' is not a layer number (write 'none', 'last:N' or a list as '0,8,9')");
    MOBA_CHECK(layer < num_layers, "full_attention_layers '", text, "': layer ", layer,
               " does not exist, the model has layers 0 to ", num_layers - 1);
    full[static_cast<std::size_t>(layer)] = true;
    if (comma == std::string_view::npos) return full;
    rest.remove_prefix(comma + 1);
  }
}

CacheGeometry resolve_cache_geometry(const ModelConfig& model, const AttentionOptions& attention,
                                     const CacheOptions& cache) {
  MOBA_CHECK(attention.moba_block_size >= 0 && attention.moba_block_size <= kMaxBlockSize,
             "moba_block_size is ", attention.moba_block_size, ", not in 1 .. ", kMaxBlockSize);
  MOBA_CHECK(cache.block_size >= 0 && cache.block_size <= kMaxBlockSize, "block_size is ",
             cache.block_size, ", not in 1 .. ", kMaxBlockSize);
  CacheGeometry geometry;
  geometry.moba_block_size =
      attention.moba_block_size > 0 ? attention.moba_block_size : model.moba.block_size;
  MOBA_CHECK(attention.mode != AttentionMode::kMoba || geometry.moba_block_size > 0,
             "attention moba needs moba_block_size: the checkpoint has no MoBA settings");
  geometry.block_size = cache.block_size;
  if (geometry.block_size == 0) {
    geometry.block_size = kDefaultBlockSize;
    while (geometry.moba_block_size % geometry.block_size != 0) geometry.block_size /= 2;
  }
  MOBA_CHECK(geometry.moba_block_size % geometry.block_size == 0, "moba_block_size ",
             geometry.moba_block_size, " is not a multiple of the cache's block_size ",
             geometry.block_size);
  return geometry;
}

LayerAttention resolve_attention(const ModelConfig& model, const CacheGeometry& geometry,
                                 const AttentionOptions& attention,
                                 const AttentionOverride& request) {
  const AttentionMode mode = request.mode.value_or(attention.mode);
  const DecodeAttention decode = request.decode.value_or(attention.decode);
  MOBA_CHECK(attention.moba_topk >= 0, "moba_topk is ", attention.moba_topk, "; it must be >= 1");
  MOBA_CHECK(!request.moba_topk || *request.moba_topk >= 1, "moba_topk is ",
             request.moba_topk.value_or(0), "; it must be >= 1");
  const int given_topk = request.moba_topk.value_or(attention.moba_topk);
  const std::string& given_layers = request.full_attention_layers ? *request.full_attention_layers
                                                                  : attention.full_attention_layers;
  // Parsed whatever the mode: a misspelt list is an error even where it is not used.
  std::vector<bool> full = given_layers.empty()
                               ? checkpoint_full_layers(model)
                               : parse_full_attention_layers(given_layers, model.num_layers);

  const auto num_layers = static_cast<std::size_t>(model.num_layers);
  LayerAttention result;
  result.prefill_topk.assign(num_layers, 0);
  result.decode_topk.assign(num_layers, 0);
  const bool checkpoint_has_moba = model.moba.block_size > 0;
  if (mode == AttentionMode::kFull) return result;
  if (mode == AttentionMode::kAuto && !checkpoint_has_moba) {
    MOBA_CHECK(given_topk == 0, "moba_topk ", given_topk,
               ": the checkpoint has no MoBA settings; set attention to moba");
    MOBA_CHECK(given_layers.empty(), "full_attention_layers '", given_layers,
               "': the checkpoint has no MoBA settings; set attention to moba");
    return result;
  }

  MOBA_CHECK(geometry.moba_block_size > 0,
             "attention moba: this engine has no moba_block_size (the checkpoint has no MoBA "
             "settings and none was given)");
  const int topk = given_topk > 0 ? given_topk : model.moba.topk;
  MOBA_CHECK(topk >= 1, "attention moba needs moba_topk: the checkpoint has no MoBA settings");
  if (mode == AttentionMode::kMoba && given_layers.empty() && !checkpoint_has_moba) {
    full.assign(num_layers, false);
  }
  for (std::size_t i = 0; i < num_layers; ++i) {
    if (full[i]) continue;
    result.prefill_topk[i] = topk;
    if (decode == DecodeAttention::kMoba) result.decode_topk[i] = topk;
  }
  return result;
}

MobaBlockCounts count_moba_blocks(std::int64_t first, std::int64_t last, int moba_block_size,
                                  int topk) {
  // Sum of min(p / B + 1, limit) over p in [0, end), with n whole blocks before `end`.
  const auto sum = [moba_block_size](std::int64_t end, std::int64_t limit) {
    const std::int64_t whole = end / moba_block_size;
    const std::int64_t rest = end % moba_block_size;
    const std::int64_t rising = std::min(whole, limit);
    return moba_block_size * (rising * (rising + 1) / 2 + (whole - rising) * limit) +
           rest * std::min(whole + 1, limit);
  };
  if (first >= last) return {};
  const std::int64_t unlimited = last / moba_block_size + 1;
  return {sum(last, topk) - sum(first, topk), sum(last, unlimited) - sum(first, unlimited)};
}

}  // namespace moba
