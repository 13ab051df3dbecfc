"""Engines, requests and their outputs."""

import contextlib
import ctypes
import json
import math
import os
import threading
import weakref
from ctypes import POINTER, byref, c_char_p, c_int32, c_size_t, c_void_p
from dataclasses import dataclass, field

from . import _library
from ._library import END, OK, TIMEOUT, ChatOptions, Info, Latency, Metrics, MobaError, Stats, load

# How often a wait looks for Ctrl-C.
_POLL_SECONDS = 0.1

_FINISH_REASONS = {1: "stop", 2: "length", 3: "cancelled"}
_LATENCIES = ("queue_time", "time_to_first_token", "inter_token", "end_to_end", "step_time")
_LOG_LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3, "off": 4}


@dataclass(frozen=True)
class Logprob:
    """The log probability of a token, and of the most probable ones in its place."""

    token_id: int
    logprob: float
    top: list = field(default_factory=list)  # of (token id, log probability)


@dataclass(frozen=True)
class Token:
    """One more token of a running request; `text` is what became complete with it."""

    token_id: int
    text: str
    sample: int
    logprob: Logprob = None


@dataclass(frozen=True)
class Sample:
    """One of the n outputs of a request."""

    text: str
    token_ids: list
    finish_reason: str  # "stop", "length" or "cancelled"
    stop_reason: str  # the stop string or token that ended it, "deadline", or ""
    logprobs: list  # of Logprob; empty unless asked for


@dataclass(frozen=True)
class Output:
    """What came of a request. text, token_ids and the like are those of the first sample."""

    samples: list
    prompt_ids: list
    prompt_logprobs: list
    metrics: dict

    @property
    def text(self):
        return self.samples[0].text

    @property
    def token_ids(self):
        return self.samples[0].token_ids

    @property
    def finish_reason(self):
        return self.samples[0].finish_reason

    @property
    def stop_reason(self):
        return self.samples[0].stop_reason

    @property
    def logprobs(self):
        return self.samples[0].logprobs


def _c_path(path):
    return os.fsencode(path)


def _json(value):
    if isinstance(value, dict):  # logit_bias: JSON has no infinite numbers, the library takes texts
        value = {
            key: str(item) if isinstance(item, float) and math.isinf(item) else item
            for key, item in value.items()
        }
    return json.dumps(value, allow_nan=False).encode()


def _int_array(ids):
    ids = list(ids)
    return (c_int32 * len(ids))(*ids), len(ids)


def _read_logprob(logprob):
    top = [(logprob.top[i].token_id, logprob.top[i].logprob) for i in range(logprob.num_top)]
    return Logprob(logprob.token_id, logprob.logprob, top)


def _fields(structure):
    return {
        name: getattr(structure, name)
        for name, _ in structure._fields_
        if name != "struct_size"
    }


class _Object:
    """An object of the library, destroyed with this one. Python's threads may share it."""

    _destroy = None  # name of the function

    def __init__(self, address):
        self._address = address
        weakref.finalize(self, getattr(load(), self._destroy), address)

    @classmethod
    def _made_by(cls, function, *arguments):
        address = c_void_p()
        status = function(*arguments, byref(address))
        return None if status == TIMEOUT else cls(address.value)


class _Config(_Object):
    _destroy = "moba_config_destroy"

    @classmethod
    def make(cls, file, settings):
        config = cls._made_by(load().moba_config_create)
        if file is not None:
            load().moba_config_add_file(config._address, _c_path(file))
        for key, value in settings.items():
            load().moba_config_set_json(config._address, key.encode(), _json(value))
        return config


class _Request(_Object):
    _destroy = "moba_request_destroy"


