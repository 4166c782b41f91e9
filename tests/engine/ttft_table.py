#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Time to first token of a context of thousands of tokens on a real llama-server, over real links: one table.

    python3 -B tests/engine/ttft_table.py --kvpack build/release/cli/kvpack \\
        --link build/release/tests/net/shaped_link --compare build/release/tests/engine/kvpack_compare_states \\
        --llama $KVPACK_LLAMA_DIR --server $KVPACK_LLAMA_SERVER --model $KVPACK_SMOLLM2_GGUF

The context lies on an nginx behind the link; the server's slot is empty; a question follows the context. Measured is
the wall time from then until the server has computed the question's last token, with which it samples the first one:

    prefill       everything computed from the text (which costs the link nothing)
    raw slot      curl brings the slot file that the server saved, restore
    .kvp QUALITY  kvpack load; with --profile the model's profile lies here, as the model does
    N s of .kvp   kvpack load --ttft: the levels that come in a part of the time that all of it takes
    text + KV     the same with --recompute always: the front is computed from text while the back is loaded

Every time is the median of --runs. Beside it, what a lossy context does to the text that follows: delta-NLL, how often
the likeliest token is the one after the raw slot, measured on the next --continuation tokens by the model --score-model
(the same, with f32 weights: kvpack_widen_model).

