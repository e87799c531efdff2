"""Embedding on this machine: in this process, or in several that each hold the model."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import active_children
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from st_adapter.embeddings.encoder import Encoder, SentenceTransformerEncoder
from st_adapter.embeddings.part_writer import Chunk, PartWriter
from st_adapter.errors import InputError, setting_error

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

_MOST_FAILURES = 3
# Forked processes cannot use a GPU that this one has used.
_CONTEXT = multiprocessing.get_context("spawn")


def embed_here(
    encoder: Encoder, writer: PartWriter, chunks: Iterable[Chunk], progress: Callable[[int], object]
) -> None:
    """Embed chunk after chunk in this process."""
    for chunk in chunks:
        writer.embed(encoder, chunk, progress)


@dataclass(frozen=True)
class LocalEngine:
    """Embeds in several processes of this machine.

    Each process takes one GPU if the model is on one, or else an equal share of the processor's cores, and writes its
    parts itself. Where a process dies, all are started again and the parts in work are embedded again. When this
    process is gone, so are they.

    Attributes:
        num_processes: how many, >= 1.
    """

    num_processes: int = 1

    def __post_init__(self) -> None:
        if self.num_processes < 1:
            raise setting_error("num_processes", self.num_processes, "at least 1")

    def check(self, encoder: Encoder) -> None:
        """Refuse what cannot run, before anything is read or written.

        Raises:
            ValueError: several processes were asked for, and the encoder is no Sentence Transformers model.
        """
        if self.num_processes == 1:
            return
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            # A process that was started below imports the script, which would begin anew here. Whoever started it sees
            # that it ended, and says why.
            sys.exit(1)
        if not isinstance(encoder, SentenceTransformerEncoder):
            raise InputError(
                "Several processes were asked for, but these run Sentence Transformers models alone.",
                python="Pass LocalEngine(1).",
                flags="Leave out --num-processes.",
            )

    def __call__(
        self, encoder: Encoder, writer: PartWriter, chunks: Iterable[Chunk], progress: Callable[[int], object]
    ) -> None:
        """Embed chunks and write their parts.

        Raises:
            ValueError: several processes were asked for, and the encoder is no Sentence Transformers model.
            ChildProcessError: processes cannot be started, or die again and again.
        """
        self.check(encoder)
        if not isinstance(encoder, SentenceTransformerEncoder) or self.num_processes == 1:
            embed_here(encoder, writer, chunks, progress)
            return
        _try_to_start()
        # Of more chunks than are in work, so that no process waits for its next one.
        left, at_once = iter(chunks), 2 * self.num_processes
        unfinished, died = dict[int, Chunk](), Counter[int]()
        while True:
            with _processes(encoder, self.num_processes) as pool:
                working: dict[Future[int], int] = {}
                try:
                    while True:
                        unfinished |= {chunk.row: chunk for chunk in islice(left, at_once - len(unfinished))}
                        if not unfinished:
                            return
                        new = sorted(unfinished.keys() - working.values())
                        working |= {pool.submit(_embed, writer, unfinished[row]): row for row in new}
                        for future in wait(working, return_when=FIRST_COMPLETED).done:
                            progress(future.result())
                            del unfinished[working.pop(future)]
                except BrokenProcessPool as error:
                    died.update(unfinished.keys())
                    if max(died[row] for row in unfinished) == _MOST_FAILURES:
                        raise _died() from error


def _died() -> ChildProcessError:
    return ChildProcessError(
        f"The processes that embed died {_MOST_FAILURES} times with the same texts in work. If they printed why, it "
        "stands above; if not, it was for want of memory most likely: use fewer processes (--num-processes) or smaller "
        "batches (--embedding-batch-size). What is finished is not embedded again."
    )


def _try_to_start() -> None:
    """Start a process that does nothing: one that dies while it is sent the model would be waited for without an end.

    Raises:
        ChildProcessError: it cannot start.
    """
    process = _CONTEXT.Process(target=int)
    process.start()
    process.join()
    if process.exitcode:
        raise ChildProcessError(
            "Processes that embed cannot be started: each imports the script that starts them, and ended there. Put "
            'what the script does under `if __name__ == "__main__":`, or use one process.'
        )


@contextmanager
def _processes(encoder: SentenceTransformerEncoder, number: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that each hold the model; its weights lie in memory once."""
    device, cores = encoder.device, os.cpu_count() or 1
    there = 1 if device.type == "cpu" else max(1, getattr(torch, device.type).device_count())
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = max(1, min(int(given) if given.isdigit() else cores, cores // number))
    encoder.model.to("cpu").share_memory()
    others = active_children()
    with TemporaryDirectory() as folder:
        begins = _CONTEXT.SimpleQueue()
        for place in range(number):
            # Python waits without an end for a process that dies while it is sent more than a pipe holds.
            path = Path(folder) / str(place)
            path.write_bytes(ForkingPickler.dumps(encoder))
            begins.put((path, "cpu" if device.type == "cpu" else f"{device.type}:{place % there}", threads))
        pool = ProcessPoolExecutor(number, _CONTEXT, initializer=_begin, initargs=(begins,))
        try:
            yield pool
        except BaseException:
            # Parts are written whole or not at all, so that nobody has to wait for those in work.
            for process in active_children():
                if process not in others:
                    process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            encoder.model.to(device)


# Within such a process

_held: list[Encoder] = []


def _begin(begins: SimpleQueue[tuple[Path, str, int]]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    path, device, threads = begins.get()
    torch.set_num_threads(threads)
    encoder = ForkingPickler.loads(path.read_bytes())
    encoder.model.to(device)
    _held.append(encoder)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _embed(writer: PartWriter, chunk: Chunk) -> int:
    return writer.embed(_held[0], chunk)
