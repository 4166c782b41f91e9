#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvpack and curl against real nginx over links with a rate, a delay, losses, an outage, a sudden step down.

    python3 -B tests/net/shaped_test.py --kvpack build/release/cli/kvpack --link build/release/tests/net/shaped_link

Needs root for two network namespaces of its own, joined by `shaped_link` (real TCP over a shaped link). Where
namespaces cannot be made, or with --proxy, a throttling proxy on loopback takes its place: no losses then. --quick is
two short links, and skips where there are no namespaces. `sh tests/run --shaped` runs all of it.

Deadlines. An oracle knows the link, where the base ends, and needs no time but the link's and the decoder's: what one
TCP connection takes for the archive's base (links.Shape.seconds_for; where packets are lost what curl took, in two
requests) and then what `kvpack decode --level 0` of that archive takes here to decode and write (`seconds.decode` of
--json: no start of a process, no sync), nothing overlapping. A deadline that the oracle meets must be met within 50 ms
by the process as a whole, from its start to its exit.
Ratios. At 1 Gb/s a fetch (decoded, written, on the disk) against `curl -o` of the same bytes; over loopback, without a
limit, against `kvpack decode` of the local archive. Medians of runs that take turns.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import links
import s3_test  # write_npy
from links import Shape

LATE_ALLOWANCE_S = 0.05
ARCHIVE_BYTES_PER_VALUE = 0.65  # noise, --quality high
TIGHT = 1.2  # the first deadline, as a multiple of what the oracle needs for the base
SHARES = (0.55, 0.8)  # the others, of what the link needs for all of the archive
OPENING_BYTES = 65536
EXIT_DEGRADED = 3
EXIT_SKIPPED = 77
CURL_RATIO, DECODE_RATIO = 1.15, 1.2
FASTEST = "1 Gb/s, 20 ms"

SHAPES = [
    Shape("10 Mb/s, 20 ms", 10, 20),
    Shape("10 Mb/s, 100 ms", 10, 100),
    Shape("100 Mb/s, 20 ms", 100, 20, archive_mb=24),
    Shape("100 Mb/s, 100 ms", 100, 100, archive_mb=24),
    Shape(FASTEST, 1000, 20, archive_mb=64),
    Shape("100 Mb/s, 50 ms, 1 % lost", 100, 50, loss=0.01),
    Shape("50 Mb/s, 50 ms, 500 ms outage", 50, 50, outage_at_s=1, outage_s=0.5, archive_mb=12),
    Shape("100 Mb/s, 50 ms, then 10 Mb/s", 100, 50, step_at_s=0.6, step_mbit=10, archive_mb=12),
]
QUICK_SHAPES = [
    Shape("20 Mb/s, 20 ms", 20, 20),
    Shape("50 Mb/s, 50 ms, 300 ms outage", 50, 50, outage_at_s=0.3, outage_s=0.3),
]


def make_archive(kvpack, www, megabytes):
    """About so large, noise in three levels: the base is two fifths of it."""
    path = www / f"{megabytes:g}.kvp"
    if not path.exists():
        values = int(megabytes * 1e6 / ARCHIVE_BYTES_PER_VALUE) // 2**18 * 2**18  # whole chunks
        s3_test.write_npy(www / "kv.npy", values)
        subprocess.run([kvpack, "encode", www / "kv.npy", "--quality", "high", "-q", "-o", path], check=True)
        (www / "kv.npy").unlink()
    return path


def base_end(kvpack, archive):
    """Bytes of the archive up to the end of its base level."""
    run = subprocess.run([kvpack, "inspect", "--json", archive], check=True, capture_output=True, text=True)
    return json.loads(run.stdout)["levels"][0]["cumulative_bytes"]


def seconds_of(command, **settings):
    start = time.monotonic()
    run = subprocess.run([str(word) for word in command], **settings)
    return time.monotonic() - start, run


