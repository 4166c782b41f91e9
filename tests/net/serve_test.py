#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvpack serve and the verbs that read URLs, as a user runs them: output, exit codes, signals.

    python3 -B tests/net/serve_test.py --kvpack build/release/cli/kvpack --archive-source samples/smollm2-harbour.slot.bin
"""
import argparse
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

EXIT_NETWORK = 20
EXIT_IO = 30


class Serve:
    def __init__(self, test, folder, *options, **environment):
        self.process = subprocess.Popen([ARGUMENTS.kvpack, "serve", folder, "--port", "0", *options],
                                        stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
        line = self.process.stdout.readline()
        test.addCleanup(self.process.kill)
        self.url = re.search(r"http://\S+/", line).group(0)

    def end(self, sent_signal=signal.SIGTERM):
        start = time.monotonic()
        self.process.send_signal(sent_signal)
        code = self.process.wait(30)
        self.process.stdout.close()
        return code, time.monotonic() - start


def answer_all_with(response):
    """A server that gives every connection the same bytes; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            client, _ = listener.accept()
            client.recv(65536)
            client.sendall(response)
            client.close()

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/ctx.kvp"


class ServeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory(prefix="kvpack-serve-test-")
        cls.addClassCleanup(cls.scratch.cleanup)
        cls.folder = pathlib.Path(cls.scratch.name)
        subprocess.run([ARGUMENTS.kvpack, "encode", ARGUMENTS.archive_source, "-q", "-o", cls.folder / "ctx.kvp"], check=True)

    def kvpack(self, *arguments, expect=0, **environment):
        run = subprocess.run([ARGUMENTS.kvpack, *map(str, arguments)], capture_output=True, text=True, timeout=60,
                             env={**os.environ, **environment})
        self.assertEqual(run.returncode, expect, run.stdout + run.stderr)
        return run.stdout + run.stderr

    def test_every_reading_verb_takes_a_url(self):
        serve = Serve(self, self.folder)
        url = serve.url + "ctx.kvp"
        self.assertIn("255", self.kvpack("inspect", url))
        self.assertIn("ok", self.kvpack("verify", url))
        self.kvpack("decode", url, "-o", self.folder / "remote.bin")
        self.kvpack("decode", self.folder / "ctx.kvp", "-o", self.folder / "local.bin")
        self.assertEqual((self.folder / "remote.bin").read_bytes(), (self.folder / "local.bin").read_bytes())
        self.kvpack("diff", url, self.folder / "ctx.kvp")
        self.assertIn("404", self.kvpack("inspect", serve.url + "none.kvp", expect=EXIT_NETWORK))
        self.assertEqual(serve.end()[0], 0)
        self.kvpack("inspect", url, expect=EXIT_NETWORK)

    def test_token(self):
        serve = Serve(self, self.folder, KVPACK_TOKEN="right")
        url = serve.url + "ctx.kvp"
        self.assertIn("401", self.kvpack("inspect", url, expect=EXIT_NETWORK, KVPACK_TOKEN=""))
        self.assertIn("401", self.kvpack("inspect", url, "--bearer", "wrong", expect=EXIT_NETWORK))
        self.kvpack("inspect", url, "--bearer", "right")
        for verb in ("inspect", "verify"):
            self.kvpack(verb, url, KVPACK_TOKEN="right")
        self.assertEqual(serve.end(signal.SIGINT)[0], 0)

    def test_sigterm_ends_it_at_once_when_idle_and_lets_a_transfer_end(self):
        code, seconds = Serve(self, self.folder).end()
        self.assertEqual(code, 0)
        self.assertLess(seconds, 3)
        # Much longer than what sockets hold, so that it is still being sent.
        size = 32 << 20
        (self.folder / "long").write_bytes(bytes(size))
        serve = Serve(self, self.folder)
        with urllib.request.urlopen(serve.url + "long") as response:
            self.assertEqual(len(response.read(1000)), 1000)
            serve.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            self.assertEqual(len(response.read()), size - 1000)
        self.assertEqual(serve.process.wait(30), 0)
        serve.process.stdout.close()

    def test_what_cannot_be_served(self):
        self.assertIn("cannot open", self.kvpack("serve", self.folder / "none", expect=EXIT_IO))
        serve = Serve(self, self.folder)
        port = serve.url.rsplit(":", 1)[1].strip("/")
        self.assertIn("cannot listen", self.kvpack("serve", self.folder, "--port", port, expect=EXIT_IO))
        serve.end()

    def test_bad_servers_end_in_one_line_and_exit_code_20(self):
        for response in (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nlogin",
                         b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole", b"\x16\x03\x01 no HTTP at all\r\n\r\n",
                         b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
                         b"HTTP/1.1 503 Busy\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n"):
            said = self.kvpack("inspect", answer_all_with(response), expect=EXIT_NETWORK)
            self.assertEqual(len(said.splitlines()), 1, said)
            self.assertRegex(said, "^kvpack: error: http://127.0.0.1:")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kvpack", required=True, type=os.path.abspath)
    parser.add_argument("--archive-source", required=True, help="a KV file to make an archive of")
    ARGUMENTS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest], warnings="ignore")
