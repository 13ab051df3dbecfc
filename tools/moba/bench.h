// The commands under `moba bench`.
#pragma once

#include "tools/moba/options.h"

namespace moba::cli {

Command add_latency_bench(CLI::App& bench);
Command add_throughput_bench(CLI::App& bench);
Command add_attention_bench(CLI::App& bench);
Command add_serve_bench(CLI::App& bench);

}  // namespace moba::cli
