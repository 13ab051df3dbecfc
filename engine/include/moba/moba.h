/* The C interface of moba: what moba/engine.h offers, for C and for languages that call C.
 *
 * Errors. A function that can fail returns moba_status, and writes its results only if that is
 * MOBA_OK. moba_last_error() tells in one line why the last failing call of the calling thread
 * failed. The message is the thread's own, so threads do not disturb each other and no signature
 * carries a buffer for it. Null for an argument that is not called optional is
 * MOBA_INVALID_ARGUMENT, but an array of no elements may be null. No C++ exception leaves the
 * library.
 *
 * Objects. What a function gives through a `moba_x** out` is the caller's and goes back to
 * moba_x_destroy(), which takes null as well. Memory that is given through `char**` or `int32_t**`
 * goes back to moba_free(). Objects may be destroyed in any order: those that need another keep it
 * alive, except that destroying an engine ends its requests.
 *
 * Threads. moba_engine, moba_tokenizer, moba_chat_template, moba_handle and moba_output may be used
 * by any number of threads at once. moba_config, moba_request and moba_stream belong to one thread
 * at a time, but for moba_stream_cancel(). Destroying an object while another thread uses it is an
 * error.
 *
 * Texts are UTF-8. A text comes with its length in bytes, or MOBA_STRLEN if a zero byte ends it;
 * one without a length is ended by a zero byte. Texts the library gives are ended by one too.
 *
 * Versions. A struct that the caller makes starts with struct_size, which says how much of it the
 * caller knows: begin with what its moba_..._init() returns. Later versions add fields at the end,
 * and functions, and take neither away without a new MOBA_ABI_VERSION. A struct of which the
 * library gives the address may be longer than the header says. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moba/export.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface; it changes only when something of it is taken away or means
 * something else. A program checks moba_abi_version() == MOBA_ABI_VERSION. */
#define MOBA_ABI_VERSION 1
MOBA_API uint32_t moba_abi_version(void);
/* The library's version, "0.1.0". Static storage. */
MOBA_API const char* moba_version(void);

typedef int32_t moba_status;
#define MOBA_OK ((moba_status)0)
#define MOBA_INVALID_ARGUMENT ((moba_status)1)   /* an argument, a request or a configuration */
#define MOBA_INVALID_CHECKPOINT ((moba_status)2) /* a file of the checkpoint */
#define MOBA_RESOURCE_EXHAUSTED ((moba_status)3) /* memory, or room in the queue */
#define MOBA_CANCELLED ((moba_status)4)
#define MOBA_INTERNAL ((moba_status)5)
#define MOBA_TIMEOUT ((moba_status)100) /* no failure: the time was up first */
#define MOBA_END ((moba_status)101)     /* no failure: a stream has no more tokens */

/* Of the calling thread's last call that failed; "" if none did. Valid until its next. */
MOBA_API const char* moba_last_error(void);

/* Gives back memory; null is fine. */
MOBA_API void moba_free(void* memory);

#define MOBA_STRLEN ((size_t)-1)

#ifdef __cplusplus
#define MOBA_ZERO_STRUCT \
  {}
#else
#define MOBA_ZERO_STRUCT \
  { 0 }
#endif

/* ---- Log. One for the process, on standard error at first, from MOBA_LOG_WARNING on. ---- */

#define MOBA_LOG_DEBUG 0
#define MOBA_LOG_INFO 1
#define MOBA_LOG_WARNING 2
#define MOBA_LOG_ERROR 3
#define MOBA_LOG_OFF 4
MOBA_API moba_status moba_set_log_level(int32_t level);
/* Called from any thread, one call at a time; must not call the library. Null: standard error. */
typedef void (*moba_log_callback)(void* user_data, int32_t level, const char* message);
MOBA_API moba_status moba_set_log_callback(moba_log_callback callback, void* user_data);

/* ---- Configuration of an engine: settings by name, as in configuration files. ---- */

typedef struct moba_config moba_config;
MOBA_API moba_status moba_config_create(moba_config** out);
MOBA_API void moba_config_destroy(moba_config* config);
/* `key`: "moba_topk" or "attention.moba_topk"; later values win. An unknown key and a value of the
 * wrong type are refused. Sampling settings are taken too: see moba_request_use_config(). */
MOBA_API moba_status moba_config_set_string(moba_config* config, const char* key,
                                            const char* value);
