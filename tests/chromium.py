"""A headless Chromium that tests look at pages with, driven over its DevTools pipe; no package is needed for that."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

PROGRAM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync --remote-debugging-pipe"
).split()


class Chromium:
    """A browser with one page. What the page or the browser complains about is kept in ``complaints``.

    Requests for anything but the page itself are kept in ``requests``.
    """

    def __init__(self, profile: Path) -> None:
        reads_from, self._write = os.pipe()
        self._read, writes_to = os.pipe()
        # The browser takes commands from file 3 and answers on file 4.
        script = f'exec "$0" "$@" 3<&{reads_from} 4>&{writes_to}'
        command = ["bash", "-c", script, str(PROGRAM), *_FLAGS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            command, pass_fds=(reads_from, writes_to), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(reads_from), os.close(writes_to)
        self._unread = b""
        self._number = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, page: Path | str, *, width: int, height: int, dark: bool) -> None:
        """Show a file, or what is at an address, in a window of that size."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.complaints.clear()
        self.requests.clear()
        self.call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while self.evaluate("document.readyState") != "complete":
            time.sleep(0.05)

    def evaluate(self, expression: str) -> object:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until a JavaScript expression is true, for a minute at most."""
        end = time.monotonic() + 60
        while not self.evaluate(f"!!({expression})"):
            assert time.monotonic() < end, f"still not: {expression}"
            time.sleep(0.05)

    def screenshot(self, path: Path) -> None:
        """The whole page, not only what the window shows."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def call(self, method: str, **parameters: object) -> dict:
        """Send a command and wait for its answer; what happens meanwhile is looked through for complaints."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._look_at(answer.get("method", ""), answer.get("params", {}))

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(timeout=30)
        os.close(self._read), os.close(self._write)

    def _next(self) -> dict:
        while b"\0" not in self._unread:
            piece = os.read(self._read, 1 << 20)
            assert piece, "the browser has gone"
            self._unread += piece
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def _look_at(self, event: str, parameters: dict) -> None:
        if event == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        elif event in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(parameters))
        elif event == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
