"""A web server on loopback that serves a folder and misbehaves as told."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

SLOW = 1.0  # seconds before a slow answer


class Server(ThreadingHTTPServer):
    """Serves a folder with byte ranges, notes the requests, and fails as told.

    `faults` has a list a name, or a name behind "HEAD ".
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ranges = folder, True
        self.heads = 0
        self.requests: list[tuple[str, str | None]] = []
        self.faults: dict[str, list[str]] = {}
        self.before: Callable[[], object] = lambda: None  # a file is sent

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self) -> Counter[str]:
        return Counter(name for name, _ in self.requests if name.endswith(".tar"))


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = unquote(self.path.lstrip("/").partition("?")[0])
        wanted = self.headers.get("Range") if self.server.ranges else None
        path = self.server.folder / name
        if not path.is_file():
            return self.send_error(404)
        self.server.heads += self.command == "HEAD"
        if self.command == "GET":
            self.server.requests.append((name, wanted))
            self.server.before()
        faults = self.server.faults.get(name if self.command == "GET" else f"HEAD {name}", [])
        fault = faults.pop(0) if faults else ""
        if fault.isdigit():
            return self.send_error(int(fault))
        if fault == "slow":
            time.sleep(SLOW)
        data = path.read_bytes()
        size, start = len(data), 0
        if wanted:
            start, stop = (int(bound) for bound in wanted.removeprefix("bytes=").split("-"))
            data = data[start : stop + 1]
        if fault == "corrupt":
            data = data[:10] + bytes([data[10] ^ 1]) + data[11:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(data)))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{size}")
        self.send_header("ETag", f'"{size}-{path.stat().st_mtime_ns}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        if fault == "cut":
            self.close_connection = True
            return None
        return None

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server that answers until the end."""
    with Server(folder) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()
