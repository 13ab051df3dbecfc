// Decode steps as recorded graphs: one launch in place of hundreds.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "device/context.h"
#include "device/graph.h"

namespace moba {

// Numbers of sequences that graphs are made for, ascending, the last max_num_seqs (at least 1): a
// batch runs as the smallest that holds it. Small steps at first, where a sequence more costs most.
std::vector<int> decode_ladder(int max_num_seqs);

// Not thread-safe. Must not outlive its context.
class DecodeGraphs {
 public:
  // For up to max_num_seqs sequences; 0: makes none.
  DecodeGraphs(DeviceContext& context, int max_num_seqs);

  // The size that a batch of so many sequences is filled up to; 0: it does not run as a graph.
  int padded_size(int num_seqs) const;

  // Does what `issue` does. It must issue the same for equal (size, key) but for the contents of
  // memory: it is called the first time (which loads what it needs), recorded the second time, and
  // replayed from then on.
  void run(int size, std::uint64_t key, const std::function<void()>& issue);

  std::size_t num_graphs() const { return graphs_.size(); }

 private:
  DeviceContext& context_;
  std::vector<int> ladder_;
  std::map<std::pair<int, std::uint64_t>, std::optional<Graph>> graphs_;
};

}  // namespace moba
