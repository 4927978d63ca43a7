"""A real headless Chromium for the tests of pages, driven by chromedriver over plain HTTP (W3C WebDriver)."""

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
)


def missing() -> str:
    """Why there is no browser to test in, or ""."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not installed" if absent else ""


class Browser:
    """One browser with a fresh profile; use as a context manager."""

    def __init__(self, profile: Path, javascript: bool = True, dark: bool = False) -> None:
        self.profile, self.javascript, self.dark = profile, javascript, dark

    def __enter__(self) -> "Browser":
        log = (self.profile / "chromedriver.log").open("wb+")
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=log, stderr=subprocess.STDOUT)
        self.base = f"http://127.0.0.1:{self._port(log)}"
        preferences = {} if self.javascript else {"profile.managed_default_content_settings.javascript": 2}
        arguments = [*FLAGS, f"--user-data-dir={self.profile / 'chrome'}"]
        options = {"binary": shutil.which("chromium"), "args": arguments, "prefs": preferences}
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": logs}
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.base += f"/session/{session['sessionId']}"
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(timeout=20)

    def open(self, page: Path, width: int = 1280, height: int = 900) -> None:
        """Show a file in a window of this size (a phone is emulated, as headless windows have a least width)."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", **metrics)
        if self.dark:
            self.devtools(
                "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}]
            )
        self._call("POST", "/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that a piece of JavaScript returns in the page."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screenshot(self, path: Path) -> Path:
        """The whole page as a PNG."""
        shot = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def console(self) -> list[str]:
        """What the page and the browser said of it: errors, warnings, violations of its policy."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call; the page's own pictures do not count."""
        entries = self._call("POST", "/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("data:", "chrome:"))]

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(
            self.base + path, data, {"Content-Type": "application/json"}, method=method
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def _port(self, log: Any) -> int:
        while True:
            log.seek(0)
            found = re.search(rb"started successfully on port (\d+)", log.read())
            if found:
                log.close()
                return int(found[1])
            if self.driver.poll() is not None:
                raise RuntimeError(f"chromedriver ended with {self.driver.returncode}")
