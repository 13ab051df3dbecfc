#include "tools/moba/bench_report.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "moba/version.h"
#include "tools/moba/build_info.h"
#include "tools/moba/errors.h"

namespace moba::cli {

void refuse_debug_build() {
#if !defined(NDEBUG)
  throw CommandError("this is a debug build: its speed says nothing (build with the cpu preset)");
#endif
}

std::vector<std::int64_t> lengths_of(const CLI::Option* option, const std::string& otherwise) {
  const std::string text = value_of(option).value_or(otherwise);
  std::vector<std::int64_t> lengths;
  if (text == "none") return lengths;
  try {
    for (const nlohmann::json& length : value_from_texts(ValueKind::kIntegers, {text})) {
      lengths.push_back(length.get<std::int64_t>());
    }
  } catch (const std::invalid_argument& error) {
    throw UsageError(option->get_name() + ": " + error.what());
  }
  for (const std::int64_t length : lengths) {
    if (length < 1) throw UsageError(option->get_name() + ": must be at least 1, not " + text);
  }
  return lengths;
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

OrderedJson percentiles_json(std::vector<double> seconds) {
  if (seconds.empty()) return nullptr;
  std::sort(seconds.begin(), seconds.end());
  // The least value that a share q of all does not exceed.
  const auto quantile = [&](double q) {
    const auto rank = static_cast<std::size_t>(std::ceil(q * static_cast<double>(seconds.size())));
    return 1e3 * seconds[rank == 0 ? 0 : rank - 1];
  };
  return {{"p50", quantile(0.5)},
          {"p90", quantile(0.9)},
          {"p99", quantile(0.99)},
          {"max", 1e3 * seconds.back()}};
}

Request RandomPrompts::request(std::int64_t prompt_tokens, std::int64_t output_tokens) {
  Request request;
  request.prompt_ids.reserve(static_cast<std::size_t>(prompt_tokens));
  for (std::int64_t i = 0; i < prompt_tokens; ++i) request.prompt_ids.push_back(token_(random_));
  request.sampling.temperature = 0;
  request.sampling.max_tokens = static_cast<int>(output_tokens);
  request.sampling.ignore_eos = true;
  return request;
}

OrderedJson environment_json(const Settings& settings, const EngineInfo& info, std::uint64_t seed) {
  OrderedJson json{{"version", version()},
                   {"commit", build_commit()},
                   {"device", info.device},
                   {"device_name", info.device_name},
                   {"device_driver", info.device_driver},
                   {"num_threads", info.num_threads},
                   {"cpu_isa", info.cpu_isa},
                   {"model", settings.engine.model},
                   {"dtype", info.dtype},
                   {"tensor_parallel_size", info.tensor_parallel_size}};
  json["attention"] = attention_json(info.layer_topk, info.moba_block_size);
  json["max_num_batched_tokens"] = info.max_num_batched_tokens;
  json["max_num_seqs"] = info.max_num_seqs;
  json["block_size"] = info.block_size;
  json["seed"] = seed;
  json["weight_bytes"] = info.weight_bytes;
  json["kv_cache_bytes"] = info.kv_cache_bytes;
  return json;
}

std::string environment_text(const Settings& settings, const EngineInfo& info, std::uint64_t seed) {
  std::string device = info.device;
  if (!info.device_name.empty()) {
    device += fmt::format(" ({}, {})", info.device_name, info.device_driver);
  } else {
    device += fmt::format(", {} threads, {}", info.num_threads, info.cpu_isa);
  }
  if (info.tensor_parallel_size > 1) device += fmt::format(", {} ranks", info.tensor_parallel_size);
  return fmt::format(
      "moba {} commit {}, {}\n{}, {}, {}\nsteps of up to {} tokens and {} sequences, pages of {} "
      "tokens, cache of {} tokens, seed {}\n\n",
      version(), build_commit(), device, settings.engine.model, info.dtype,
      describe_attention(info.layer_topk, info.moba_block_size),
      with_commas(info.max_num_batched_tokens), info.max_num_seqs, info.block_size,
      with_commas(info.num_pages * info.block_size), seed);
}

}  // namespace moba::cli