class _Output(_Object):
    _destroy = "moba_output_destroy"

    def _list(self, function, *arguments):
        items = POINTER(c_int32)()
        count = c_size_t()
        function(self._address, *arguments, byref(items), byref(count))
        return items[: count.value]

    def _logprobs(self, count_function, function, *arguments):
        count = c_size_t()
        count_function(self._address, *arguments, byref(count))
        result = []
        for index in range(count.value):
            logprob = POINTER(_library.Logprob)()
            function(self._address, *arguments, index, byref(logprob))
            result.append(_read_logprob(logprob.contents))
        return result

    def _sample(self, index):
        lib = load()
        text, length = c_void_p(), c_size_t()
        lib.moba_output_text(self._address, index, byref(text), byref(length))
        finish = c_int32()
        lib.moba_output_finish_reason(self._address, index, byref(finish))
        stop = c_char_p()
        lib.moba_output_stop_reason(self._address, index, byref(stop))
        return Sample(
            text=ctypes.string_at(text.value, length.value).decode("utf-8", "replace"),
            token_ids=self._list(lib.moba_output_token_ids, index),
            finish_reason=_FINISH_REASONS.get(finish.value, "none"),
            stop_reason=stop.value.decode("utf-8", "replace"),
            logprobs=self._logprobs(
                lib.moba_output_num_logprobs, lib.moba_output_logprob, index
            ),
        )

    def read(self):
        lib = load()
        count = c_size_t()
        lib.moba_output_num_samples(self._address, byref(count))
        metrics = Metrics(struct_size=ctypes.sizeof(Metrics))
        lib.moba_output_metrics(self._address, byref(metrics))
        return Output(
            samples=[self._sample(i) for i in range(count.value)],
            prompt_ids=self._list(lib.moba_output_prompt_ids),
            prompt_logprobs=self._logprobs(
                lib.moba_output_num_prompt_logprobs, lib.moba_output_prompt_logprob
            ),
            metrics=_fields(metrics),
        )


class Tokenizer(_Object):
    """The tokenizer of a checkpoint directory or a GGUF file."""

    _destroy = "moba_tokenizer_destroy"

    def __init__(self, model=None, _address=None):
        if _address is None:
            address = c_void_p()
            load().moba_tokenizer_open(_c_path(model), byref(address))
            _address = address.value
        super().__init__(_address)

    def encode(self, text, add_special_tokens=True, parse_special_tokens=False):
        """The token ids of a text (str, or bytes as they are)."""
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        ids, count = POINTER(c_int32)(), c_size_t()
        load().moba_tokenize(
            self._address, data, len(data), add_special_tokens, parse_special_tokens,
            byref(ids), byref(count),
        )
        try:
            return ids[: count.value]
        finally:
            load().moba_free(ctypes.cast(ids, c_void_p))

    def decode_bytes(self, ids, skip_special_tokens=True):
        """The bytes of token ids: cut inside a character, they are no UTF-8."""
        array, count = _int_array(ids)
        text, length = c_void_p(), c_size_t()
        load().moba_detokenize(
            self._address, array, count, skip_special_tokens, byref(text), byref(length)
        )
        return load().take_bytes(text.value, length.value)

    def decode(self, ids, skip_special_tokens=True):
        """Their text; U+FFFD stands for what is no UTF-8."""
        return self.decode_bytes(ids, skip_special_tokens).decode("utf-8", "replace")

    def token_name(self, token_id):
        """The vocabulary's spelling of a token."""
        name = c_void_p()
        load().moba_token_name(self._address, token_id, byref(name))
        return load().take_bytes(name.value).decode("utf-8", "replace")

    def _number(self, function):
        number = c_int32()
        function(self._address, byref(number))
        return number.value

    @property
    def vocab_size(self):
        return self._number(load().moba_vocab_size)

    @property
    def bos_id(self):
        """None if there is none."""
        number = self._number(load().moba_bos_id)
        return None if number < 0 else number

    @property
    def eos_id(self):
        """None if there is none."""
        number = self._number(load().moba_eos_id)
        return None if number < 0 else number


