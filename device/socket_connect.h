// How the ranks of a SocketGroup find each other.
#pragma once

#include <vector>

#include "device/socket_group.h"

namespace moba {

// File descriptors of connections to all other ranks, by rank, -1 for this one; the caller closes
// them. Every rank connects to rank 0, which tells them where the others listen. Throws Error.
std::vector<int> connect_ranks(const SocketGroupOptions& options);

}  // namespace moba
