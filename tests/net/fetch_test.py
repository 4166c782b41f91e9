#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvpack fetch and plan as a user runs them: interrupted, resumed, sharing a cache, late, replaced.

    python3 -B tests/net/fetch_test.py --kvpack build/release/cli/kvpack
"""
import argparse
import http.server
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import s3_test  # write_npy

EXIT_USAGE = 2
EXIT_LATE = 3
EXIT_NETWORK = 20
OPENING_BYTES = 65536
SLICE = 16384


class Server:
    """Ranges of one file at `bytes_per_s`, all connections together; replaceable while it runs."""

    def __init__(self, path, bytes_per_s, port=0, tag=lambda request: '"v1"'):
        self.content, self.bytes_per_s, self.tag = path.read_bytes(), bytes_per_s, tag
        self.requests, self.sent, self.lock, self.free_at, self.down = 0, 0, threading.Lock(), 0.0, False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/ctx.kvp"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler):
        with self.lock:
            number, self.requests = self.requests, self.requests + 1
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers["Range"]).groups())
        part = self.content[first:last + 1]
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(self.content)}")
        handler.send_header("Content-Length", str(len(part)))
        handler.send_header("ETag", self.tag(number))
        handler.end_headers()
        for at in range(0, len(part), SLICE):
            with self.lock:
                self.free_at = max(self.free_at, time.monotonic()) + SLICE / self.bytes_per_s
                wait = self.free_at - time.monotonic()
            time.sleep(max(0, wait))
            if self.down:
                handler.close_connection = True
                return
            try:
                handler.wfile.write(part[at:at + SLICE])
            except OSError:
                return
            self.sent += len(part[at:at + SLICE])

    def close(self):
        self.down = True
        self.server.shutdown()
        self.server.server_close()


class FetchTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory(prefix="kvpack-fetch-test-")
        cls.addClassCleanup(cls.scratch.cleanup)
        cls.made = pathlib.Path(cls.scratch.name)
        s3_test.write_npy(cls.made / "kv.npy", 4 << 20)
        cls.archive = cls.made / "ctx.kvp"
        subprocess.run([KVPACK, "encode", cls.made / "kv.npy", "--quality", "high", "-q", "-o", cls.archive], check=True)
        subprocess.run([KVPACK, "decode", cls.archive, "-q", "-o", cls.made / "local.npy"], check=True)
        cls.values = (cls.made / "local.npy").read_bytes()
        cls.bytes = cls.archive.stat().st_size

    def setUp(self):
        self.folder = self.made / self.id().rpartition(".")[2]
        self.folder.mkdir()
        self.out = self.folder / "out.npy"

    def serve(self, bytes_per_s=1e9, **settings):
        server = Server(self.archive, bytes_per_s, **settings)
        self.addCleanup(server.close)
        return server

    def start(self, *words):
        return subprocess.Popen([KVPACK, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "xdg")})

    def finish(self, process, expect=0):
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, expect, out + err)
        return out, err

    def fetch(self, url, *options, expect=0):
        out, err = self.finish(self.start("fetch", url, "--json", "-o", self.out, *options), expect)
        return [json.loads(line) for line in out.splitlines()], err

    def wait_for_part(self, least):
        part = pathlib.Path(str(self.out) + ".part")
        end = time.monotonic() + 60
        while not part.exists() or part.stat().st_size < least:
            self.assertLess(time.monotonic(), end, "no part file grew")
            time.sleep(0.01)
        return part

    def check_resumed(self, url, part):
        lines, _ = self.fetch(url)
        done = lines[-1]
        self.assertEqual(self.out.read_bytes(), self.values)
        self.assertGreater(done["bytes"]["resumed"], self.bytes // 4)
        self.assertLess(done["bytes"]["network"], self.bytes * 3 // 4)
        self.assertTrue(done["complete"])
        self.assertFalse(part.exists())

    def test_ctrl_c_leaves_what_the_next_run_goes_on_from_and_verifies_again(self):
        server = self.serve(1.5e6)
        process = self.start("fetch", server.url, "-o", self.out)
        part = self.wait_for_part(self.bytes // 2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        self.assertIn(process.returncode, (130, -signal.SIGINT))
        self.assertFalse(self.out.exists())
        self.assertEqual([name.name for name in self.folder.glob("out*")], [part.name])
        # Damage near the end: that block is fetched again, not used.
        content = bytearray(part.read_bytes())
        content[-100] ^= 1
        part.write_bytes(content)
        server.bytes_per_s = 1e9
        self.check_resumed(server.url, part)

    def test_server_killed_midway_and_started_again(self):
        server = self.serve(1.5e6)
        process = self.start("fetch", server.url, "-o", self.out, "--http1.1")
        part = self.wait_for_part(self.bytes // 2)
        server.close()
        _, err = self.finish(process, EXIT_NETWORK)
        self.assertIn("the same command goes on from there", err)
        self.assertTrue(part.exists())
        again = self.serve(1e9)
        self.check_resumed(again.url, part)

    def test_two_processes_share_one_cache(self):
        server = self.serve(8e6)
        cache = self.folder / "cache"
        outs = [self.folder / f"{i}.npy" for i in range(2)]
        both = [self.start("fetch", server.url, "--cache", cache, "-o", out) for out in outs]
        for process in both:
            self.finish(process)
        for out in outs:
            self.assertEqual(out.read_bytes(), self.values)
        before = server.sent
        lines, _ = self.fetch(server.url, "--cache", cache)
        self.assertEqual(lines[-1]["bytes"]["network"], 0)
        self.assertLessEqual(server.sent - before, OPENING_BYTES)
        self.assertEqual(self.out.read_bytes(), self.values)

    def test_a_replaced_archive_is_begun_again_once_and_then_reported(self):
        once = self.serve(tag=lambda request: '"v1"' if request == 0 else '"v2"')
        _, err = self.fetch(once.url)
        self.assertIn("starting over", err)
        self.assertEqual(self.out.read_bytes(), self.values)
        always = self.serve(tag=lambda request: f'"v{request}"')
        _, err = self.fetch(always.url, "-f", expect=EXIT_NETWORK)
        self.assertIn("was replaced twice", err)

    def test_late_is_exit_code_3_and_the_file_is_there(self):
        server = self.serve(1e6)  # the base alone takes longer than a second
        lines, _ = self.fetch(server.url, "--ttft", "300ms", expect=EXIT_LATE)
        self.assertTrue(lines[-1]["late"])
        self.assertEqual(self.out.stat().st_size, len(self.values))
        self.assertEqual({line["event"] for line in lines}, {"chunk", "done"})
        self.assertTrue(all(line["levels"] >= 1 for line in lines if line["event"] == "chunk"))

    def test_killed_at_any_time_it_leaves_the_whole_file_or_none(self):
        server = self.serve(8e6)
        begin = time.monotonic()
        self.fetch(server.url, "--ttft", "400ms")
        took = time.monotonic() - begin
        for i in range(12):
            self.out.unlink(missing_ok=True)
            process = self.start("fetch", server.url, "--ttft", "400ms", "-o", self.out)
            # Around the time at which it appears.
            time.sleep(took * (0.9 + 0.02 * i))
            process.kill()
            process.communicate()
            if self.out.exists():
                content = self.out.read_bytes()
                self.assertEqual(len(content), len(self.values))
                self.assertNotIn(bytes(512), content[4096:])
        self.out.write_bytes(b"before")
        process = self.start("fetch", server.url, "--ttft", "400ms", "-f", "-o", self.out)
        time.sleep(took / 2)
        process.kill()
        process.communicate()
        self.assertEqual(self.out.read_bytes(), b"before")

    def test_verify_and_decode_of_a_url(self):
        server = self.serve(1e9)
        self.finish(self.start("verify", server.url))
        verified = server.requests
        self.finish(self.start("decode", server.url, "-o", self.out))
        self.assertEqual(self.out.read_bytes(), self.values)
        # By the megabyte, not by the block; each byte once.
        self.assertLessEqual(verified, 3 + self.bytes // 2**20)
        self.assertLessEqual(server.requests - verified, 6 + self.bytes // 2**18)
        self.assertLessEqual(server.sent, 2.1 * self.bytes + 4 * OPENING_BYTES)
        before = server.sent
        self.finish(self.start("decode", server.url, "--level", "0", "-f", "-o", self.out))
        self.assertLess(server.sent - before, self.bytes // 2)

    def test_plan_explains_in_text_json_and_a_picture(self):
        command = ["plan", self.archive, "--bandwidth", "10Mbit", "--ttft", "2s"]
        out, _ = self.finish(self.start(*command, "--explain", "--plot", self.folder / "plan.svg"))
        self.assertIn("load", out)
        self.assertIn("</svg>", (self.folder / "plan.svg").read_text())
        out, _ = self.finish(self.start(*command, "--json"))
        self.assertIsInstance(json.loads(out), dict)
        self.finish(self.start("plan", self.archive, "--bandwidth", "100kbit", "--ttft", "1s"), EXIT_LATE)

    def test_plan_blends_at_the_measured_speed_as_far_as_the_deadline_allows(self):
        tokens = 4 * 2**20 // 1024

        def plan(*options):
            return json.loads(self.finish(self.start("plan", self.archive, "--bandwidth", "100Mbit", "--json", *options))[0])

        plain, blended = plan(), plan("--blend", "0.5", "--blend-tok-s", "1000")
        self.assertAlmostEqual(blended["blend"]["seconds"], 0.5 * tokens / 1000)
        self.assertAlmostEqual(blended["ttft_s"], plain["ttft_s"] + 0.5 * tokens / 1000)
        self.assertEqual({action["action"] for action in blended["actions"]}, {"blend"})
        self.assertAlmostEqual(blended["distortion"], 0.5 * plain["distortion"])
        # Half of the time is there: less is loaded or blended, and the plan is not late.
        hurried = plan("--blend", "0.5", "--blend-tok-s", "1000", "--ttft", f"{plain['ttft_s'] + 0.25 * tokens / 1000:.3f}s")
        self.assertTrue(hurried["in_time"])
        self.assertLess(hurried["blend"]["seconds"], 0.5 * tokens / 1000)
        self.assertGreater(hurried["blend"]["seconds"], 0)
        _, said = self.finish(self.start("plan", self.archive, "--bandwidth", "1Mbit", "--blend", "0.5"), EXIT_USAGE)
        self.assertIn("--blend-tok-s", said)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kvpack", required=True, type=os.path.abspath)
    known, rest = parser.parse_known_args()
    KVPACK = known.kvpack
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
