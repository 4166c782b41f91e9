# SPDX-License-Identifier: Apache-2.0
"""kvpack blend into a real llama-server: passages that it cached one by one become one context, and it goes on from that.

    python3 -B tests/engine/blend_server_test.py --kvpack PROGRAM [--threads N]

With nano and SmolLM2, lossless and lossy passages, every selection. With everything computed again the server answers as
after a prefill of the whole. What does not fit the server is refused, and its slot stays as it was. The environment
names server and models as for server_test.py.
"""
import argparse
import os
import pathlib
import sys
import tempfile

from llama_server import Server
from server_test import (CONTEXT_TOKENS, PREDICTED_TOKENS, QUESTIONS, ROOT, TEXTS, USAGE, Failures, Kvpack, Model,
                         common_prefix, engine_options, from_environment, nothing_left)

CHUNK_TOKENS = 160
LEAST_SAME = 20  # characters of an answer


def make_chunks(kvpack, server, model, folder):
    """Passages that the server has cached one by one, as lossless and as lossy archives; and the whole as token ids."""
    tokens = server.call("/tokenize", {"content": model.prompt, "add_special": True})[1]["tokens"][:3 * CHUNK_TOKENS]
    shared = server.call("/tokenize", {"content": "", "add_special": True})[1]["tokens"]  # what the model wants in front
    for number in range(3):
        piece = tokens[number * CHUNK_TOKENS:(number + 1) * CHUNK_TOKENS]
        server.slot("erase")
        server.complete(piece if number == 0 else shared + piece, 0)
        for quality in ("lossless", "medium"):
            kvpack("save", *engine_options(server, folder), "--quality", quality, "-o", folder / f"{quality}-{number}.kvp")
    return tokens


def check_blend(program, kvpack, model, other, threads, failures):
    """Passages cached by themselves become one context in the server, which goes on from it."""
    print(f"blend: {model.gguf.name}", flush=True)
    with tempfile.TemporaryDirectory(prefix="kvpack-server-") as name:
        folder = pathlib.Path(name)

        def blend(server, quality, *options):
            chunks = [folder / f"{quality}-{number}.kvp" for number in range(3)]
            return kvpack("blend", *chunks, "-m", model.gguf, "--query-tokens", ",".join(map(str, query)),
                          *engine_options(server, folder), "-j", threads, *options)

        with Server(program, model.gguf, folder, "-c", CONTEXT_TOKENS, "-np", 1, "-t", threads) as server:
            tokens = make_chunks(kvpack, server, model, folder)
            query = server.call("/tokenize", {"content": QUESTIONS[0], "add_special": False})[1]["tokens"]
            server.slot("erase")
            expected = server.complete(tokens + query, PREDICTED_TOKENS)["content"]
            for quality in ("lossless", "medium"):
                for options in (["--ratio", "1"], ["--ratio", "0"], ["--ratio", "auto"], ["--select", "epic"],
                                ["--select", "query"], ["--select", "hkvd"]):
                    server.slot("erase")
                    status = blend(server, quality, *options)
                    answer = server.complete(tokens + query, PREDICTED_TOKENS)
                    reused = answer["timings"]["cache_n"]
                    same = common_prefix(answer["content"], expected)
                    # All computed again is all that a prefill computes, but for the last bits of its sums.
                    right = same >= LEAST_SAME or quality != "lossless" or options != ["--ratio", "1"]
                    failures.check(status == 0 and reused == len(tokens) + len(query) - 1 and right and nothing_left(folder),
                                   f"blend, {quality}, {' '.join(options)}: exits with {status}, {reused} of "
                                   f"{len(tokens) + len(query)} tokens reused, {same} of {len(expected)} characters as computed")
        # Streams and V as the server has them, another cache type requantized.
        for options in (["-fa", "off"], ["-np", 2, "-c", 2 * CONTEXT_TOKENS], ["-ctk", "q8_0", "-ctv", "q8_0"]):
            with Server(program, model.gguf, folder, "-c", CONTEXT_TOKENS, "-np", 1, "-t", threads, *options) as server:
                status = blend(server, "lossless")
                reused = server.complete(tokens + query, 1)["timings"]["cache_n"]
                failures.check(status == 0 and reused == len(tokens) + len(query) - 1,
                               f"blend into a server with {' '.join(map(str, options))}: exits with {status}, "
                               f"{reused} tokens reused")
        with Server(program, model.gguf, folder, "-c", 256, "-np", 1, "-t", threads) as server:
            held = server.complete("The harbour lay quiet.", 0)["tokens_evaluated"]
            status = blend(server, "lossless")
            again = server.complete("The harbour lay quiet.", 0)["timings"]["cache_n"]
            failures.check(status == USAGE and "a slot of" in kvpack.said and again == held - 1,
                           f"blend into a smaller context: exits with {status}: {kvpack.said.splitlines()[0]}")
        with Server(program, other.gguf, folder, "-c", CONTEXT_TOKENS, "-np", 1, "-t", threads) as server:
            held = server.complete("The harbour lay quiet.", 0)["tokens_evaluated"]
            status = blend(server, "lossless")
            again = server.complete("The harbour lay quiet.", 0)["timings"]["cache_n"]
            failures.check(status == USAGE and "runs" in kvpack.said and again == held - 1,
                           f"blend into another model: exits with {status}: {kvpack.said.splitlines()[0]}")


def main():
    parser = argparse.ArgumentParser(description="kvpack blend into a real llama-server.")
    parser.add_argument("--kvpack", required=True, type=os.path.abspath, help="the kvpack program")
    parser.add_argument("--threads", type=int, default=1, help="of the server and of kvpack")
    arguments = parser.parse_args()
    program = from_environment("KVPACK_LLAMA_SERVER")
    nano = Model("nano", ROOT / "samples" / "nano-f16.gguf", (ROOT / "samples" / "lighthouse.txt").read_text())
    smollm2 = Model("SmolLM2", pathlib.Path(from_environment("KVPACK_SMOLLM2_GGUF")), (TEXTS / "story.txt").read_text())
    failures = Failures()
    for model, other in ((nano, smollm2), (smollm2, nano)):
        check_blend(program, Kvpack(arguments.kvpack), model, other, arguments.threads, failures)
    return failures.report("blend_server_test.py")


if __name__ == "__main__":
    sys.exit(main())
