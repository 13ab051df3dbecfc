#include "tools/bench/bench_common.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <thread>

#include "device/buffer.h"

namespace moba::bench {
namespace {

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

std::string load_average() {
  std::ifstream file("/proc/loadavg");
  std::string load = "unknown";
  file >> load;
  return load;
}

// Longer than the runtimes of the libraries that are compared keep their threads spinning.
constexpr std::chrono::milliseconds kPause{5};

}  // namespace

void refuse_debug_build() {
#if !defined(NDEBUG) || !defined(__OPTIMIZE__)
  std::fprintf(stderr, "this is a debug build: configure with CMAKE_BUILD_TYPE=Release\n");
  std::exit(2);
#endif
}

void print_environment(DeviceContext& context) {
  std::printf("# commit      %s (when the build was configured)\n", MOBA_BENCH_COMMIT);
  std::printf("# compiler    %s\n", __VERSION__);
  std::printf("# processor   %s, %u logical processors\n", processor_name().c_str(),
              std::thread::hardware_concurrency());
  std::printf("# threads     %d\n", context.pool().num_threads());
  std::printf("# isa         %s\n", cpu::isa_name(context.isa()));
  std::printf("# load        %s (1 minute)\n", load_average().c_str());
}

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

void measure(std::vector<Candidate>& candidates, int repeats) {
  for (Candidate& candidate : candidates) candidate.run();
  for (int i = 0; i < repeats; ++i) {
    for (Candidate& candidate : candidates) {
      std::this_thread::sleep_for(kPause);
      const double start = now_seconds();
      candidate.run();
      candidate.seconds.push_back(now_seconds() - start);
    }
  }
}

double read_bandwidth(DeviceContext& context, std::size_t bytes) {
  constexpr std::size_t kPart = std::size_t{1} << 20;
  constexpr int kPasses = 7;
  const Buffer buffer(Device{}, bytes, "bandwidth test");
  auto* words = static_cast<std::uint64_t*>(buffer.data());
  const auto parts = static_cast<std::int64_t>(bytes / kPart);
  constexpr std::size_t kWords = kPart / sizeof(std::uint64_t);
  context.pool().parallel_for(parts, [&](std::int64_t part, int) {
    std::uint64_t value = 0x9e3779b97f4a7c15U + static_cast<std::uint64_t>(part);
    std::uint64_t* p = words + static_cast<std::size_t>(part) * kWords;
    for (std::size_t i = 0; i < kWords; ++i) p[i] = value += value << 7 ^ value >> 9;
  });
  double best = std::numeric_limits<double>::infinity();
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(parts));
  for (int pass = 0; pass < kPasses; ++pass) {
    const double start = now_seconds();
    context.pool().parallel_for(parts, [&](std::int64_t part, int) {
      const std::uint64_t* p = words + static_cast<std::size_t>(part) * kWords;
      std::uint64_t sum[8] = {};
      for (std::size_t i = 0; i < kWords; i += 8) {
        for (std::size_t j = 0; j < 8; ++j) sum[j] ^= p[i + j];
      }
      for (const std::uint64_t s : sum) sums[static_cast<std::size_t>(part)] ^= s;
    });
    best = std::min(best, now_seconds() - start);
  }
  // Keeps the reads: no one knows the sum beforehand.
  if (std::count(sums.begin(), sums.end(), 1) == parts) std::printf("# odd\n");
  return static_cast<double>(static_cast<std::size_t>(parts) * kPart) / best;
}

}  // namespace moba::bench
