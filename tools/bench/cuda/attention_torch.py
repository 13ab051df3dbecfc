#!/usr/bin/env python3
"""Causal attention of PyTorch on this machine's GPU: the ceiling that `moba bench attention` is held against.

    attention_torch.py [--tokens 8192,32768,131072] [--heads 32/8,16/16] [--head-dims 128,64] [--repeats 5]
                       [--flash] [--json FILE]

Prints the median milliseconds of scaled_dot_product_attention with the cuDNN (and the FlashAttention)
backend, L2 flushed before every repeat, and TFLOP/s on attended pairs. --json writes them for
`moba bench attention --cudnn FILE`.
"""
import argparse
import json

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def milliseconds(q, k, v, flush, repeats):
    times = []
    for repeat in range(repeats + 1):
        flush.zero_()
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        start.record()
        F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        end.record()
        torch.cuda.synchronize()
        if repeat > 0:
            times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", default="8192,32768,131072")
    parser.add_argument("--heads", default="32/8,16/16")
    parser.add_argument("--head-dims", default="128,64")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--flash", action="store_true", help="time FlashAttention too")
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    flush = torch.empty(192 << 20, dtype=torch.uint8, device="cuda")
    backends = {"cudnn": SDPBackend.CUDNN_ATTENTION}
    if args.flash:
        backends["flash"] = SDPBackend.FLASH_ATTENTION
    versions = {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}
    print(f"# {torch.cuda.get_device_name()}, torch {versions['torch']}, cuDNN {versions['cudnn']}")
    cases = []
    for heads in args.heads.split(","):
        q_heads, kv_heads = (int(x) for x in heads.split("/"))
        for head_dim in (int(x) for x in args.head_dims.split(",")):
            for tokens in (int(x) for x in args.tokens.split(",")):
                q = torch.randn(1, q_heads, tokens, head_dim, device="cuda", dtype=torch.bfloat16)
                k = torch.randn(1, kv_heads, tokens, head_dim, device="cuda", dtype=torch.bfloat16)
                v = torch.randn_like(k)
                for name, backend in backends.items():
                    with sdpa_kernel([backend]):
                        ms = milliseconds(q, k, v, flush, args.repeats)
                    flops = 4 * head_dim * q_heads * tokens * (tokens + 1) / 2
                    print(f"{name:6} heads {heads:6} d {head_dim:4} n {tokens:8} {ms:9.3f} ms "
                          f"{flops / ms * 1e-9:7.1f} TFLOP/s", flush=True)
                    cases.append({"backend": name, "q_heads": q_heads, "kv_heads": kv_heads,
                                  "head_dim": head_dim, "tokens": tokens, "ms": ms})
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"device_name": torch.cuda.get_device_name(), **versions, "cases": cases}, file)


if __name__ == "__main__":
    main()