MOBA_API moba_status moba_config_set_int(moba_config* config, const char* key, int64_t value);
MOBA_API moba_status moba_config_set_double(moba_config* config, const char* key, double value);
MOBA_API moba_status moba_config_set_bool(moba_config* config, const char* key, bool value);
/* `value` is JSON. */
MOBA_API moba_status moba_config_set_json(moba_config* config, const char* key, const char* value);
/* A JSON object of settings; refused as a whole. */
MOBA_API moba_status moba_config_add_json(moba_config* config, const char* json);
MOBA_API moba_status moba_config_add_file(moba_config* config, const char* path);
/* All settings of an engine with their values, as a JSON object. moba_free(). */
MOBA_API moba_status moba_config_to_json(const moba_config* config, char** out);

/* ---- Tokenizer ---- */

typedef struct moba_tokenizer moba_tokenizer;
/* Of a checkpoint directory or a GGUF file. moba_engine_tokenizer() gives an engine's. */
MOBA_API moba_status moba_tokenizer_open(const char* dir, moba_tokenizer** out);
MOBA_API void moba_tokenizer_destroy(moba_tokenizer* tokenizer);
/* add_special_tokens: what the checkpoint adds by itself (BOS). parse_special_tokens: text such as
 * "</s>" becomes that token. Gives `*num_ids` ids; moba_free(). */
MOBA_API moba_status moba_tokenize(const moba_tokenizer* tokenizer, const char* text, size_t length,
                                   bool add_special_tokens, bool parse_special_tokens,
                                   int32_t** ids, size_t* num_ids);
/* Bytes are given as they are: ids cut inside a character give incomplete UTF-8. `length` is
 * optional. moba_free(). */
MOBA_API moba_status moba_detokenize(const moba_tokenizer* tokenizer, const int32_t* ids,
                                     size_t num_ids, bool skip_special_tokens, char** text,
                                     size_t* length);
/* The bytes that a token adds to a text that has others before it; `length` is optional.
 * moba_free(). */
MOBA_API moba_status moba_token_bytes(const moba_tokenizer* tokenizer, int32_t id, char** bytes,
                                      size_t* length);
/* The vocabulary's spelling of a token. moba_free(). */
MOBA_API moba_status moba_token_name(const moba_tokenizer* tokenizer, int32_t id, char** name);
/* One more than the largest id; 0 for that of a checkpoint without a tokenizer. */
MOBA_API moba_status moba_vocab_size(const moba_tokenizer* tokenizer, int32_t* size);
/* -1 if there is none. */
MOBA_API moba_status moba_bos_id(const moba_tokenizer* tokenizer, int32_t* id);
MOBA_API moba_status moba_eos_id(const moba_tokenizer* tokenizer, int32_t* id);

/* ---- Chat template: from a conversation to a prompt ---- */

typedef struct moba_chat_template moba_chat_template;
/* Of a checkpoint directory (chat_template.jinja, or chat_template in tokenizer_config.json) or a
 * GGUF file.
 * MOBA_INVALID_ARGUMENT if it has none, MOBA_INVALID_CHECKPOINT if it cannot be read. */
MOBA_API moba_status moba_chat_template_open(const char* dir, const moba_tokenizer* tokenizer,
                                             moba_chat_template** out);
/* A file with nothing but a template. */
MOBA_API moba_status moba_chat_template_open_file(const char* path, const moba_tokenizer* tokenizer,
                                                  moba_chat_template** out);
MOBA_API void moba_chat_template_destroy(moba_chat_template* chat_template);

typedef struct moba_chat_options {
  size_t struct_size;
  const char* variables;       /* a JSON object: more variables for the template; null: none */
  bool add_generation_prompt;  /* the prompt ends where the model's answer begins */
  bool continue_final_message; /* it ends where the last message ends, which the model continues */
} moba_chat_options;
static inline moba_chat_options moba_chat_options_init(void) {
  moba_chat_options options = MOBA_ZERO_STRUCT;
  options.struct_size = sizeof(options);
  options.add_generation_prompt = true;
  return options;
}
/* The prompt of a JSON array of messages ({"role", "content", ...}). Text of the messages never
 * becomes a special token. `options` are optional. moba_free(). */
MOBA_API moba_status moba_chat_template_encode(const moba_chat_template* chat_template,
                                               const char* messages, size_t length,
                                               const moba_chat_options* options, int32_t** ids,
                                               size_t* num_ids);
