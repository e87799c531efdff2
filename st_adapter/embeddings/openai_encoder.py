"""An OpenAI-compatible endpoint as an encoder: the hosted API, or a server of one's own that speaks like it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from st_adapter.embeddings.corpus import Similarity
from st_adapter.embeddings.encoder import Encoder
from st_adapter.embeddings.fingerprint import json_digest
from st_adapter.embeddings.function_encoder import check_settings, checked_vectors
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.probe_texts import CHECK_TEXTS
from st_adapter.embeddings.roles import Role
from st_adapter.errors import InputError, setting_error, without_secrets

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

_KEY, _URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
# The client asks for a key even where the server does not.
_NO_KEY = "no-key-needed"
# Servers compute in half precision as a rule, and other neighbours in a batch round a vector another way.
_DTYPE = torch.float16
# A server without a GPU takes its time; the waits between the retries add up to half a minute.
_TIMEOUT, _RETRIES = 120.0, 6
_MESSAGE_LENGTH = 300


class OpenAIEncoder(Encoder):
    """A model behind an OpenAI-compatible endpoint: the hosted API, or a server such as TEI, Infinity, vLLM or Ollama.

    The key is the one in the environment variable ``OPENAI_API_KEY``, and is kept nowhere; servers that want none get
    a placeholder. It is sent to ``base_url``, as by every program that uses this client.

    Requests that fail for a while (429, 500 and above, time-outs, lost connections) are sent again after a growing
    wait, or after the one that the server asks for. Each answer is on disk before the next is asked for, so a run that
    was killed asks for no text twice. In each run, five fixed texts are asked for again and compared with the cache.

    Args:
        name: of the model, as the endpoint knows it.
        base_url: of the endpoint, such as ``http://localhost:8080/v1``; that of ``OPENAI_BASE_URL`` or the hosted API
            if None.
        similarity: ``cosine`` or ``dot``, how a query is compared with a document.
        dimensions: D to ask for, of models that can be asked.
        query_prompt: put before every query; endpoints put nothing there themselves.
        document_prompt: put before every document.
        batch_size: texts per request, >= 1; some servers take no more than 32.
        client: an ``openai.OpenAI`` with settings of your own, such as headers, a time-out or the number of retries;
            one with the key of the environment, two minutes and six retries if None.

    Raises:
        ImportError: ``st-adapter[openai]`` is not installed.
        ValueError: a setting is out of its range, the hosted API is meant and there is no key, or both ``base_url``
            and ``client`` say where it lies.

    Examples:
        >>> OpenAIEncoder("bge-small", "http://localhost:8080/v1", query_prompt="query: ")  # doctest: +SKIP
        OpenAIEncoder('bge-small', 'http://localhost:8080/v1', cosine, batches of 32)
    """

    def __init__(
        self,
        name: str,
        base_url: str | None = None,
        *,
        similarity: Similarity = "cosine",
        dimensions: int | None = None,
        query_prompt: str = "",
        document_prompt: str = "",
        batch_size: int = 32,
        client: OpenAI | None = None,
    ) -> None:
        check_settings(similarity, batch_size)
        if dimensions is not None and dimensions < 1:
            raise setting_error("dimensions", dimensions, "at least 1", flag="--truncate-dim")
        if client is not None and base_url is not None:
            raise ValueError("Both base_url and client came, but a client knows its own address. Pass one of them.")
        self.name = name
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self.batch_size = batch_size
        self._similarity = similarity
        self._client: Any = client or _client(base_url)
        if client is None:
            # The client is part of a cycle, so its connections would stay open until garbage is collected.
            weakref.finalize(self, self._client.close)
        self._options: dict[str, Any] = {} if dimensions is None else {"dimensions": dimensions}
        self._dimension = dimensions

    def __repr__(self) -> str:
        return f"OpenAIEncoder({self.name!r}, {self._url!r}, {self.similarity}, batches of {self.batch_size})"

    @property
    def identity(self) -> EncoderIdentity:
        """By the model's name, its dimension, the prompts, and what the endpoint makes of some fixed texts now."""
        queries = self.encode_query(CHECK_TEXTS)
        documents = queries if self.query_prompt == self.document_prompt else self.encode_document(CHECK_TEXTS)
        # A server may call a model by its path, which would tell about a machine.
        path = PurePath(self.name)
        name = path.name if path.is_absolute() else self.name
        probed = EncoderIdentity.probed(name, torch.cat([queries, documents]), self.dtype)
        return replace(probed, query_prompt=self.query_prompt)

    @property
    def similarity(self) -> Similarity:
        """As given."""
        return self._similarity

    @property
    def dtype(self) -> torch.dtype:
        """Half precision: how exactly an endpoint repeats itself."""
        return _DTYPE

    @property
    def texts_per_answer(self) -> int:
        """As ``batch_size`` says."""
        return self.batch_size

    @property
    def compared_on(self) -> Sequence[str]:
        """Fixed texts, so that none of the data is asked for twice."""
        return CHECK_TEXTS

    def encode_query(self, texts: Sequence[str]) -> Tensor:
        """The (T, D) float32 vectors of texts as queries."""
        return self._encode([self.query_prompt + text for text in texts])

    def encode_document(self, texts: Sequence[str]) -> Tensor:
        """The (T, D) float32 vectors of texts as documents."""
        return self._encode([self.document_prompt + text for text in texts])

    def prompt(self, role: Role) -> str:
        """What it was given."""
        return self.query_prompt if role == "query" else self.document_prompt

    def cache_key(self, identity: EncoderIdentity, role: Role) -> str:
        """By name, dimension, prompt and role; where the endpoint lies does not count."""
        return json_digest(["openai", identity.name, identity.dimension, self.prompt(role), role])

    @property
    def _url(self) -> str:
        return without_secrets(str(self._client.base_url).rstrip("/"))

    def _encode(self, texts: list[str]) -> Tensor:
        starts = range(0, len(texts), self.batch_size)
        return torch.cat([self._ask(texts[start : start + self.batch_size]) for start in starts])

    def _ask(self, texts: list[str]) -> Tensor:
        """The vectors of one request."""
        import openai

        who = f"{self.name} at {self._url}"
        try:
            answer = self._client.embeddings.create(model=self.name, input=texts, **self._options)
        except openai.APIStatusError as error:
            raise self._refusal(error, texts) from None  # what a server answers may hold the key
        except openai.APIConnectionError as error:
            what = f"{error} ({error.__cause__})" if error.__cause__ is not None else str(error)
            raise ConnectionError(
                f"{who} cannot be reached, also after {self._client.max_retries} retries: {self._shown(what)} Start "
                "the server or check the address; what was answered so far is kept and not asked for again."
            ) from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
            # The client takes what came for what it expects.
            raise self._no_vectors(str(error)) from None
        items = getattr(answer, "data", None)
        if not isinstance(items, list):
            raise self._no_vectors(str(answer))
        vectors = checked_vectors(_in_order(items, texts, who), texts, who, self._dimension)
        self._dimension = int(vectors.shape[1])
        return vectors

    def _refusal(self, error: APIStatusError, texts: list[str]) -> Exception:
        status = error.status_code
        body = error.body if isinstance(error.body, dict) else {}
        said = f"{self.name} at {self._url} answered {status}: {self._shown(str(body.get('message', error.message)))}"
        if status in (401, 403):
            return ValueError(f"{said} Set the environment variable {_KEY} to a key that may use this model.")
        if status in (408, 409, 429) or status >= 500:
            return ConnectionError(
                f"{said} That was after {self._client.max_retries} retries. Run it again later: what was answered so "
                "far is kept and not asked for again."
            )
        longest = max(len(text) for text in texts)
        return InputError(
            f"{said} It was asked for {len(texts)} texts at once, the longest of {longest:,} characters.",
            python="Check the model's name, lower batch_size, or cut the texts to what the model reads.",
            flags="Check the model's name, lower --embedding-batch-size, or cut the texts to what the model reads.",
        )

    def _no_vectors(self, came: str) -> ValueError:
        return ValueError(
            f"{self.name} at {self._url} gave no list of vectors: {self._shown(came)} Check that the address is that "
            "of an OpenAI-compatible endpoint; most end in /v1."
        )

    @staticmethod
    def _shown(message: str) -> str:
        """What a server said, on one line, short, and without the key."""
        words = " ".join(without_secrets(message).split())[:_MESSAGE_LENGTH]
        return words if words.endswith(".") else f"{words}."