class ChatTemplate(_Object):
    """Makes prompts of conversations: the template of a checkpoint (a directory or a GGUF file), or a
    file with nothing but one. `messages` is a list of {"role": ..., "content": ...}."""

    _destroy = "moba_chat_template_destroy"

    def __init__(self, tokenizer, model=None, file=None):
        if (model is None) == (file is None):
            raise ValueError("either model or file")
        address = c_void_p()
        if file is None:
            load().moba_chat_template_open(_c_path(model), tokenizer._address, byref(address))
        else:
            load().moba_chat_template_open_file(_c_path(file), tokenizer._address, byref(address))
        super().__init__(address.value)

    @staticmethod
    def _options(add_generation_prompt, continue_final_message, variables):
        return ChatOptions(
            struct_size=ctypes.sizeof(ChatOptions),
            variables=_json(variables),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
        )

    def encode(
        self, messages, add_generation_prompt=True, continue_final_message=False, **variables
    ):
        """The prompt as token ids, for prompt_ids. Text of messages never becomes a special token."""
        data = json.dumps(messages).encode()
        options = self._options(add_generation_prompt, continue_final_message, variables)
        ids, count = POINTER(c_int32)(), c_size_t()
        load().moba_chat_template_encode(
            self._address, data, len(data), byref(options), byref(ids), byref(count)
        )
        try:
            return ids[: count.value]
        finally:
            load().moba_free(ctypes.cast(ids, c_void_p))

    def render(
        self, messages, add_generation_prompt=True, continue_final_message=False, **variables
    ):
        """The prompt as text, for people."""
        data = json.dumps(messages).encode()
        options = self._options(add_generation_prompt, continue_final_message, variables)
        text, length = c_void_p(), c_size_t()
        load().moba_chat_template_render(
            self._address, data, len(data), byref(options), byref(text), byref(length)
        )
        return load().take_bytes(text.value, length.value).decode("utf-8", "replace")


class Stream(_Object):
    """A submitted request: iterate for its tokens, result() for its output. As a context manager it
    cancels on the way out what has not ended. For one thread at a time, but for cancel()."""

    _destroy = "moba_stream_destroy"

    def __iter__(self):
        return self

    def __next__(self):
        while True:
            status, token = self._fetch(_POLL_SECONDS)
            if status == END:
                raise StopIteration
            if status == OK:
                return token

    def poll(self, timeout=0.0):
        """The next token within `timeout` seconds; None if there is none by then, or at the end."""
        return self._fetch(timeout)[1]

    def _fetch(self, timeout):
        token = POINTER(_library.Token)()
        status = load().moba_stream_next(self._address, max(0.0, timeout), byref(token))
        if status != OK:
            return status, None
        found = token.contents
        return status, Token(
            token_id=found.token_id,
            text=ctypes.string_at(found.text, found.text_length).decode("utf-8", "replace"),
            sample=found.sample,
            logprob=_read_logprob(found.logprob.contents) if found.logprob else None,
        )

    def cancel(self):
        """The request ends with the engine's next step at the latest."""
        load().moba_stream_cancel(self._address)

    def wait(self, timeout):
        """The Output within `timeout` seconds, else None. Raises MobaError if the request failed."""
        output = _Output._made_by(load().moba_stream_wait, self._address, max(0.0, timeout))
        return None if output is None else output.read()

    def result(self):
        """Waits for the end; tokens that were not fetched stay."""
        while True:
            output = self.wait(_POLL_SECONDS)
            if output is not None:
                return output

    @property
    def done(self):
        """Whether the request has ended; tokens may be left to fetch."""
        try:
            return load().moba_stream_wait(self._address, 0.0, None) != TIMEOUT
        except MobaError:
            return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cancel()


