// moba bench attention: what one layer of attention takes on a GPU.

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <array>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "moba/version.h"
#include "tools/bench/attention_timer.h"
#include "tools/moba/bench.h"
#include "tools/moba/bench_report.h"
#include "tools/moba/build_info.h"
#include "tools/moba/errors.h"
#include "tools/moba/input.h"
#include "tools/moba/output.h"
#include "tools/moba/parse.h"
#include "tools/moba/signals.h"

namespace moba::cli {
namespace {

using bench::AttentionCase;
using bench::AttentionTimer;
using bench::AttentionTiming;

// As the kernels name their stages, in the order in which they run.
constexpr std::array kStages{"gate", "lists", "attention", "own", "combine", "dense", "decode"};

struct AttentionOptions {
  explicit AttentionOptions(CLI::App& app) : output(app, /*log=*/false) {
    constexpr const char* kGroup = "Measuring";
    const auto add = [&](const char* flags, const char* value, const char* help) {
      return add_text_option(app, flags, value, help, kGroup);
    };
    mode = add("--mode", "MODE",
               "prefill: whole prompts; decode: one more token after so many (default: prefill)");
    tokens = add("-p,--tokens", "N,...",
                 "Lengths of the sequences (default: 8192, doubled up to 1048576)");
    pairs = add("--pairs", "B/K,...",
                "MoBA block size and blocks a query attends to (default: "
                "128/8,512/8,512/3,2048/3,4096/12)");
    heads = add("--heads", "Q/KV,...", "Query and KV heads (default: 32/8,16/16)");
    head_dims = add("--head-dims", "N,...", "Dimensions of a head (default: 128,64)");
    batches = add("--batches", "N,...", "Sequences side by side (default: 1)");
    full_up_to =
        add("--full-up-to", "N", "Prefill with full attention up to that length (default: 262144)");
    page = add("--page", "N", "Tokens of a page of the cache (default: 128)");
    dtype = add("--dtype", "TYPE", "bfloat16 or float16 (default: bfloat16)");
    kernels =
        add("--kernels", "NAME",
            "best: what the device allows; sm80: without those of Hopper; row: without matrix "
            "instructions (default: best)");
    partials = add("--partial-memory", "SIZE",
                   "Memory for partial results of MoBA prefill (default: 1GiB, as the engine's)");
    cudnn = add("--cudnn", "FILE",
                "Times of cuDNN on this machine, as tools/bench/cuda/attention_torch.py --json "
                "writes them");
    repeats = add("-r,--repeats", "N",
                  "Timed runs of each case, fewer where they take seconds; the median counts "
                  "(default: 5)");
    device = add("--device", "DEVICE", "cuda or cuda:N (default: cuda)");
    seed = add("--seed", "N", "Of the random data (default: 1)");
  }
  OutputOptions output;
  CLI::Option* mode = nullptr;
  CLI::Option* tokens = nullptr;
  CLI::Option* pairs = nullptr;
  CLI::Option* heads = nullptr;
  CLI::Option* head_dims = nullptr;
  CLI::Option* batches = nullptr;
  CLI::Option* full_up_to = nullptr;
  CLI::Option* page = nullptr;
  CLI::Option* dtype = nullptr;
  CLI::Option* kernels = nullptr;
  CLI::Option* partials = nullptr;
  CLI::Option* cudnn = nullptr;
  CLI::Option* repeats = nullptr;
  CLI::Option* device = nullptr;
  CLI::Option* seed = nullptr;
};

// "A/B,C/D" as pairs of numbers of at least 1.
std::vector<std::pair<int, int>> pairs_of(const CLI::Option* option, const std::string& otherwise) {
  const std::string text = value_of(option).value_or(otherwise);
  std::vector<std::pair<int, int>> pairs;
  if (text == "none") return pairs;
  const auto number = [&](const std::string& digits) {
    try {
      const std::int64_t value = parse_integer(digits);
      if (value < 1 || value > (1 << 24)) throw std::invalid_argument(digits);
      return static_cast<int>(value);
    } catch (const std::invalid_argument&) {
      throw UsageError(option->get_name() +
                       ": expected A/B,C/D and so on, numbers of at least 1, "
                       "not " +
                       text);
    }
  };
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string pair = text.substr(begin, end - begin);
    const std::size_t slash = pair.find('/');
    pairs.emplace_back(number(pair.substr(0, slash)),
                       number(slash == std::string::npos ? "" : pair.substr(slash + 1)));
    begin = end + 1;
  }
  return pairs;
}

// The value, one of `names`; the first if none is given.
std::string named(const CLI::Option* option, const std::vector<std::string>& names) {
  const std::string text = value_of(option).value_or(names[0]);
  const auto found = std::find(names.begin(), names.end(), text);
  if (found == names.end()) {
    std::string all = names[0];
    for (std::size_t i = 1; i < names.size(); ++i) all += ", " + names[i];
    throw UsageError(option->get_name() + ": expected one of " + all + ", not " + text);
  }
  return text;
}

int device_index_of(const CLI::Option* option) {
  const std::string text = value_of(option).value_or("cuda");
  try {
    if (text == "cuda") return 0;
    if (text.rfind("cuda:", 0) == 0) {
      const std::int64_t index = parse_integer(text.substr(5));
      if (index >= 0 && index < 1024) return static_cast<int>(index);
    }
  } catch (const std::invalid_argument&) {
  }
  throw UsageError("--device: expected cuda or cuda:N, not " + text);
}

struct Row {
  AttentionCase c;
  AttentionTiming timing;
  double full_ms = 0;  // of the same shape; 0: not timed
  double peer_ms = 0;  // the same
};

// Milliseconds that a file of attention_torch.py has for the shape; 0: none.
double peer_ms(const OrderedJson& file, const AttentionCase& c) {
  if (c.decode || c.batch != 1) return 0;
  for (const OrderedJson& entry : file) {
    if (entry.value("tokens", std::int64_t{0}) == c.tokens &&
        entry.value("q_heads", 0) == c.q_heads && entry.value("kv_heads", 0) == c.kv_heads &&
        entry.value("head_dim", 0) == c.head_dim && entry.value("backend", "") == "cudnn") {
      return entry.value("ms", 0.0);
    }
  }
  return 0;
}

OrderedJson read_cudnn(const CLI::Option* option) {
  const auto path = value_of(option);
  if (!path) return OrderedJson::array();
  const OrderedJson file =
      OrderedJson::parse(read_input(*path), nullptr, /*allow_exceptions=*/false);
  if (!file.is_object() || !file.contains("cases") || !file["cases"].is_array()) {
    throw CommandError(*path + ": not what attention_torch.py --json writes");
  }
  return file["cases"];
}

OrderedJson row_json(const Row& row) {
  const AttentionCase& c = row.c;
  OrderedJson json{{"mode", c.decode ? "decode" : "prefill"},
                   {"q_heads", c.q_heads},
                   {"kv_heads", c.kv_heads},
                   {"head_dim", c.head_dim},
                   {"tokens", c.tokens},
                   {"batch", c.batch},
                   {"block", c.topk == 0 ? 0 : c.block},
                   {"topk", c.topk},
                   {"repeats", row.timing.repeats}};
  for (const auto& [stage, ms] : row.timing.ms) json["ms"][stage] = ms;
  json["tflops"] = row.timing.tflops;
  json["gbps"] = row.timing.gbps;
  if (c.decode) json["copy_gbps"] = row.timing.copy_gbps;
  const double total = row.timing.ms.at("total");
  json["speedup_over_full"] =
      row.full_ms > 0 ? OrderedJson(row.full_ms / total) : OrderedJson(nullptr);
  json["speedup_over_cudnn"] =
      row.peer_ms > 0 ? OrderedJson(row.peer_ms / total) : OrderedJson(nullptr);
  return json;
}

std::string header_line(bool decode) {
  std::string line = fmt::format("{:>5} {:>3} {:>8} {:>3} {:>7} {:>10}", "heads", "d", "tokens",
                                 "B", "pair", "total ms");
  for (const char* stage : kStages) line += fmt::format(" {:>9}", stage);
  line += fmt::format(" {:>8} {:>8}", "TFLOP/s", "GB/s");
  return line + (decode ? fmt::format(" {:>8} {:>6}\n", "copy", "x full")
                        : fmt::format(" {:>6} {:>7}\n", "x full", "x cuDNN"));
}

std::string row_line(const Row& row) {
  const AttentionCase& c = row.c;
  const double total = row.timing.ms.at("total");
  std::string line =
      fmt::format("{:>5} {:>3} {:>8} {:>3} {:>7} {:>10.3f}",
                  fmt::format("{}/{}", c.q_heads, c.kv_heads), c.head_dim, c.tokens, c.batch,
                  c.topk == 0 ? "full" : fmt::format("{}/{}", c.block, c.topk), total);
  for (const char* stage : kStages) {
    const auto found = row.timing.ms.find(stage);
    line += found == row.timing.ms.end() ? fmt::format(" {:>9}", "-")
                                         : fmt::format(" {:>9.3f}", found->second);
  }
  line += fmt::format(" {:>8.1f} {:>8.1f}", row.timing.tflops, row.timing.gbps);
  const auto times = [&](double other, int width) {
    return other > 0 ? fmt::format(" {:>{}.2f}", other / total, width)
                     : fmt::format(" {:>{}}", "-", width);
  };
  if (c.decode)
    return line + fmt::format(" {:>8.1f}", row.timing.copy_gbps) + times(row.full_ms, 6) + "\n";
  return line + times(row.full_ms, 6) + times(row.peer_ms, 7) + "\n";
}

int run_attention(const AttentionOptions& options) {
  refuse_debug_build();
  AttentionCase base;
  base.decode = named(options.mode, {"prefill", "decode"}) == "decode";
  base.dtype = named(options.dtype, {"bfloat16", "float16"});
  base.kernels = named(options.kernels, {"best", "sm80", "row"});
  base.page = static_cast<int>(integer_of(options.page, 1).value_or(128));
  base.repeats = static_cast<int>(integer_of(options.repeats, 1).value_or(5));
  base.seed = static_cast<unsigned>(integer_of(options.seed, 0).value_or(1));
  if (const auto size = value_of(options.partials)) {
    try {
      base.partial_bytes = parse_size(*size);
    } catch (const std::invalid_argument& error) {
      throw UsageError(std::string("--partial-memory: ") + error.what());
    }
  }
  const auto lengths =
      lengths_of(options.tokens, "8192,16384,32768,65536,131072,262144,524288,1048576");
  const auto pairs = pairs_of(options.pairs, "128/8,512/8,512/3,2048/3,4096/12");
  const auto heads = pairs_of(options.heads, "32/8,16/16");
  const auto head_dims = lengths_of(options.head_dims, "128,64");
  const auto batches = lengths_of(options.batches, "1");
  const std::int64_t full_up_to = integer_of(options.full_up_to, 0).value_or(262144);
  for (const auto& [block, topk] : pairs) {
    if (block % base.page != 0) {
      throw UsageError(fmt::format("--pairs: blocks of {} tokens are no multiple of --page {}",
                                   block, base.page));
    }
  }
  const int device_index = device_index_of(options.device);
  const OrderedJson cudnn = read_cudnn(options.cudnn);
  const std::unique_ptr<AttentionTimer> timer = bench::make_attention_timer(device_index);
  const InterruptScope interrupts;

  const bench::TimedDevice gpu = timer->device();
  const bool as_json = options.output.json();
  OrderedJson json{{"version", version()},
                   {"commit", build_commit()},
                   {"device_name", gpu.name},
                   {"device_driver", "driver " + gpu.driver + ", runtime " + gpu.runtime},
                   {"dtype", base.dtype},
                   {"page", base.page},
                   {"seed", base.seed},
                   {"cases", OrderedJson::array()}};
  if (!as_json) {
    write_stdout(
        fmt::format("moba {} commit {}, {}, driver {}, runtime {}\n{} of one layer, {}, pages of "
                    "{}, seed {}, medians of {}, L2 flushed before each\n\n",
                    version(), build_commit(), gpu.name, gpu.driver, gpu.runtime,
                    base.decode ? "decode" : "prefill", base.dtype, base.page, base.seed,
                    base.repeats) +
        header_line(base.decode));
  }
  for (const auto& [q_heads, kv_heads] : heads) {
    for (const std::int64_t head_dim : head_dims) {
      for (const std::int64_t tokens : lengths) {
        for (const std::int64_t batch : batches) {
          AttentionCase c = base;
          c.q_heads = q_heads;
          c.kv_heads = kv_heads;
          c.head_dim = static_cast<int>(head_dim);
          c.tokens = tokens;
          c.batch = batch;
          c.block = base.page;
          double full_ms = 0;
          const auto measure = [&] {
            Row row{c, timer->measure(c), full_ms, peer_ms(cudnn, c)};
            if (c.topk == 0) full_ms = row.timing.ms.at("total");
            if (as_json) {
              json["cases"].push_back(row_json(row));
            } else {
              write_stdout(row_line(row));
            }
          };
          if (c.decode || tokens <= full_up_to) measure();
          for (const auto& [block, topk] : pairs) {
            if (interrupt_signal() != 0) return 128 + interrupt_signal();
            c.block = block;
            c.topk = topk;
            measure();
          }
        }
      }
    }
  }
  if (as_json) write_json(json);
  return 0;
}

}  // namespace

Command add_attention_bench(CLI::App& program) {
  CLI::App* attention = program.add_subcommand(
      "attention", "Time of one attention layer on a GPU, stage by stage, full and MoBA");
  attention->group("Commands");
  attention->footer(
      "Examples:\n"
      "  moba bench attention --tokens 8192,131072 --heads 32/8 --head-dims 128\n"
      "  moba bench attention --mode decode --tokens 32768 --batches 1,16 --heads 32/8");
  const auto options = std::make_shared<AttentionOptions>(*attention);
  return {attention, [options] { return run_attention(*options); }};
}

}  // namespace moba::cli
