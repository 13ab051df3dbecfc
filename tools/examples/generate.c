/* Continues a text from C: generate MODEL_DIR [PROMPT] */
#include <moba/moba.h>
#include <stdio.h>

/* Ends the program's work at the first call that fails. */
#define TRY(call)                                           \
  do {                                                      \
    if ((call) != MOBA_OK) {                                \
      fprintf(stderr, "generate: %s\n", moba_last_error()); \
      goto end;                                             \
    }                                                       \
  } while (0)

static bool print_token(void* user_data, const moba_token* token) {
  fwrite(token->text, 1, token->text_length, stdout);
  fflush(stdout);
  ++*(int*)user_data;
  return true; /* false would cancel the request */
}

int main(int argc, char** argv) {
  moba_config* config = NULL;
  moba_engine* engine = NULL;
  moba_request* request = NULL;
  moba_output* output = NULL;
  int num_tokens = 0;
  int exit_code = 1;
  const char* prompt = argc > 2 ? argv[2] : "It was a dark and stormy night";
  if (argc < 2) {
    fprintf(stderr, "usage: generate MODEL_DIR [PROMPT]\n");
    return 2;
  }
  if (moba_abi_version() != MOBA_ABI_VERSION) {
    fprintf(stderr, "generate: built for another version of libmoba\n");
    return 1;
  }

  TRY(moba_config_create(&config));
  TRY(moba_config_set_string(config, "model", argv[1]));
  TRY(moba_config_set_int(config, "max_model_len", 4096));
  TRY(moba_engine_create(config, &engine));

  TRY(moba_request_create(engine, &request));
  TRY(moba_request_set_prompt(request, prompt, MOBA_STRLEN));
  TRY(moba_request_set_int(request, "max_tokens", 40));
  TRY(moba_request_set_double(request, "temperature", 0.8));
  TRY(moba_request_set_int(request, "seed", 7));
  TRY(moba_request_add_stop(request, "\n\n", MOBA_STRLEN));

  printf("%s", prompt);
  moba_callbacks callbacks = moba_callbacks_init();
  callbacks.user_data = &num_tokens;
  callbacks.on_token = print_token;
  TRY(moba_generate(engine, request, &callbacks, &output));
  printf("\n");

  moba_metrics metrics = moba_metrics_init();
  TRY(moba_output_metrics(output, &metrics));
  fprintf(stderr, "%d tokens in %.3f s\n", num_tokens,
          metrics.time_to_first_token_seconds + metrics.decode_seconds);
  exit_code = 0;

end:
  moba_output_destroy(output);
  moba_request_destroy(request);
  moba_engine_destroy(engine);
  moba_config_destroy(config);
  return exit_code;
}
