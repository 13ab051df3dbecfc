#!/usr/bin/env python3
"""Causal attention of PyTorch on this machine's GPU: the ceiling that attention_cuda_bench is held against.

    attention_torch.py [--tokens 8192,32768,131072] [--heads 32/8] [--head-dim 128] [--repeats 5]

Prints the median milliseconds of scaled_dot_product_attention with the cuDNN and the FlashAttention
backend, L2 flushed before every repeat, and TFLOP/s on attended pairs.
"""
import argparse

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", default="8192,32768,131072")
    parser.add_argument("--heads", default="32/8")
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--flash", action="store_true", help="time FlashAttention too")
    args = parser.parse_args()
    q_heads, kv_heads = (int(x) for x in args.heads.split("/"))
    flush = torch.empty(192 << 20, dtype=torch.uint8, device="cuda")
    backends = {"cudnn": SDPBackend.CUDNN_ATTENTION}
    if args.flash:
        backends["flash"] = SDPBackend.FLASH_ATTENTION
    print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    for tokens in (int(x) for x in args.tokens.split(",")):
        q = torch.randn(1, q_heads, tokens, args.head_dim, device="cuda", dtype=torch.bfloat16)
        k = torch.randn(1, kv_heads, tokens, args.head_dim, device="cuda", dtype=torch.bfloat16)
        v = torch.randn_like(k)
        for name, backend in backends.items():
            times = []
            with sdpa_kernel([backend]):
                for repeat in range(args.repeats + 1):
                    flush.zero_()
                    start = torch.cuda.Event(enable_timing=True)
                    end = torch.cuda.Event(enable_timing=True)
                    start.record()
                    F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q_heads != kv_heads)
                    end.record()
                    torch.cuda.synchronize()
                    if repeat > 0:
                        times.append(start.elapsed_time(end))
            ms = sorted(times)[len(times) // 2]
            flops = 4 * args.head_dim * q_heads * tokens * (tokens + 1) / 2
            print(f"{name:6} n {tokens:8} {ms:9.3f} ms {flops / ms * 1e-9:7.1f} TFLOP/s", flush=True)


if __name__ == "__main__":
    main()
