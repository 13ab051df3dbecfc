// moba bench: how fast a checkpoint, or attention alone, runs on this machine.
#include "tools/moba/bench.h"

#include <array>

#include "tools/moba/errors.h"

namespace moba::cli {

Command add_bench(CLI::App& program) {
  CLI::App* bench = program.add_subcommand("bench", "Measure the speed of a checkpoint here");
  bench->group("Commands");
  bench->require_subcommand(1);
  const std::array<Command, 4> commands{add_latency_bench(*bench), add_throughput_bench(*bench),
                                        add_serve_bench(*bench), add_attention_bench(*bench)};
  return {bench, [commands] {
            for (const Command& command : commands) {
              if (command.app->parsed()) return command.run();
            }
            return kExitUsage;
          }};
}

}  // namespace moba::cli
