#include "device/check.h"
#include "tools/bench/attention_timer.h"

namespace moba::bench {

std::unique_ptr<AttentionTimer> make_attention_timer(int /*device_index*/) {
  throw Error(
      "bench attention: this build is without CUDA (the attention_bench of the build folder's "
      "tools/bench times the CPU's layer)");
}

}  // namespace moba::bench
