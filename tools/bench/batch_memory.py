#!/usr/bin/env python3
"""Runs moba batch over an input of many lines and watches its memory.

A checkpoint with random weights, small enough that the program around the model does most of the
work, answers --lines requests of one token each. The resident set is read twice a second. After
--warm-up lines it must not grow by more than --allow MiB, or the exit code is 1.

  tools/bench/batch_memory.py --moba build/cpu/tools/moba
"""

import argparse
import array
import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parents[2]
EMBEDDED = REPO / "configs" / "models" / "moba-books-19m"
HIDDEN, HEAD_DIM, HEADS, INTERMEDIATE, LAYERS, VOCAB = 32, 16, 2, 64, 2, 8192


def write_model(folder):
    """A Llama with MoBA layers and the embedded model's tokenizer."""
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32",
        "hidden_act": "silu", "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": 1, "head_dim": HEAD_DIM,
        "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "max_position_embeddings": 4096,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
        "moba_chunk_size": 64, "moba_topk": 3, "moba_full_attention_layers": [1],
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": [VOCAB, HIDDEN], "model.norm.weight": [HIDDEN]}
    for i in range(LAYERS):
        for name, shape in {
            "input_layernorm": [HIDDEN], "post_attention_layernorm": [HIDDEN],
            "self_attn.q_proj": [HEADS * HEAD_DIM, HIDDEN], "self_attn.k_proj": [HEAD_DIM, HIDDEN],
            "self_attn.v_proj": [HEAD_DIM, HIDDEN], "self_attn.o_proj": [HIDDEN, HEADS * HEAD_DIM],
            "mlp.gate_proj": [INTERMEDIATE, HIDDEN], "mlp.up_proj": [INTERMEDIATE, HIDDEN],
            "mlp.down_proj": [HIDDEN, INTERMEDIATE],
        }.items():
            shapes[f"model.layers.{i}.{name}.weight"] = shape
    rng = random.Random(7)
    header, data = {}, b""
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        values = array.array("f", (rng.gauss(0, 0.3) if len(shape) == 2 else 1.0
                                   for _ in range(count)))
        header[name] = {"dtype": "F32", "shape": shape,
                        "data_offsets": [len(data), len(data) + 4 * count]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    for name in ("tokenizer.model", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(EMBEDDED / name, folder / name)


def write_input(path, lines):
    with open(path, "w") as file:
        for i in range(lines):
            body = {"prompt": f"Line {i} of many, and its number squared is {i * i}",
                    "max_tokens": 1, "temperature": 0, "ignore_eos": True}
            file.write(json.dumps({"custom_id": f"request-{i}", "method": "POST",
                                   "url": "/v1/completions", "body": body}) + "\n")


def resident_mib(pid):
    try:
        for line in open(f"/proc/{pid}/status"):
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moba", default=str(REPO / "build" / "cpu" / "tools" / "moba"))
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--warm-up", type=int, default=10_000)
    parser.add_argument("--allow", type=float, default=8.0, help="MiB (default: 8)")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_model(folder / "tiny")
        write_input(folder / "in.jsonl", args.lines)
        output = folder / "out.jsonl"
        start = time.time()
        process = subprocess.Popen([args.moba, "batch", "-q", "-m", str(folder / "tiny"),
                                    str(folder / "in.jsonl"), "-o", str(output)])
        samples = []  # lines done, resident MiB
        done, position = 0, 0
        while process.poll() is None:
            time.sleep(0.5)
            rss = resident_mib(process.pid)
            if rss is None or not output.exists():
                continue
            with open(output, "rb") as file:
                file.seek(position)
                new = file.read()
            position += len(new)
            done += new.count(b"\n")
            samples.append((done, rss))
        seconds = time.time() - start
        with open(output) as file:
            ids = [json.loads(line)["custom_id"] for line in file]

    if process.returncode != 0 or len(ids) != args.lines or len(set(ids)) != args.lines:
        sys.exit(f"exit code {process.returncode}, {len(ids)} results, {len(set(ids))} ids")
    later = [rss for lines, rss in samples if lines >= args.warm_up]
    for part in range(1, 11):
        at = [rss for lines, rss in samples if lines <= args.lines * part // 10]
        if at:
            print(f"{args.lines * part // 10:>9,} lines: {at[-1]:8.1f} MiB")
    growth = max(later) - later[0]
    print(f"{args.lines:,} lines in {seconds:.1f} s, {args.lines / seconds:,.0f} lines/s; "
          f"resident {later[0]:.1f} MiB after {args.warm_up:,} lines, {max(later):.1f} MiB at most "
          f"since: grown by {growth:.1f} MiB")
    sys.exit(0 if growth <= args.allow else 1)


if __name__ == "__main__":
    main()
