#include <cstddef>

#include "engine/c_api/c_objects.h"
#include "engine/c_api/c_status.h"

namespace {

using moba::ChatTemplateHandle;
using moba::ChatTemplateOptions;
using moba::Result;
using moba::c_api::fail;
using moba::c_api::guarded;
using moba::c_api::require;
using moba::c_api::text_of;

moba_status give(const Result<ChatTemplateHandle>& opened, moba_chat_template** out) {
  if (!opened.ok()) return fail(opened.status());
  *out = new moba_chat_template{opened.value()};
  return MOBA_OK;
}

// Of a caller who may know less of the struct than this library.
ChatTemplateOptions to_options(const moba_chat_options* given) {
  ChatTemplateOptions options;
  if (given == nullptr) return options;
  const moba_chat_options known = moba::c_api::read_struct(given, "options");
  if (known.variables != nullptr) options.variables = known.variables;
  options.add_generation_prompt = known.add_generation_prompt;
  options.continue_final_message = known.continue_final_message;
  return options;
}

}  // namespace

moba_status moba_chat_template_open(const char* dir, const moba_tokenizer* tokenizer,
                                    moba_chat_template** out) {
  return guarded([&] {
    require(dir, "dir");
    require(tokenizer, "tokenizer");
    require(out, "out");
    return give(ChatTemplateHandle::open(dir, tokenizer->tokenizer), out);
  });
}

moba_status moba_chat_template_open_file(const char* path, const moba_tokenizer* tokenizer,
                                         moba_chat_template** out) {
  return guarded([&] {
    require(path, "path");
    require(tokenizer, "tokenizer");
    require(out, "out");
    return give(ChatTemplateHandle::open_file(path, tokenizer->tokenizer), out);
  });
}

void moba_chat_template_destroy(moba_chat_template* chat_template) { delete chat_template; }

moba_status moba_chat_template_encode(const moba_chat_template* chat_template, const char* messages,
                                      size_t length, const moba_chat_options* options,
                                      int32_t** ids, size_t* num_ids) {
  return guarded([&] {
    require(chat_template, "chat_template");
    require(ids, "ids");
    require(num_ids, "num_ids");
    const auto prompt = chat_template->chat_template.encode(text_of(messages, length, "messages"),
                                                            to_options(options));
    if (!prompt.ok()) return fail(prompt.status());
    *ids = moba::c_api::copy_ids(prompt.value().data(), prompt.value().size());
    *num_ids = prompt.value().size();
    return MOBA_OK;
  });
}

moba_status moba_chat_template_render(const moba_chat_template* chat_template, const char* messages,
                                      size_t length, const moba_chat_options* options, char** text,
                                      size_t* text_length) {
  return guarded([&] {
    require(chat_template, "chat_template");
    require(text, "text");
    const auto prompt = chat_template->chat_template.render(text_of(messages, length, "messages"),
                                                            to_options(options));
    if (!prompt.ok()) return fail(prompt.status());
    *text = moba::c_api::copy_text(prompt.value());
    if (text_length != nullptr) *text_length = prompt.value().size();
    return MOBA_OK;
  });
}
