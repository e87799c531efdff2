"""Runs and judgements as files in TREC form, for trec_eval, ir_measures, ranx and whatever else reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.embeddings.search import TopK
from st_adapter.evaluation.hits import Adapter, adapt, search_split
from st_adapter.storage.writing import file_written_whole

QRELS_FILE = "qrels"
BASE_RUN_FILE = "base.run"
ADAPTED_RUN_FILE = "adapted.run"


def write_trec(split: EmbeddedSplit, folder: str | Path, adapter: Adapter | None = None, k: int = 100) -> list[Path]:
    """Write ``qrels``, ``base.run`` and, with an adapter, ``adapted.run``; all of them or none.

    Queries without a relevant document are left out, as they count in no mean, and so is a query's own copy among its
    hits. Tools that read runs sort by score and
    break ties each in its own way, so where documents have equal scores, the later one's is lowered to the next
    float32: every tool then sees the same ranking, and computes the same metrics from it, as this package.

    Args:
        split: queries, corpus and judgements.
        folder: where the files go; made if it is not there.
        adapter: as for ``evaluate``.
        k: documents a query, >= 1.

    Returns:
        The files.

    Raises:
        ValueError: an id holds white space or is empty, a relevance is no whole number, or no query has a relevant
            document.

    References:
        https://github.com/usnistgov/trec_eval: ``query_id Q0 corpus_id rank score tag``, and
        ``query_id 0 corpus_id relevance``.

    Examples:
        >>> [path.name for path in write_trec(embedded["test"], "runs", adapter)]
        ['qrels', 'base.run', 'adapted.run']
    """
    if not split.judged.any():
        raise ValueError(
            f"No query of the split {split.name!r} has a relevant document, so there is no run to write. "
            "Check the relevance scores: > 0 is relevant."
        )
    split = split.subset(split.judged)
    _check_ids("query ids", split.query_ids)
    _check_ids("corpus ids", split.corpus.ids)
    check_whole_relevance(split.qrels.relevance.tolist())
    files = {
        QRELS_FILE: _qrels_lines(split),
        BASE_RUN_FILE: _run_lines(split, search_split(split, split.query_embeddings, k), "base"),
    }
    if adapter is not None:
        hits = search_split(split, adapt(adapter, split.query_embeddings), k)
        files[ADAPTED_RUN_FILE] = _run_lines(split, hits, "adapted")
    with ExitStack() as stack:
        for name, lines in files.items():
            unfinished = stack.enter_context(file_written_whole(Path(folder) / name))
            with unfinished.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(lines)
    return [Path(folder) / name for name in files]


def check_whole_relevance(relevance: Sequence[float]) -> None:
    """Refuse judgements that trec_eval and what is built on it cannot read.

    Raises:
        ValueError: a relevance is no whole number.
    """
    broken = [value for value in relevance if value != round(value)]
    if broken:
        raise ValueError(
            f"{len(broken)} judgements have a relevance that is no whole number, the first: {broken[:3]}. "
            "trec_eval knows grades 0, 1, 2, ... only. Round or scale the scores of the data."
        )


def strictly_descending(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores (Q, K) in which none equals the one before it: lowered to the next float32 where it does.

    Examples:
        >>> lowered = strictly_descending(np.array([[0.5, 0.5, 0.5, 0.1]], dtype=np.float32))
        >>> bool((np.diff(lowered) < 0).all()), round(float(np.abs(lowered - [[0.5, 0.5, 0.5, 0.1]]).max()), 6)
        (True, 0.0)
    """
    lowered: NDArray[np.float32] = scores.copy()
    for rank in range(1, scores.shape[1]):
        ceiling = np.nextafter(lowered[:, rank - 1], np.float32(-np.inf))
        np.minimum(lowered[:, rank], ceiling, out=lowered[:, rank])
    return lowered


def _qrels_lines(split: EmbeddedSplit) -> Iterator[str]:
    rows = zip(*(part.tolist() for part in split.qrels), strict=True)
    return (f"{split.query_ids[q]} 0 {split.corpus.ids[d]} {round(grade)}\n" for q, d, grade in rows)


def _run_lines(split: EmbeddedSplit, hits: TopK, tag: str) -> Iterator[str]:
    scores = strictly_descending(hits.scores.cpu().numpy()).tolist()
    for query_id, row, documents in zip(split.query_ids, scores, hits.indices.tolist(), strict=True):
        for rank, (score, document) in enumerate(zip(row, documents, strict=True), start=1):
            if document < 0:  # from here on the places are empty
                break
            # Nine digits tell any two float32 apart.
            yield f"{query_id} Q0 {split.corpus.ids[document]} {rank} {score:.9g} {tag}\n"


def _check_ids(what: str, ids: Sequence[str]) -> None:
    broken = [one for one in ids if one.split() != [one]]
    if broken:
        raise ValueError(
            f"{len(broken)} {what} hold white space or are empty, the first: {broken[:3]}. The TREC form separates its "
            "columns by white space. Rename them in the data."
        )
