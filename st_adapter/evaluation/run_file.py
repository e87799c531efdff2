"""A ranking that somebody else's search has made, as a TREC run file, measured like any other."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.embeddings.own_copies import OwnCopies
from st_adapter.embeddings.search import TopK
from st_adapter.evaluation.evaluation import EvaluationResult, evaluate

Run = Mapping[str, Mapping[str, float]]
"""Query id -> document id -> score, as ``trec_eval`` reads a run."""

_COLUMNS = 6
_MAX_BYTES = 1 << 30


def check_run_file(path: str | Path) -> None:
    """Check what can be told of a run without reading it.

    Raises:
        ValueError: it is missing, or too large.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} is no file of at most 1 GiB, but a TREC run is expected. Name the run's file.")


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """Read ``query_id Q0 corpus_id rank score tag``, one hit a line; the score says the order, as in ``trec_eval``.

    Raises:
        ValueError: it is missing, or a line is none of a run.
    """
    path = Path(path)
    check_run_file(path)
    run: dict[str, dict[str, float]] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            cells = line.split()
            if not cells:
                continue
            try:
                query_id, _, corpus_id, _, score, _ = cells
                run.setdefault(query_id, {})[corpus_id] = float(score)
            except ValueError:
                raise ValueError(
                    f"{path}, line {number}, is {line[:80].strip()!r}, but `query_id Q0 corpus_id rank score tag` is "
                    f"expected, {_COLUMNS} words. Write the run in the form of trec_eval."
                ) from None
    if not all(math.isfinite(score) for hits in run.values() for score in hits.values()):
        raise ValueError(f"{path} has a score that is no finite number. Write the run in the form of trec_eval.")
    return run


def check_documents(run: Run, ids: Collection[str]) -> None:
    """Check that a run has found nothing else than what can be found.

    Args:
        run: of some search.
        ids: of the documents of the corpus.

    Raises:
        ValueError: it names others.
    """
    known = set(ids)
    unknown = [corpus_id for corpus_id in dict.fromkeys(chain.from_iterable(run.values())) if corpus_id not in known]
    if unknown:
        raise ValueError(
            f"The run names {len(unknown)} documents that the corpus does not have, the first: {unknown[:3]}. Give the "
            "run of a search in this corpus."
        )


def evaluate_run(split: EmbeddedSplit, run: Run, seen_documents: Tensor | None = None) -> EvaluationResult:
    """Measure a run as ``evaluate`` measures a search: as the base, and as the adapted side too.

    A query that the run does not have has found nothing. Equal scores keep the order of the corpus.

    Args:
        split: whose queries and judgements.
        run: of all its queries, as deep as it goes.
        seen_documents: as in ``evaluate``.

    Raises:
        ValueError: the run has none of the queries, or names documents that the corpus does not have.
    """
    row_of = {corpus_id: row for row, corpus_id in enumerate(split.corpus.ids)}
    if not any(query_id in run for query_id in split.query_ids):
        raise ValueError(
            f"The run has none of the {len(split.query_ids)} queries of {split.name!r}, whose ids are "
            f"{split.query_ids[:3]} and so on. Give the run of these queries."
        )
    check_documents({query_id: run.get(query_id, {}) for query_id in split.query_ids}, row_of)
    own = set(zip(*(part.tolist() for part in split.left_out), strict=True))
    hits = [
        sorted((-score, row_of[one]) for one, score in run.get(query_id, {}).items() if (row, row_of[one]) not in own)
        for row, query_id in enumerate(split.query_ids)
    ]
    depth = max(1, max(map(len, hits)))
    scores, indices = torch.full((len(hits), depth), -torch.inf), torch.full((len(hits), depth), -1)
    for row, found in enumerate(hits):
        for place, (score, document) in enumerate(found):
            scores[row, place], indices[row, place] = -score, document
    device = split.query_embeddings.device
    found_all = TopK(scores.to(device), indices.to(device))

    def ranked(query_embeddings: Tensor, k: int) -> TopK:
        return TopK(found_all.scores[:, :k], found_all.indices[:, :k])

    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    without_copies = replace(split, own_copies=OwnCopies(nothing, nothing))  # they are out already
    return evaluate(without_copies, index=ranked, seen_documents=seen_documents)
