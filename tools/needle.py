#!/usr/bin/env python3
"""Planted-number retrieval: how often a model finds a number again in a long text.

Each trial plants one sentence, "The secret number of NAME is NNNNN.", at a paragraph break near the
wanted depth of a stretch of book text, asks for the number at the end and decodes greedily; it counts
when all five digits are right. The table has the share of right answers per prompt length, depth and
attention mode. The prompts are put together from token ids exactly as the embedded model's evaluation
does: BOS, book, fact, book, question; names are drawn from the same list and digits uniformly. Only
the random generator differs (Python's instead of NumPy's), so single trials are other ones.

  tools/needle.py --text war-and-peace.txt.xz
  tools/needle.py --text book.txt --lengths 2048 8192 --trials 5 --modes moba

Needs Python 3 alone, and a built `moba`. Without --text the bundled 16K-token stretch is used, which
serves lengths up to about 16,000. Every trial is a process of its own: the time is that of reading
the prompts (20 trials of all default lengths and depths are 3.8 million tokens a mode).
"""
import argparse
import bisect
import json
import lzma
import os
import random
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

NAMES = """Margaret Alice Edward Thomas Eleanor Henry Catherine Arthur Dorothy
Walter Beatrice George Harriet Samuel Charlotte Oliver Florence Frederick Martha
Nicholas Edith Philip Lucy Richard Agnes Stephen Clara Hugh Emily Peter Rosamund
Daniel Helen Gilbert Judith Matthew Laura Andrew Sophia Robert Constance Charles
Isabel Francis Amelia Lawrence Grace Simon Louisa Ralph Julia Martin Esther Paul
Fanny Joseph Susan Godfrey Marian Benjamin Phoebe Leonard Diana Gregory Winifred
Roger Bertha Adam Victoria Cecil Miriam Oswald Ursula Barnaby Hester Edmund Jane
Augustus Cecilia Reginald Ruth Timothy Priscilla Humphrey Adelaide Jasper Flora
Ambrose Lydia Silas Penelope Rupert Matilda Tobias Sylvia Ernest Camilla Victor
Josephine Felix Theresa Dominic Viola Lionel Gertrude Conrad Rebecca Basil Naomi
Horace Deborah Julian Octavia Morris Irene Clement Barbara Magnus Teresa""".split()


class Moba:
    """Runs the command line program."""

    def __init__(self, program, model, extra):
        self.program, self.model, self.extra = program, model, extra

    def run(self, *args):
        command = [self.program, *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"needle: {' '.join(command)} failed:\n{done.stderr.strip()}")
        return json.loads(done.stdout)

    def encode(self, path):
        """Token ids of a text file, without BOS."""
        return self.run("tokenize", "--model", self.model, "--no-bos", "--json", "-f", path)["token_ids"]

    def generate(self, ids_path, mode, count):
        return self.run("generate", "--model", self.model, "--prompt-ids", ids_path, "--json",
                        "--attention", mode, "--temperature", "0", "--max-tokens", str(count),
                        "--ignore-eos", *self.extra)


