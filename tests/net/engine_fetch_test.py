#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvpack fetch with a real llama-server that recomputes the front while the back is loaded, before a deadline.

    python3 -B tests/net/engine_fetch_test.py --kvpack build/release/cli/kvpack

KVPACK_LLAMA_SERVER and KVPACK_SMOLLM2_GGUF name the server and the model, as tests/engine/fetch_llama.sh --server prints
them. `sh tests/run --server` runs this.

The link is too slow for the base, the engine too slow for the whole context: only together are they in time. What they
can do is measured first, here, by themselves: the server's seconds per chunk (a prompt that grows by a chunk), its
seconds to save the slot, `kvpack decode --level 0`. Once the opening has come, which names the tokens, an oracle
has the engine compute m chunks while the link carries the base of the others, for the m that ends first, and then saves
the slot and decodes. A deadline that it meets has to be met
within 50 ms by the whole process, its file must hold every token, and the server must go on from it.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "engine"))
import fetch_test  # Server: a link with a rate
import llama_server

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPENING_BYTES = 65536
LATE_ALLOWANCE_S = 0.05
DEADLINES = (1.15, 1.5)  # times what the oracle needs
CONTEXT_TOKENS = 2048
CHUNK_TOKENS = 64
PROMPT_CHARACTERS = 2800


def kvpack(*words):
    start = time.monotonic()
    run = subprocess.run([KVPACK, *map(str, words)], capture_output=True, text=True, timeout=300)
    assert run.returncode in (0, 3), f"kvpack {words}: {run.returncode}\n{run.stdout}{run.stderr}"
    return time.monotonic() - start, run


def prompt():
    """About 600 tokens: seconds of a small machine."""
    text = (ROOT / "tests" / "engine" / "texts" / "story.txt").read_text()
    return text[:PROMPT_CHARACTERS]


class Context:
    """A prompt's cache as an archive, and what it costs to have it again."""

    def __init__(self, server, gguf, prompt, folder):
        self.server, self.prompt, self.folder = server, prompt, folder
        status, answer = server.call("/tokenize", {"content": prompt, "add_special": True})
        assert status == 200
        self.tokens = answer["tokens"]
        server.complete(self.tokens, 0)
        assert server.slot("save", "saved.bin")[0] == 200
        self.archive = folder / "ctx.kvp"
        kvpack("encode", folder / "saved.bin", "--model", gguf, "--quality", "high", "--chunk-tokens", CHUNK_TOKENS,
               "-o", self.archive)
        found = json.loads(kvpack("inspect", "--json", self.archive)[1].stdout)
        self.base_bytes = found["levels"][0]["cumulative_bytes"]
        self.sections_bytes = max(OPENING_BYTES, self.base_bytes - found["levels"][0]["bytes"])
        self.decode_s = statistics.median(
            kvpack("decode", self.archive, "--level", 0, "-f", "-o", folder / "local.bin")[0] for _ in range(3))
        self.chunk_s, self.save_s = self.measure_engine()

    def measure_engine(self):
        """[chunk] seconds, as a client sees them; seconds to save the slot."""
        self.server.slot("erase")
        seconds = []
        for end in range(CHUNK_TOKENS, len(self.tokens) + CHUNK_TOKENS, CHUNK_TOKENS):
            start = time.monotonic()
            self.server.complete(self.tokens[:end], 0)
            seconds.append(time.monotonic() - start)
        start = time.monotonic()
        self.server.slot("save", "measured.bin")
        return seconds, time.monotonic() - start

    def oracle_s(self, bytes_per_s):
        """Seconds, and the chunks recomputed, where engine and link end first."""
        chunks = len(self.chunk_s)
        opening_s = OPENING_BYTES / bytes_per_s
        sections_s = (self.sections_bytes - OPENING_BYTES) / bytes_per_s
        per_chunk_s = max(0, self.base_bytes - self.sections_bytes) / chunks / bytes_per_s
        return min((opening_s + max(sum(self.chunk_s[:m]), sections_s + (chunks - m) * per_chunk_s) + self.save_s + self.decode_s, m)
                   for m in range(chunks + 1))