class Engine:
    """A loaded checkpoint. Settings are those of configuration files (docs/cli.md), as keyword
    arguments or in a file; keyword arguments win. Any thread may use it; close() it, or use it as a
    context manager.

        Engine("DIR", dtype="float32", attention="moba", moba_topk=4, max_num_seqs=8)
        Engine(config="engine.json")
    """

    def __init__(self, model=None, *, config=None, **settings):
        self._config = _Config.make(config, settings)
        if model is not None:
            load().moba_config_set_string(self._config._address, b"model", _c_path(model))
        address = c_void_p()
        load().moba_engine_create(self._config._address, byref(address))
        self._address = address.value
        self._num_users = 0  # calls that are using the address
        self._changed = threading.Condition()
        self._finalizer = weakref.finalize(self, load().moba_engine_destroy, self._address)
        self.tokenizer = Tokenizer(
            _address=self._give(load().moba_engine_tokenizer, self._address)
        )

    @staticmethod
    def _give(function, *arguments):
        address = c_void_p()
        function(*arguments, byref(address))
        return address.value

    def close(self):
        """Ends the requests that are left as cancelled. Their streams stay readable."""
        with self._changed:
            self._address = None
            self._changed.wait_for(lambda: self._num_users == 0)
        self._finalizer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @contextlib.contextmanager
    def _open(self):
        """The engine's address, which stays good meanwhile."""
        with self._changed:
            if self._address is None:
                raise ValueError("the engine is closed")
            address = self._address
            self._num_users += 1
        try:
            yield address
        finally:
            with self._changed:
                self._num_users -= 1
                self._changed.notify_all()

    def stream(self, prompt, **fields):
        """Submits a request and returns its Stream at once; many may run side by side.

        `prompt` is text, or a list of token ids. Fields are those of sampling (temperature, top_k,
        max_tokens, stop, logit_bias, n, seed, logprobs ...) and of requests (attention, moba_topk,
        full_attention_layers, decode_attention, cache_salt, priority, timeout_seconds,
        parse_special_tokens). What is not given is the configuration's, else the checkpoint's.
        """
        lib = load()
        with self._open() as engine:
            request = _Request._made_by(lib.moba_request_create, engine)
        lib.moba_request_use_config(request._address, self._config._address)
        if isinstance(prompt, (str, bytes)):
            data = prompt if isinstance(prompt, bytes) else prompt.encode("utf-8", "surrogatepass")
            lib.moba_request_set_prompt(request._address, data, len(data))
        else:
            lib.moba_request_set_prompt_ids(request._address, *_int_array(prompt))
        for key, value in fields.items():
            lib.moba_request_set_json(request._address, key.encode(), _json(value))
        with self._open() as engine:
            return Stream._made_by(lib.moba_stream_create, engine, request._address)

    def generate(self, prompt, **fields):
        """Runs a request to its end and returns its Output. Fields are those of stream()."""
        with self.stream(prompt, **fields) as stream:
            return stream.result()

    def tokenize(self, text, **options):
        return self.tokenizer.encode(text, **options)

    def detokenize(self, ids, **options):
        return self.tokenizer.decode(ids, **options)

    def stats(self):
        """Counts of requests, tokens, steps and pages, as a dict; under "queue_time",
        "time_to_first_token", "inter_token", "end_to_end" and "step_time" how long they took."""
        stats = Stats(struct_size=ctypes.sizeof(Stats))
        with self._open() as engine:
            load().moba_engine_stats(engine, byref(stats))
            result = _fields(stats)
            for which, name in enumerate(_LATENCIES):
                latency = Latency(struct_size=ctypes.sizeof(Latency))
                load().moba_engine_latency(engine, which, byref(latency))
                result[name] = _fields(latency)
        return result

    @property
    def info(self):
        """What the engine decided from configuration, checkpoint and machine, as a dict."""
        info = Info(struct_size=ctypes.sizeof(Info))
        with self._open() as engine:
            load().moba_engine_info(engine, byref(info))
            values = _fields(info)  # copies the texts, which are the engine's
            values["layer_topk"] = info.layer_topk[: info.num_layers]
        return {
            key: value.decode() if isinstance(value, bytes) else value
            for key, value in values.items()
        }


def run_rank(model, config=None, **settings):
    """Where ranks are processes (num_processes above 1): what every process but process 0, which has the
    Engine, calls with the same settings and its own process_rank. Returns when the engine ends."""
    made = _Config.make(config, {"model": os.fspath(model), **settings})
    load().moba_run_rank(made._address)


def inspect_checkpoint(model):
    """What a checkpoint holds, read without loading it, as a dict."""
    text = c_void_p()
    load().moba_inspect_checkpoint(_c_path(model), None, byref(text))
    return json.loads(load().take_bytes(text.value))


def set_log_level(level):
    """Of the log on standard error: "debug", "info", "warning" (at first), "error" or "off"."""
    load().moba_set_log_level(_LOG_LEVELS[level])


def version():
    """The version of libmoba."""
    return load().version
