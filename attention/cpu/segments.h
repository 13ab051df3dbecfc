// How a query's keys are cut into segments. A row's result is, by definition, the merge in
// ascending order of what each of its segments gives on its own. The cuts depend on positions only,
// so segments may be computed by different threads, in chunks or in one go, with the same result
// bit for bit.
#pragma once

#include <bit>
#include <cstdint>

namespace moba::cpu {

// Under MoBA a segment is a block, or a part of kSegmentKeys of a larger one. Under full attention
// the segments are those below: twice kSegmentsPerDoubling of kSegmentKeys, then
// kSegmentsPerDoubling of twice that, as many of four times that and so on. So their number grows
// with the logarithm of the context only, and yet none holds more than 1/32 of the keys before its
// end.
inline constexpr std::int64_t kSegmentKeys = 1024;
inline constexpr std::int64_t kSegmentsPerDoubling = 32;

// The first position of a segment; that of the next one is its end.
constexpr std::int64_t segment_begin(std::int64_t segment) {
  constexpr std::int64_t kEven = 2 * kSegmentsPerDoubling;
  if (segment < kEven) return segment * kSegmentKeys;
  const std::int64_t doublings = (segment - kEven) / kSegmentsPerDoubling + 1;
  const std::int64_t index = (segment - kEven) % kSegmentsPerDoubling;
  return (kSegmentKeys << doublings) * (kSegmentsPerDoubling + index);
}

// The segment a position lies in.
constexpr std::int64_t segment_of(std::int64_t position) {
  constexpr std::int64_t kEven = 2 * kSegmentsPerDoubling;
  const auto doublings = static_cast<std::int64_t>(
      std::bit_width(static_cast<std::uint64_t>(position / (kEven * kSegmentKeys))));
  const std::int64_t index = position / (kSegmentKeys << doublings);
  return doublings * kSegmentsPerDoubling + index;
}

}  // namespace moba::cpu
