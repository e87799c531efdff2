"""The driver of the recipes sees what a stack does wrong: every check is planted to fail once."""

from types import SimpleNamespace

import check_stacks
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from st_adapter import QueryAdapter, save_pretrained
from st_adapter.stacks.check import DOCUMENTS, QUERIES


@pytest.fixture(scope="module")
def paths(tiny_model_path, tmp_path_factory):
    adapter = QueryAdapter(32)
    with torch.no_grad():
        adapter.delta.add_(0.2 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    return tiny_model_path, save_pretrained(base, adapter, tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def model(paths):
    return check_stacks.Model(paths[0], paths[1], check_stacks.query_layout(paths[1]))


class Store:
    """Stands for an environment: a store that searches exactly, and then does what ``change`` says."""

    def __init__(self, model, data, change, folder):
        self.environment = folder
        self.recipe = SimpleNamespace(name="store")
        adapted, base = (SentenceTransformer(str(path), device="cpu") for path in (model.adapted, model.base))
        self.answers = {
            "ids": np.asarray(list(data.documents)),
            "before": base.encode_document(list(data.documents.values())),
            "queries": adapted.encode_query(list(data.queries.values())),
        }
        self.answers["after"] = self.answers["before"].copy()
        self.answers["scores"] = self.answers["queries"] @ self.answers["before"].T
        change(self.answers, base)

    def run(self, step, arguments):
        found = self.answers
        if step == "index":
            return {"ids": found["ids"], "vectors": found["before"]}, {}
        best = np.argsort(-found["scores"], axis=1)[:, : arguments["k"]]
        hits = [[(str(found["ids"][row]), 1.0) for row in columns] for columns in best]
        return {"ids": found["ids"], "vectors": found["after"]}, {"hits": hits}


def as_it_is(answers, base):
    pass


def rewritten(answers, base):
    answers["after"][0, 0] += 1e-7


def adapted_documents(answers, base):
    answers["before"] = answers["after"] = answers["queries"][: len(answers["ids"])] + 1.0


def half(answers, base):
    for name in ("ids", "before", "after"):
        answers[name] = answers[name][::2]
    answers["scores"] = answers["scores"][:, ::2]


def worst_first(answers, base):
    answers["scores"] = -answers["scores"]


def second_first(answers, base):
    """Where the relevant document comes first, it changes places with the second."""
    scores = answers["scores"]
    best, second = np.argsort(-scores, axis=1)[:, :2].T
    rows = np.flatnonzero(best == np.arange(len(best)))
    assert len(rows)
    scores[rows, best[rows]] = scores[rows, second[rows]] - 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rewritten, "not the same bytes after the search"),
        (adapted_documents, "stored vectors differ from the base model's by up to"),
        (half, "the store holds 6 documents, not the 12 that were indexed"),
        (worst_first, "only 0.000 of the hits are those of exact search"),
        (second_first, r"nDCG@10 is 0\.\d+, by exact search 0\.\d+; recall of its hits 1"),
    ],
)
def test_a_store_that_is_wrong_is_seen(change, message, model, tmp_path, monkeypatch):
    monkeypatch.setattr(check_stacks, "K", 3)
    texts = [f"{word} the {thing}" for word in ("open", "read", "close") for thing in ("file", "list", "line", "value")]
    data = check_stacks.Retrieval(
        documents={f"d{row}": text for row, text in enumerate(texts)},
        queries={f"q{row}": f"how {text}" for row, text in enumerate(texts)},
        qrels={f"q{row}": {f"d{row}": 1.0} for row in range(len(texts))},
    )
    right = check_stacks.check_index(Store(model, data, as_it_is, tmp_path), model, data)
    assert right["ndcg@10"] == right["exact_ndcg@10"] > 0
    assert right["recall_of_exact@10"] == 1
    assert right["stored_max_difference"] == 0
    with pytest.raises(check_stacks.Failed, match=message):
        check_stacks.check_index(Store(model, data, change, tmp_path), model, data)


@pytest.mark.parametrize("layout", ["adapted", "query"])
def test_embedders_that_are_wrong_are_seen(layout, model):
    opened = SentenceTransformer(str(getattr(model, layout)), device="cpu")
    plain = [opened.encode(list(texts)) for texts in (QUERIES, DOCUMENTS)]
    right = [opened.encode_query(list(QUERIES)), opened.encode_document(list(DOCUMENTS))]
    assert check_stacks.check_vectors("tiny", model, *right)["document_max_difference"] == 0
    message = {"adapted": "queries do not pass through", "query": "documents pass through"}[layout]
    with pytest.raises(check_stacks.Failed, match=f"tiny: {message}"):
        check_stacks.check_vectors("tiny", model, *plain)
