#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvpack and curl against real nginx over links with a rate, a delay, losses, an outage, a sudden step down.

    python3 -B tests/net/shaped_test.py --kvpack build/release/cli/kvpack --link build/release/tests/net/shaped_link

Needs root for two network namespaces of its own, joined by `shaped_link` (real TCP over a shaped link). Where
namespaces cannot be made, or with --proxy, a throttling proxy on loopback takes its place: no losses then.
Prints one line per link; fails if a fetch is wrong, or later than its deadline allows.
"""
import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import s3_test  # write_npy, free_port

LATE_ALLOWANCE_S = 0.05
ARCHIVE_BYTES_PER_VALUE = 0.65  # noise, --quality high
ORACLE_WRITE_S = 0.1  # for the file, and a process to start
TIGHT_FACTOR, TIGHT_MORE_S = 1.3, 0.3  # the least deadline, on top of what the base needs
EXIT_DEGRADED = 3


@dataclasses.dataclass
class Shape:
    name: str
    rate_mbit: float
    rtt_ms: float
    loss: float = 0
    outage_at_s: float = -1
    outage_s: float = 0
    step_at_s: float = -1
    step_mbit: float = 0
    archive_mb: float = 4


SHAPES = [
    Shape("10 Mb/s, 20 ms", 10, 20),
    Shape("10 Mb/s, 100 ms", 10, 100),
    Shape("100 Mb/s, 20 ms", 100, 20, archive_mb=24),
    Shape("100 Mb/s, 100 ms", 100, 100, archive_mb=24),
    Shape("1 Gb/s, 20 ms", 1000, 20, archive_mb=64),
    Shape("100 Mb/s, 50 ms, 1 % lost", 100, 50, loss=0.01),
    Shape("50 Mb/s, 50 ms, 500 ms outage", 50, 50, outage_at_s=1, outage_s=0.5, archive_mb=12),
    Shape("100 Mb/s, 50 ms, then 10 Mb/s", 100, 50, step_at_s=0.6, step_mbit=10, archive_mb=12),
]


class Nginx:
    def __init__(self, www, address, prefix):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="kvpack-nginx-"))
        os.chmod(self.folder, 0o755)
        self.address = address
        temporary = "".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in
                            ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.folder / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {self.folder}/pid; error_log {self.folder}/error.log;\n"
            f"events {{}}\nhttp {{ access_log {self.folder}/access.log; {temporary} sendfile on;\n"
            f"server {{ listen {address}; root {www}; }} }}\n")
        self.process = subprocess.Popen(prefix + ["nginx", "-e", "stderr", "-c", self.folder / "nginx.conf"])

    def requests(self):
        return len((self.folder / "access.log").read_text().splitlines())

    def close(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder)


class NamespaceLink:
    """nginx in one namespace, the client in another, and a shaped link between them."""

    DEVICE = "kvlink"

    def __init__(self, shaper, www):
        self.shaper = shaper
        self.names = [f"kvpack-{side}-{os.getpid()}" for side in ("client", "server")]
        self.process = None
        for number, name in enumerate(self.names, start=1):
            ip = ["ip", "-n", name]
            subprocess.run(["ip", "netns", "add", name], check=True)
            subprocess.run(ip + ["link", "set", "lo", "up"], check=True)
            subprocess.run(["ip", "netns", "exec", name, "ip", "tuntap", "add", "dev", self.DEVICE, "mode", "tun"], check=True)
            subprocess.run(ip + ["addr", "add", f"10.83.0.{number}/24", "dev", self.DEVICE], check=True)
            subprocess.run(ip + ["link", "set", self.DEVICE, "up"], check=True)
        self.prefix = ["ip", "netns", "exec", self.names[0]]
        self.nginx = Nginx(www, "10.83.0.2:8080", ["ip", "netns", "exec", self.names[1]])
        self.url = "http://10.83.0.2:8080/"

    @staticmethod
    def is_possible():
        name = f"kvpack-try-{os.getpid()}"
        made = os.path.exists("/dev/net/tun") and subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
        if made:
            subprocess.run(["ip", "netns", "del", name])
        return made

    def shape(self, shape):
        self.unshape()
        words = [f"rate_mbit={shape.rate_mbit}", f"delay_ms={shape.rtt_ms / 2}", f"loss={shape.loss}",
                 f"outage_at_s={shape.outage_at_s}", f"outage_s={shape.outage_s}", f"step_at_s={shape.step_at_s}",
                 f"step_mbit={shape.step_mbit}"]
        self.process = subprocess.Popen([self.shaper, *self.names, self.DEVICE, *words], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def unshape(self):
        if self.process:
            self.process.terminate()
            self.process.communicate()
            self.process = None

    def close(self):
        self.unshape()
        self.nginx.close()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name])


class ProxyLink:
    """nginx and the client on loopback, and between them a proxy that holds bytes back. All connections share the rate."""

    prefix = []

    def __init__(self, www):
        port = s3_test.free_port()
        self.nginx = Nginx(www, f"127.0.0.1:{port}", [])
        self.target = ("127.0.0.1", port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/"
        self.lock = threading.Lock()
        threading.Thread(target=self.accept, daemon=True).start()

    def shape(self, shape):
        with self.lock:
            self.current, self.started, self.busy_until = shape, None, 0.0

    def release_time(self, count):
        """When `count` more bytes have got through the link, which is one for all connections."""
        with self.lock:
            shape, now = self.current, time.monotonic()
            self.started = self.started or now
            begin = max(now, self.busy_until)
            at = begin - self.started
            if shape.outage_at_s >= 0 and shape.outage_at_s <= at < shape.outage_at_s + shape.outage_s:
                begin = self.started + shape.outage_at_s + shape.outage_s
            rate = shape.step_mbit if 0 <= shape.step_at_s <= at else shape.rate_mbit
            self.busy_until = begin + count / (rate * 1e6 / 8)
            return self.busy_until + shape.rtt_ms / 2000

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.connect, args=(client,), daemon=True).start()

    def connect(self, client):
        time.sleep(self.current.rtt_ms / 1000)  # the handshake
        server = socket.create_connection(self.target)
        for source, sink in ((client, server), (server, client)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.pump, args=(source, sink), daemon=True).start()

    def pump(self, source, sink):
        # Reading and sending apart: the delay must not limit the rate.
        pending, filled = [], threading.Condition()

        def send():
            while True:
                with filled:
                    filled.wait_for(lambda: pending)
                    at, data = pending.pop(0)
                    filled.notify_all()
                time.sleep(max(0, at - time.monotonic()))
                try:
                    sink.sendall(data) if data else sink.shutdown(socket.SHUT_WR)
                except OSError:
                    return
                if not data:
                    return

        threading.Thread(target=send, daemon=True).start()
        while True:
            try:
                data = source.recv(1 << 14)
            except OSError:
                data = b""
            with filled:
                filled.wait_for(lambda: len(pending) < 512)
                pending.append((self.release_time(len(data)), data))
                filled.notify_all()
            if not data:
                return

    def close(self):
        self.nginx.close()


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


class Client:
    """The programs at the near end of the link. Every timed run gets the link from its beginning."""

    def __init__(self, link, shape, kvpack, scratch):
        self.link, self.shape, self.kvpack, self.scratch = link, shape, kvpack, scratch

    def run(self, command, allowed=(0,), cache="cache"):
        self.link.shape(self.shape)
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.scratch / cache)}
        start = time.monotonic()
        run = subprocess.run([str(word) for word in self.link.prefix + command], capture_output=True, text=True,
                             timeout=300, env=environment)
        seconds = time.monotonic() - start
        assert run.returncode in allowed, f"{command}: exit code {run.returncode}\n{run.stdout}{run.stderr}"
        return seconds, run

    def curl(self, url, *options):
        return self.run(["curl", "-sS", *options, "-o", self.scratch / "curl.kvp", url])[0]

    def fetch(self, url, *options, **settings):
        """Seconds, what it says of itself at the end, and its exit code."""
        seconds, run = self.run([self.kvpack, "fetch", url, "--json", *options, "-o", self.scratch / "out.npy", "-f"],
                                allowed=(0, EXIT_DEGRADED), **settings)
        return seconds, json.loads(run.stdout.splitlines()[-1]), run.returncode


def run_deadline(client, url, deadline_s, base_s, cache):
    """One fetch with a deadline; its line of the table, and whether it was in time."""
    seconds, done, code = client.fetch(url, "--ttft", f"{deadline_s:.3f}s", cache=cache)
    # What arrives has to be decoded and written, too.
    possible = base_s + done["seconds"]["decode"] + ORACLE_WRITE_S <= deadline_s
    late_s = seconds - deadline_s
    good = late_s <= LATE_ALLOWANCE_S and code == 0 and not done["degraded"] if possible else True
    share = done["bytes"]["network"] / done["archive_bytes"]
    print(f"    deadline {deadline_s:6.2f} s: {seconds:6.2f} s ({1000 * late_s:+5.0f} ms), {100 * share:3.0f} % loaded by "
          f"{done['seconds']['loaded']:.2f} s, decoder {done['seconds']['decode']:.2f} s, {done['requests']} requests, "
          f"host {'new' if cache == 'new' else 'known'}"
          f"{'' if possible else ', base impossible'}: {'ok' if good else 'LATE'}", flush=True)
    return good


def run_shape(link, shape, arguments, www, scratch):
    archive = make_archive(arguments.kvpack, www, shape.archive_mb)
    url = link.url + archive.name
    client = Client(link, shape, arguments.kvpack, scratch)
    shutil.rmtree(scratch / "new", ignore_errors=True)
    curl_s = client.curl(url)
    assert (scratch / "curl.kvp").read_bytes() == archive.read_bytes()
    # As any fetch has to: the opening, which says where the base ends, then the base, on one connection.
    base_s = client.curl(url, "-r", "0-65535", "-o", os.devnull, url, "--next", "-sS", "-r",
                         f"65536-{base_end(arguments.kvpack, archive) - 1}")
    whole_s, done, code = client.fetch(url)
    assert code == 0 and done["complete"], done
    subprocess.run([arguments.kvpack, "decode", archive, "-q", "-f", "-o", scratch / "local.npy"], check=True)
    good = (scratch / "out.npy").read_bytes() == (scratch / "local.npy").read_bytes()
    print(f"{shape.name}: {archive.stat().st_size / 1e6:.1f} MB, curl {curl_s:.2f} s, curl the base {base_s:.2f} s, "
          f"kvpack {whole_s:.2f} s in {done['requests']} requests: {'ok' if good else 'WRONG VALUES'}", flush=True)
    for deadline_s, cache in ((TIGHT_FACTOR * base_s + TIGHT_MORE_S, "new"), (0.55 * curl_s, "cache"), (0.8 * curl_s, "cache")):
        good = run_deadline(client, url, deadline_s, base_s, cache) and good
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kvpack", required=True, type=os.path.abspath)
    parser.add_argument("--link", type=os.path.abspath, help="the shaped_link program")
    parser.add_argument("--proxy", action="store_true", help="use the proxy even where namespaces can be made")
    parser.add_argument("--only", help="links with this in their name")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kvpack-shaped-") as folder:
        www = pathlib.Path(folder)
        os.chmod(www, 0o755)
        use_namespaces = not arguments.proxy and arguments.link and NamespaceLink.is_possible()
        print("over", "two network namespaces" if use_namespaces else "a throttling proxy on loopback", flush=True)
        link = NamespaceLink(arguments.link, www) if use_namespaces else ProxyLink(www)
        try:
            shapes = [shape for shape in SHAPES if not arguments.only or arguments.only in shape.name]
            good = [run_shape(link, shape, arguments, www, www) for shape in shapes]
        finally:
            link.close()
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
