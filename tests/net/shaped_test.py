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
CURL_FACTOR = 1.15
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
    path = www / f"{megabytes:g}.kvp"
    if not path.exists():
        values = int(megabytes * 1e6 / 2) // 2**18 * 2**18  # whole chunks
        s3_test.write_npy(www / "kv.npy", values)
        subprocess.run([kvpack, "encode", www / "kv.npy", "--quality", "lossless", "-q", "-o", path], check=True)
        (www / "kv.npy").unlink()
    return path


def timed(command, allowed=(0,)):
    start = time.monotonic()
    run = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)
    seconds = time.monotonic() - start
    assert run.returncode in allowed, f"{command}: exit code {run.returncode}\n{run.stdout}{run.stderr}"
    return seconds


def has_verb(kvpack, verb):
    return subprocess.run([kvpack, verb, "--help"], capture_output=True).returncode == 0


def run_shape(link, shape, arguments, www, scratch):
    archive = make_archive(arguments.kvpack, www, shape.archive_mb)
    url = link.url + archive.name
    link.shape(shape)
    curl_s = timed(link.prefix + ["curl", "-sS", "-o", scratch / "curl.kvp", url])
    assert (scratch / "curl.kvp").read_bytes() == archive.read_bytes()
    link.shape(shape)
    before = link.nginx.requests()
    problems = []
    if has_verb(arguments.kvpack, "fetch"):
        whole_s = timed(link.prefix + [arguments.kvpack, "fetch", url, "-q", "-o", scratch / "out.npy", "-f"])
        if shape.rate_mbit >= 1000 and whole_s > CURL_FACTOR * curl_s:
            problems.append(f"whole fetch {whole_s:.2f} s, curl {curl_s:.2f} s")
        deadline_s = 0.55 * curl_s
        link.shape(shape)
        late_s = timed(link.prefix + [arguments.kvpack, "fetch", url, "-q", "--ttft", f"{deadline_s:.3f}s", "-o",
                                      scratch / "out.npy", "-f"], allowed=(0, EXIT_DEGRADED)) - deadline_s
        if late_s > LATE_ALLOWANCE_S:
            problems.append(f"{late_s:.3f} s after its deadline of {deadline_s:.3f} s")
    else:
        whole_s = timed(link.prefix + [arguments.kvpack, "verify", "--fast", "-q", url])
    requests = link.nginx.requests() - before
    print(f"{shape.name:32} {archive.stat().st_size / 1e6:6.1f} MB  curl {curl_s:6.2f} s  kvpack {whole_s:6.2f} s  "
          f"{requests} requests  {'; '.join(problems) or 'ok'}", flush=True)
    return not problems


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
