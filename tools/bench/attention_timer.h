// Times one attention layer on a CUDA device. The interface has nothing of the layers below, so
// that the program may use it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace moba::bench {

struct AttentionCase {
  bool decode = false;      // one more token for each sequence, else the whole prompts
  std::int64_t tokens = 0;  // of each sequence
  std::int64_t batch = 1;   // sequences
  int block = 0;            // of MoBA
  int topk = 0;             // 0: full attention
  int q_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int page = 0;                    // tokens; divides block
  std::string dtype = "bfloat16";  // or "float16"
  std::string kernels = "best";    // or "sm80", "row": cuda::KernelChoice
  std::int64_t partial_bytes = std::int64_t{1} << 30;
  int repeats = 5;
  unsigned seed = 1;
};

struct AttentionTiming {
  std::map<std::string, double> ms;  // by stage, and "total"
  double tflops = 0;  // 4 x head_dim for each attended query-key pair, masked ones not
  // Of the keys, values and centroids that must be read once; for decode with MoBA as if every
  // query head chose other blocks, an upper bound.
  double gbps = 0;
  double copy_gbps = 0;  // decode: of a copy within the device that moves as many bytes
  int repeats = 0;       // fewer than asked for where each takes long
};

struct TimedDevice {
  std::string name;
  std::string driver;  // CUDA version
  std::string runtime;
};

class AttentionTimer {
 public:
  virtual ~AttentionTimer() = default;
  virtual TimedDevice device() const = 0;
  // Medians; the L2 cache is flushed before every repeat. Throws Error for what does not fit.
  virtual AttentionTiming measure(const AttentionCase& c) = 0;
};

// Throws Error where there is no such device, or no CUDA in this build.
std::unique_ptr<AttentionTimer> make_attention_timer(int device_index);

}  // namespace moba::bench
