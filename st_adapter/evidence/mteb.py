"""A retrieval data set as a task of mteb, to run on a saved model beside the public benchmarks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.evidence.trec import check_whole_relevance

if TYPE_CHECKING:
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata


def mteb_task(
    dataset: RetrievalDataset, split: str = "test", *, name: str | None = None, languages: Sequence[str] = ("eng-Latn",)
) -> AbsTaskRetrieval:
    """Make an mteb task of one split, with main score nDCG@10.

    mteb gives queries to ``encode_query`` and documents to ``encode_document``, so a saved model is measured with its
    adapter, and its base model without. A document with the query's own text is left out of its hits, unless it is
    judged relevant, as everywhere in this package.

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

    Examples:
        >>> mteb_task(dataset, "test", name="Things").metadata.main_score
        'ndcg_at_10'
    """
    try:
        from mteb.abstasks.retrieval import AbsTaskRetrieval
        from mteb.abstasks.task_metadata import TaskMetadata
    except ImportError as error:
        raise ImportError("A task for mteb needs mteb: pip install 'st-adapter[mteb]'.") from error
    judged = dataset.judgements(split)
    check_whole_relevance(judged["relevance"])
    relevant_docs: dict[str, dict[str, int]] = {}
    for query_id, corpus_id, relevance in zip(
        *(judged[name] for name in ("query_id", "corpus_id", "relevance")), strict=True
    ):
        relevant_docs.setdefault(query_id, {})[corpus_id] = round(relevance)
    copies = _left_out(dataset, relevant_docs)
    rows = [row for row, query_id in enumerate(dataset.queries["id"]) if query_id in relevant_docs]
    content = {
        "corpus": dataset.corpus,
        "queries": dataset.queries.select(rows),
        "relevant_docs": relevant_docs,
        "top_ranked": None,
    }
    name = name or re.sub(r"[^\w-]+", "-", dataset.name).strip("-") or "retrieval"
    metadata = TaskMetadata(
        name=name,
        description=f"The split {split} of {dataset.name or 'data in memory'}.",
        type="Retrieval",
        dataset={"path": dataset.name or name, "revision": _revision(content, copies)},
        eval_splits=[split],
        eval_langs=list(languages),
        main_score="ndcg_at_10",
    )
    return _task(AbsTaskRetrieval, metadata, content, copies)


def _task(
    task: Any, described: TaskMetadata, content: dict[str, Any], copies: Mapping[str, set[str]]
) -> AbsTaskRetrieval:
    """A task whose data are here and that leaves the queries' own copies out of what a model finds."""
    from mteb.models.models_protocols import EncoderProtocol

    class DatasetRetrieval(task):  # type: ignore[misc]  # which class it is shows when mteb is imported
        metadata = described

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            """Nothing to fetch: the data are here."""
            self.dataset = {"default": {split: dict(content) for split in described.eval_splits}}
            self.data_loaded = True

        def evaluate(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            """Leave the queries' own copies out of what the model finds."""
            if copies and not isinstance(model, EncoderProtocol):
                raise ValueError(
                    f"{len(copies)} queries stand in the corpus themselves, and these copies can be left out of "
                    f"the hits of an embedding model only, not of a {type(model).__name__}. Pass an embedding model."
                )
            return super().evaluate(_without_copies(model, copies) if copies else model, *args, **kwargs)

    return DatasetRetrieval()


def _without_copies(model: Any, copies: Mapping[str, set[str]]) -> Any:
    """A model for mteb's search whose hits lack each query's own copies."""
    from mteb.models import SearchEncoderWrapper

    class SearchWithoutCopies(SearchEncoderWrapper):  # type: ignore[misc]
        def search(self, queries: Any, *, top_k: int, **kwargs: Any) -> dict[str, dict[str, float]]:
            """Deeper by as many documents as any query has copies, without these."""
            most = max(len(own) for own in copies.values())
            found: dict[str, dict[str, float]] = super().search(queries, top_k=top_k + most, **kwargs)
            return {
                query_id: dict(
                    sorted(
                        ((one, score) for one, score in hits.items() if one not in copies.get(query_id, ())),
                        key=lambda hit: -hit[1],
                    )[:top_k]
                )
                for query_id, hits in found.items()
            }

    return SearchWithoutCopies(model)


def _left_out(dataset: RetrievalDataset, relevant_docs: dict[str, dict[str, int]]) -> dict[str, set[str]]:
    """Query -> the documents that are its own text and not judged relevant; only queries that have some."""
    query_ids, corpus_ids = dataset.queries["id"][:], dataset.corpus["id"][:]
    left_out: dict[str, set[str]] = {}
    for row, place in zip(*(dataset.own_copies or ((), ())), strict=True):
        query_id, corpus_id = query_ids[row], corpus_ids[place]
        if query_id in relevant_docs and relevant_docs[query_id].get(corpus_id, 0) <= 0:
            left_out.setdefault(query_id, set()).add(corpus_id)
    return left_out


def _revision(content: dict[str, Any], copies: dict[str, set[str]]) -> str:
    """Differs where texts or judgements differ, so that mteb finds no results of other data in its cache."""
    digest = hashlib.sha256()
    for part in ("corpus", "queries"):
        for row in content[part]:
            digest.update(f"{part} {row['id']!r} {row['text']!r}\n".encode("utf-8", "surrogatepass"))
    digest.update(repr(content["relevant_docs"]).encode("utf-8", "surrogatepass"))
    if copies:  # version 0.1 counted them as hits
        digest.update(b"own copies left out")
    return digest.hexdigest()[:40]
