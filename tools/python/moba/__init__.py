"""moba: long-context LLM inference with MoBA attention, from Python's standard library alone.

    import moba
    with moba.Engine("configs/models/moba-books-19m", max_model_len=4096) as engine:
        print(engine.generate("It was a dark night", max_tokens=40).text)
        for token in engine.stream("My dear sir", max_tokens=40, temperature=0.8):
            print(token.text, end="", flush=True)

docs/library.md has the rest. Needs libmoba.so: the installed one, or what MOBA_LIBRARY names.
"""

from ._engine import ChatTemplate, Engine, Logprob, Output, Sample, Stream, Token, Tokenizer
from ._engine import inspect_checkpoint, run_rank, set_log_level, version
from ._library import MobaError, load

__all__ = [
    "ChatTemplate",
    "Engine",
    "Logprob",
    "MobaError",
    "Output",
    "Sample",
    "Stream",
    "Token",
    "Tokenizer",
    "inspect_checkpoint",
    "load",
    "run_rank",
    "set_log_level",
    "version",
]
