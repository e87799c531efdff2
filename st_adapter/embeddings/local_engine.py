"""Embedding on this machine: in this process, or in several by the pool of Sentence Transformers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from st_adapter.embeddings.encoder import Encoder, SentenceTransformerEncoder
from st_adapter.embeddings.part_writer import Chunk, PartWriter
from st_adapter.errors import InputError, setting_error

_POOL_TEXTS = 128
_MOST_FAILURES = 3
Pool = dict[Any, Any]


def embed_here(
    encoder: Encoder, writer: PartWriter, chunks: Iterable[Chunk], progress: Callable[[int], object]
) -> None:
    """Embed chunk after chunk in this process."""
    for chunk in chunks:
        writer.embed(encoder, chunk, progress)


@dataclass(frozen=True)
class LocalEngine:
    """Embeds in several processes of this machine.

    Each process takes one GPU if the model is on one, or else an equal share of the processor's cores. Where a process
    dies, all are started again and the parts in work are embedded again.

    Attributes:
        num_processes: how many, >= 1.
    """

    num_processes: int = 1

    def __post_init__(self) -> None:
        if self.num_processes < 1:
            raise setting_error("num_processes", self.num_processes, "at least 1")

    def __call__(
        self, encoder: Encoder, writer: PartWriter, chunks: Iterable[Chunk], progress: Callable[[int], object]
    ) -> None:
        """Embed chunks and write their parts.

        Raises:
            ValueError: the encoder is none that runs in several processes.
            ChildProcessError: processes die again and again.
        """
        if self.num_processes == 1:
            embed_here(encoder, writer, chunks, progress)
            return
        if not isinstance(encoder, SentenceTransformerEncoder) or encoder.precision != "fp32":
            raise InputError(
                "Several processes were asked for, but these run Sentence Transformers models in fp32 alone.",
                python="Pass LocalEngine(1), or RayEngine for another precision.",
                flags="Leave out --num-processes, or add --engine ray for another precision.",
            )
        with _Processes(encoder.model, self._devices(encoder.device)) as processes:
            for group in _groups(chunks, self.num_processes):
                texts = [text for chunk in group for text in chunk.texts]
                vectors = processes.encode(encoder, writer, texts)
                first = 0
                for chunk in group:
                    writer.write(chunk, vectors[first : first + len(chunk.ids)])
                    first += len(chunk.ids)
                    progress(len(chunk.ids))

    def _devices(self, device: torch.device) -> list[str]:
        if device.type == "cpu":
            return ["cpu"] * self.num_processes
        there = max(1, getattr(torch, device.type).device_count())
        return [f"{device.type}:{number % there}" for number in range(self.num_processes)]


class _Processes:
    """The pool of Sentence Transformers, started again where one of its processes dies."""

    def __init__(self, model: SentenceTransformer, devices: list[str]) -> None:
        self.model, self.devices = model, devices
        self.pool: Pool | None = None

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def encode(self, encoder: SentenceTransformerEncoder, writer: PartWriter, texts: list[str]) -> NDArray[np.float32]:
        """The (n, D) vectors of texts in the role of a writer."""
        encode = self.model.encode_query if writer.role == "query" else self.model.encode_document
        order = [row for batch in writer.batches(texts, _POOL_TEXTS) for row in batch]
        for _ in range(_MOST_FAILURES):
            self.pool = self.pool or self._started()
            try:
                found = encode(
                    [texts[row] for row in order],
                    pool=self.pool,
                    chunk_size=_POOL_TEXTS,
                    batch_size=encoder.batch_size,
                    show_progress_bar=False,
                )
            except RuntimeError:
                # One that the model raised itself, in a process that lives, would be raised again.
                if all(process.is_alive() for process in self.pool["processes"]):
                    raise
                self._stop()
                continue
            vectors = np.empty(found.shape, dtype=np.float32)
            vectors[order] = found
            return vectors
        raise ChildProcessError(
            f"The processes that embed died {_MOST_FAILURES} times in a row on the same texts, for want of memory most "
            "likely. Use fewer processes (--num-processes) or smaller batches (--embedding-batch-size); what is "
            "finished is not embedded again."
        )

    def _started(self) -> Pool:
        with _threads_each(len(self.devices)):
            return dict(self.model.start_multi_process_pool(self.devices))

    def _stop(self) -> None:
        if self.pool is not None:
            self.model.stop_multi_process_pool(self.pool)
            self.pool = None


@contextmanager
def _threads_each(number: int) -> Iterator[None]:
    """Have processes that start now share the cores, and not each take them all."""
    cores = os.cpu_count() or 1
    given = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(1, min(int(given or cores), cores // number)))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if given is not None:
            os.environ["OMP_NUM_THREADS"] = given


def _groups(chunks: Iterable[Chunk], number: int) -> Iterator[list[Chunk]]:
    left = iter(chunks)
    while group := list(islice(left, number)):
        yield group