class Prompts:
    """Makes prompts out of book text."""

    def __init__(self, moba, texts, folder):
        self.moba, self.folder, self.cache = moba, folder, {}
        self.newline = self.line("\n\n")[0]
        self.stream = []
        for text in texts:
            self.stream += moba.encode(self.file("book.txt", text))
        nl, s = self.newline, self.stream
        # The places behind an empty line.
        self.breaks = [i + 2 for i in range(len(s) - 1) if s[i] == nl and s[i + 1] == nl]

    def file(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8", newline="") as out:
            out.write(text)
        return path

    def line(self, text):
        """Token ids of a text that starts a line: without the space SentencePiece puts in front."""
        if text not in self.cache:
            self.cache[text] = self.moba.encode(self.file("line.txt", "\n" + text))[2:]
        return self.cache[text]

    def make(self, rng, length, depth):
        """A prompt of `length` tokens with the fact at `depth` of it, and its answer."""
        name, number = rng.choice(NAMES), "".join(rng.choice("0123456789") for _ in range(5))
        fact = self.line(f"The secret number of {name} is {number}.") + [self.newline] * 2
        ask = [self.newline] * 2 + self.line(
            f"What is the secret number of {name}? The secret number of {name} is {number}")
        ask, answer = ask[:-6], ask[-6:]          # a space and five digits
        room = length - 1 - len(fact) - len(ask)
        if room >= len(self.stream):
            sys.exit(f"needle: prompts of {length} tokens need more text than the "
                     f"{len(self.stream)} tokens given; name a book with --text")
        for _ in range(1000):
            start = rng.randrange(len(self.stream) - room)
            want = start + depth * room
            k = bisect.bisect(self.breaks, want)
            near = [b for b in self.breaks[max(0, k - 1):k + 1] if start + 2 <= b <= start + room]
            if not near:
                continue
            at = min(near, key=lambda b: abs(b - want))
            if abs(at - want) <= max(64, room // 20):
                book = self.stream
                return [BOS] + book[start:at] + fact + book[at:start + room] + ask, answer
        sys.exit(f"needle: the text has no paragraph break near {depth:.0%} of {length} tokens")


BOS = 1


def read_text(path):
    opened = lzma.open(path, "rt", encoding="utf-8") if path.endswith(".xz") else open(
        path, encoding="utf-8")
    with opened as text:
        return text.read()


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--moba", default=os.path.join(ROOT, "build/cpu/tools/moba"),
                   help="the program (default: of the Release build)")
    p.add_argument("--model", default=os.path.join(ROOT, "configs/models/moba-books-19m"))
    p.add_argument("--text", nargs="+", help="book text, plain or .xz",
                   default=[os.path.join(ROOT, "configs/text/pride-and-prejudice-16k.txt")])
    p.add_argument("--lengths", nargs="+", type=int, default=[2048, 4096, 8192, 16384, 32768])
    p.add_argument("--depths", nargs="+", type=int, default=[10, 50, 90], help="percent")
    p.add_argument("--modes", nargs="+", choices=["auto", "moba", "full"], default=["moba", "full"])
    p.add_argument("--trials", type=int, default=20)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--min-accuracy", type=float, help="exit 1 if any cell is below")
    p.add_argument("--json", action="store_true", help="results as JSON on standard output")
    p.add_argument("--moba-args", default="", help="more arguments of `moba generate`, in one string")
    return p.parse_args()


def main():
    a = parse_arguments()
    moba = Moba(a.moba, a.model, a.moba_args.split())
    out = sys.stderr if a.json else sys.stdout
    cells, worst, start = [], 1.0, time.time()
    with tempfile.TemporaryDirectory() as folder:
        prompts = Prompts(moba, [read_text(path) for path in a.text], folder)
        print(f"{len(prompts.stream)} tokens of text, {a.trials} trials a cell", file=out)
        print("  length  depth" + "".join(f"{m:>8}" for m in a.modes), file=out)
        for length in a.lengths:
            for depth in a.depths:
                rng = random.Random(f"{a.seed}-{length}-{depth}")
                right = dict.fromkeys(a.modes, 0)
                for _ in range(a.trials):
                    ids, answer = prompts.make(rng, length, depth / 100)
                    assert len(ids) == length
                    path = prompts.file("ids.json", json.dumps(ids))
                    for mode in a.modes:
                        got = moba.generate(path, mode, len(answer))["token_ids"]
                        right[mode] += got == answer
                row = {mode: n / a.trials for mode, n in right.items()}
                cells.append({"length": length, "depth": depth / 100, "accuracy": row})
                worst = min(worst, *row.values())
                print(f"{length:8d} {depth:5d}%" + "".join(f"{v:8.2f}" for v in row.values()),
                      file=out, flush=True)
    seconds = time.time() - start
    print(f"lowest {worst:.2f}, {seconds:.0f} s", file=out)
    if a.json:
        json.dump({"trials": a.trials, "seed": a.seed, "cells": cells, "lowest": worst,
                   "seconds": round(seconds, 1)}, sys.stdout)
        print()
    if a.min_accuracy is not None and worst < a.min_accuracy:
        print(f"needle: {worst:.2f} is below {a.min_accuracy}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