class Client:
    """The programs at the near end of the link. Every timed run gets the link from its beginning."""

    def __init__(self, link, shape, kvpack, scratch):
        self.link, self.shape, self.kvpack, self.scratch = link, shape, kvpack, scratch

    def run(self, command, allowed=(0,), cache="cache"):
        self.link.shape(self.shape)
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.scratch / cache)}
        seconds, run = seconds_of(self.link.prefix + command, capture_output=True, text=True, timeout=300, env=environment)
        assert run.returncode in allowed, f"{command}: exit code {run.returncode}\n{run.stdout}{run.stderr}"
        return seconds, run

    def curl(self, url, *options):
        (self.scratch / "curl.kvp").unlink(missing_ok=True)  # to free the old file's pages takes its time
        return self.run(["curl", "-sS", *options, "-o", self.scratch / "curl.kvp", url])[0]

    def fetch(self, url, *options, **settings):
        """Seconds, what it says of itself at the end, and its exit code."""
        (self.scratch / "out.npy").unlink(missing_ok=True)
        seconds, run = self.run([self.kvpack, "fetch", url, "--json", *options, "-o", self.scratch / "out.npy", "-f"],
                                allowed=(0, EXIT_DEGRADED), **settings)
        return seconds, json.loads(run.stdout.splitlines()[-1]), run.returncode

    def decode(self, archive, *options):
        """Seconds of a local decode, no link in it."""
        (self.scratch / "local.npy").unlink(missing_ok=True)
        seconds, run = seconds_of([self.kvpack, "decode", archive, "-q", "-f", *options, "-o", self.scratch / "local.npy"])
        assert run.returncode == 0
        return seconds

    def decode_only(self, archive, *options):
        """The same without what comes before and after: the process's start and the sync."""
        run = subprocess.run([self.kvpack, "decode", archive, "--json", "-f", *options, "-o", self.scratch / "local.npy"],
                             check=True, capture_output=True, text=True)
        return json.loads(run.stdout)["seconds"]["decode"]


def run_deadline(client, url, deadline_s, oracle_s, cache):
    """One fetch with a deadline, its line of the table; whether it was in time, or nobody could have been."""
    seconds, done, code = client.fetch(url, "--ttft", f"{deadline_s:.3f}s", cache=cache)
    possible = oracle_s <= deadline_s
    late_s = seconds - deadline_s
    good = late_s <= LATE_ALLOWANCE_S and code == 0 and not done["degraded"] if possible else True
    share = done["bytes"]["network"] / done["archive_bytes"]
    print(f"    deadline {deadline_s:6.2f} s: {seconds:6.2f} s ({1000 * late_s:+5.0f} ms), {100 * share:3.0f} % loaded by "
          f"{done['seconds']['loaded']:.2f} s, decoder {done['seconds']['decode']:.2f} s, {done['requests']} requests, "
          f"host {'new' if cache == 'new' else 'known'}"
          f"{'' if possible else ', the oracle cannot'}: {'ok' if good else 'LATE'}", flush=True)
    return good


def run_shape(client, arguments, www):
    shape, scratch = client.shape, client.scratch
    archive = make_archive(arguments.kvpack, www, shape.archive_mb)
    url = client.link.url + archive.name
    shutil.rmtree(scratch / "new", ignore_errors=True)
    curl_s = client.curl(url)
    assert (scratch / "curl.kvp").read_bytes() == archive.read_bytes()
    base_bytes = base_end(arguments.kvpack, archive)
    # As any fetch has to: the opening, which says where the base ends, then the base, on one connection.
    two_requests = ["-r", f"0-{OPENING_BYTES - 1}", "-o", os.devnull, url,
                    "--next", "-sS", "-r", f"{OPENING_BYTES}-{base_bytes - 1}"]
    base_s = client.curl(url, *two_requests) if shape.drops_packets() else shape.seconds_for(base_bytes)
    all_s = curl_s if shape.drops_packets() else shape.seconds_for(archive.stat().st_size)
    decode_s = statistics.median(client.decode_only(archive, "--level", "0") for _ in range(3))
    oracle_s = base_s + decode_s
    whole_s, done, code = client.fetch(url)
    assert code == 0 and done["complete"], done
    client.decode(archive)
    good = (scratch / "out.npy").read_bytes() == (scratch / "local.npy").read_bytes()
    print(f"{shape.name}: {archive.stat().st_size / 1e6:.1f} MB, curl {curl_s:.2f} s, kvpack {whole_s:.2f} s in "
          f"{done['requests']} requests; oracle: base {base_bytes / 1e6:.1f} MB, link {base_s:.2f} s"
          f"{' (as curl)' if shape.drops_packets() else ''} + decode {decode_s:.2f} s: {'ok' if good else 'WRONG VALUES'}", flush=True)
    for deadline_s, cache in ((TIGHT * oracle_s, "new"), *((share * all_s, "cache") for share in SHARES)):
        # A machine that is shared stumbles now and then: --quick, which is in ctest, may try again.
        tries = 3 if arguments.quick else 1
        good = any(run_deadline(client, url, deadline_s, oracle_s, cache) for _ in range(tries)) and good
    return good


