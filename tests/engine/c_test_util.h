// Shared by the tests of the C interface.
#pragma once

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "moba/moba.h"
#include "tests/catch.h"
#include "tests/engine/embedded_engine.h"

namespace moba::test_c {

using test::embedded_dir;

// An object of the interface and its end.
template <typename T, auto Destroy>
struct Owned {
  T* object = nullptr;
  Owned() = default;
  Owned(Owned&& other) noexcept : object(std::exchange(other.object, nullptr)) {}
  Owned& operator=(Owned&& other) = delete;
  ~Owned() { Destroy(object); }
  T** out() { return &object; }
  operator T*() const { return object; }  // NOLINT(google-explicit-constructor)
};
using Config = Owned<moba_config, moba_config_destroy>;
using CEngine = Owned<moba_engine, moba_engine_destroy>;
using CTokenizer = Owned<moba_tokenizer, moba_tokenizer_destroy>;
using CChatTemplate = Owned<moba_chat_template, moba_chat_template_destroy>;
using CRequest = Owned<moba_request, moba_request_destroy>;
using Output = Owned<moba_output, moba_output_destroy>;
using Handle = Owned<moba_handle, moba_handle_destroy>;
using Stream = Owned<moba_stream, moba_stream_destroy>;

inline std::string taken(char* text) {
  std::string copy = text;
  moba_free(text);
  return copy;
}

inline void ok(moba_status status) {
  INFO(moba_last_error());
  REQUIRE(status == MOBA_OK);
}

// The message of a call that must be refused with that status.
inline std::string refused(moba_status status, moba_status expected = MOBA_INVALID_ARGUMENT) {
  CHECK(status == expected);
  return moba_last_error();
}

inline Config embedded_config(const char* more = "{}") {
  Config config;
  ok(moba_config_create(config.out()));
  ok(moba_config_set_string(config, "model", embedded_dir().c_str()));
  ok(moba_config_set_string(config, "dtype", "float32"));
  ok(moba_config_set_int(config, "max_model_len", 2048));
  ok(moba_config_add_json(config, more));
  return config;
}

inline CEngine make_c_engine(const char* more = "{}") {
  CEngine engine;
  ok(moba_engine_create(embedded_config(more), engine.out()));
  return engine;
}

inline CRequest make_c_request(const moba_engine* engine, const std::vector<int32_t>& ids,
                               const char* fields) {
  CRequest request;
  ok(moba_request_create(engine, request.out()));
  ok(moba_request_set_prompt_ids(request, ids.data(), ids.size()));
  ok(moba_request_add_json(request, fields));
  return request;
}

inline std::vector<int32_t> ids_of(const moba_output* output, size_t sample = 0) {
  const int32_t* ids = nullptr;
  size_t count = 0;
  ok(moba_output_token_ids(output, sample, &ids, &count));
  return {ids, ids + count};
}

inline std::string text_of(const moba_output* output, size_t sample = 0) {
  const char* text = nullptr;
  size_t length = 0;
  ok(moba_output_text(output, sample, &text, &length));
  CHECK(std::strlen(text) == length);
  return text;
}

}  // namespace moba::test_c