Needs root for two network namespaces (else a throttling proxy on loopback takes the link's place), and nginx. The
server's threads wait for each other: `chrt -r 5` before the command keeps other work on the machine out of the times.
"""
import argparse
import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "net"))

from llama_server import Server
import links

TEXTS = [ROOT / "tests" / "engine" / "texts" / name for name in ("code.txt", "report.txt")] + [
    ROOT / "samples" / "lighthouse.txt", ROOT / "tests" / "engine" / "texts" / "story.txt"]
QUESTION = "\n\nWhat has happened so far, in one sentence?\n"
CLONE_NEWNET = 0x40000000
DEFAULT, PROFILE = "medium", ", profile"
LATE = 3  # kvpack's exit code: not everything came
RTT_MS = 20


def enter_namespace(name):
    """This process, and whatever it starts, is at the client's end of the link from now on."""
    with open(f"/run/netns/{name}") as space:
        if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


class Bench:
    def __init__(self, arguments, folder, link):
        self.arguments, self.folder, self.link = arguments, folder, link
        self.slots, self.www = folder / "slots", folder / "www"
        self.question_file = folder / "question.txt"
        self.question_file.write_text(QUESTION)

    def prepare(self, server):
        """The context is computed once, saved raw and as archives."""
        a = self.arguments
        self.server = server
        text = (a.text or self.default_text()).read_text()
        tokens = server.call("/tokenize", {"content": text, "add_special": True})[1]["tokens"]
        if len(tokens) <= a.tokens + a.continuation:
            sys.exit(f"the text has {len(tokens)} tokens; {a.tokens + a.continuation + 1} are needed (--text)")
        self.context = tokens[:a.tokens]
        self.question = server.call("/tokenize", {"content": QUESTION, "add_special": False})[1]["tokens"]
        answer = self.complete(self.context)
        assert answer["timings"]["prompt_n"] == a.tokens, answer["timings"]
        status, saved = server.slot("save", "raw.bin")
        assert status == 200 and saved["n_saved"] == a.tokens, saved
        (self.slots / "raw.bin").rename(self.www / "raw.bin")
        for name in a.archives():
            self.kvpack("save", *self.engine(), "--model", a.model, "--quality", name.split(",")[0],
                        *self.profile_of(name), "-q", "-f", "-o", self.www / f"{name}.kvp")

    def default_text(self):
        path = self.folder / "text.txt"
        path.write_text("\n\n".join(part.read_text() for part in TEXTS))
        return path

    def engine(self):
        return ["--engine", f"llama-server=http://127.0.0.1:{self.server.port}", "--slot-save-path", self.slots]

    def profile_of(self, name):
        return ["--profile", self.arguments.profile] if name.endswith(PROFILE) else []

    def kvpack(self, *words, allowed=(0,)):
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")}
        run = subprocess.run([str(word) for word in (self.arguments.kvpack, *words)], capture_output=True, text=True,
                             stdin=subprocess.DEVNULL, env=environment, timeout=600)
        if run.returncode not in allowed:
            sys.exit(f"kvpack {words[0]}: exit code {run.returncode}\n{run.stderr}")
        return run.stdout

    def complete(self, prompt):
        status, answer = self.server.call("/completion", {"prompt": prompt, "n_predict": 1, "temperature": 0,
                                                          "cache_prompt": True, "id_slot": 0})
        assert status == 200, answer
        return answer

    def timed(self, shape, work):
        """Median seconds of `work`, each from an empty slot on a fresh link, and the last of what it returned."""
        seconds = []
        for _ in range(self.arguments.runs):
            self.server.slot("erase")
            if shape:
                self.link.shape(shape)
            begin = time.monotonic()
            reused = work()
            seconds.append(time.monotonic() - begin)
        return statistics.median(seconds), reused

    def prefill(self):
        return self.complete(self.context + self.question)["timings"]["cache_n"]

    def raw_slot(self):
        subprocess.run(["curl", "-sS", "-o", self.slots / "raw.bin", self.link.url + "www/raw.bin"], check=True)
        status, restored = self.server.slot("restore", "raw.bin")
        assert status == 200, restored
        return self.complete(self.context + self.question)["timings"]["cache_n"]

    def load(self, name, *options):
        out = self.kvpack("load", self.link.url + "www/" + urllib.parse.quote(f"{name}.kvp"), *self.engine(), "--model",
                          self.arguments.model, *self.profile_of(name), "--then", self.question_file, "--json", *options,
                          allowed=(0, LATE))
        self.done = json.loads(out.splitlines()[-1])
        assert self.done["tokens"] == len(self.context), self.done
        return self.done["reused_tokens"]

    def keep_state(self, name):
        """What the slot holds of the context, as a state file of exactly its tokens."""
        self.complete(self.context)  # drops the question
        status, saved = self.server.slot("save", name)
        assert status == 200 and saved["n_saved"] == len(self.context), saved
        path = self.folder / name
        (self.slots / name).rename(path)
        return path

    def quality_of(self, states):
        """[state] delta-NLL and top-1 agreement."""
        a = self.arguments
        run = subprocess.run([str(w) for w in (a.compare, "--llama", a.llama, "--model", a.score_model or a.model,
                                               "--text", a.text or self.folder / "text.txt", "--reference",
                                               self.www / "raw.bin", "--prefix", a.tokens, "--continuation",
                                               a.continuation, "--threads", a.threads, *states)],
                             capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit(run.stderr)
        return [json.loads(line) for line in run.stdout.splitlines()]


def measure(bench, rates):
    """Rows: name, bytes, seconds per rate, state."""
    a = bench.arguments
    rows = []
    prefill_s, _ = bench.timed(None, bench.prefill)
    rows.append(["prefill", "(text)", [prefill_s] * len(rates), None])
    shapes = [links.Shape(f"{rate} Mb/s", rate, RTT_MS) for rate in rates]
    raw_bytes = (bench.www / "raw.bin").stat().st_size
    rows.append(["raw slot", raw_bytes, [], None])
    for shape in shapes:
        seconds, reused = bench.timed(shape, bench.raw_slot)
        assert reused >= a.tokens - 1, f"the raw slot: {reused} tokens reused"
        rows[-1][2].append(seconds)
    for name in a.archives():
        rows.append([f".kvp {name}", (bench.www / f"{name}.kvp").stat().st_size, [], None])
        for shape in shapes:
            seconds, _ = bench.timed(shape, lambda: bench.load(name))
            rows[-1][2].append(seconds)
        rows[-1][3] = bench.keep_state(f"{name}.bin")
    return rows + measure_deadlines(bench, shapes, next(row[2] for row in rows if row[0] == f".kvp {a.part_of}"))


def measure_deadlines(bench, shapes, whole_s):
    """What comes of an archive in a share of the time that the whole takes; without and with the engine's help."""
    a = bench.arguments
    rows = []
    for way, recompute in (("{:.2f} s of .kvp {}", "never"), ("text + KV, {:.2f} s of {}", "always")):
        for number, shape in enumerate(shapes):
            deadline_s = a.share * whole_s[number]
            options = ["--recompute", recompute, "--ttft", f"{deadline_s:.3f}s", "--last-prefill",
                       f"{bench.done['compute_s']:.3f}s"]
            seconds, _ = bench.timed(shape, lambda: bench.load(a.part_of, *options))
            times = [seconds if at == number else None for at in range(len(shapes))]
            rows.append([way.format(deadline_s, a.part_of), bench.done["bytes"]["network"], times,
                         bench.keep_state(f"{recompute}-{number}.bin")])
    return rows


def print_table(bench, rates, rows):
    a = bench.arguments
    states = [row[3] for row in rows if row[3]]
    found = dict(zip(states, bench.quality_of(states)))
    print(f"\n{a.model.name}: {a.tokens:,} tokens, then a question of {len(bench.question)}; "
          f"llama-server -t {a.threads}; {RTT_MS} ms round trip; median of {a.runs}; seconds to the first token\n")
    titles = [f"{rate} Mb/s" for rate in rates]
    print("| way | bytes | " + " | ".join(titles) + " | delta-NLL | top-1 |")
    print("|---|---:|" + "---:|" * len(rates) + "---:|---:|")
    for name, size, times, state in rows:
        cells = ["" if seconds is None else f"{seconds:.2f}" for seconds in times]
        quality = ["0", "100 %"] if state is None else [f"{found[state]['delta_nll']:+.4f}",
                                                        f"{100 * found[state]['top1']:.1f} %"]
        print(f"| {name} | {size} | " + " | ".join(cells + quality) + " |", flush=True)


def check_target(rates, rows, quality):
    """At 200 Mb/s the default quality is 10 times as fast as prefill and 4 times as fast as the raw slot."""
    if 200 not in rates:
        return True
    at = rates.index(200)
    of = {row[0]: row[2][at] for row in rows if row[2][at] is not None}
    kvp = of.get(f".kvp {quality}{PROFILE}") or of[f".kvp {quality}"]
    ratios = of["prefill"] / kvp, of["raw slot"] / kvp
    print(f"\nat 200 Mb/s, {quality}: {ratios[0]:.1f} x as fast as prefill, {ratios[1]:.1f} x as fast as the raw slot")
    return ratios[0] >= 10 and ratios[1] >= 4


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    path = lambda text: pathlib.Path(text).resolve()
    parser.add_argument("--kvpack", required=True, type=path)
    parser.add_argument("--link", type=path, help="the shaped_link program")
    parser.add_argument("--compare", required=True, type=path, help="the kvpack_compare_states program")
    parser.add_argument("--llama", required=True, type=path, help="folder with llama.cpp's lib/")
    parser.add_argument("--server", required=True, type=path, help="the llama-server program")
    parser.add_argument("--model", required=True, type=path)
    parser.add_argument("--score-model", type=path, help="judges what follows (default: the model)")
    parser.add_argument("--profile", type=path, help="of the model (default: measured from the context)")
    parser.add_argument("--text", type=path, help="the context (default: texts of the checkout)")
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--continuation", type=int, default=256)
    parser.add_argument("--rates", default="50,200,1000", help="of the links, in Mb/s")
    parser.add_argument("--qualities", default="high,medium,low", type=lambda text: text.split(","))
    parser.add_argument("--share", type=float, default=0.7, help="of the time that all of an archive takes: a deadline")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="fail where the target at 200 Mb/s is missed")
    arguments = parser.parse_args()
    # The default quality without a profile as well. Deadlines are for the largest archive.
    with_profile = [quality + (PROFILE if arguments.profile else "") for quality in arguments.qualities]
    without = [DEFAULT] if arguments.profile and DEFAULT in arguments.qualities else []
    arguments.archives = lambda: with_profile + without
    arguments.part_of = with_profile[0]
    return arguments


def main():
    arguments = parsed_arguments()
    rates = [float(rate) if "." in rate else int(rate) for rate in arguments.rates.split(",")]
    with tempfile.TemporaryDirectory(prefix="kvpack-ttft-") as name:
        folder = pathlib.Path(name)
        os.chmod(folder, 0o755)
        for part in ("slots", "www"):
            (folder / part).mkdir()
        namespaces = arguments.link and links.NamespaceLink.is_possible()
        link = links.NamespaceLink(arguments.link, folder) if namespaces else links.ProxyLink(folder)
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            if namespaces:
                enter_namespace(link.names[0])
            bench = Bench(arguments, folder, link)
            options = ["-c", arguments.tokens + 512, "-np", 1, "-t", arguments.threads]
            with Server(arguments.server, arguments.model, bench.slots, *options) as server:
                bench.prepare(server)
                rows = measure(bench, rates)
            print_table(bench, rates, rows)
            good = check_target(rates, rows, DEFAULT) if DEFAULT in arguments.qualities else True
        finally:
            ctypes.CDLL(None).setns(home, CLONE_NEWNET)
            link.close()
    return 0 if good or not arguments.check else 1


if __name__ == "__main__":
    sys.exit(main())