def run_deadline(context, link, deadline_s, oracle_s):
    context.server.slot("erase")
    out = context.folder / "fetched.bin"
    speed = len(context.tokens) / sum(context.chunk_s)
    seconds, run = kvpack("fetch", link.url, "--ttft", f"{deadline_s:.3f}s", "--json", "--engine",
                          f"http://127.0.0.1:{context.server.port}", "--slot-save-path", context.folder, "--prefill-tok-s",
                          f"{speed:.0f}", "-f", "-o", out)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    done = lines[-1]
    recomputed = sum(line["event"] == "chunk" and line["action"] == "recompute" for line in lines)
    late_s = seconds - deadline_s
    # The server takes the file, and computes nothing but the last token.
    context.server.slot("erase")
    status, _ = context.server.slot("restore", out.name)
    reused = context.server.complete(context.tokens, 1)["timings"]["cache_n"]
    whole = status == 200 and reused == len(context.tokens) - 1 and not list(context.folder.glob("kvpack-*"))
    good = whole and (oracle_s > deadline_s or (late_s <= LATE_ALLOWANCE_S and not done["degraded"]))
    print(f"    deadline {deadline_s:.2f} s: {seconds:.2f} s ({1000 * late_s:+.0f} ms), {recomputed} of "
          f"{len(context.chunk_s)} chunks recomputed, {done['bytes']['network'] / 1e3:.0f} kB loaded by "
          f"{done['seconds']['loaded']:.2f} s, {reused} of {len(context.tokens)} tokens reused: "
          f"{'ok' if good else 'LATE' if whole else 'WRONG'}", flush=True)
    return good, recomputed


def run(gguf, threads):
    with tempfile.TemporaryDirectory(prefix="kvpack-engine-") as folder:
        folder = pathlib.Path(folder)
        options = ["-c", CONTEXT_TOKENS, "-np", 1, "-t", threads]
        with llama_server.Server(os.environ["KVPACK_LLAMA_SERVER"], gguf, folder, *options) as server:
            context = Context(server, gguf, prompt(), folder)
            # The link alone would take twice what the engine alone takes: they meet at two thirds.
            rate = context.base_bytes / (2 * sum(context.chunk_s))
            link = fetch_test.Server(context.archive, rate)
            try:
                oracle_s, m = context.oracle_s(rate)
                print(f"{gguf.name}: {len(context.tokens)} tokens, engine alone {sum(context.chunk_s):.2f} s, base of "
                      f"{context.base_bytes / 1e3:.0f} kB at {rate / 1e3:.0f} kB/s alone {context.base_bytes / rate:.2f} s; "
                      f"oracle: {m} chunks recomputed, save {context.save_s:.3f} s, decode {context.decode_s:.2f} s, "
                      f"together {oracle_s:.2f} s", flush=True)
                runs = [run_deadline(context, link, factor * oracle_s, oracle_s) for factor in DEADLINES]
            finally:
                link.close()
    return all(good for good, _ in runs) and any(recomputed > 0 for _, recomputed in runs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kvpack", required=True, type=os.path.abspath)
    parser.add_argument("--threads", type=int, default=1, help="of the server")
    arguments = parser.parse_args()
    global KVPACK
    KVPACK = arguments.kvpack
    for name in ("KVPACK_LLAMA_SERVER", "KVPACK_SMOLLM2_GGUF"):
        if not os.path.isfile(os.environ.get(name, "")):
            sys.exit(f"engine_fetch_test.py: {name} names no file: see tests/engine/fetch_llama.sh --server")
    return 0 if run(pathlib.Path(os.environ["KVPACK_SMOLLM2_GGUF"]), arguments.threads) else 1


if __name__ == "__main__":
    sys.exit(main())
