"""An ASGI application of a test, served in a thread on a free port of the loopback device."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import uvicorn


class Served:
    """A context in which the application that a class is answers at ``url``."""

    url: str

    def __enter__(self) -> Any:
        listener = socket.create_server(("127.0.0.1", 0))
        # Connections inherit it; without it, each body waits 40 ms until the client has confirmed the headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        # h11: this implementation alone lets a connection be dropped.
        settings: dict[str, Any] = {"loop": "asyncio", "http": "h11", "ws": "none", "lifespan": "off"}
        application: Any = self
        self._server = uvicorn.Server(uvicorn.Config(application, log_config=None, access_log=False, **settings))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("The test server did not start.")
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
