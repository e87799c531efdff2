"""Embedding on a Ray cluster, with Ray Data and a pool of actors that each hold the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import torch

from st_adapter.embeddings.encoder import Encoder, SentenceTransformerEncoder
from st_adapter.embeddings.part_writer import Chunk, PartWriter
from st_adapter.embeddings.ray_cluster import check_ray_installed, ray_cluster
from st_adapter.errors import InputError, setting_error

# Texts that wait in the cluster at a time: a new round begins when they are done, with the actors still there.
_CHUNKS_AT_ONCE = 2048
_ROW, _ID, _TEXT, _DONE = "row", "id", "text", "done"


@dataclass(frozen=True)
class RayEngine:
    """Embeds with Ray Data: ``map_batches`` over chunks of texts, by a pool of actors.

    An actor writes the part of each chunk itself, under a name that the chunk gives, so that a chunk that is run again
    because a process or a node was lost replaces its own part. All nodes see the output folder under its path. One
    CPU has to be left free for what reads and hands out the chunks.

    Attributes:
        num_actors: how many, >= 1.
        address: of a running cluster; one on this machine, for as long as the engine runs, if None.
        gpus_each: GPUs that an actor takes, >= 0; a fraction shares one.

    Raises:
        ImportError: Ray is not installed.
    """

    num_actors: int = 1
    address: str | None = None
    gpus_each: float = 0

    def __post_init__(self) -> None:
        if self.num_actors < 1:
            raise setting_error("num_actors", self.num_actors, "at least 1", flag="--num-processes")
        if self.gpus_each < 0:
            raise setting_error("gpus_each", self.gpus_each, "0 or more", flag="--ray-gpus")
        check_ray_installed()

    def __call__(
        self, encoder: Encoder, writer: PartWriter, chunks: Iterable[Chunk], progress: Callable[[int], object]
    ) -> None:
        """Embed chunks and write their parts.

        Raises:
            ConnectionError: there is no such cluster.
            ValueError: the cluster has too few CPUs or GPUs.
        """
        with ray_cluster(self.address, self.num_actors + 1) as ray:
            self._check_room(ray)
            left = iter(chunks)
            while round_of := list(islice(left, _CHUNKS_AT_ONCE)):
                self._run(ray, encoder, writer, round_of, progress)

    def _check_room(self, ray: Any) -> None:
        there = ray.cluster_resources()
        # One CPU for each actor, and one for what hands out the chunks: without it all would wait for ever.
        for name, needed in (("CPU", self.num_actors + 1), ("GPU", self.gpus_each * self.num_actors)):
            if there.get(name, 0) < needed:
                raise InputError(
                    f"The Ray cluster has {there.get(name, 0):g} {name}s, but {needed:g} are needed.",
                    python="Ask for fewer actors with num_actors.",
                    flags="Ask for fewer with --num-processes.",
                )

    def _run(
        self, ray: Any, encoder: Encoder, writer: PartWriter, chunks: list[Chunk], progress: Callable[[int], object]
    ) -> None:
        from ray.data import ActorPoolStrategy, DataContext

        DataContext.get_current().enable_progress_bars = False
        # A table is a block, and a block is a batch: a chunk stays together wherever it is run.
        data = ray.data.from_arrow([_table(chunk) for chunk in chunks])
        done = data.map_batches(
            _Actor,
            fn_constructor_kwargs={"encoder": encoder, "writer": writer, "on_gpu": self.gpus_each > 0},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=1,
            num_gpus=self.gpus_each,
            compute=ActorPoolStrategy(size=min(self.num_actors, len(chunks))),
        )
        for row in done.iter_rows():
            progress(int(row[_DONE]))


class _Actor:
    """The model in one process of the cluster."""

    def __init__(self, encoder: Encoder, writer: PartWriter, on_gpu: bool) -> None:
        if on_gpu and isinstance(encoder, SentenceTransformerEncoder):
            encoder.model.to(torch.device("cuda"))
        self.encoder, self.writer = encoder, writer

    def __call__(self, table: pa.Table) -> pa.Table:
        chunks = list(_chunks(table))
        return pa.table({_DONE: [self.writer.embed(self.encoder, chunk) for chunk in chunks]})


def _table(chunk: Chunk) -> pa.Table:
    rows = [chunk.row] * len(chunk.ids)
    return pa.table({_ROW: rows, _ID: chunk.ids, _TEXT: chunk.texts})


def _chunks(table: pa.Table) -> Iterator[Chunk]:
    """The chunks in a batch, which is one unless Ray has put small blocks together."""
    rows, ids, texts = (table[name].to_pylist() for name in (_ROW, _ID, _TEXT))
    for row in dict.fromkeys(rows):
        chosen = [place for place, each in enumerate(rows) if each == row]
        yield Chunk(row, [ids[place] for place in chosen], [texts[place] for place in chosen])
