"""A retrieval data set as a task of mteb, to run on a saved model beside the public benchmarks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from st_adapter.data import RetrievalDataset
from st_adapter.trec import check_whole_grades

if TYPE_CHECKING:
    from mteb.abstasks.retrieval import AbsTaskRetrieval


def mteb_task(
    dataset: RetrievalDataset, split: str = "test", *, name: str | None = None, languages: Sequence[str] = ("eng-Latn",)
) -> AbsTaskRetrieval:
    """Make an mteb task of one split, with main score nDCG@10.

    mteb gives queries to ``encode_query`` and documents to ``encode_document``, so a saved model is measured with its
    adapter, and its base model without.

    Args:
        dataset: queries, corpus and judgements.
        split: the split to evaluate on.
        name: of the task, under which mteb keeps results; made from the name of the data if not given.
        languages: of the texts, as mteb writes them.

    Returns:
        The task: ``mteb.evaluate(SentenceTransformer("model"), mteb_task(dataset))``.

    Raises:
        ImportError: mteb is not installed.
        ValueError: there is no such split, or a relevance is no whole number.
    """
    try:
        from mteb.abstasks.retrieval import AbsTaskRetrieval
        from mteb.abstasks.task_metadata import TaskMetadata
    except ImportError as error:
        raise ImportError("A task for mteb needs mteb: pip install 'st-adapter[mteb]'.") from error
    if split not in dataset.qrels:
        raise ValueError(f"There is no split {split!r}; the data have {dataset.splits}. Choose one of these.")
    judged = dataset.qrels[split]
    check_whole_grades(judged["score"])
    relevant_docs: dict[str, dict[str, int]] = {}
    for query_id, corpus_id, score in zip(judged["query_id"], judged["corpus_id"], judged["score"], strict=True):
        relevant_docs.setdefault(query_id, {})[corpus_id] = round(score)
    rows = [row for row, query_id in enumerate(dataset.queries["id"]) if query_id in relevant_docs]
    content = {
        "corpus": dataset.corpus,
        "queries": dataset.queries.select(rows),
        "relevant_docs": relevant_docs,
        "top_ranked": None,
    }
    name = name or re.sub(r"[^\w-]+", "-", dataset.name).strip("-") or "retrieval"

    class DatasetRetrieval(AbsTaskRetrieval):  # type: ignore[misc]
        metadata = TaskMetadata(
            name=name,
            description=f"The split {split} of {dataset.name or 'data in memory'}.",
            type="Retrieval",
            dataset={"path": dataset.name or name, "revision": _revision(content)},
            eval_splits=[split],
            eval_langs=list(languages),
            main_score="ndcg_at_10",
        )

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            """Nothing to fetch: the data are here."""
            self.dataset = {"default": {split: dict(content)}}
            self.data_loaded = True

    return DatasetRetrieval()


def _revision(content: dict[str, Any]) -> str:
    """Differs where texts or judgements differ, so that mteb finds no results of other data in its cache."""
    digest = hashlib.sha256()
    for part in ("corpus", "queries"):
        for row in content[part]:
            digest.update(f"{part} {row['id']!r} {row['text']!r}\n".encode("utf-8", "surrogatepass"))
    digest.update(repr(content["relevant_docs"]).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:40]
