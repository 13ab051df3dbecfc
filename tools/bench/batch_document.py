#!/usr/bin/env python3
"""Many questions on one long document with moba batch, against one question on it.

The document is the bundled book, again and again with a number before each paragraph, cut to
--tokens tokens. Prints both times, their ratio, and how many tokens of the prompts were computed.

  tools/bench/batch_document.py --moba build/cpu/tools/moba
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parents[2]
BOOK = REPO / "configs" / "text" / "pride-and-prejudice-16k.txt"


def document_of(moba, model, tokens, folder):
    paragraphs = BOOK.read_text().split("\n")
    text, number = "", 0
    # Words of the book take somewhat more than three bytes a token.
    while len(text) < 5 * tokens:
        text += "\n".join(f"{(number := number + 1)}. {p}" for p in paragraphs) + "\n"
    path = folder / "document.txt"
    low, high = 0, len(text)
    for _ in range(12):
        middle = (low + high) // 2
        path.write_text(text[:middle])
        count = int(subprocess.run([moba, "tokenize", "-m", model, "-f", str(path), "--count"],
                                   capture_output=True, text=True, check=True).stdout)
        low, high = (middle, high) if count < tokens else (low, middle)
    path.write_text(text[:low])


def run(args, folder, questions):
    source = folder / f"in{questions}.jsonl"
    with open(source, "w") as file:
        for i in range(questions):
            body = {"prompt_file": "document.txt", "prompt": f"\nQuestion {i + 1}: what of it?",
                    "max_tokens": args.output_tokens, "temperature": 0, "ignore_eos": True}
            file.write(json.dumps({"custom_id": f"q{i}", "method": "POST",
                                   "url": "/v1/completions", "body": body}) + "\n")
    start = time.time()
    result = subprocess.run([args.moba, "batch", "-q", "--json", "-m", args.model, str(source),
                             "-o", str(folder / f"out{questions}.jsonl")],
                            capture_output=True, text=True, check=True)
    summary = json.loads(result.stdout)
    assert summary["num_answered"] == questions
    computed = summary["num_prompt_tokens"] - summary["num_cached_tokens"]
    seconds = time.time() - start
    print(f"{questions:>3} questions: {seconds:8.1f} s; prompts {summary['num_prompt_tokens']:,} "
          f"tokens, {computed:,} computed; outputs {summary['num_output_tokens']:,} tokens; peak "
          f"memory {summary['memory']['peak_bytes'] / 2**20:,.0f} MiB", flush=True)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moba", default=str(REPO / "build" / "cpu" / "tools" / "moba"))
    parser.add_argument("--model", default=str(REPO / "configs" / "models" / "moba-books-19m"))
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=32)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        document_of(args.moba, args.model, args.tokens, folder)
        one = run(args, folder, 1)
        many = run(args, folder, args.questions)
    print(f"{args.questions} questions take {many / one:.2f} times as long as one")


if __name__ == "__main__":
    main()
