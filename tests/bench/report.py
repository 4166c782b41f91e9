#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' results as a table, and as a graph of decode speed against bits per value.

Each input is one instruction set's JSON from Google Benchmark, named after it. Of repeated runs the fastest counts: on
a shared machine the others measure the neighbours. Speeds are of CPU time.
"""

import argparse
import json
import math
import pathlib
import platform

WIDTH, HEIGHT, MARGIN = 820, 480, 64
COLOURS = ["#1b6ca8", "#c44536", "#3a7d44", "#8d5a97", "#b07d2b", "#4a4a4a", "#2a9d8f"]


def load(path):
    """Benchmark name -> its counters, the fastest repetition's."""
    best = {}
    for run in json.loads(path.read_text())["benchmarks"]:
        if run.get("run_type") == "aggregate" or "error_occurred" in run:
            continue
        name = run["run_name"]
        if name not in best or run["cpu_time"] < best[name]["cpu_time"]:
            best[name] = run
    return best


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def print_origin(path):
    """What was measured, and on what."""
    context = json.loads(path.read_text())["context"]
    print(f"{cpu_name()}, one core (two where the line says so), {context['compiler']}, {context['data']}\n")


def print_table(results):
    print("| benchmark | " + " | ".join(results) + " | bits |")
    print("|---|" + "---|" * (len(results) + 1))
    for name in dict.fromkeys(name for runs in results.values() for name in runs):
        cells, bits = [], ""
        for runs in results.values():
            run = runs.get(name, {})
            if "symbols/s" in run:
                cells.append(f"{run['symbols/s'] / 1e9:.2f} Gsym/s")
            elif "bytes/s" in run:
                cells.append(f"{run['bytes/s'] / 1e9:.3g} GB/s")
            else:
                cells.append("")
            size = run.get("bits/symbol", run.get("bits/value"))
            bits = f"{size:.3f}" if size else bits
            if "over_entropy" in run:
                bits = f"{size:.3f} ({run['over_entropy']:.3f} x entropy, {run['with_classes']:.3f} with classes)"
        print(f"| {name} | " + " | ".join(cells) + f" | {bits} |")


def curves(results):
    """Name -> [(bits per value, GB/s of f16 that the symbols stand for)]."""
    points = {}
    peers = set()
    for isa, runs in results.items():
        for name, run in runs.items():
            if name.startswith("fused_decode/"):
                points.setdefault(f"kvpack to f16, {isa}", []).append((run["bits/value"], run["bytes/s"] / 1e9))
            elif "symbols/s" in run and not name.startswith("kvpack") and name not in peers:
                peers.add(name)
                label = name.split("/")[0].replace("_symbols", "") + " " + "/".join(name.split("/")[1:-1])
                points.setdefault(f"{label.strip()}, symbols only", []).append(
                    (run["bits/symbol"], 2 * run["symbols/s"] / 1e9))
    return {name: sorted(of) for name, of in points.items()}


def draw(lines):
    """An SVG with one polyline or dot per curve; both axes linear from zero."""
    most_x = math.ceil(max(x for of in lines.values() for x, _ in of))
    most_y = math.ceil(max(y for of in lines.values() for _, y in of))
    at_x = lambda x: MARGIN + x / most_x * (WIDTH - 2 * MARGIN - 170)
    at_y = lambda y: HEIGHT - MARGIN - y / most_y * (HEIGHT - 2 * MARGIN)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for x in range(most_x + 1):
        out.append(f'<text x="{at_x(x):.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{x}</text>')
    for y in range(most_y + 1):
        out.append(f'<path d="M{at_x(0):.1f} {at_y(y):.1f}H{at_x(most_x):.1f}" stroke="#ddd"/>'
                   f'<text x="{MARGIN - 8}" y="{at_y(y) + 4:.1f}" text-anchor="end">{y}</text>')
    out.append(f'<text x="{at_x(most_x / 2):.1f}" y="{HEIGHT - 18}" text-anchor="middle">bits per value</text>'
               f'<text x="18" y="{at_y(most_y / 2):.1f}" text-anchor="middle" '
               f'transform="rotate(-90 18 {at_y(most_y / 2):.1f})">decoded, GB/s of f16, one core</text>')
    for number, (name, of) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        if len(of) > 1:
            path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in of)
            out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="4" fill="{colour}"/>' for x, y in of]
        legend_y = MARGIN + 20 * number
        out.append(f'<circle cx="{WIDTH - MARGIN - 150}" cy="{legend_y - 4}" r="4" fill="{colour}"/>'
                   f'<text x="{WIDTH - MARGIN - 140}" y="{legend_y}">{name}</text>')
    return "\n".join(out + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=pathlib.Path)
    parser.add_argument("--svg", type=pathlib.Path, help="where to write the graph")
    arguments = parser.parse_args()
    results = {path.stem: load(path) for path in arguments.results}
    print_origin(arguments.results[0])
    print_table(results)
    if arguments.svg:
        arguments.svg.write_text(draw(curves(results)))


if __name__ == "__main__":
    main()
