#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvpack against an S3-compatible server that checks every signature.

    python3 -B tests/net/s3_test.py --kvpack build/release/cli/kvpack

The server is moto (PyPI), installed once into a virtual environment in the tests' cache folder, with its access
control switched on: it computes each signature anew, with AWS's own botocore, and refuses what differs.
"""
import argparse
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

SERVER_PACKAGES = ["moto[s3,iam]==5.2.5", "flask==3.1.2", "flask-cors==6.0.1"]
EXIT_NETWORK = 20
PART_MIB = 5  # the smallest that S3 allows


def environment_folder():
    cache = os.environ.get("KVPACK_TEST_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "kvpack-tests")
    folder = pathlib.Path(cache) / "s3-server"
    marker = folder / "packages.txt"
    if not marker.exists() or marker.read_text() != "\n".join(SERVER_PACKAGES):
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", *SERVER_PACKAGES], check=True)
        marker.write_text("\n".join(SERVER_PACKAGES))
    return folder


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class S3Server:
    """A server with one user, who may do anything in S3, and one bucket."""

    def __init__(self, folder):
        self.endpoint = f"http://127.0.0.1:{free_port()}"
        self.log = tempfile.NamedTemporaryFile("w+", prefix="kvpack-s3-", suffix=".log")
        self.process = subprocess.Popen(
            [folder / "bin/moto_server", "-H", "127.0.0.1", "-p", self.endpoint.rsplit(":", 1)[1]],
            stdout=self.log, stderr=self.log)
        try:
            self.set_up()
        except BaseException:
            self.close()
            raise

    def set_up(self):
        self.wait()
        self.iam(Action="CreateUser", UserName="kvpack")
        key = self.iam(Action="CreateAccessKey", UserName="kvpack")
        self.access_key = re.search("<AccessKeyId>(.*?)<", key).group(1)
        self.secret_key = re.search("<SecretAccessKey>(.*?)<", key).group(1)
        allow_s3 = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        self.iam(Action="PutUserPolicy", UserName="kvpack", PolicyName="s3", PolicyDocument=json.dumps(allow_s3))
        self.request("/bucket", b"", method="PUT")
        # From now on, every request has to be signed.
        self.request("/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})

    def wait(self):
        for _ in range(300):
            try:
                self.request("/moto-api/", None)
                return
            except urllib.error.URLError:
                time.sleep(0.1)
        raise RuntimeError("the S3 server does not start: " + pathlib.Path(self.log.name).read_text())

    def request(self, path, body, headers={}, method=None):
        request = urllib.request.Request(self.endpoint + path, body, headers, method=method)
        return urllib.request.urlopen(request).read().decode()

    def iam(self, **parameters):
        # moto finds the service by the scope of the signature, which it does not check yet.
        scope = "AWS4-HMAC-SHA256 Credential=x/20240101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=x"
        body = urllib.parse.urlencode({**parameters, "Version": "2010-05-08"}).encode()
        return self.request("/", body, {"Authorization": scope})

    def requests(self):
        lines = pathlib.Path(self.log.name).read_text()
        return re.findall(r'"(?:\x1b\[[0-9;]*m)*([A-Z]+ \S+) HTTP/1\.1(?:\x1b\[[0-9;]*m)*" (\d+)', lines)

    def close(self):
        self.process.terminate()
        self.process.wait()


class CuttingProxy:
    """Passes connections on to the server until `parts` parts have gone through, then refuses all. Answers for an upload
    with the id "forgotten" as S3 does for one that has expired; moto breaks down there."""

    NO_SUCH_UPLOAD = (b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n<?xml version='1.0'?><Error><Code>NoSuchUpload"
                      b"</Code><Message>The specified upload does not exist.</Message></Error>")

    def __init__(self, endpoint, parts):
        self.target = ("127.0.0.1", int(endpoint.rsplit(":", 1)[1]))
        self.left = parts
        self.broken = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            if self.broken:
                client.close()
                continue
            server = socket.create_connection(self.target)
            threading.Thread(target=self.pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, False), daemon=True).start()

    def pump(self, source, sink, is_request):
        try:
            while data := source.recv(1 << 16):
                if is_request and b"uploadId=forgotten" in data:
                    source.sendall(self.NO_SUCH_UPLOAD)
                    break
                if is_request and b"partNumber=" in data:
                    if self.left == 0:
                        self.broken = True
                        break
                    self.left -= 1
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def write_npy(path, values):
    """float16 noise, [layer][side][head][token][dimension]: it hardly compresses without loss, so archives of it are large."""
    shape = (1, 2, 4, values // 1024, 128)
    header = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    noise = bytearray(os.urandom(2 * values))
    for i in range(1, len(noise), 2):
        noise[i] = 0x3C | (noise[i] & 0x83)  # near 1: no infinities
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + noise)


class S3Test(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = S3Server(environment_folder())
        cls.addClassCleanup(cls.server.close)
        cls.scratch = tempfile.TemporaryDirectory(prefix="kvpack-s3-test-")
        cls.addClassCleanup(cls.scratch.cleanup)
        cls.folder = pathlib.Path(cls.scratch.name)
        for name, values in (("small", 1 << 18), ("large", 12 << 20)):
            write_npy(cls.folder / f"{name}.npy", values)
            subprocess.run([KVPACK, "encode", cls.folder / f"{name}.npy", "--quality", "lossless", "-q", "-o",
                            cls.folder / f"{name}.kvp"], check=True)
        cls.small, cls.large = cls.folder / "small.kvp", cls.folder / "large.kvp"
        assert cls.large.stat().st_size > 3 * PART_MIB << 20, cls.large.stat().st_size

    def kvpack(self, *arguments, secret=None, endpoint=None, expect=0, **environment):
        full = {**os.environ, "HOME": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "cache"),
                "AWS_ENDPOINT_URL": endpoint or self.server.endpoint, "AWS_ACCESS_KEY_ID": self.server.access_key,
                "AWS_SECRET_ACCESS_KEY": secret or self.server.secret_key, **environment}
        run = subprocess.run([KVPACK, *map(str, arguments)], env=full, capture_output=True, text=True, timeout=120)
        self.assertEqual(run.returncode, expect, run.stdout + run.stderr)
        return run.stdout + run.stderr

    def test_put_and_get_are_accepted_with_the_right_key(self):
        for key in ("plain.kvp", "a folder/b+c=d&e é.kvp"):
            url = "s3://bucket/" + key
            self.assertIn("bytes sent", self.kvpack("push", self.small, url))
            self.assertIn("there already", self.kvpack("push", self.small, url))
            self.assertIn("ok", self.kvpack("verify", url))
        self.assertIn("something else is there", self.kvpack("push", self.large, "s3://bucket/plain.kvp", expect=2))

    def test_put_and_get_are_refused_with_a_wrong_key(self):
        wrong = self.server.secret_key[:-1] + "!"
        self.assertIn("SignatureDoesNotMatch",
                      self.kvpack("push", self.small, "s3://bucket/wrong.kvp", secret=wrong, expect=EXIT_NETWORK))
        self.kvpack("push", self.small, "s3://bucket/right.kvp")
        self.assertIn("403", self.kvpack("inspect", "s3://bucket/right.kvp", secret=wrong, expect=EXIT_NETWORK))
        self.assertIn("403", self.kvpack("inspect", "s3://bucket/right.kvp", "--s3-anonymous", expect=EXIT_NETWORK))
        self.assertIn("404", self.kvpack("inspect", "s3://bucket/wrong.kvp", expect=EXIT_NETWORK))
        statuses = [status for request, status in self.server.requests() if "wrong.kvp" in request]
        self.assertIn("403", statuses)
        self.assertNotIn("200", statuses)

    def test_credentials_from_the_aws_folder(self):
        (self.folder / ".aws").mkdir()
        (self.folder / ".aws/credentials").write_text(
            f"[work]\naws_access_key_id = {self.server.access_key}\naws_secret_access_key = {self.server.secret_key}\n")
        self.kvpack("push", self.small, "s3://bucket/profile.kvp")
        self.kvpack("inspect", "s3://bucket/profile.kvp", AWS_ACCESS_KEY_ID="", AWS_PROFILE="work")
        self.kvpack("inspect", "s3://bucket/profile.kvp", "--s3-profile", "work", secret="wrong")

    def test_opening_takes_one_request(self):
        self.kvpack("push", self.small, "s3://bucket/once.kvp")
        before = len(self.server.requests())
        self.kvpack("inspect", "s3://bucket/once.kvp")
        self.assertEqual(self.server.requests()[before:], [("GET /bucket/once.kvp", "206")])

    def test_virtual_host_style(self):
        # bucket.localhost reaches this machine, and moto takes the bucket from the host's name.
        endpoint = self.server.endpoint.replace("127.0.0.1", "s3.localhost")
        try:
            socket.getaddrinfo("bucket.s3.localhost", 80)
        except OSError:
            # Where the resolver does not know *.localhost, a proxy stands in for it.
            os.environ["http_proxy"] = self.server.endpoint
        try:
            self.kvpack("push", self.small, "s3://bucket/host.kvp", "--s3-addressing", "virtual-host", endpoint=endpoint)
        finally:
            os.environ.pop("http_proxy", None)
        self.kvpack("inspect", "s3://bucket/host.kvp")

    def test_large_archive_in_parts(self):
        url = "s3://bucket/parts.kvp"
        said = self.kvpack("push", self.large, url, "--part-size", PART_MIB)
        parts = -(-self.large.stat().st_size // (PART_MIB << 20))
        self.assertIn(f"{parts} parts", said)
        sent = [request for request, _ in self.server.requests() if "PUT /bucket/parts.kvp" in request]
        self.assertEqual(len(sent), parts)
        self.kvpack("verify", "--fast", url)
        self.assertIn("there already", self.kvpack("push", self.large, url, "--part-size", PART_MIB))

    def test_interrupted_upload_goes_on(self):
        url = "s3://bucket/resumed.kvp"
        proxy = CuttingProxy(self.server.endpoint, parts=2)
        self.kvpack("push", self.large, url, "--part-size", PART_MIB, endpoint=proxy.endpoint, expect=EXIT_NETWORK)
        self.assertEqual(len(list(self.folder.glob("cache/kvpack/push/*.json"))), 1)
        before = len(self.server.requests())
        proxy.broken, proxy.left = False, -1  # never again
        said = self.kvpack("push", self.large, url, "--part-size", PART_MIB, endpoint=proxy.endpoint)
        resumed = int(re.search(r"(\d+) of them sent before", said).group(1))
        self.assertGreaterEqual(resumed, 1)
        parts = -(-self.large.stat().st_size // (PART_MIB << 20))
        sent = [request for request, _ in self.server.requests()[before:] if "partNumber" in request]
        self.assertEqual(len(sent), parts - resumed)
        self.kvpack("verify", "--fast", url)
        self.assertEqual(list(self.folder.glob("cache/kvpack/push/*.json")), [])

    def test_killed_upload_goes_on(self):
        url = "s3://bucket/killed.kvp"
        proxy = CuttingProxy(self.server.endpoint, parts=1)
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.folder / "killed"), "AWS_ENDPOINT_URL": proxy.endpoint,
                       "AWS_ACCESS_KEY_ID": self.server.access_key, "AWS_SECRET_ACCESS_KEY": self.server.secret_key}
        push = subprocess.Popen([KVPACK, "push", self.large, url, "--part-size", str(PART_MIB)], env=environment,
                                stderr=subprocess.DEVNULL)
        while push.poll() is None and not list(self.folder.glob("killed/kvpack/push/*.json")):
            time.sleep(0.01)
        push.send_signal(signal.SIGINT)
        push.wait()
        self.assertNotEqual(push.returncode, 0)
        proxy.broken, proxy.left = False, -1
        self.kvpack("push", self.large, url, "--part-size", PART_MIB, endpoint=proxy.endpoint,
                    XDG_CACHE_HOME=str(self.folder / "killed"))
        self.kvpack("verify", "--fast", url)

    def test_upload_that_the_server_forgot_begins_anew(self):
        url = "s3://bucket/forgotten.kvp"
        proxy = CuttingProxy(self.server.endpoint, parts=2)
        self.kvpack("push", self.large, url, "--part-size", PART_MIB, endpoint=proxy.endpoint, expect=EXIT_NETWORK)
        state = next(self.folder.glob("cache/kvpack/push/*.json"))
        facts = json.loads(state.read_text())
        parts = -(-self.large.stat().st_size // (PART_MIB << 20))
        facts.update(upload_id="forgotten", parts=[[number, '"x"'] for number in range(1, parts + 1)])
        state.write_text(json.dumps(facts))
        proxy.broken, proxy.left = False, -1
        said = self.kvpack("push", self.large, url, "--part-size", PART_MIB, endpoint=proxy.endpoint)
        self.assertNotIn("sent before", said)
        self.kvpack("verify", "--fast", url)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kvpack", required=True)
    arguments, rest = parser.parse_known_args()
    KVPACK = os.path.abspath(arguments.kvpack)
    unittest.main(argv=[sys.argv[0], *rest], warnings="ignore")
