#!/usr/bin/env python3
"""Plots what `moba bench attention --json` printed: milliseconds against tokens, both axes logarithmic, as SVG.

    plot_attention.py SWEEP.json [--cudnn CUDNN.json] [-o docs/attention_sweep.svg]

A panel for each shape (heads, dimensions of a head) with a line for full attention, one for each MoBA
pair, and, given the file of attention_torch.py --json, one for cuDNN. Needs Python 3 alone.
"""
import argparse
import json
import math

WIDTH, HEIGHT = 520, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 120, 40, 48
COLOURS = ["#000000", "#888888", "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b"]


def series_of(cases, cudnn):
    """{(q_heads, kv_heads, head_dim): {name: [(tokens, ms)]}}"""
    panels = {}
    for case in cases:
        shape = (case["q_heads"], case["kv_heads"], case["head_dim"])
        name = "full" if case["topk"] == 0 else f"{case['block']}/{case['topk']}"
        panels.setdefault(shape, {}).setdefault(name, []).append((case["tokens"], case["ms"]["total"]))
    for case in cudnn:
        shape = (case["q_heads"], case["kv_heads"], case["head_dim"])
        if case["backend"] == "cudnn" and shape in panels:
            panels[shape].setdefault("cuDNN full", []).append((case["tokens"], case["ms"]))
    return panels


def tokens_text(tokens):
    return f"{tokens >> 20}M" if tokens >= 1 << 20 else f"{tokens >> 10}K"


def panel_svg(shape, lines, x0, y0, colours):
    points = [point for line in lines.values() for point in line]
    lengths = sorted({tokens for tokens, _ in points})
    x_low, x_high = math.log2(lengths[0]), max(math.log2(lengths[-1]), math.log2(lengths[0]) + 1)
    y_low = math.floor(math.log10(min(ms for _, ms in points)))
    y_high = math.ceil(math.log10(max(ms for _, ms in points)))
    y_high = max(y_high, y_low + 1)
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x_of(tokens):
        return x0 + LEFT + width * (math.log2(tokens) - x_low) / (x_high - x_low)

    def y_of(ms):
        return y0 + TOP + height * (y_high - math.log10(ms)) / (y_high - y_low)

    svg = [f'<text x="{x0 + LEFT}" y="{y0 + 24}" font-size="14">{shape[0]}/{shape[1]} heads of {shape[2]}</text>']
    for tokens in lengths:
        x = x_of(tokens)
        svg.append(f'<line x1="{x:.1f}" y1="{y0 + TOP}" x2="{x:.1f}" y2="{y0 + TOP + height}" stroke="#ddd"/>')
        svg.append(f'<text x="{x:.1f}" y="{y0 + TOP + height + 16}" text-anchor="middle">{tokens_text(tokens)}</text>')
    for power in range(y_low, y_high + 1):
        y = y_of(10 ** power)
        svg.append(f'<line x1="{x0 + LEFT}" y1="{y:.1f}" x2="{x0 + LEFT + width}" y2="{y:.1f}" stroke="#ddd"/>')
        svg.append(f'<text x="{x0 + LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0 ** power:g}</text>')
    svg.append(f'<text x="{x0 + LEFT + width / 2}" y="{y0 + HEIGHT - 8}" text-anchor="middle">tokens</text>')
    svg.append(f'<text x="{x0 + 14}" y="{y0 + TOP + height / 2}" text-anchor="middle" '
               f'transform="rotate(-90 {x0 + 14} {y0 + TOP + height / 2})">milliseconds</text>')
    for i, (name, line) in enumerate(lines.items()):
        colour = colours[name]
        path = " ".join(f"{x_of(tokens):.1f},{y_of(ms):.1f}" for tokens, ms in sorted(line))
        svg.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        svg += [f'<circle cx="{x_of(tokens):.1f}" cy="{y_of(ms):.1f}" r="2.5" fill="{colour}"/>' for tokens, ms in line]
        y = y0 + TOP + 12 + 18 * i
        svg.append(f'<line x1="{x0 + LEFT + width + 10}" y1="{y - 4}" x2="{x0 + LEFT + width + 30}" y2="{y - 4}" '
                   f'stroke="{colour}" stroke-width="2"/>')
        svg.append(f'<text x="{x0 + LEFT + width + 36}" y="{y}">{name}</text>')
    return svg


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("sweep")
    parser.add_argument("--cudnn")
    parser.add_argument("-o", "--output", default="docs/attention_sweep.svg")
    args = parser.parse_args()
    with open(args.sweep, encoding="utf-8") as file:
        sweep = json.load(file)
    cudnn = []
    if args.cudnn:
        with open(args.cudnn, encoding="utf-8") as file:
            cudnn = json.load(file)["cases"]
    panels = series_of([case for case in sweep["cases"] if case["mode"] == "prefill"], cudnn)
    names = ["cuDNN full", "full"]
    for lines in panels.values():
        names += [name for name in lines if name not in names]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    columns = min(2, len(panels))
    rows = (len(panels) + columns - 1) // columns
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * columns}" height="{HEIGHT * rows + 20}" '
           'font-family="sans-serif" font-size="11">', '<rect width="100%" height="100%" fill="white"/>']
    for i, (shape, lines) in enumerate(panels.items()):
        ordered = {name: lines[name] for name in names if name in lines}
        svg += panel_svg(shape, ordered, WIDTH * (i % columns), HEIGHT * (i // columns), colours)
    svg.append(f'<text x="8" y="{HEIGHT * rows + 12}">Prefill of one layer on one {sweep["device_name"]}, '
               f'{sweep["dtype"]}; pairs are MoBA block size / top-k; commit {sweep["commit"]}</text>')
    svg.append("</svg>")
    with open(args.output, "w", encoding="utf-8") as file:
        file.write("\n".join(svg) + "\n")


if __name__ == "__main__":
    main()
