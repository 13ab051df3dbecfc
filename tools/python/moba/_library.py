"""libmoba through ctypes: finds the library, declares its functions, turns failures into MobaError."""

import ctypes
import ctypes.util
import os
import pathlib
from ctypes import POINTER, Structure, c_bool, c_char_p, c_double, c_float, c_int32, c_int64
from ctypes import c_size_t, c_uint32, c_void_p

ABI_VERSION = 1

OK = 0
INVALID_ARGUMENT = 1
INVALID_CHECKPOINT = 2
RESOURCE_EXHAUSTED = 3
CANCELLED = 4
INTERNAL = 5
TIMEOUT = 100
END = 101


class MobaError(Exception):
    """A call that failed: `status` is one of the constants of this module, str() the reason."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Info(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("architecture", c_char_p),
        ("dtype", c_char_p),
        ("device", c_char_p),
        ("device_name", c_char_p),
        ("cpu_isa", c_char_p),
        ("num_threads", c_int32),
        ("num_layers", c_int32),
        ("layer_topk", POINTER(c_int32)),
        ("moba_block_size", c_int32),
        ("block_size", c_int32),
        ("vocab_size", c_int64),
        ("max_model_len", c_int64),
        ("num_pages", c_int64),
        ("weight_bytes", c_int64),
        ("kv_cache_bytes", c_int64),
        ("kv_bytes_per_token", c_int64),
        ("workspace_bytes", c_int64),
        ("tensor_parallel_size", c_int64),
    ]


class Stats(Structure):
    _fields_ = [("struct_size", c_size_t)] + [
        (name, c_int64)
        for name in (
            "num_running",
            "num_waiting",
            "num_pages",
            "num_pages_in_use",
            "num_pages_cached",
            "num_steps",
            "num_prompt_tokens",
            "num_output_tokens",
            "num_refused",
            "num_finished",
            "num_cancelled",
            "num_expired",
            "num_failed",
            "num_preemptions",
            "num_prefix_lookup_tokens",
            "num_prefix_hit_tokens",
            "num_evicted_pages",
            "moba_blocks_attended",
            "moba_blocks_available",
        )
    ]


class Latency(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("count", c_int64),
        ("sum_seconds", c_double),
        ("p50_seconds", c_double),
        ("p90_seconds", c_double),
        ("p99_seconds", c_double),
    ]


class ChatOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("variables", c_char_p),
        ("add_generation_prompt", c_bool),
        ("continue_final_message", c_bool),
    ]


class Metrics(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("num_prompt_tokens", c_int64),
        ("num_cached_tokens", c_int64),
        ("num_output_tokens", c_int64),
        ("prompt_seconds", c_double),
        ("time_to_first_token_seconds", c_double),
        ("decode_seconds", c_double),
        ("moba_blocks_attended", c_int64),
        ("moba_blocks_available", c_int64),
    ]


class TopLogprob(Structure):
    _fields_ = [("token_id", c_int32), ("logprob", c_float)]


class Logprob(Structure):
    _fields_ = [
        ("token_id", c_int32),
        ("logprob", c_float),
        ("num_top", c_size_t),
        ("top", POINTER(TopLogprob)),
    ]


class Token(Structure):
    _fields_ = [
        ("token_id", c_int32),
        ("sample", c_int32),
        ("text", c_void_p),
        ("text_length", c_size_t),
        ("logprob", POINTER(Logprob)),
    ]


_OUT = POINTER(c_void_p)  # an object of the library

# Every function that gives a moba_status, with its arguments.
_STATUS_FUNCTIONS = {
    "moba_set_log_level": [c_int32],
    "moba_config_create": [_OUT],
    "moba_config_add_json": [c_void_p, c_char_p],
    "moba_config_add_file": [c_void_p, c_char_p],
    "moba_config_set_string": [c_void_p, c_char_p, c_char_p],
    "moba_config_set_json": [c_void_p, c_char_p, c_char_p],
    "moba_config_to_json": [c_void_p, POINTER(c_void_p)],
    "moba_tokenizer_open": [c_char_p, _OUT],
    "moba_tokenize": [
        c_void_p, c_char_p, c_size_t, c_bool, c_bool, POINTER(POINTER(c_int32)), POINTER(c_size_t),
    ],
    "moba_detokenize": [
        c_void_p, POINTER(c_int32), c_size_t, c_bool, POINTER(c_void_p), POINTER(c_size_t),
    ],
    "moba_token_bytes": [c_void_p, c_int32, POINTER(c_void_p), POINTER(c_size_t)],
    "moba_token_name": [c_void_p, c_int32, POINTER(c_void_p)],
    "moba_vocab_size": [c_void_p, POINTER(c_int32)],
    "moba_bos_id": [c_void_p, POINTER(c_int32)],
    "moba_eos_id": [c_void_p, POINTER(c_int32)],
    "moba_chat_template_open": [c_char_p, c_void_p, _OUT],
    "moba_chat_template_open_file": [c_char_p, c_void_p, _OUT],
    "moba_chat_template_encode": [
        c_void_p, c_char_p, c_size_t, POINTER(ChatOptions), POINTER(POINTER(c_int32)),
        POINTER(c_size_t),
    ],
    "moba_chat_template_render": [
        c_void_p, c_char_p, c_size_t, POINTER(ChatOptions), POINTER(c_void_p), POINTER(c_size_t),
    ],
    "moba_run_rank": [c_void_p],
    "moba_engine_create": [c_void_p, _OUT],
    "moba_engine_destroy": [c_void_p],
    "moba_engine_tokenizer": [c_void_p, _OUT],
    "moba_engine_info": [c_void_p, POINTER(Info)],
    "moba_engine_stats": [c_void_p, POINTER(Stats)],
    "moba_engine_latency": [c_void_p, c_int32, POINTER(Latency)],
    "moba_inspect_checkpoint": [c_char_p, c_void_p, POINTER(c_void_p)],
    "moba_request_create": [c_void_p, _OUT],
    "moba_request_set_prompt": [c_void_p, c_char_p, c_size_t],
    "moba_request_set_prompt_ids": [c_void_p, POINTER(c_int32), c_size_t],
    "moba_request_set_json": [c_void_p, c_char_p, c_char_p],
    "moba_request_use_config": [c_void_p, c_void_p],
    "moba_output_num_samples": [c_void_p, POINTER(c_size_t)],
    "moba_output_text": [c_void_p, c_size_t, POINTER(c_void_p), POINTER(c_size_t)],
    "moba_output_token_ids": [
        c_void_p, c_size_t, POINTER(POINTER(c_int32)), POINTER(c_size_t),
    ],
    "moba_output_finish_reason": [c_void_p, c_size_t, POINTER(c_int32)],
    "moba_output_stop_reason": [c_void_p, c_size_t, POINTER(c_char_p)],
    "moba_output_num_logprobs": [c_void_p, c_size_t, POINTER(c_size_t)],
    "moba_output_logprob": [c_void_p, c_size_t, c_size_t, POINTER(POINTER(Logprob))],
    "moba_output_prompt_ids": [c_void_p, POINTER(POINTER(c_int32)), POINTER(c_size_t)],
    "moba_output_num_prompt_logprobs": [c_void_p, POINTER(c_size_t)],
    "moba_output_prompt_logprob": [c_void_p, c_size_t, POINTER(POINTER(Logprob))],
    "moba_output_metrics": [c_void_p, POINTER(Metrics)],
    "moba_stream_create": [c_void_p, c_void_p, _OUT],
    "moba_stream_next": [c_void_p, c_double, POINTER(POINTER(Token))],
    "moba_stream_cancel": [c_void_p],
    "moba_stream_wait": [c_void_p, c_double, _OUT],
}

_VOID_FUNCTIONS = [
    "moba_free", "moba_config_destroy", "moba_tokenizer_destroy", "moba_chat_template_destroy",
    "moba_request_destroy", "moba_output_destroy", "moba_stream_destroy",
]


class Library:
    """The functions of one libmoba. Those that give a status raise MobaError unless it is OK, TIMEOUT
    or END, which they return."""

    def __init__(self, path):
        self._dll = ctypes.CDLL(str(path))
        self._last_error = self._declare("moba_last_error", c_char_p, [])
        version = self._declare("moba_abi_version", c_uint32, [])()
        if version != ABI_VERSION:
            raise MobaError(
                INVALID_ARGUMENT, f"{path} has ABI version {version}, this module {ABI_VERSION}"
            )
        self.version = self._declare("moba_version", c_char_p, [])().decode()
        for name, arguments in _STATUS_FUNCTIONS.items():
            setattr(self, name, self._checked(self._declare(name, c_int32, arguments)))
        for name in _VOID_FUNCTIONS:
            setattr(self, name, self._declare(name, None, [c_void_p]))

    def _declare(self, name, result, arguments):
        function = getattr(self._dll, name)
        function.restype = result
        function.argtypes = arguments
        return function

    def _checked(self, function):
        def call(*arguments):
            status = function(*arguments)
            if status not in (OK, TIMEOUT, END):
                raise MobaError(status, self._last_error().decode("utf-8", "replace"))
            return status

        return call

    def take_bytes(self, address, length=None):
        """The bytes of memory that the caller owns, which is given back."""
        try:
            return ctypes.string_at(address) if length is None else ctypes.string_at(address, length)
        finally:
            self.moba_free(address)


def _candidates():
    """Where libmoba may be, most wanted first."""
    chosen = os.environ.get("MOBA_LIBRARY")
    if chosen:
        yield chosen
        return
    # Installed, this file is PREFIX/share/moba/python/moba/_library.py.
    here = pathlib.Path(__file__).resolve()
    for prefix in here.parents[4:5]:
        for folder in sorted(prefix.glob("lib*")) + sorted(prefix.glob("lib*/*-linux-gnu*")):
            yield from sorted(folder.glob("libmoba.so*"))
    found = ctypes.util.find_library("moba")
    if found:
        yield found


_library = None


def load(path=None):
    """The library of this process: `path`, or what MOBA_LIBRARY names, or the installed one. Later
    calls give the same."""
    global _library
    if _library is None:
        paths = [path] if path is not None else list(_candidates())
        if not paths:
            raise MobaError(
                INVALID_ARGUMENT, "no libmoba.so found: name it in the variable MOBA_LIBRARY"
            )
        _library = Library(paths[0])
    return _library
