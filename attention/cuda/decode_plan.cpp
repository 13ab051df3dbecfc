#include "attention/cuda/decode_plan.h"

#include <cstddef>
#include <numeric>

namespace moba::cuda {

void divide_decode(std::span<const std::int32_t> unit_chunks, int num_parts,
                   std::span<DecodeStart> starts, std::int32_t& part_chunks) {
  const std::int64_t total =
      std::accumulate(unit_chunks.begin(), unit_chunks.end(), std::int64_t{0});
  const std::int64_t per = chunks_per_part(total, num_parts);
  part_chunks = static_cast<std::int32_t>(per);
  const DecodeStart end{static_cast<std::int32_t>(unit_chunks.size()), 0};
  for (DecodeStart& start : starts) start = end;
  std::int64_t before = 0;
  for (std::size_t unit = 0; unit < unit_chunks.size(); ++unit) {
    const std::int64_t after = before + unit_chunks[unit];
    for (std::int64_t part = (before + per - 1) / per; part * per < after; ++part) {
      starts[static_cast<std::size_t>(part)] = {static_cast<std::int32_t>(unit),
                                                static_cast<std::int32_t>(part * per - before)};
    }
    before = after;
  }
}

}  // namespace moba::cuda
