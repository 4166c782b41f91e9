# SPDX-License-Identifier: Apache-2.0
"""Links with a rate, a delay, losses, an outage, a sudden step: what shapes them, and real nginx at their far end."""
import dataclasses
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time

import s3_test  # free_port

SEGMENT_BYTES = 1448


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

    def drops_packets(self):
        """A step down does too: its queue is full of what came at the old rate."""
        return self.loss > 0 or self.outage_s > 0 or self.step_at_s >= 0

    def bytes_per_s(self, at_s):
        """What it carries at a time, which counts from the first packet."""
        if 0 <= self.outage_at_s <= at_s < self.outage_at_s + self.outage_s:
            return 0
        return (self.step_mbit if 0 <= self.step_at_s <= at_s else self.rate_mbit) * 1e6 / 8

    def seconds_for(self, count):
        """The least that one TCP connection needs for `count` bytes in one request: handshake, request, a window of 10
        segments that doubles with every round trip, then the link's rate. What TCP needs to recover from losses is not in it."""
        rtt_s, step_s = self.rtt_ms / 1000, 0.001
        now_s, window = 2 * rtt_s, 10 * SEGMENT_BYTES
        while count > 0:
            count -= step_s * min(self.bytes_per_s(now_s), window / rtt_s)
            window *= 2 ** (step_s / rtt_s)
            now_s += step_s
        return now_s


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
        while not (self.folder / "pid").exists():
            assert self.process.poll() is None, "nginx did not start"
            time.sleep(0.01)

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
                 f"step_mbit={shape.step_mbit}", f"offload={int(shape.rate_mbit >= 1000 and not shape.loss)}"]
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


class Loopback:
    """nginx and nothing between."""

    prefix = []

    def __init__(self, www):
        self.nginx = Nginx(www, f"127.0.0.1:{s3_test.free_port()}", [])
        self.url = f"http://{self.nginx.address}/"

    def shape(self, shape):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.nginx.close()


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
