"""What ``st-adapter explore`` shows as a Hugging Face Space: a folder that needs stock packages only; its upload."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

from st_adapter.embeddings.corpus import blocks
from st_adapter.errors import InputError
from st_adapter.evidence.exploring import Explored
from st_adapter.evidence.published import CONTENT_FILE, EMBEDDINGS, MODEL_FOLDER, VECTORS_FILE
from st_adapter.storage.hub import MAIN
from st_adapter.storage.uploading import Upload, check_repository_free, upload
from st_adapter.storage.writing import folder_written_whole, write_json, write_text
from st_adapter.words import counted

GRADIO = "6.31.0"
# A Space may hold a gigabyte; its texts and its model need room as well.
_MOST_BYTES = 800_000_000
_COPIED = ("explorer.py", "explorer_page.py", "published.py")
_ROOM = "st_adapter.evidence."
_TEXTS_AT_ONCE = 1024
_APP = '''"""Base and adapted model side by side; written by st-adapter."""

from pathlib import Path

from explorer import Explorer
from explorer_page import look, page
from published import published

page(Explorer(published(Path(__file__).parent))).launch(**look())
'''
_README = """---
title: Query adapter
sdk: gradio
sdk_version: {gradio}
app_file: app.py
pinned: false
---

# What a query adapter changes

Type a query, and see what the base model and the same model with a query adapter find for it, side by side.

This Space holds {what}, and the model. Written by [st-adapter](https://github.com/st-adapter/st-adapter).
"""


def what_is_published(explored: Explored) -> str:
    """What everybody who may see the Space can read, in words."""
    documents = counted(len(explored.corpus), "document")
    queries = counted(len(explored.material.queries), "query", "queries")
    known = any(text is not None for text in _texts(explored))
    what = "vectors and texts (cut after a few lines)" if known else "vectors"
    return f"{what} of {documents}, and {queries} with their judgements"


def write_space(explored: Explored, model: Path, folder: Path) -> Path:
    """Write the folder of a Space.

    Args:
        explored: of a run.
        model: the folder of its saved model.
        folder: new, empty, or one that was written here before, which is replaced as a whole.

    Raises:
        InputError: the vectors are too many for a Space, or the model has code of its own.
        ValueError: the folder holds something else.
    """
    if folder.exists() and not (folder.is_dir() and _may_replace({path.name for path in folder.iterdir()})):
        raise ValueError(f"{folder} holds something else than a Space written here. Name a new or empty folder.")
    check_publishable(explored, model)
    with folder_written_whole(folder) as unfinished:
        package = Path(__file__).parent
        for name in _COPIED:
            write_text(unfinished / name, (package / name).read_text(encoding="utf-8").replace(_ROOM, ""))
        write_text(unfinished / "app.py", _APP)
        write_text(unfinished / "requirements.txt", _requirements())
        write_text(unfinished / "README.md", _README.format(gradio=GRADIO, what=what_is_published(explored)))
        write_json(unfinished / CONTENT_FILE, _content(explored))
        vectors = torch.cat(list(blocks(explored.corpus))).contiguous()
        save_file({EMBEDDINGS: vectors}, unfinished / VECTORS_FILE)
        shutil.copytree(model, unfinished / MODEL_FOLDER, ignore=shutil.ignore_patterns("onnx", "README.md", ".*"))
    return folder


def check_publishable(explored: Explored, model: Path) -> None:
    """Check what can be known before anything is written.

    Raises:
        InputError: as ``write_space``.
    """
    num_bytes = 4 * len(explored.corpus) * explored.corpus.dimension
    if num_bytes > _MOST_BYTES:
        raise InputError(
            f"The vectors of {len(explored.corpus):,} documents take {num_bytes / 1e9:.1f} GB, but a Space holds "
            f"{_MOST_BYTES / 1e9:.1f} GB of them at most.",
            python="Explore them on your own machine.",
            flags="Leave out --space and --space-dir, and explore them on your own machine.",
        )
    if any(model.rglob("*.py")):
        raise InputError(
            f"{model} comes with code of its own, which a Space would run.",
            python="Explore it on your own machine.",
            flags="Leave out --space and --space-dir, and explore it on your own machine.",
        )


def push_space(folder: Path, repo_id: str, *, private: bool | None, token: str | None, overwrite: bool) -> str:
    """Upload the folder of a Space; returns the address of the commit.

    Args:
        folder: that ``write_space`` wrote.
        repo_id: ``user/name``; created if it does not exist, else it gets a new commit.
        private: whether a new Space is private; the account's default if None.
        token: access token; the one of ``hf auth login`` or ``HF_TOKEN`` if None.
        overwrite: replace everything in a Space that holds something else.

    Raises:
        ConnectionError: it may work if tried again.
        ValueError: it will not work as it is.
    """
    message = "Show what a query adapter changes"
    return upload(
        _upload_of({MAIN: folder}), repo_id, private=private, token=token, commit_message=message, overwrite=overwrite
    )


def check_may_push_space(repo_id: str, token: str | None) -> None:
    """Check, before work whose result is to be pushed, that a Space is new, blank or was written here.

    Raises:
        ConnectionError: it may work if tried again.
        ValueError: it holds something else.
    """
    check_repository_free(_upload_of({}), repo_id, token)


def _upload_of(branches: dict[str, Path]) -> Upload:
    return Upload(branches, lambda names, _: _is_ours(names), owned=(f"{MODEL_FOLDER}/*",), repo_type="space")


def _is_ours(names: set[str]) -> bool:
    return {*_COPIED, "app.py", CONTENT_FILE} <= names


def _may_replace(names: set[str]) -> bool:
    return not names or _is_ours(names)


def _requirements() -> str:
    """With the release that the model was saved and tried with."""
    return f"sentence-transformers=={version('sentence-transformers')}\nsafetensors\ntorch\n"


def _texts(explored: Explored) -> Iterator[str | None]:
    """What is shown of each document, some at a time."""
    number = len(explored.corpus)
    for start in range(0, number, _TEXTS_AT_ONCE):
        yield from explored.material.texts(range(start, min(start + _TEXTS_AT_ONCE, number)))


def _content(explored: Explored) -> dict[str, object]:
    material = explored.material
    return {
        "title": material.title,
        "facts": list(material.facts),
        "similarity": explored.corpus.similarity,
        "query_prompt": explored.query_prompt,
        "ids": list(material.ids),
        "texts": list(_texts(explored)),
        "seen": sorted(material.seen),
        "queries": [asdict(query) for query in material.queries],
    }
