// SentencePiece models (tokenizer.model) through the sentencepiece library, with the text handling
// of Hugging Face's LlamaTokenizer.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "tokenizer/special_tokens.h"
#include "tokenizer/tokenizer.h"

namespace moba {

// Loads `dir`/tokenizer.model and, if present, `dir`/tokenizer_config.json (add_bos_token, which is
// true by default if the model has a BOS, add_eos_token, legacy, add_prefix_space,
// added_tokens_decoder, names of special tokens) and `dir`/added_tokens.json. Throws
// std::runtime_error with one line that names the file.
//
// legacy = true (the default): every stretch between special tokens is a text of its own for the
// library, which puts the model's dummy prefix before it. legacy = false: one prefix, before the
// whole text, if add_prefix_space.
//
// The library takes minutes and gigabytes for long texts. BPE models with byte fallback that leave
// the text's characters alone (Llama 2, Mistral) are therefore given to it word by word, cut where
// no merge can cross (piece_boundaries.h says why the ids are the same), with the words met most
// often kept. Other models get the whole text at once.
std::shared_ptr<const Tokenizer> load_sentencepiece_tokenizer(const std::filesystem::path& dir);

// The same from a serialized model; `file` is for messages. `added_tokens_file` need not exist.
std::shared_ptr<const Tokenizer> make_sentencepiece_tokenizer(
    const std::string& serialized, const std::string& file, const TokenizerConfig& config,
    const std::filesystem::path& added_tokens_file);

}  // namespace moba
