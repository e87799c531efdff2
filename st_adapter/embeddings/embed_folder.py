"""Embed queries or documents into a folder of vectors: in one process or several, on one machine or many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from st_adapter.data.texts import TextSource
from st_adapter.embeddings.embedding import as_encoder
from st_adapter.embeddings.encoder import Encoder, SentenceTransformerEncoder
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.local_engine import embed_here
from st_adapter.embeddings.part_writer import Chunk, PartWriter, text_hash
from st_adapter.embeddings.roles import Role
from st_adapter.errors import InputError, setting_error
from st_adapter.storage.manifest import MANIFEST_FILE, Manifest, StoredDtype, is_vector_folder, only_writer
from st_adapter.storage.vector_parts import MAX_ROWS, SUFFIX
from st_adapter.storage.writing import check_writable
from st_adapter.stores.folder import VectorFolder, read_parts_of, refuse_copies
from st_adapter.words import counted, first_three

# What embeds chunks and writes their parts; it tells how many more texts are done.
Engine: TypeAlias = Callable[[Encoder, PartWriter, Iterable[Chunk], Callable[[int], object]], None]
PART_TEXTS = 2048
_NOUNS = {"query": ("query", "queries"), "document": ("document", "documents")}


@dataclass(frozen=True)
class FolderSettings:
    """How a folder of vectors is made.

    Attributes:
        dtype: in which the vectors are kept; float16 takes half the room, and moves a cosine by less than .001.
        part_size: texts in a part, 1 to 16,384: what a process that is killed loses at most.
        engine: what runs the model, such as ``LocalEngine``; its ``check``, if it has one, is given the encoder before
            anything is written.
        show_progress_bar: one bar over all texts.
    """

    dtype: StoredDtype = "float32"
    part_size: int = PART_TEXTS
    engine: Engine = embed_here
    show_progress_bar: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.part_size <= MAX_ROWS:
            raise setting_error("part_size", self.part_size, f"1 to {MAX_ROWS}")


def embed_to_folder(
    model: SentenceTransformer | Encoder,
    source: TextSource,
    output: str | Path,
    settings: FolderSettings | None = None,
) -> VectorFolder:
    """Embed texts into a folder of vectors, from which they are read again by ``RetrievalDataset.load``.

    The folder has parquet files of ``id``, ``text_hash`` and ``embedding``, and a manifest. What is there already is
    not embedded again: a run that was cut off goes on, and to a finished folder what is new in the data is added.

    Args:
        model: base model, or any ``Encoder``.
        source: the texts; as queries or as documents, as its ``part`` says.
        output: the folder: new, empty, or of these texts and this model.
        settings: how.

    Returns:
        The folder, opened; its ``notes`` say how many texts were empty and left out.

    Raises:
        ValueError: an id stands twice in the data, the folder holds something else, vectors of another model or of
            other texts under the same ids, another process writes to it, or there is no room for the vectors; all
            before anything is embedded. Or a vector is not finite.
        OSError: a part cannot be written; those that were finished stay.

    Examples:
        >>> import pandas as pd
        >>> source = TextSource(pd.DataFrame({"id": ["a", "b"], "text": ["red car", "blue house"]}), "corpus")
        >>> embed_to_folder(model, source, "vectors", FolderSettings(show_progress_bar=False))
        VectorFolder('vectors': 2 vectors, 32 dimensions)
    """
    settings, folder = settings or FolderSettings(), Path(output).expanduser()
    encoder = as_encoder(model)
    role: Role = "query" if source.part == "queries" else "document"
    check_writable(folder, "output")
    # An engine that is a mere function has nothing to check.
    if (check := getattr(settings.engine, "check", None)) is not None:
        check(encoder)
    wanted, notes = _wanted(source, role)
    with only_writer(folder):
        manifest = _manifest(folder, encoder, role, settings.dtype)
        done = _finished(folder, manifest, wanted, notes)
        missing = len(wanted) - len(done)
        check_writable(folder, "output", num_bytes=missing * manifest.dimension * np.dtype(settings.dtype).itemsize)
        replace(manifest, count=None, normalized=None).write(folder)
        if missing:
            left = chunks(source, done, min(settings.part_size, encoder.texts_per_answer or settings.part_size))
            what, quiet = f"Embedding {_NOUNS[role][1]}", not settings.show_progress_bar
            with tqdm(total=len(wanted), initial=len(done), desc=what, unit="text", disable=quiet) as progress:
                settings.engine(encoder, PartWriter(folder, role, settings.dtype), left, progress.update)
        _finish(folder, manifest, len(wanted))
    made = VectorFolder(folder)
    made.notes = tuple(notes)
    return made


def chunks(source: TextSource, done: pa.Array, size: int) -> Iterator[Chunk]:
    """The texts that are not done, in runs of consecutive rows, at most ``size`` in each."""
    row, current = 0, Chunk(0, [], [])
    for texts in source:
        there = pc.is_in(pa.array(texts.ids, pa.large_string()), value_set=done).to_pylist()
        for one, text, is_there in zip(texts.ids, texts.texts, there, strict=True):
            if current.ids and (is_there or len(current.ids) == size):
                yield current
                current = Chunk(row, [], [])
            if not is_there:
                current = current if current.ids else Chunk(row, [], [])
                current.ids.append(one)
                current.texts.append(text)
            row += 1
    if current.ids:
        yield current


def _wanted(source: TextSource, role: Role) -> tuple[pa.Table, list[str]]:
    """The ids of the data with the hashes of their texts, and notes on what was left out.

    Raises:
        ValueError: an id stands there twice, or there is none.
    """
    read, num_empty = [_table([], [])], 0
    for texts in source:
        read.append(_table(texts.ids, [text_hash(text) for text in texts.texts]))
        num_empty += texts.num_empty
    wanted = pa.concat_tables(read).combine_chunks()
    if not len(wanted):
        raise ValueError(f"There are no {source.part} with a text. Expected at least one.")
    _refuse_twice(wanted["id"], "The data have", "Give each text an id of its own")
    return wanted, [f"{counted(num_empty, *_NOUNS[role])} without text left out."] if num_empty else []


def _table(ids: pa.Array | list[str], hashes: pa.Array | list[int]) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.large_string()), "hash": pa.array(hashes, pa.uint64())})


def _refuse_twice(ids: pa.Array, who: str, remedy: str) -> None:
    if pc.count_distinct(ids).as_py() < len(ids):
        table = pc.value_counts(ids)
        twice = table.filter(pc.greater(table.field("counts"), 1)).field("values").to_pylist()
        raise ValueError(f"{who} {counted(len(twice), 'id')} more than once: {first_three(twice)}. {remedy}.")


def _manifest(folder: Path, encoder: Encoder, role: Role, dtype: StoredDtype) -> Manifest:
    """The manifest of a new folder, or that of one that is to be gone on with; one without a part is new.

    Raises:
        ValueError: the folder holds something else, or vectors of another model.
    """
    identity, prompt = encoder.identity, encoder.prompt(role)
    precision = encoder.precision if isinstance(encoder, SentenceTransformerEncoder) else None
    ours = Manifest(identity.to_dict(), role, prompt, identity.dimension, dtype, precision=precision)
    if not is_vector_folder(folder):
        there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if there:
            raise InputError(
                f"{folder} holds {first_three(there)}, but no {MANIFEST_FILE}: it is of something else.",
                python="Choose another output.",
                flags="Choose another --output.",
            )
        return ours
    if not any(folder.glob(f"part-*{SUFFIX}")):
        return ours
    theirs = Manifest.read(folder)
    written = EncoderIdentity.from_dict(dict(theirs.encoder))
    differ = written.difference(identity) if role == "query" else written.document_difference(identity)
    problem = None if differ is None else f"was embedded with {written}, and this is {identity}: {differ}"
    for name, before, now in (
        ("role", theirs.role, role),
        ("prompt", theirs.prompt, prompt),
        ("dtype", theirs.dtype, dtype),
        # A folder of before does not know its own.
        ("precision", theirs.precision or precision, precision),
    ):
        if before != now:
            problem = f"holds vectors of the {name} {before!r}, and this is {now!r}"
    if problem is not None:
        raise InputError(
            f"{folder} {problem}.",
            python="Choose another output, or go on as it was begun.",
            flags="Choose another --output, or go on as it was begun.",
        )
    return theirs


def _finished(folder: Path, manifest: Manifest, wanted: pa.Table, notes: list[str]) -> pa.Array:
    """The ids that have a vector, of the texts that they have now; what could not be compared is added to the notes."""
    _remove_unfinished(folder)
    parts = read_parts_of(folder, manifest)
    refuse_copies(parts)
    each = (_table(part.ids.cast(pa.large_string()), part.text_hashes()) for part in parts)
    done = pa.concat_tables([_table([], []), *each]).combine_chunks()
    _refuse_twice(done["id"], f"The parts in {folder} have", "Delete one of the parts that hold them")
    place = pc.index_in(done["id"], value_set=wanted["id"])
    unknown = done["id"].filter(pc.is_null(place))
    if len(unknown):
        raise InputError(
            f"{folder} holds vectors for {counted(len(unknown), 'id')} that the data do not have: "
            f"{first_three(unknown[:4].to_pylist())}.",
            python="Choose another output for other data.",
            flags="Choose another --output for other data.",
        )
    changed = done["id"].filter(pc.not_equal(wanted["hash"].take(place), done["hash"]))
    if len(changed):
        raise InputError(
            f"{folder} holds vectors for {counted(len(changed), 'id')} whose texts are no longer those that were "
            f"embedded: {first_three(changed[:4].to_pylist())}.",
            python="Choose another output for the data as they are now.",
            flags="Choose another --output for the data as they are now.",
        )
    if unhashed := done["hash"].null_count:
        notes.append(
            f"{counted(unhashed, 'vector')} in {folder} were written by an earlier version, without what tells whether "
            "their texts have changed since: they were taken as they are."
        )
    return done["id"]


def _remove_unfinished(folder: Path) -> None:
    """Remove what a writer that was killed left half written."""
    for leftover in folder.glob(f".part-*{SUFFIX}.*"):
        leftover.unlink(missing_ok=True)


def _finish(folder: Path, manifest: Manifest, count: int) -> None:
    """Write into the manifest that all are there."""
    _remove_unfinished(folder)
    parts = read_parts_of(folder, manifest)
    there = sum(part.count for part in parts)
    if there != count:
        raise ValueError(
            f"{folder} has {counted(there, 'vector')} in the end, but there are {counted(count, 'text')}: the data or "
            "the folder were changed meanwhile. Run it again."
        )
    replace(manifest, count=count, normalized=all(part.normalized for part in parts)).write(folder)
