// Byte-pair encoding as Hugging Face's tokenizer.json describes it: byte-level as GPT-2, Llama 3,
// Qwen and SmolLM use it, and over characters with byte fallback as SentencePiece models are
// converted to it (Llama 2, Mistral).
#pragma once

#include <filesystem>
#include <memory>

#include "tokenizer/tokenizer.h"

namespace moba {

// Loads `dir`/tokenizer.json and, if present, `dir`/tokenizer_config.json. Throws
// UnsupportedTokenizer (normalizer.h) for a kind of model, normaliser, pre-tokenizer,
// post-processor or decoder that is not implemented, naming it; std::runtime_error for bad files.
std::shared_ptr<const Tokenizer> load_bpe_tokenizer(const std::filesystem::path& dir);

}  // namespace moba
