"""The real Hub client for tests: a process that is online, unlike pytest's own, and that talks to one test server.

What decides where the client connects is read when the libraries are imported, so it needs a process of its own.
Imports take seconds; this process makes them once and then runs one function after another.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SETTINGS = ("HF_", "HUGGING", "TRANSFORMERS_", "SENTENCE_TRANSFORMERS_")


def hub_environment(url: str, home: str | Path, token: str | None = None) -> dict[str, str]:
    """The environment of a process that uses the server at ``url`` as the Hub, with ``home`` for caches and logins."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_SETTINGS)}
    environment |= {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        # The server has no Xet, and the client does not fall back from it.
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # `datasets` would ask a host outside.
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    return environment | ({"HF_TOKEN": token} if token else {})


class HubClientError(Exception):
    """What a function raised in the client's process.

    Attributes:
        name: Name of the exception's class.
        message: Its text.
        status: Status of the HTTP answer that it carries, if any.
    """

    def __init__(self, name: str, message: str, status: int | None, trace: str) -> None:
        super().__init__(f"{name}: {message}\n\n{trace}")
        self.name, self.message, self.status = name, message, status


class HubClient:
    """Runs functions in a process whose Hub is the server at ``url``.

    Attributes:
        output: What the last function printed, logged and warned, in stdout and stderr.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> HubClient:
        self._folder = Path(tempfile.mkdtemp())
        self._home = self._folder / "home"
        self.output = ""
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        shutil.rmtree(self._folder)

    def run(
        self,
        function: Callable[..., Any],
        *args: Any,
        token: str | None = None,
        keep_home: bool = False,
        timeout: float = 120,
    ) -> Any:
        """Run a function there and return what it returns.

        Args:
            function: Its source is sent, so it imports what it needs itself and uses nothing from around it.
            args: JSON values or paths; a path arrives as text.
            token: what ``HF_TOKEN`` is meanwhile.
            keep_home: keep the caches of the call before; otherwise they are empty.
            timeout: seconds until the process is ended and ``TimeoutError`` raised.

        Returns:
            The value as JSON carries it: arrays and tensors as lists, exact for float32; paths as text.

        Raises:
            HubClientError: the function raised.
        """
        if inspect.getclosurevars(function).nonlocals:
            raise ValueError(f"{function.__name__} uses names from around it, which the client's process does not have")
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._start()
        process = self._process
        if not keep_home:
            shutil.rmtree(self._home, ignore_errors=True)
        log = self._folder / "log"
        before = log.stat().st_size
        call = {"source": textwrap.dedent(inspect.getsource(function)), "name": function.__name__, "token": token}
        assert process and process.stdin and process.stdout
        process.stdin.write(json.dumps({**call, "args": args}, default=_to_json) + "\n")
        process.stdin.flush()
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        self.output = log.read_bytes()[before:].decode(errors="replace")
        if not line:
            self._stop()
            raise TimeoutError(f"{function.__name__} ended its process or took over {timeout} s:\n{self.output}")
        answer = json.loads(line)
        if "error" in answer:
            raise HubClientError(**answer["error"])
        return answer["value"]

    def _start(self) -> None:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env=hub_environment(self._url, self._home),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdin and process.stdout:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def _to_json(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else os.fspath(value)


def _serve() -> None:
    """The other side: one call a line on stdin, one answer a line on what was stdout."""
    import time
    import traceback

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # The client waits 1, 2, 4, 8 and 8 s between its attempts; here it does not.
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.01))
    for line in sys.stdin:
        call = json.loads(line)
        os.environ.pop("HF_TOKEN", None)
        if call["token"]:
            os.environ["HF_TOKEN"] = call["token"]
        names: dict[str, Any] = {"__name__": "hub_client_function"}
        try:
            exec(compile(call["source"], f"<{call['name']}>", "exec"), names)
            answer = json.dumps({"value": names[call["name"]](*call["args"])}, default=_to_json)
        except BaseException as error:  # SystemExit is how a command line program ends
            status = getattr(getattr(error, "response", None), "status_code", None)
            details = {"name": type(error).__name__, "message": str(error), "status": status}
            answer = json.dumps({"error": {**details, "trace": traceback.format_exc()}})
        sys.stdout.flush()
        sys.stderr.flush()
        answers.write(answer + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