def _client(base_url: str | None) -> OpenAI:
    try:
        from openai import OpenAI
    except ImportError as error:
        raise ImportError(
            'OpenAI-compatible endpoints need the openai client. Run `pip install "st-adapter[openai]"`.'
        ) from error
    key = os.environ.get(_KEY) or None
    if key is None and base_url is None and not os.environ.get(_URL):
        raise InputError(
            f"The environment variable {_KEY} is not set, but the hosted API asks for a key.",
            python="Set it, or pass the base_url of a server of your own.",
            flags="Set it, or name a server of your own with --base-url.",
        )
    return OpenAI(api_key=key or _NO_KEY, base_url=base_url, timeout=_TIMEOUT, max_retries=_RETRIES)


def _in_order(items: Sequence[Any], texts: Sequence[str], who: str) -> list[Any]:
    """The vectors in the order of the texts: each item names the text that it is of."""
    places = [getattr(item, "index", None) for item in items]
    if len(items) == len(texts) and sorted(place for place in places if isinstance(place, int)) != [*range(len(texts))]:
        raise ValueError(
            f"{who} numbered its vectors {places[:5]} and so on, but each of the {len(texts)} texts is expected once. "
            "Which belongs to which cannot be told; ask for one text at a time (batch_size), or use another server."
        )
    ordered = sorted(items, key=lambda item: item.index) if len(items) == len(texts) else items
    return [getattr(item, "embedding", None) for item in ordered]
