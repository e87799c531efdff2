"""What a folder of vectors says of itself, and who writes to it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from st_adapter.choices import Precision
from st_adapter.storage.reading import read_object
from st_adapter.storage.records import built, plain
from st_adapter.storage.writing import write_json

# Arrow, Spark and pandas take a folder for one table, but for what begins so.
MANIFEST_FILE = "_vectors.json"
StoredDtype = Literal["float32", "float16"]
_LOCK = ".writing.lock"


@dataclass(frozen=True)
class Manifest:
    """What lies beside the parts of a folder of vectors.

    Attributes:
        encoder: the fields of the identity of the encoder.
        role: ``query`` or ``document``, what the texts were embedded as.
        prompt: what was put before each text.
        dimension: D.
        dtype: ``float32`` or ``float16``, in which the vectors are kept.
        count: N, vectors in all parts; None while the folder is not finished.
        normalized: whether all vectors but those of zeros have length 1; None while the folder is not finished.
        precision: in which the model ran; None if it is no Sentence Transformers model, or in a folder of before.
    """

    encoder: Mapping[str, Any]
    role: Literal["query", "document"]
    prompt: str
    dimension: int
    dtype: StoredDtype
    count: int | None = None
    normalized: bool | None = None
    precision: Precision | None = None

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read it.

        Raises:
            ValueError: it is missing, says something else than a manifest does, or describes no encoder.
        """
        path = folder / MANIFEST_FILE
        manifest = built(cls, read_object(path), str(path))
        # What else describes an encoder is for who compares it with another one.
        if "name" not in manifest.encoder or manifest.encoder.get("dimension") != manifest.dimension:
            raise ValueError(
                f"{path} is damaged: it does not say which encoder of {manifest.dimension} dimensions the vectors are "
                "of. Take it from a copy, or embed again, to another folder."
            )
        return manifest

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        write_json(folder / MANIFEST_FILE, plain(self))


def is_vector_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds vectors that ``st-adapter embed`` wrote, finished or not."""
    return (Path(path).expanduser() / MANIFEST_FILE).is_file()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep others from writing to a folder, which is made, as long as the block lasts or the process lives.

    Raises:
        ValueError: another process writes to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"Another process writes to {folder}. Wait until it is done, or choose another folder; what it has "
            "finished is not embedded again."
        ) from error
    try:
        yield
    finally:
        lock.release()