/* The same as text, for people; `text_length` is optional. moba_free(). */
MOBA_API moba_status moba_chat_template_render(const moba_chat_template* chat_template,
                                               const char* messages, size_t length,
                                               const moba_chat_options* options, char** text,
                                               size_t* text_length);

/* ---- Engine ---- */

typedef struct moba_engine moba_engine;
/* Loads the checkpoint that "model" names and plans all memory. */
MOBA_API moba_status moba_engine_create(const moba_config* config, moba_engine** out);
/* Ends the requests that are left as cancelled and returns when all callbacks have. Refused from a
 * callback of that engine. Null is fine. */
MOBA_API moba_status moba_engine_destroy(moba_engine* engine);
MOBA_API moba_status moba_engine_tokenizer(const moba_engine* engine, moba_tokenizer** out);
/* Where ranks are processes ("num_processes" above 1): what every process but process 0, which has
 * the engine, calls in its place. Computes that rank's part until the engine ends (MOBA_OK) or
 * fails. */
MOBA_API moba_status moba_run_rank(const moba_config* config);

typedef struct moba_info {
  size_t struct_size;
  const char* architecture; /* texts and arrays live as long as the engine */
  const char* dtype;        /* of activations and cache */
  const char* device;       /* "cpu", "cuda:0" */
  const char* device_name;  /* of a GPU, else "" */
  const char* cpu_isa;
  int32_t num_threads;
  int32_t num_layers;
  const int32_t* layer_topk; /* [num_layers]: MoBA blocks per query, 0: full attention */
  int32_t moba_block_size;
  int32_t block_size;
  int64_t vocab_size;
  int64_t max_model_len;
  int64_t num_pages;
  int64_t weight_bytes;
  int64_t kv_cache_bytes;
  int64_t kv_bytes_per_token;
  int64_t workspace_bytes;
  int64_t tensor_parallel_size;
} moba_info;
static inline moba_info moba_info_init(void) {
  moba_info info = MOBA_ZERO_STRUCT;
  info.struct_size = sizeof(info);
  return info;
}
MOBA_API moba_status moba_engine_info(const moba_engine* engine, moba_info* info);

/* Counters only grow; the others are of the moment. */
typedef struct moba_stats {
  size_t struct_size;
  int64_t num_running; /* sequences */
  int64_t num_waiting;
  int64_t num_pages;
  int64_t num_pages_in_use;
  int64_t num_pages_cached;
  int64_t num_steps;
  int64_t num_prompt_tokens;
  int64_t num_output_tokens;
  int64_t num_refused;
  int64_t num_finished; /* requests, however they ended; of them: */
  int64_t num_cancelled;
  int64_t num_expired;
  int64_t num_failed;
  int64_t num_preemptions;
  int64_t num_prefix_lookup_tokens;
  int64_t num_prefix_hit_tokens;
  int64_t num_evicted_pages;
  int64_t moba_blocks_attended;
  int64_t moba_blocks_available;
} moba_stats;
static inline moba_stats moba_stats_init(void) {
  moba_stats stats = MOBA_ZERO_STRUCT;
  stats.struct_size = sizeof(stats);
  return stats;
}
MOBA_API moba_status moba_engine_stats(const moba_engine* engine, moba_stats* stats);

/* How long things took, over the life of the engine (moba/stats.h). */
#define MOBA_LATENCY_QUEUE_TIME 0
#define MOBA_LATENCY_TIME_TO_FIRST_TOKEN 1
#define MOBA_LATENCY_INTER_TOKEN 2
#define MOBA_LATENCY_END_TO_END 3
#define MOBA_LATENCY_STEP_TIME 4
typedef struct moba_latency {
  size_t struct_size;
  int64_t count;
  double sum_seconds;
  double p50_seconds;
  double p90_seconds;
  double p99_seconds;
} moba_latency;
static inline moba_latency moba_latency_init(void) {
  moba_latency latency = MOBA_ZERO_STRUCT;
  latency.struct_size = sizeof(latency);
  return latency;
}
/* `which` is one of MOBA_LATENCY_... */
MOBA_API moba_status moba_engine_latency(const moba_engine* engine, int32_t which,
                                         moba_latency* latency);

/* What a checkpoint holds, read without loading it, as a JSON object: the fields of CheckpointInfo
 * in moba/inspect.h. `config`, whose attention settings apply, is optional. moba_free(). */
MOBA_API moba_status moba_inspect_checkpoint(const char* dir, const moba_config* config,
                                             char** json);

/* ---- Request: what is asked ---- */

