"""What an earlier version saved opens in this one, and gives the same vectors and scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from problems import ROOT
from st_adapter.adapter import QueryAdapter
from st_adapter.saving.attach import attach, detach
from st_adapter.saving.folder import read_saved
from st_adapter.saving.opening import from_pretrained

VERSIONS = sorted(path for path in (ROOT / "tests" / "golden").glob("v*"))
# Releases of torch differ in the last bits of the same product.
TOLERANCE = 1e-5


def test_there_is_something_to_open() -> None:
    assert VERSIONS


@pytest.mark.parametrize("layout", ["document", "query", "twin"])
@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_a_saved_model(folder: Path, layout: str) -> None:
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    saved = read_saved(folder / layout)
    assert (saved.layout, saved.has_adapter, list(saved.routes)) == (layout, True, ["query"])
    assert (saved.routes["query"].adapter, saved.training.data) == ("adapter", "golden")
    for model in (
        SentenceTransformer(str(folder / layout), device="cpu"),
        from_pretrained(folder / layout, device="cpu"),
    ):
        queries = model.encode_query(expected["texts"])
        np.testing.assert_allclose(queries, expected["queries"], rtol=0, atol=TOLERANCE)
        plain = expected["documents"] if layout == "document" else expected["queries"]
        np.testing.assert_allclose(model.encode(expected["texts"]), plain, rtol=0, atol=TOLERANCE)
        if layout != "twin":
            documents = model.encode_document(expected["texts"])
            np.testing.assert_allclose(documents, expected["documents"], rtol=0, atol=TOLERANCE)
            scores = model.similarity(queries, documents)
            np.testing.assert_allclose(scores, expected["scores"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_an_adapter_alone(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    base, _ = detach(from_pretrained(folder / "document", device="cpu"))
    for source in ("adapter-alone", "document"):
        model = attach(base, QueryAdapter.from_pretrained(folder / source))
        queries = model.encode_query(expected["texts"], convert_to_tensor=True)
        torch.testing.assert_close(queries, torch.tensor(expected["queries"]), rtol=0, atol=TOLERANCE)


# Since version 0.2.
@pytest.mark.parametrize("folder", VERSIONS[1:], ids=lambda folder: folder.name)
def test_several_adapters(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    assert (read_saved(folder / "tasks").tasks, read_saved(folder / "tasks").default_task) == (["same", "none"], "same")
    for model in (SentenceTransformer(str(folder / "tasks"), device="cpu"), from_pretrained(folder / "tasks")):
        for queries in (model.encode_query(expected["texts"]), model.encode(expected["texts"], task="same")):
            np.testing.assert_allclose(queries, expected["queries"], rtol=0, atol=TOLERANCE)
        for documents in (model.encode(expected["texts"]), model.encode(expected["texts"], task="none")):
            np.testing.assert_allclose(documents, expected["documents"], rtol=0, atol=TOLERANCE)
