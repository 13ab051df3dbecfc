#include <exception>
#include <new>
#include <stdexcept>
#include <utility>

#include "engine/checkpoint_tokenizer.h"
#include "moba/tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace moba {

TokenizerHandle::TokenizerHandle(std::shared_ptr<const Tokenizer> tokenizer)
    : tokenizer_(std::move(tokenizer)) {}

Result<TokenizerHandle> TokenizerHandle::open(const std::string& dir) {
  try {
    return TokenizerHandle(load_checkpoint_tokenizer(dir));
  } catch (const std::exception& error) {
    return Status(StatusCode::kInvalidCheckpoint, error.what());
  }
}

bool TokenizerHandle::available() const { return tokenizer_->vocab_size() > 0; }

Result<std::vector<std::int32_t>> TokenizerHandle::encode(std::string_view text,
                                                          bool add_special_tokens,
                                                          bool parse_special_tokens) const {
  EncodeOptions options;
  options.add_special_tokens = add_special_tokens;
  options.parse_special_tokens = parse_special_tokens;
  try {
    return tokenizer_->encode(text, options);
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "out of memory");
  } catch (const std::exception& error) {
    return Status(StatusCode::kInvalidArgument, error.what());
  }
}

Result<std::string> TokenizerHandle::decode(const std::vector<std::int32_t>& ids,
                                            bool skip_special_tokens) const {
  try {
    return tokenizer_->decode(ids, skip_special_tokens);
  } catch (const std::out_of_range& error) {
    return Status(StatusCode::kInvalidArgument, error.what());
  }
}

Result<std::string> TokenizerHandle::token_bytes(std::int32_t id) const {
  try {
    return tokenizer_->token_bytes(id, /*skip_special_tokens=*/false);
  } catch (const std::out_of_range& error) {
    return Status(StatusCode::kInvalidArgument, error.what());
  }
}

Result<std::string> TokenizerHandle::token_name(std::int32_t id) const {
  try {
    return tokenizer_->token_name(id);
  } catch (const std::out_of_range& error) {
    return Status(StatusCode::kInvalidArgument, error.what());
  }
}

std::int32_t TokenizerHandle::vocab_size() const { return tokenizer_->vocab_size(); }
std::optional<std::int32_t> TokenizerHandle::bos_id() const { return tokenizer_->bos_id(); }
std::optional<std::int32_t> TokenizerHandle::eos_id() const { return tokenizer_->eos_id(); }

}  // namespace moba
