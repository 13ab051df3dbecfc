// A byte-pair tokenizer from its parts, wherever those were read.
#pragma once

#include <memory>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe_model.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/special_tokens.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_base.h"

namespace moba {

struct BpeParts {
  std::unique_ptr<Normalizer> normalizer;  // may be null
  PreTokenizerPipeline pretokenizer;
  AddedTokenMatcher raw_tokens;         // looked for in the text as it is
  AddedTokenMatcher normalized_tokens;  // looked for in the normalised text
  std::unique_ptr<const BpeModel> model;
  SurroundingTokens surrounding;
};

std::shared_ptr<const Tokenizer> make_bpe_tokenizer(TokenTable table, BpeParts parts);

}  // namespace moba
