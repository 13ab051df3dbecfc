#include "tools/moba/launch.h"

#include <array>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <utility>

#include "tools/moba/errors.h"
#include "tools/moba/input.h"
#include "tools/moba/parse.h"

namespace moba::cli {
namespace {

// Ports for jobs that do not name one.
constexpr int kFirstPort = 20000;
constexpr std::uint64_t kNumPorts = 20000;

struct Launcher {
  const char* rank;
  const char* size;
  const char* num_local;   // processes on this host
  const char* local_rank;  // which of them this is
  const char* job;
};

constexpr std::array<Launcher, 4> kLaunchers{{
    {"RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK", ""},
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE",
     "OMPI_COMM_WORLD_LOCAL_RANK", "PMIX_NAMESPACE"},
    {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "", "SLURM_LOCALID", "SLURM_STEP_ID"},
    {"PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS", "MPI_LOCALRANKID", ""},
}};

std::optional<int> number(const Environment& environment, const char* name, int low, int high) {
  const char* const text = name[0] == '\0' ? nullptr : environment(name);
  if (text == nullptr) return std::nullopt;
  std::size_t length = 0;
  int value = 0;
  try {
    value = std::stoi(text, &length);
  } catch (const std::exception&) {
    length = 0;
  }
  if (length == 0 || text[length] != '\0' || value < low || value > high) {
    throw UsageError(std::string("environment: ") + name + " is " + in_quotes(text) +
                     ", not a number from " + std::to_string(low) + " to " + std::to_string(high));
  }
  return value;
}

// FNV-1a: the same port for all processes of a job, and likely another one for another job.
int port_of_job(const std::string& job) {
  std::uint64_t hash = 1469598103934665603ULL;
  for (const char c : job) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  return kFirstPort + static_cast<int>(hash % kNumPorts);
}

}  // namespace

void read_launch(const Environment& environment, ParallelOptions& options) {
  constexpr int kMost = 1 << 20;
  if (options.tensor_parallel_size <= 1) return;
  for (const Launcher& launcher : kLaunchers) {
    const auto size = number(environment, launcher.size, 1, kMost);
    const auto rank = number(environment, launcher.rank, 0, kMost);
    if (!size || !rank || *size == 1) continue;
    options.num_processes = *size;
    options.process_rank = *rank;
    const auto local_rank = number(environment, launcher.local_rank, 0, kMost);
    const char* const address = environment("MASTER_ADDR");
    const auto port = number(environment, "MASTER_PORT", 1, 65535);
    const auto num_local = number(environment, launcher.num_local, 1, kMost);
    const auto num_nodes = number(environment, "SLURM_STEP_NUM_NODES", 1, kMost);
    const bool one_host = num_local == size || num_nodes == 1;
    options.local_rank = local_rank.value_or(one_host ? *rank : 0);
    if (address != nullptr) {
      options.master_address = address;
    } else if (!one_host) {
      throw UsageError(std::string("one of ") + std::to_string(*size) + " processes (" +
                       launcher.size +
                       ") that may be on several hosts: set MASTER_ADDR to the host of rank 0");
    }
    if (port) {
      options.master_port = *port;
    } else if (launcher.job[0] != '\0') {
      const char* const job = environment(launcher.job);
      const char* const slurm = environment("SLURM_JOB_ID");
      options.master_port = port_of_job(std::string(slurm == nullptr ? "" : slurm) + "/" +
                                        (job == nullptr ? "" : job));
    }
    return;
  }
}

std::unique_ptr<Engine> open_engine(Settings& settings) {
  read_launch([](const char* name) { return std::getenv(name); }, settings.engine.parallel);
  if (settings.engine.parallel.process_rank > 0) {
    const Status status = run_rank(settings.engine);
    if (!status.ok()) throw CommandError(status.message());
    throw RankEnded();
  }
  return take(Engine::create(settings.engine));
}

}  // namespace moba::cli
