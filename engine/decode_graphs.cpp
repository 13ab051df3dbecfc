#include "engine/decode_graphs.h"

#include <algorithm>

namespace moba {
namespace {

// Graphs take memory of the device: more than these are made anew when they are wanted again.
constexpr std::size_t kMaxGraphs = 256;

}  // namespace

std::vector<int> decode_ladder(int max_num_seqs) {
  std::vector<int> ladder;
  for (int size = 1; size < max_num_seqs;) {
    ladder.push_back(size);
    // 1, 2, 4, 8, 16, 24 ... 128, 144 ...
    size += size < 8 ? size : std::max(8, size / 64 * 8);
  }
  ladder.push_back(max_num_seqs);
  return ladder;
}

DecodeGraphs::DecodeGraphs(DeviceContext& context, int max_num_seqs) : context_(context) {
  if (max_num_seqs > 0) ladder_ = decode_ladder(max_num_seqs);
}

int DecodeGraphs::padded_size(int num_seqs) const {
  const auto size = std::lower_bound(ladder_.begin(), ladder_.end(), num_seqs);
  return size == ladder_.end() ? 0 : *size;
}

void DecodeGraphs::run(int size, std::uint64_t key, const std::function<void()>& issue) {
  if (graphs_.size() >= kMaxGraphs && !graphs_.contains({size, key})) {
    context_.synchronize();
    graphs_.clear();
  }
  const auto [it, is_new] = graphs_.try_emplace({size, key});
  std::optional<Graph>& graph = it->second;
  if (is_new) return issue();
  if (!graph) graph.emplace(context_, issue);
  graph->launch(context_);
}

}  // namespace moba
