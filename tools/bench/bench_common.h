// What the benchmarks share: timing, medians and the environment they print.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "device/context.h"

namespace moba::bench {

// Exits with a message in a build without optimisation: its figures mean nothing.
void refuse_debug_build();

// Prints commit, processor, threads, instruction set and load, one a line, each after '# '.
void print_environment(DeviceContext& context);

double now_seconds();

double median(std::vector<double> values);

// One thing to measure beside others.
struct Candidate {
  std::string name;
  std::function<void()> run;
  std::vector<double> seconds;  // of each repeat
};

// Runs every candidate once to warm up, then `repeats` rounds of all of them in turn, so that a
// disturbance of the machine falls on all alike. Between two, waits for the threads of the one
// before to fall asleep.
void measure(std::vector<Candidate>& candidates, int repeats);

// Bytes per second that the context's threads read from memory together, the best of several
// passes over a buffer of `bytes` of random numbers.
double read_bandwidth(DeviceContext& context, std::size_t bytes);

}  // namespace moba::bench
