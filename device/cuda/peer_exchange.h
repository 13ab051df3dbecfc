// Kernels by which GPUs that see each other's memory exchange small messages. Plain structs;
// pointers are device memory unless they say otherwise.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "device/dtype.h"

namespace moba::cuda {

inline constexpr int kMaxPeers = 8;
// A block of threads has a part of every mailbox to itself, with room for so many pieces of 16
// bytes of a message.
inline constexpr int kPeerBlocks = 64;
inline constexpr int kPeerBlockPieces = 1024;
inline constexpr std::size_t kMaxPeerMessage = std::size_t{16} * kPeerBlocks * kPeerBlockPieces;
// Two mailboxes that take turns; a piece takes twice its size, as every 4 bytes have a flag.
inline constexpr std::size_t kMailboxBytes = 2 * 2 * kMaxPeerMessage;

// A rank's end. A message of generation g, which every block counts for itself, is written into the
// other ranks' mailboxes in words of 4 bytes of data and 4 of flag, the flag being g: who finds the
// flag has the data, so that one trip over the link is all it takes. A mailbox is used again two
// generations later, and no rank can be there before all have read: it takes their messages of the
// generation between, which they send after that.
//
// The counts live in device memory: launches can be recorded in graphs. Messages of a rank are
// issued on one stream.
struct PeerEnd {
  uint4* to[kMaxPeers];          // of rank r: its mailboxes for messages from this rank, in its
                                 // memory; kMailboxBytes, zeros in the beginning
  const uint4* from[kMaxPeers];  // in this rank's memory: those for messages from rank r
  std::uint32_t* generations;    // [kPeerBlocks], zeros in the beginning
  const std::uint32_t* aborted;  // host memory: not 0: waits end at once, results are worthless
  int rank;
  int num_ranks;
};

// x, [num_pieces] of 16 bytes, aligned: becomes the sum over the ranks, in float32 in the order of
// ranks, rounded once: the same bits on every rank. float32, bfloat16 or float16.
void launch_peer_all_reduce(const PeerEnd& end, DType dtype, void* x, std::int64_t num_pieces,
                            cudaStream_t stream);

// The same of a matrix, and out = its rows over their root mean square, times `weight`, as
// rms_norm() computes it. A row has row_pieces of at most kPeerBlockPieces pieces; at most
// kPeerBlocks rows.
void launch_peer_all_reduce_norm(const PeerEnd& end, DType dtype, void* x, std::int64_t rows,
                                 std::int64_t row_pieces, DType weight_dtype, const void* weight,
                                 float eps, void* out, cudaStream_t stream);

// out[r] = rank r's `in`: [num_pieces] of 16 bytes each.
void launch_peer_all_gather(const PeerEnd& end, const void* in, void* out, std::int64_t num_pieces,
                            cudaStream_t stream);

}  // namespace moba::cuda
