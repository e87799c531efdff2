"""An OpenAI-compatible endpoint in memory, for tests: embeddings as numbers or base64, a key, and planted failures."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
import time
from collections import Counter, deque
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from served import Served

DIMENSION = 24
MODEL = "acme/letters"
# What a query is asked with where one prompt is put before queries alone.
QUERY_PROMPT = "query: "

Failure = tuple[str, Any]  # what goes wrong, and how


def vector(text: str, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """The unit vector of a text: the sum of what its words hash to; of a query, turned to somewhere else."""
    words = text.removeprefix(QUERY_PROMPT).lower().split() or [""]
    seeds = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little") for word in words]
    total = sum(np.random.default_rng(seed).standard_normal(DIMENSION) for seed in seeds)
    if text.startswith(QUERY_PROMPT):
        total = np.asarray(total) @ np.linalg.qr(np.random.default_rng(0).standard_normal((DIMENSION, DIMENSION)))[0]
    cut = np.asarray(total)[:dimension]
    return np.asarray(cut / np.linalg.norm(cut), dtype=np.float32)


class OpenAIServer(Served):
    """The server, in a thread, on a free port of the loopback device.

    Attributes:
        url: what is passed as ``base_url``.
        key: what is asked for; nothing if None.
        answered: text -> how often its vector was given out.
        requests: body and headers of each request, those that failed too.
        failures: what goes wrong with the next requests, one each: ``("status", 429)``, ``("wait", seconds)``,
            ``("change", function of the data of the answer)``, ``("body", what is answered)``.
        hold_after: once so many texts were given out, a further request gets no answer.
        held: a request gets no answer.
        left: who waited for it is gone.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.key: str | None = None
        self.answered: Counter[str] = Counter()
        self.requests: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.failures: deque[Failure] = deque()
        self.hold_after: int | None = None
        self.held, self.left = threading.Event(), threading.Event()

    def __enter__(self) -> Any:
        super().__enter__()
        self.url += "/v1"
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        body = await request.json()
        self.requests.append((body, dict(request.headers)))
        await (await self._answer(request, body))(scope, receive, send)

    async def _answer(self, request: Request, body: dict[str, Any]) -> JSONResponse:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            return _error(401, f"Incorrect API key provided: {given}.")
        if request.url.path != "/v1/embeddings" or body["model"] != MODEL:
            return _error(404, f"The model `{body['model']}` does not exist.")
        answered = self.answered  # a request that waits may outlive the test that sent it
        what, how = self.failures.popleft() if self.failures else ("", None)
        if what == "status":
            return _error(how, "Not now.", {"retry-after": "1"} if how == 429 else {"retry-after-ms": "1"})
        if what == "body":
            return JSONResponse(how)
        if what == "wait":
            await self._pause(how)
        if self.hold_after is not None and answered.total() >= self.hold_after:
            self.held.set()
            while not (await request.is_disconnected() or self._server.should_exit):
                await self._pause(0.01)
            self.left.set()
            return _error(503, "Nobody waits any more.")
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        data = [
            {"object": "embedding", "index": place, "embedding": vector(text, body.get("dimensions", DIMENSION))}
            for place, text in enumerate(texts)
        ]
        data = how(data) if what == "change" else data
        if what != "change":
            answered.update(texts)
        for item in data:
            numbers = np.asarray(item["embedding"], dtype=np.float32)
            in_base64 = body.get("encoding_format") == "base64"
            item["embedding"] = base64.b64encode(numbers.tobytes()).decode() if in_base64 else numbers.tolist()
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return JSONResponse({"object": "list", "model": MODEL, "data": data, "usage": usage})

    async def _pause(self, seconds: float) -> None:
        """Wait, but not when the server is to stop."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._server.should_exit:
            await asyncio.sleep(0.01)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "error"}}, status, headers)
