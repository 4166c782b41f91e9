# SPDX-License-Identifier: Apache-2.0
"""A real llama-server with one model, on the loopback interface, for as long as a `with` block."""
import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request

START_TIMEOUT_S = 120
CALL_TIMEOUT_S = 300


class Server:
    """`folder` receives the saved slots and the server's log; `options` are llama-server's own."""

    def __init__(self, program, gguf, folder, *options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        # --cache-ram 0: the server's own prompt cache would pass for a restored one.
        self.command = [program, "-m", str(gguf), "--host", "127.0.0.1", "--port", str(self.port),
                        "--slot-save-path", str(folder), "--cache-ram", "0", *map(str, options)]
        self.log_path = folder / "server.log"

    def __enter__(self):
        self.log = open(self.log_path, "wb")
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        try:
            self.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def wait_until_ready(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if self.call("/health")[0] == 200:
                    return
            time.sleep(0.2)
        tail = self.log_path.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"llama-server did not start (exit status {self.process.poll()}):\n{tail}")

    def alive(self):
        return self.process.poll() is None and self.call("/health")[0] == 200

    def call(self, path, body=None):
        """HTTP status and parsed answer; a refusal is an answer too."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}",
                                         data=None if body is None else json.dumps(body).encode(),
                                         headers={"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # not through a proxy
        try:
            with opener.open(request, timeout=CALL_TIMEOUT_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refusal:
            return refusal.code, json.loads(refusal.read() or b"null")

    def slot(self, action, name=None, slot=0):
        """HTTP status and answer of save, restore (both with a file's name) or erase."""
        return self.call(f"/slots/{slot}?action={action}", {"filename": name} if name else {})

    def complete(self, prompt, count, slot=0):
        """Greedy, on what the slot's cache holds of the prompt. At least one token is predicted."""
        status, answer = self.call("/completion", {"prompt": prompt, "n_predict": count, "temperature": 0,
                                                   "cache_prompt": True, "id_slot": slot})
        if status != 200:
            raise RuntimeError(f"/completion: {status}: {answer}")
        return answer
