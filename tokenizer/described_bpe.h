// The byte-level half of make_tokenizer().
#pragma once

#include <memory>

#include "tokenizer/tokenizer_description.h"

namespace moba {

std::shared_ptr<const Tokenizer> make_described_bpe(const TokenizerDescription& description);

}  // namespace moba
