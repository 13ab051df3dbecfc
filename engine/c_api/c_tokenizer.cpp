#include "engine/c_api/c_objects.h"
#include "engine/c_api/c_status.h"

namespace {

using moba::Result;
using moba::c_api::copy_text;
using moba::c_api::fail;
using moba::c_api::guarded;
using moba::c_api::require;

moba_status give_text(const Result<std::string>& text, char** out, size_t* length) {
  if (!text.ok()) return fail(text.status());
  *out = copy_text(text.value());
  if (length != nullptr) *length = text.value().size();
  return MOBA_OK;
}

}  // namespace

moba_status moba_tokenizer_open(const char* dir, moba_tokenizer** out) {
  return guarded([&] {
    require(dir, "dir");
    require(out, "out");
    Result<moba::TokenizerHandle> tokenizer = moba::TokenizerHandle::open(dir);
    if (!tokenizer.ok()) return fail(tokenizer.status());
    *out = new moba_tokenizer{tokenizer.value()};
    return MOBA_OK;
  });
}

void moba_tokenizer_destroy(moba_tokenizer* tokenizer) { delete tokenizer; }

moba_status moba_tokenize(const moba_tokenizer* tokenizer, const char* text, size_t length,
                          bool add_special_tokens, bool parse_special_tokens, int32_t** ids,
                          size_t* num_ids) {
  return guarded([&] {
    require(tokenizer, "tokenizer");
    require(ids, "ids");
    require(num_ids, "num_ids");
    const auto encoded = tokenizer->tokenizer.encode(moba::c_api::text_of(text, length, "text"),
                                                     add_special_tokens, parse_special_tokens);
    if (!encoded.ok()) return fail(encoded.status());
    *ids = moba::c_api::copy_ids(encoded.value().data(), encoded.value().size());
    *num_ids = encoded.value().size();
    return MOBA_OK;
  });
}

moba_status moba_detokenize(const moba_tokenizer* tokenizer, const int32_t* ids, size_t num_ids,
                            bool skip_special_tokens, char** text, size_t* length) {
  return guarded([&] {
    require(tokenizer, "tokenizer");
    require(text, "text");
    if (num_ids > 0) require(ids, "ids");
    return give_text(tokenizer->tokenizer.decode({ids, ids + num_ids}, skip_special_tokens), text,
                     length);
  });
}

moba_status moba_token_bytes(const moba_tokenizer* tokenizer, int32_t id, char** bytes,
                             size_t* length) {
  return guarded([&] {
    require(tokenizer, "tokenizer");
    require(bytes, "bytes");
    return give_text(tokenizer->tokenizer.token_bytes(id), bytes, length);
  });
}

moba_status moba_token_name(const moba_tokenizer* tokenizer, int32_t id, char** name) {
  return guarded([&] {
    require(tokenizer, "tokenizer");
    require(name, "name");
    return give_text(tokenizer->tokenizer.token_name(id), name, nullptr);
  });
}

moba_status moba_vocab_size(const moba_tokenizer* tokenizer, int32_t* size) {
  return guarded([&] {
    require(tokenizer, "tokenizer");
    require(size, "size");
    *size = tokenizer->tokenizer.vocab_size();
    return MOBA_OK;
  });
}

moba_status moba_bos_id(const moba_tokenizer* tokenizer, int32_t* id) {
  return guarded([&] {
    require(tokenizer, "tokenizer");
    require(id, "id");
    *id = tokenizer->tokenizer.bos_id().value_or(-1);
    return MOBA_OK;
  });
}

moba_status moba_eos_id(const moba_tokenizer* tokenizer, int32_t* id) {
  return guarded([&] {
    require(tokenizer, "tokenizer");
    require(id, "id");
    *id = tokenizer->tokenizer.eos_id().value_or(-1);
    return MOBA_OK;
  });
}
