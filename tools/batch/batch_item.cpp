#include "tools/batch/batch_item.h"

#include <algorithm>
#include <limits>

namespace moba::batch {

PrefixKey prefix_key(const openai::ApiRequest& request) {
  PrefixKey key;
  key.priority = request.priority;
  key.root = request.cache_salt;
  key.root += '\0';
  key.root +=
      std::to_string(static_cast<int>(request.attention.mode.value_or(AttentionMode::kAuto)));
  key.root += ' ' + std::to_string(request.attention.moba_topk.value_or(0));
  key.root += request.endpoint == openai::Endpoint::kChatCompletions ? " chat" : " text";
  key.file = request.prompt_file.value_or("");
  key.text = openai::prompt_bytes(request);
  return key;
}

std::size_t shared_bytes(const PrefixKey& a, const PrefixKey& b) {
  if (a.priority != b.priority || a.root != b.root || a.file != b.file) return 0;
  if (!a.file.empty()) return std::numeric_limits<std::size_t>::max();
  const auto [end, ignored] =
      std::mismatch(a.text.begin(), a.text.end(), b.text.begin(), b.text.end());
  return static_cast<std::size_t>(end - a.text.begin());
}

}  // namespace moba::batch