typedef struct moba_request moba_request;
/* Starts with the sampling defaults of the engine's checkpoint, or, without an engine (optional),
 * with the library's. */
MOBA_API moba_status moba_request_create(const moba_engine* engine, moba_request** out);
MOBA_API void moba_request_destroy(moba_request* request);
/* The prompt is token ids as they are or, if there are none, text. */
MOBA_API moba_status moba_request_set_prompt(moba_request* request, const char* text,
                                             size_t length);
MOBA_API moba_status moba_request_set_prompt_ids(moba_request* request, const int32_t* ids,
                                                 size_t num_ids);
/* Every field by name: "prompt", "prompt_ids"; "temperature", "top_k", "top_p", "min_p",
 * "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "seed", "n",
 * "max_tokens", "min_tokens", "stop", "include_stop_str_in_output", "stop_token_ids", "ignore_eos",
 * "skip_special_tokens", "logprobs", "prompt_logprobs"; "attention" ("auto", "full", "moba"),
 * "moba_topk", "full_attention_layers", "decode_attention"; "cache_salt", "priority",
 * "timeout_seconds", "parse_special_tokens". An unknown one and a value of the wrong type are
 * refused; ranges are checked when the request is submitted. JSON null takes a limit or an override
 * away. */
MOBA_API moba_status moba_request_set_string(moba_request* request, const char* key,
                                             const char* value);
MOBA_API moba_status moba_request_set_int(moba_request* request, const char* key, int64_t value);
MOBA_API moba_status moba_request_set_double(moba_request* request, const char* key, double value);
MOBA_API moba_status moba_request_set_bool(moba_request* request, const char* key, bool value);
MOBA_API moba_status moba_request_set_json(moba_request* request, const char* key,
                                           const char* value);
/* A JSON object of fields; refused as a whole. */
MOBA_API moba_status moba_request_add_json(moba_request* request, const char* json);
/* One more stop string, stop token, or token with a bias. */
MOBA_API moba_status moba_request_add_stop(moba_request* request, const char* text, size_t length);
MOBA_API moba_status moba_request_add_stop_token(moba_request* request, int32_t id);
MOBA_API moba_status moba_request_set_logit_bias(moba_request* request, int32_t id, float bias);
/* The sampling settings of a configuration over those the request has. */
MOBA_API moba_status moba_request_use_config(moba_request* request, const moba_config* config);

/* ---- Output: what came of it ---- */

typedef struct moba_top_logprob { /* never grows */
  int32_t token_id;
  float logprob;
} moba_top_logprob;

typedef struct moba_logprob {
  int32_t token_id;
  float logprob;
  size_t num_top;
  const moba_top_logprob* top; /* [num_top], most probable first */
} moba_logprob;

#define MOBA_FINISH_NONE 0
#define MOBA_FINISH_STOP 1
#define MOBA_FINISH_LENGTH 2
#define MOBA_FINISH_CANCELLED 3

typedef struct moba_metrics {
  size_t struct_size;
  int64_t num_prompt_tokens;
  int64_t num_cached_tokens; /* of the prompt, found in the prefix cache */
  int64_t num_output_tokens; /* of all samples */
  double prompt_seconds;
  double time_to_first_token_seconds;
  double decode_seconds;
  int64_t moba_blocks_attended;
  int64_t moba_blocks_available;
} moba_metrics;
static inline moba_metrics moba_metrics_init(void) {
  moba_metrics metrics = MOBA_ZERO_STRUCT;
  metrics.struct_size = sizeof(metrics);
  return metrics;
}

/* Immutable. What these functions give lives as long as the output. `sample` is 0 to n - 1. */
typedef struct moba_output moba_output;
MOBA_API void moba_output_destroy(moba_output* output);
MOBA_API moba_status moba_output_num_samples(const moba_output* output, size_t* num_samples);
/* `length` is optional. */
MOBA_API moba_status moba_output_text(const moba_output* output, size_t sample, const char** text,
                                      size_t* length);
MOBA_API moba_status moba_output_token_ids(const moba_output* output, size_t sample,
                                           const int32_t** ids, size_t* num_ids);
MOBA_API moba_status moba_output_finish_reason(const moba_output* output, size_t sample,
                                               int32_t* reason);
/* The stop string or the stop token's name that ended it, "deadline", or "". */
MOBA_API moba_status moba_output_stop_reason(const moba_output* output, size_t sample,
                                             const char** reason);
/* One for each token if asked for, else none. */
MOBA_API moba_status moba_output_num_logprobs(const moba_output* output, size_t sample,
                                              size_t* num_logprobs);
