#!/usr/bin/env python3
"""Writes rope_expected.json beside this file: frequencies, cosines and sines as transformers computes them.

    python3 -m venv venv && venv/bin/pip install torch transformers
    venv/bin/python tests/model/make_rope_expected.py

A case: a config.json, the sequence length given to dynamic RoPE, `inv_freq`, `attention_scaling`, and
for each of `positions` a row of `cos` and of `sin` (head_dim / 2 each).
"""

import json
import os

import torch
import transformers
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

BASE = dict(architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=16, hidden_size=128,
            intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=131072)
POSITIONS = [0, 1, 2, 63, 1000, 8191, 32767, 131071, 1048575]

CASES = [
    ("default_10000", 0, dict(head_dim=64, rope_theta=10000.0)),
    ("default_1000000", 0, dict(head_dim=128, rope_theta=1000000.0)),
    ("default_head80", 0, dict(head_dim=80, rope_theta=500000)),
    ("parameters_default", 0, dict(head_dim=96, rope_parameters=dict(rope_type="default", rope_theta=5000.0))),
    ("linear", 0, dict(head_dim=64, rope_theta=10000.0, rope_scaling=dict(type="linear", factor=3.0))),
    ("dynamic_short", 1000, dict(head_dim=64, rope_theta=10000.0, max_position_embeddings=4096,
                                 rope_scaling=dict(rope_type="dynamic", factor=2.0))),
    ("dynamic_long", 50000, dict(head_dim=128, rope_theta=10000.0, max_position_embeddings=4096,
                                 rope_scaling=dict(rope_type="dynamic", factor=4.0))),
    ("llama3", 0, dict(head_dim=128, rope_theta=500000.0,
                       rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                         original_max_position_embeddings=8192))),
    ("llama3_32", 0, dict(head_dim=64, rope_theta=500000.0,
                          rope_scaling=dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0,
                                            high_freq_factor=4.0, original_max_position_embeddings=8192))),
    ("llama3_parameters", 0, dict(head_dim=64, rope_parameters=dict(
        rope_type="llama3", rope_theta=250000.0, factor=4.0, low_freq_factor=0.5, high_freq_factor=6.0,
        original_max_position_embeddings=1024))),
    ("yarn", 0, dict(head_dim=128, rope_theta=1000000.0, max_position_embeddings=32768,
                     rope_scaling=dict(type="yarn", factor=4.0, original_max_position_embeddings=32768))),
    ("yarn_no_original", 0, dict(head_dim=64, rope_theta=10000.0, max_position_embeddings=2048,
                                 rope_scaling=dict(rope_type="yarn", factor=16.0))),
    ("yarn_attention_factor", 0, dict(head_dim=64, rope_theta=10000.0, max_position_embeddings=8192,
                                      rope_scaling=dict(rope_type="yarn", factor=2.0, attention_factor=1.3,
                                                        original_max_position_embeddings=4096))),
    ("yarn_mscale", 0, dict(head_dim=64, rope_parameters=dict(
        rope_type="yarn", rope_theta=150000.0, factor=32.0, beta_fast=16.0, beta_slow=2.0, mscale=0.8,
        mscale_all_dim=1.1, truncate=False, original_max_position_embeddings=4096))),
    ("yarn_narrow", 0, dict(head_dim=16, rope_theta=10000.0, max_position_embeddings=128,
                            rope_scaling=dict(rope_type="yarn", factor=2.0, beta_fast=4.0, beta_slow=4.0,
                                              truncate=False, original_max_position_embeddings=64))),
]


def number(x):
    return float(f"{x:.9g}")  # enough to name a float32


def row(values):
    return json.dumps([number(v) for v in values.tolist()], separators=(",", ":"))


def main():
    out = []
    for name, seq_len, keys in CASES:
        config = {**BASE, **keys}
        rope = LlamaRotaryEmbedding(LlamaConfig.from_dict(json.loads(json.dumps(config))))
        if seq_len:  # dynamic RoPE takes the frequencies from the longest position of the call
            rope(torch.zeros(1), torch.tensor([[seq_len - 1]]))
        fields = [f'"name": {json.dumps(name)}', f'"seq_len": {seq_len}', f'"config": {json.dumps(config)}',
                  f'"inv_freq": {row(rope.inv_freq)}', f'"attention_scaling": {number(rope.attention_scaling)}']
        positions = [p for p in POSITIONS if not seq_len or p < seq_len]
        inv_freq = rope.inv_freq.clone()
        cos, sin = rope(torch.zeros(1), torch.tensor([positions]))
        assert torch.equal(inv_freq, rope.inv_freq) or seq_len
        if seq_len:  # a shorter call may have reset the frequencies
            angle = torch.tensor(positions)[:, None].float() * inv_freq
            cos, sin = angle.cos()[None] * rope.attention_scaling, angle.sin()[None] * rope.attention_scaling
        half = inv_freq.numel()
        for key, table in (("cos", cos), ("sin", sin)):
            rows = ",\n   ".join(row(r[:half]) for r in table[0])
            fields.append(f'"{key}": [\n   {rows}]')
        fields.append(f'"positions": {json.dumps(positions)}')
        out.append(" {" + ",\n  ".join(fields) + "}")
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rope_expected.json")
    with open(path, "w") as f:
        f.write(f'{{"transformers": "{transformers.__version__}", "torch": "{torch.__version__.split("+")[0]}", '
                f'"cases": [\n' + ",\n".join(out) + "\n]}\n")
    json.load(open(path))


if __name__ == "__main__":
    main()
