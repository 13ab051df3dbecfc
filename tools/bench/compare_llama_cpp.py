#!/usr/bin/env python3
"""Times moba and llama.cpp in turns on one model and prints the ratio of their speeds.

Both run the same shape on the same cores in the same minutes: every round times llama.cpp, then moba, for each case, and the
table gives the medians over the rounds. A ratio above 1 means that moba is faster. The model must be there in both forms: a
GGUF file for llama.cpp and a Hugging Face directory of the same weights for moba.

Example:
  tools/bench/compare_llama_cpp.py --llama-bench llama.cpp/build/bin/llama-bench --gguf model-bf16.gguf \\
      --moba build/cpu/tools/moba --model DIR --prompt-tokens 512,2048 --output-tokens 128
"""

import argparse
import json
import statistics
import subprocess
import sys


def lengths(text):
    return [int(part) for part in text.split(",") if part]


def call(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        sys.exit(f"compare_llama_cpp: {command[0]} failed: {last}")
    return json.loads(done.stdout)


def llama_rate(options, kind, length, flash):
    prompt, output = (length, 0) if kind == "prefill" else (0, length)
    rows = call([options.llama_bench, "-m", options.gguf, "-t", str(options.threads), "-fa", str(flash),
                 "-p", str(prompt), "-n", str(output), "-r", "1", "-o", "json"])
    return rows[0]["avg_ts"]


def moba_rate(options, kind, length, extra):
    command = [options.moba, "bench", "latency", "--model", options.model, "--threads",
               str(options.threads), "--json", "--quiet", "--repeats", "1"] + extra
    if kind == "prefill":
        command += ["--prompt-tokens", str(length), "--output-tokens", "0"]
    else:
        command += ["--prompt-tokens", "", "--output-tokens", str(length)]
    return call(command)["cases"][0]["tokens_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-bench", required=True, help="llama.cpp's llama-bench program")
    parser.add_argument("--gguf", required=True, help="the model for llama.cpp")
    parser.add_argument("--moba", default="build/cpu/tools/moba", help="the moba program")
    parser.add_argument("--model", required=True, help="the model for moba")
    parser.add_argument("--prompt-tokens", type=lengths, default=[512, 2048], help="prompts to time, e.g. 512,2048")
    parser.add_argument("--output-tokens", type=lengths, default=[128], help="outputs to time, e.g. 128")
    parser.add_argument("--modes", default="auto,full", help="moba's attention modes (default: auto,full)")
    parser.add_argument("--flash", default="0,1", help="llama.cpp's -fa values; the faster counts (default: 0,1)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    modes = options.modes.split(",")
    cases = [("prefill", n) for n in options.prompt_tokens] + [("decode", n) for n in options.output_tokens]
    print(f"{options.threads} threads, medians of {options.rounds} rounds, tokens/s")
    print(f"{'case':<8} {'tokens':>7} {'llama.cpp':>10}" + "".join(f" {'moba ' + m:>12} {'ratio':>7}" for m in modes))
    for kind, length in cases:
        llama = {flash: [] for flash in lengths(options.flash)}
        ours = {mode: [] for mode in modes}
        for _ in range(options.rounds):
            for flash in llama:
                llama[flash].append(llama_rate(options, kind, length, flash))
            for mode in modes:
                ours[mode].append(moba_rate(options, kind, length, ["--attention", mode]))
        best = max(statistics.median(rates) for rates in llama.values())
        line = f"{kind:<8} {length:>7} {best:>10.1f}"
        for mode in modes:
            rate = statistics.median(ours[mode])
            line += f" {rate:>12.1f} {rate / best:>7.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