MOBA_API moba_status moba_output_logprob(const moba_output* output, size_t sample, size_t index,
                                         const moba_logprob** logprob);
MOBA_API moba_status moba_output_prompt_ids(const moba_output* output, const int32_t** ids,
                                            size_t* num_ids);
/* Of prompt tokens 1, 2, ... if asked for, else none. */
MOBA_API moba_status moba_output_num_prompt_logprobs(const moba_output* output,
                                                     size_t* num_logprobs);
MOBA_API moba_status moba_output_prompt_logprob(const moba_output* output, size_t index,
                                                const moba_logprob** logprob);
MOBA_API moba_status moba_output_metrics(const moba_output* output, moba_metrics* metrics);

/* ---- Running a request ---- */

typedef struct moba_token {
  int32_t token_id;
  int32_t sample;
  /* What became complete with this token: never half a character, may be empty. */
  const char* text;
  size_t text_length;
  const moba_logprob* logprob; /* null unless asked for */
} moba_token;

/* All are optional and called on the engine's thread, which computes nothing meanwhile: they should
 * be quick, and must not wait for a request. What they are given lives until they return. */
typedef struct moba_callbacks {
  size_t struct_size;
  void* user_data;
  /* For each token in order. false cancels the request. */
  bool (*on_token)(void* user_data, const moba_token* token);
  /* After each step of the prompt: tokens computed so far, tokens in all. false cancels. */
  bool (*on_prompt)(void* user_data, int64_t computed, int64_t total);
  /* Once, at the end, after all others; it may come before moba_submit() has returned. MOBA_OK with
   * the output (of a cancelled request too), or what failed with the reason and no output. */
  void (*on_finish)(void* user_data, moba_status status, const char* message,
                    const moba_output* output);
} moba_callbacks;
static inline moba_callbacks moba_callbacks_init(void) {
  moba_callbacks callbacks = MOBA_ZERO_STRUCT;
  callbacks.struct_size = sizeof(callbacks);
  return callbacks;
}

/* Runs a request to its end and gives its output. `callbacks` is optional. A cancelled request is
 * no error: its output has what was generated. Refused from a callback. The request is copied, and
 * may be used again. */
MOBA_API moba_status moba_generate(moba_engine* engine, const moba_request* request,
                                   const moba_callbacks* callbacks, moba_output** out);

/* A request that was submitted. Destroying the handle does not cancel it. */
typedef struct moba_handle moba_handle;
/* Checks and queues a request. `callbacks` is optional, and so is `out` if they are given. */
MOBA_API moba_status moba_submit(moba_engine* engine, const moba_request* request,
                                 const moba_callbacks* callbacks, moba_handle** out);
MOBA_API void moba_handle_destroy(moba_handle* handle);
MOBA_API moba_status moba_handle_id(const moba_handle* handle, int64_t* id);
/* The request ends with the engine's next step at the latest, with what it has so far. */
MOBA_API moba_status moba_handle_cancel(const moba_handle* handle);
MOBA_API moba_status moba_handle_done(const moba_handle* handle, bool* done);
/* Waits at most that long, forever if negative. MOBA_OK: it has ended, and `out` (optional) has its
 * output. MOBA_TIMEOUT: it has not. Anything else: the request failed so, or it is called from a
 * callback. */
MOBA_API moba_status moba_handle_wait(const moba_handle* handle, double timeout_seconds,
                                      moba_output** out);

/* A submitted request whose tokens are kept until they are fetched. Destroying it cancels a request
 * that has not ended. */
typedef struct moba_stream moba_stream;
MOBA_API moba_status moba_stream_create(moba_engine* engine, const moba_request* request,
                                        moba_stream** out);
MOBA_API void moba_stream_destroy(moba_stream* stream);
/* Waits for the next token at most that long, forever if negative. MOBA_OK with the token, which
 * lives until the next call for this stream; MOBA_TIMEOUT; MOBA_END: the request has ended, and
 * moba_stream_wait() says how. */
MOBA_API moba_status moba_stream_next(moba_stream* stream, double timeout_seconds,
                                      const moba_token** token);
MOBA_API moba_status moba_stream_cancel(const moba_stream* stream);
/* As moba_handle_wait(). */
MOBA_API moba_status moba_stream_wait(const moba_stream* stream, double timeout_seconds,
                                      moba_output** out);

#ifdef __cplusplus
}
#endif
