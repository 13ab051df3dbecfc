/* The C interface from C11: c_api_test MODEL_DIR. Exits with 0 if all is as it should be. */
#include <moba/moba.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                     \
  do {                                                                                       \
    if (!(condition)) {                                                                      \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, moba_last_error()); \
      exit(1);                                                                               \
    }                                                                                        \
  } while (0)

enum { kMaxTokens = 12 };

typedef struct {
  int32_t ids[kMaxTokens];
  size_t num_ids;
  int finished;
} Received;

static bool on_token(void* user_data, const moba_token* token) {
  Received* received = user_data;
  if (received->num_ids < kMaxTokens) received->ids[received->num_ids] = token->token_id;
  ++received->num_ids;
  return true;
}

static void on_finish(void* user_data, moba_status status, const char* message,
                      const moba_output* output) {
  Received* received = user_data;
  received->finished += status == MOBA_OK && strlen(message) == 0 && output != NULL;
}

int main(int argc, char** argv) {
  CHECK(argc == 2);
  CHECK(moba_abi_version() == MOBA_ABI_VERSION);
  CHECK(strcmp(moba_last_error(), "") == 0);

  moba_config* config = NULL;
  CHECK(moba_config_create(&config) == MOBA_OK);
  CHECK(moba_config_set_string(config, "model", argv[1]) == MOBA_OK);
  CHECK(moba_config_set_int(config, "max_model_len", 1024) == MOBA_OK);
  CHECK(moba_config_set_int(config, "no_such_key", 1) == MOBA_INVALID_ARGUMENT);
  CHECK(strstr(moba_last_error(), "no_such_key") != NULL);
  moba_engine* engine = NULL;
  CHECK(moba_engine_create(config, &engine) == MOBA_OK);
  moba_config_destroy(config);

  moba_info info = moba_info_init();
  CHECK(moba_engine_info(engine, &info) == MOBA_OK);
  CHECK(info.max_model_len == 1024);
  CHECK(info.num_layers > 0 && info.layer_topk[0] >= 0);

  moba_tokenizer* tokenizer = NULL;
  int32_t* ids = NULL;
  size_t num_ids = 0;
  char* text = NULL;
  CHECK(moba_engine_tokenizer(engine, &tokenizer) == MOBA_OK);
  CHECK(moba_tokenize(tokenizer, "Call me Ishmael.", MOBA_STRLEN, true, false, &ids, &num_ids) ==
        MOBA_OK);
  CHECK(moba_detokenize(tokenizer, ids, num_ids, true, &text, NULL) == MOBA_OK);
  CHECK(strcmp(text, "Call me Ishmael.") == 0);
  moba_free(text);

  /* The same tokens by callback, by waiting and by fetching. */
  moba_request* request = NULL;
  CHECK(moba_request_create(engine, &request) == MOBA_OK);
  CHECK(moba_request_set_prompt_ids(request, ids, num_ids) == MOBA_OK);
  CHECK(moba_request_set_int(request, "max_tokens", kMaxTokens) == MOBA_OK);
  CHECK(moba_request_set_double(request, "temperature", 0) == MOBA_OK);
  CHECK(moba_request_set_bool(request, "ignore_eos", true) == MOBA_OK);
  CHECK(moba_request_set_string(request, "attention", "moba") == MOBA_OK);
  moba_free(ids);

  Received received = {{0}, 0, 0};
  moba_callbacks callbacks = moba_callbacks_init();
  callbacks.user_data = &received;
  callbacks.on_token = on_token;
  callbacks.on_finish = on_finish;
  moba_output* output = NULL;
  CHECK(moba_generate(engine, request, &callbacks, &output) == MOBA_OK);
  CHECK(received.num_ids == kMaxTokens && received.finished == 1);
  const int32_t* output_ids = NULL;
  CHECK(moba_output_token_ids(output, 0, &output_ids, &num_ids) == MOBA_OK);
  CHECK(num_ids == kMaxTokens);
  CHECK(memcmp(output_ids, received.ids, sizeof received.ids) == 0);
  moba_output_destroy(output);

  moba_handle* handle = NULL;
  CHECK(moba_submit(engine, request, NULL, &handle) == MOBA_OK);
  CHECK(moba_handle_wait(handle, -1, &output) == MOBA_OK);
  moba_handle_destroy(handle);
  CHECK(moba_output_token_ids(output, 0, &output_ids, &num_ids) == MOBA_OK);
  CHECK(memcmp(output_ids, received.ids, sizeof received.ids) == 0);
  moba_output_destroy(output);

  moba_stream* stream = NULL;
  CHECK(moba_stream_create(engine, request, &stream) == MOBA_OK);
  const moba_token* token = NULL;
  for (size_t i = 0; i < kMaxTokens; ++i) {
    CHECK(moba_stream_next(stream, 60, &token) == MOBA_OK);
    CHECK(token->token_id == received.ids[i]);
  }
  CHECK(moba_stream_next(stream, 60, &token) == MOBA_END);
  moba_stream_destroy(stream);
  moba_request_destroy(request);

  moba_stats stats = moba_stats_init();
  CHECK(moba_engine_stats(engine, &stats) == MOBA_OK);
  CHECK(stats.num_finished == 3 && stats.num_running == 0 && stats.num_pages_in_use == 0);
  CHECK(moba_engine_destroy(engine) == MOBA_OK);
  moba_tokenizer_destroy(tokenizer);
  return 0;
}
