"""An explorer of a finished run: its model, its data and what was measured, put together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_adapter.choices import PARAPHRASE_THRESHOLD
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.fingerprint import data_fingerprint
from st_adapter.data.leaks import drop_leaks, find_leaks
from st_adapter.embeddings.checked_embedding import embed_to_measure
from st_adapter.embeddings.corpus import Corpus, comparable
from st_adapter.embeddings.embedded import EmbeddedDataset
from st_adapter.embeddings.roles import encode_as, prompt_of
from st_adapter.errors import InputError
from st_adapter.evaluation.hits import adapt
from st_adapter.evaluation.seen import seen_documents
from st_adapter.evidence.changes import ShownTexts
from st_adapter.evidence.explorer import KnownQuery, Material
from st_adapter.evidence.results import Results
from st_adapter.evidence.split_results import HEADLINE_METRIC, SplitResults
from st_adapter.saving.attach import detach
from st_adapter.saving.joined import parted
from st_adapter.words import documents_searched, first_three


class Sides(NamedTuple):
    """A saved model taken apart.

    Attributes:
        documents: what embeds documents.
        encode: a query -> its (D,) vectors by base and adapted model, as these give them.
    """

    documents: SentenceTransformer
    encode: Callable[[str], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Explored:
    """What is explored, and what a copy of it takes besides.

    Attributes:
        material: for an ``Explorer``.
        corpus: the documents as vectors.
        query_prompt: what the base model puts before a query.
    """

    material: Material
    corpus: Corpus
    query_prompt: str


def explored(
    model: SentenceTransformer,
    dataset: RetrievalDataset,
    results: Results,
    *,
    paraphrase_threshold: float = PARAPHRASE_THRESHOLD,
    allow_other_vectors: bool = False,
    **embedding: Any,
) -> Explored:
    """Put together what an ``Explorer`` shows of a run; documents that are in the cache are not embedded again.

    Args:
        model: that the run saved, opened with Sentence Transformers; see ``check_embeds_documents``.
        dataset: the data of the run, read with its seed.
        results: of the run.
        paraphrase_threshold: of the run, for the same splits where they were cut by document.
        allow_other_vectors: go on where vectors that came with the data are not the base model's.
        **embedding: arguments of ``embed``, such as ``cache_dir``.

    Raises:
        InputError: the data are not those of the run.
        ValueError: the model has a Router of another making.
    """
    sides = _sides(model)
    dataset, embedded = embed_to_measure(
        sides.documents,
        dataset,
        paraphrase_threshold=paraphrase_threshold,
        allow_other_vectors=allow_other_vectors,
        **embedding,
    )
    corpus, texts = embedded.corpus, ShownTexts(dataset, embedded.corpus)
    queries = _queries(embedded, texts, results)
    _check_content(dataset, embedded, results, paraphrase_threshold)
    fitted_on = [split for split in results.fitted_on if split in embedded.qrels]
    seen = frozenset(seen_documents(embedded, fitted_on).nonzero().squeeze(1).tolist())

    def encode(text: str) -> tuple[Tensor, Tensor]:
        base, adapted = comparable(torch.stack(sides.encode(text)), corpus.similarity)
        return base, adapted

    material = Material(
        title=f"{results.base_model.name if results.base_model else 'The base model'} on {dataset.name or 'data'}",
        facts=_facts(dataset, results),
        ids=corpus.ids,
        queries=queries,
        seen=seen,
        encode=encode,
        search=corpus.search,
        texts=texts.documents,
    )
    return Explored(material, corpus, prompt_of(sides.documents, "query"))


def _sides(model: SentenceTransformer) -> Sides:
    joined = parted(model)
    if joined is not None:

        def by_two(text: str) -> tuple[Tensor, Tensor]:
            return tuple(encode_as(each, "query", [text])[0] for each in joined)  # type: ignore[return-value]

        return Sides(joined.documents, by_two)
    base, modules = detach(model)
    kept = base.get_embedding_dimension()

    def by_modules(text: str) -> tuple[Tensor, Tensor]:
        # Sentence Transformers truncates behind the modules, which may read more than is kept.
        with base.truncate_embeddings(None):
            vector = encode_as(base, "query", [text])
        return vector[0, :kept], adapt(modules, vector.float())[0, :kept] if modules else vector[0, :kept]

    return Sides(base, by_modules)


def _facts(dataset: RetrievalDataset, results: Results) -> list[str]:
    """What a reader is to know before the first query."""
    searched = documents_searched(dataset.num_documents, dataset.corpus_is_labelled_only)
    facts = [f"{searched[:1].upper()}{searched[1:]}. {results.verdict.sentence}"]
    if not results.adopted:
        facts.append("No adapter was adopted: both sides are the same model.")
    return facts


def _measured(results: Results) -> SplitResults | None:
    return None if results.held_out is None else results.splits[results.held_out]


def _queries(embedded: EmbeddedDataset, texts: ShownTexts, results: Results) -> list[KnownQuery]:
    """All judged queries, with what was measured of those that took no part in the fit."""
    values = {} if (measured := _measured(results)) is None else _values(measured)
    _check_same(values, embedded, results)
    queries = []
    for name in embedded.qrels:
        split = embedded[name]
        relevance: defaultdict[int, dict[int, float]] = defaultdict(dict)
        for query, document, judged in zip(*(part.tolist() for part in split.qrels), strict=True):
            relevance[query][document] = judged
        copies: defaultdict[int, list[int]] = defaultdict(list)
        for query, document in zip(*(part.tolist() for part in split.left_out), strict=True):
            copies[query].append(document)
        for row, query_id in enumerate(split.query_ids):
            base, adapted, seen = values.get(query_id, _NOT_MEASURED) if name == results.held_out else _NOT_MEASURED
            queries.append(
                KnownQuery(
                    query_id=query_id,
                    # Texts of others may hold halves of characters, which no page can.
                    text=texts.query(query_id).encode("utf-8", "replace").decode(),
                    split=name,
                    relevance=relevance[row],
                    own_copies=copies[row],
                    base=base,
                    adapted=adapted,
                    seen=seen,
                )
            )
    return queries


_Values = tuple[float | None, float | None, bool | None]
_NOT_MEASURED: _Values = (None, None, None)


def _values(measured: SplitResults) -> dict[str, _Values]:
    """Query id -> nDCG@10 of base and adapted, and whether its documents were asked for in training."""
    of = measured.per_query
    if HEADLINE_METRIC not in of.base:
        return {}
    seen: Sequence[bool | None] = of.seen or [None] * len(of.query_ids)
    rows = zip(of.query_ids, of.base[HEADLINE_METRIC], of.adapted[HEADLINE_METRIC], seen, strict=True)
    return {query_id: (base, adapted, each) for query_id, base, adapted, each in rows}


def _check_same(measured: Collection[str], embedded: EmbeddedDataset, results: Results) -> None:
    """Refuse other data than those of the run, whose figures would stand beside other documents."""
    split, num_documents = results.held_out, len(embedded.corpus)
    there = set(embedded[split].query_ids) if split in embedded.qrels else set()
    missing = [query_id for query_id in measured if query_id not in there]
    if not missing and num_documents == results.data.num_documents:
        return
    differ = (
        f"{len(missing):,} of the {len(measured):,} queries measured on {split!r} are not in that split of these data, "
        f"the first: {first_three(missing)}"
        if missing
        else f"it had {results.data.num_documents:,} documents, and these data have {num_documents:,}"
    )
    raise _other_data(differ)


def _check_content(
    dataset: RetrievalDataset, embedded: EmbeddedDataset, results: Results, paraphrase_threshold: float
) -> None:
    """Refuse texts and judgements that are not those of the run, under whatever ids they come."""
    # The address of the documents may be written otherwise now: from another folder, or for another host.
    known, where = results.data.fingerprint, results.data.corpus
    if not known or data_fingerprint(dataset, where) == known:
        return
    # A run that dropped leaks kept the rest.
    leaks = find_leaks(dataset, embedded.query_embeddings, threshold=paraphrase_threshold)
    if data_fingerprint(drop_leaks(dataset, leaks), where) != known:
        raise _other_data("texts, vectors or judgements differ")


def _other_data(differ: str) -> InputError:
    return InputError(
        f"The run was on other data than these: {differ}.",
        python="Read the data of the run as they were then.",
        flags="Name the data that the run was made with, with the same flags.",
    )
