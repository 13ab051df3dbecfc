// Token sampling of a rank of several on the CPU.
#pragma once

#include <memory>

#include "engine/token_sampler.h"
#include "model/shard_plan.h"

namespace moba {

// Each rank has one, of logits that are its piece of the vocabulary; rank 0's collects the tokens
// (see ShardedSampler). launch() waits for the other ranks.
std::unique_ptr<TokenSampler> create_sharded_token_sampler(DeviceContext& context,
                                                           const TokenSamplerConfig& config,
                                                           const ShardPlan& shard);

}  // namespace moba