def print_ratio(what, fetch, other, limit):
    ratio = statistics.median(fetch) / statistics.median(other)
    good = ratio <= limit
    print(f"{what}: fetch {statistics.median(fetch):.2f} s ({min(fetch):.2f} to {max(fetch):.2f}), against "
          f"{statistics.median(other):.2f} s ({min(other):.2f} to {max(other):.2f}): ratio {ratio:.2f}, at most {limit}: "
          f"{'ok' if good else 'MISSED'}", flush=True)
    return good


def run_ratios(link, arguments, www):
    """What a whole fetch costs above the link, and above the decoder."""
    shape = next(shape for shape in SHAPES if shape.name == FASTEST)
    archive = make_archive(arguments.kvpack, www, shape.archive_mb)
    client = Client(link, shape, arguments.kvpack, www)
    curl, fetch = [], []
    for _ in range(arguments.repeats):
        curl.append(client.curl(link.url + archive.name))
        fetch.append(client.fetch(link.url + archive.name)[0])
    good = print_ratio(f"{shape.name}, fetch against curl -o", fetch, curl, CURL_RATIO)
    decode, fetch = [], []
    with links.Loopback(www) as loopback:
        client = Client(loopback, shape, arguments.kvpack, www)
        for _ in range(arguments.repeats):
            decode.append(client.decode(archive))
            fetch.append(client.fetch(loopback.url + archive.name)[0])
    return print_ratio("loopback, fetch against kvpack decode", fetch, decode, DECODE_RATIO) and good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kvpack", required=True, type=os.path.abspath)
    parser.add_argument("--link", type=os.path.abspath, help="the shaped_link program")
    parser.add_argument("--proxy", action="store_true", help="use the proxy even where namespaces can be made")
    parser.add_argument("--only", help="links with this in their name; 'ratios': these alone")
    parser.add_argument("--quick", action="store_true", help="two short links, no ratios, up to three tries for a deadline")
    parser.add_argument("--repeats", type=int, default=7, help="of what the ratios are medians of (default: 7)")
    arguments = parser.parse_args()
    use_namespaces = bool(arguments.link) and not arguments.proxy and links.NamespaceLink.is_possible()
    if arguments.quick and not (use_namespaces and shutil.which("nginx") and shutil.which("curl")):
        print("SKIPPED: network namespaces cannot be made (root, /dev/net/tun, ip), or nginx or curl is not installed")
        return EXIT_SKIPPED
    with tempfile.TemporaryDirectory(prefix="kvpack-shaped-") as folder:
        www = pathlib.Path(folder)
        os.chmod(www, 0o755)
        print("over", "two network namespaces" if use_namespaces else "a throttling proxy on loopback", flush=True)
        link = links.NamespaceLink(arguments.link, www) if use_namespaces else links.ProxyLink(www)
        try:
            shapes = [shape for shape in (QUICK_SHAPES if arguments.quick else SHAPES)
                      if not arguments.only or arguments.only in shape.name]
            good = [run_shape(Client(link, shape, arguments.kvpack, www), arguments, www) for shape in shapes]
            if not arguments.quick and arguments.only in (None, "ratios"):
                good.append(run_ratios(link, arguments, www))
        finally:
            link.close()
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
