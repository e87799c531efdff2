"""What tests run in a process of its own: to kill it, to see what it leaves behind, or to be without this package.

Such a process begins where the libraries have been imported, so it starts at once.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
if sys.platform != "win32":
    # Nothing of this package: what stock libraries do without it is asked there as well.
    CONTEXT.set_forkserver_preload(["datasets", "pandas", "sentence_transformers"])


def run_elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """What a function of this module returns in a new process, or raises there."""
    with ProcessPoolExecutor(1, mp_context=CONTEXT) as pool:
        return pool.submit(function, *args).result()


def started_elsewhere(function: Callable[..., None], *args: Any) -> Any:
    """A new process, a ``multiprocessing.Process``, that runs a function of this module; to be killed."""
    process = CONTEXT.Process(target=function, args=args, daemon=True)
    process.start()
    return process


def new_event() -> Any:
    """What such a process sets for a test to wait for."""
    return CONTEXT.Event()


# Stock Sentence Transformers


def encoded_by_stock(
    folder: Path, texts: list[str], tasks: tuple[str, ...] = (), again: Path | None = None
) -> dict[str, np.ndarray]:
    """What Sentence Transformers gives where this package cannot be imported, for each method and each task.

    Args:
        folder: a saved model.
        texts: to embed.
        tasks: to embed queries for besides.
        again: a folder in which that model is saved and opened once more before.
    """
    sys.modules["st_adapter"] = None  # type: ignore[assignment]  # so that its import is refused
    try:
        import st_adapter  # noqa: F401
    except ImportError:
        pass
    else:
        raise AssertionError("st_adapter could be imported, so this would show nothing")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    if again is not None:
        model.save(str(again))
        model = SentenceTransformer(str(again), device="cpu")
    vectors = {name: getattr(model, name)(texts) for name in ("encode_query", "encode_document", "encode")}
    vectors |= {task: model.encode(texts, task=task, prompt_name="query") for task in tasks}
    assert not [name for name in sys.modules if name.startswith("st_adapter.")]
    return vectors


# To be killed


def write_folders(target: Path, ready: Any) -> None:
    """Write the same folder over and over, from when ``ready`` is set."""
    from st_adapter.storage.writing import folder_written_whole

    ready.set()
    for number in range(10**6):
        with folder_written_whole(target) as folder:
            for name in "ab":
                (folder / name).write_text(str(number))


def embed_slowly(model: Path, data: Path, output: Path) -> None:
    """Embed texts into a folder of vectors, four in a part and no more than five parts a second."""
    import time

    from sentence_transformers import SentenceTransformer

    from st_adapter.data.texts import TextSource
    from st_adapter.embeddings.embed_folder import FolderSettings, embed_to_folder

    opened = SentenceTransformer(str(model), device="cpu")
    encode = opened.encode_document

    def slowly(texts: list[str], **options: Any) -> Any:
        time.sleep(0.2)
        return encode(texts, **options)

    opened.encode_document = slowly  # type: ignore[method-assign]
    embed_to_folder(opened, TextSource(data, "corpus"), output, FolderSettings(part_size=4, show_progress_bar=False))


def embed_by_api(url: str, model: str, key: str, data: Path, cache: Path) -> None:
    """Embed a table of pairs through an API, ten texts at once."""
    import pandas as pd

    from st_adapter import RetrievalDataset, embed
    from st_adapter.embeddings import OpenAIEncoder

    os.environ["OPENAI_API_KEY"] = key
    dataset = RetrievalDataset.load(pd.read_csv(data))
    embed(OpenAIEncoder(model, url, batch_size=10), dataset, cache_dir=cache, show_progress_bar=False)


# To see what is left behind


def write_alone(folder: Path) -> None:
    """Be the only writer of a folder of vectors for a moment."""
    from st_adapter.storage.manifest import only_writer

    with only_writer(folder):
        pass


def fill_store(kind: str, folder: Path, ids: list[str], vectors: np.ndarray, texts: list[str]) -> str:
    """Make a vector store of a kind in a folder; its address."""
    from build_stores import BUILDERS

    with BUILDERS[kind](folder, ids, vectors, texts) as address:
        return address


def read_store(address: str) -> None:
    """Read what can be read from a vector store."""
    import torch

    from st_adapter.embeddings.store_corpus import StoreCorpus
    from st_adapter.stores import open_store

    corpus = StoreCorpus(open_store(address), "cosine")
    corpus.rows(torch.arange(len(corpus)))
    corpus.search(torch.eye(corpus.dimension), 3)
    corpus.texts(torch.arange(3))
