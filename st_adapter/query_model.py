"""A run with a query model: its bridge to the documents, what it is compared with, and all ways side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from st_adapter.adapter import QueryAdapter
from st_adapter.choices import FitMethod
from st_adapter.data.cutting import text_key
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.corpus import Corpus, MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedSplit
from st_adapter.embeddings.embedding import (
    embed_as_queries,
    own_copies_of,
    pseudo_queries_from,
    split_of_pseudo_queries,
    stored_corpus,
)
from st_adapter.embeddings.identity import EncoderIdentity, identity_of
from st_adapter.embeddings.roles import encode_as
from st_adapter.embeddings.store_corpus import StoreCorpus
from st_adapter.embeddings.tolerance import is_normalized
from st_adapter.errors import InputError
from st_adapter.evaluation.evaluation import EvaluationResult, PerQuery, evaluate
from st_adapter.evaluation.run_file import Run, evaluate_run, read_run
from st_adapter.evidence.changes import LargestChanges, largest_changes
from st_adapter.evidence.split_results import HEADLINE_METRIC
from st_adapter.evidence.systems import (
    BRIDGE,
    RUN_FILE,
    STATUS_QUO,
    WITH_ADAPTER,
    WITH_LABELS,
    BridgeResults,
    QueryModelResults,
    QuerySpeed,
    SystemResults,
    side_by_side,
)
from st_adapter.fitting.auto import Clock, fit, starts_from_pseudo_queries
from st_adapter.fitting.bridges import FittedBridge, Twins, fit_bridge
from st_adapter.fitting.folds import LABELLED_SPLITS, labelled_split
from st_adapter.fitting.reference import Reference, found_by
from st_adapter.made_to_measure import MadeToMeasure, SampledDocuments, made_to_measure
from st_adapter.preparing import Data, checked_data, how_to_embed, prepared, pseudo_queries_of
from st_adapter.saving.query_base import Index, QueryModelBase
from st_adapter.settings import Settings

# Documents that both models embed for the bridge; more would take longer and no longer improve it.
_MAX_DOCUMENTS = 4000
_LOOKED_AT = 256  # whose lengths say whether documents have unit length


@dataclass(frozen=True)
class Bridged:
    """A query model with its bridge, and what it is compared with.

    Attributes:
        base: both models.
        data: the data, with queries as the bridge maps them.
        found: the bridge.
        status_quo: the data with the queries of the documents' model; None where it is not there.
        run: the run file of the status quo, if there is one.
        reference: what candidates have to be better than.
        settings: of the run.
        method: of the fits.
    """

    base: QueryModelBase
    data: Data
    found: FittedBridge
    status_quo: Data | None
    run: Run | None
    reference: Reference
    settings: Settings
    method: FitMethod

    def pseudo_queries(self) -> EmbeddedSplit | None:
        """What few labels start from."""
        embedded = self.data.embedded
        if not starts_from_pseudo_queries(labelled_split(embedded), self.method):
            return None
        made = pseudo_queries_from(self.data.texts, self.settings.seed)
        if made is None:
            return None
        vectors = embed_as_queries(self.base.encoder, made.texts, **how_to_embed(self.settings))
        mapped = self.found.bridge(vectors.to(self.found.bridge.matrix.device))
        return split_of_pseudo_queries(made, mapped, embedded)

    def evaluate(self, split: str, adapter: QueryAdapter | None, seen_documents: Tensor) -> EvaluationResult:
        """The reference, as the base, and the query model on a split; without an adapter the reference alone."""
        reference = self._reference_on(split, seen_documents)
        if adapter is None:
            return reference
        return evaluate(self.data.embedded[split], adapter, base=reference, seen_documents=seen_documents)

    def changes(self, split: str, evaluated: EvaluationResult, adapter: QueryAdapter | None) -> LargestChanges | None:
        """The queries that changed most; None of a run file, which has no vectors to find first hits with."""
        if self.run is not None:
            return None
        base = None if self.status_quo is None else self.status_quo.embedded[split].query_embeddings
        return largest_changes(self.data.texts, self.data.embedded[split], evaluated, adapter, base_queries=base)

    def results(self, best: QueryAdapter | None, evaluations: dict[str, EvaluationResult]) -> QueryModelResults:
        """All ways to search side by side, on the splits that were evaluated, and how quick they are.

        Args:
            best: the best adapter behind the bridge, passed or not.
            evaluations: split -> reference and query model.
        """
        own = self._status_quo_adapter()
        return QueryModelResults(
            model=replace(identity_of(self.base.queries.model), fingerprint=None, probes=None),
            reference=self.reference.name,
            margin=self.reference.margin,
            bridge=BridgeResults(
                name=self.found.name,
                num_queries=self.found.num_queries,
                num_documents=self.found.num_documents,
                agreement=self.found.agreement,
            ),
            systems={split: self._systems(split, result, own, best) for split, result in evaluations.items()},
            **self._speeds(best),
        )

    def _reference_on(self, split: str, seen_documents: Tensor) -> EvaluationResult:
        if self.run is not None:
            return evaluate_run(self.data.embedded[split], self.run, seen_documents)
        data = self.data if self.status_quo is None else self.status_quo
        return evaluate(data.embedded[split], seen_documents=seen_documents)

    def _status_quo_adapter(self) -> QueryAdapter | None:
        """What the same labels do without a query model."""
        if self.status_quo is None or self.base.status_quo is None:
            return None
        pseudo = pseudo_queries_of(self.base.status_quo.encoder, self.status_quo, self.settings)
        found = fit(
            self.status_quo.embedded,
            pseudo_queries=pseudo,
            method=self.method,
            seed=self.settings.seed,
            alpha=self.settings.alpha,
            show_progress_bar=self.settings.show_progress_bar,
        )
        return found.adapter

    def _systems(
        self, split: str, evaluated: EvaluationResult, own: QueryAdapter | None, best: QueryAdapter | None
    ) -> list[SystemResults]:
        mapped = self.data.embedded[split]
        bridge = evaluate(mapped)
        systems: dict[str, PerQuery] = {}
        if self.reference.name == RUN_FILE:
            systems[RUN_FILE] = evaluated.base
        if self.status_quo is not None:
            status_quo = evaluate(self.status_quo.embedded[split], own)
            systems |= {STATUS_QUO: status_quo.base, WITH_ADAPTER: status_quo.adapted}
        systems |= {BRIDGE: bridge.base, WITH_LABELS: evaluate(mapped, best, base=bridge).adapted}
        return side_by_side(self.reference.name, systems)

    def _speeds(self, best: QueryAdapter | None) -> dict[str, QuerySpeed]:
        texts = list(dict.fromkeys(self.data.texts.query_texts or ()))
        models = {"speed": None if best is None else self.base.adapted(best)}
        models["status_quo_speed"] = None if self.base.documents is None else self.base.documents.model
        return {
            name: QuerySpeed.of(partial(encode_as, model, "query", batch_size=64), texts)
            for name, model in models.items()
            if model is not None
        }


class _Index(NamedTuple):
    """The documents, and what is known of the model that they were embedded with."""

    corpus: Corpus
    normalized: bool
    identity: EncoderIdentity


def bridged(base: QueryModelBase, dataset: RetrievalDataset, settings: Settings, clock: Clock) -> Bridged:
    """Embed what is there with both models, and fit the bridge between them.

    Raises:
        ValueError: queries have no texts, or the vectors of the documents are not there and neither is their model.
    """
    assert settings.method != "gradient"  # see check_query_model
    if dataset.query_texts is None:
        raise ValueError("The queries have no texts, so that no query model can embed them. Give their texts.")
    status_quo = None
    if base.status_quo is not None:
        status_quo = prepared(base.status_quo, dataset, settings, clock)
    index = _stored(dataset, base.device) if status_quo is None else _embedded(status_quo)
    # Of two models on two devices, what is fitted lies on that of the documents' model.
    device = base.device if status_quo is None else status_quo.embedded.query_embeddings.device
    sampled = _sampled_documents(dataset, index.corpus, settings, device)
    shown, made = None, None
    if status_quo is not None:
        shown = _shown_to_bridge(status_quo.embedded, dataset.query_texts)
        if base.to_measure:
            with clock("fitting the table"):
                made = made_to_measure(base, status_quo, shown, sampled, settings)
            base = base if made is None else made.base
    with clock("embedding"):
        ours, documents = _embedded_by_query_model(base, dataset.query_texts, sampled, made, settings)
    # A static table is to stay a lookup.
    affine = made is not None or settings.method == "linear"
    with clock("bridging"):
        queries = None
        if status_quo is not None and shown is not None:
            queries = Twins(ours, status_quo.embedded.query_embeddings).subset(shown)
        found = fit_bridge(
            queries,
            documents,
            ranked=sampled.vectors,
            normalize=index.normalized,
            affine=affine,
            of_length=affine and base.takes_map(sampled.vectors.shape[1]),
            seed=settings.seed,
            show_progress_bar=settings.show_progress_bar,
        )
        mapped = found.bridge(ours)
        if found.held_out is not None and shown is not None:
            mapped[shown] = found.held_out
    if status_quo is not None:
        data = replace(status_quo, embedded=replace(status_quo.embedded, query_embeddings=mapped))
    else:
        data = _data_of(dataset, mapped, index, settings)
    run = None if settings.options.reference_run is None else read_run(settings.options.reference_run)
    with clock("measuring the reference"):
        reference = _reference(data, status_quo, run, settings)
    known = base.with_bridge(found.bridge, Index(index.identity, index.corpus.similarity))
    return Bridged(known, data, found, status_quo, run, reference, settings, settings.method)


def _embedded(status_quo: Data) -> _Index:
    embedded = status_quo.embedded
    identity = embedded.base_model or EncoderIdentity.unknown(embedded.dimension, embedded.normalized)
    return _Index(embedded.corpus, embedded.normalized, identity)


def _stored(dataset: RetrievalDataset, device: torch.device) -> _Index:
    """Documents as they lie in a store or came with the data, whose model is not there."""
    corpus: Corpus
    if dataset.store is not None:
        corpus = stored_corpus(dataset.store, "dot" if getattr(dataset.store, "metric", None) == "dot" else "cosine")
    elif dataset.corpus_embeddings is not None:
        corpus = MemoryCorpus(list(dataset.corpus["id"]), torch.from_numpy(dataset.corpus_embeddings).to(device))
    else:
        raise InputError(
            "The documents have no vectors, and the model to embed them with was not given.",
            python="Pass the model of the index first, or documents with their vectors.",
            flags="Name the model of the index with --model, or a --corpus with vectors.",
        )
    normalized = is_normalized(corpus.rows(_sample(corpus, _LOOKED_AT, 0)), torch.float16)
    return _Index(corpus, normalized, EncoderIdentity.unknown(corpus.dimension, normalized))


def _data_of(dataset: RetrievalDataset, mapped: Tensor, index: _Index, settings: Settings) -> Data:
    note = "The model of the documents was not given, so it was not checked whose vectors they are."
    embedded = EmbeddedDataset(
        query_ids=list(dataset.queries["id"]),
        query_embeddings=mapped,
        corpus=index.corpus,
        qrels={},
        normalized=index.normalized,
        base_model=index.identity,
        own_copies=own_copies_of(dataset, mapped, index.corpus),
    )
    return checked_data(replace(dataset, notes=(*dataset.notes, note)), embedded, settings.options)


def _shown_to_bridge(embedded: EmbeddedDataset, texts: list[str]) -> Tensor:
    """All queries but those that the outcome is measured on, of which nothing may have been learned: (Q,) bool.

    What has the same text as one of these is as little shown.
    """
    hidden = [qrels.query_index for split, qrels in embedded.qrels.items() if split not in LABELLED_SPLITS]
    keys = list(map(text_key, texts))
    measured = {keys[row] for rows in hidden for row in rows.tolist()}
    shown = torch.tensor([key not in measured for key in keys], dtype=torch.bool)
    return shown.to(embedded.query_embeddings.device)


def _sampled_documents(
    dataset: RetrievalDataset, corpus: Corpus, settings: Settings, device: torch.device
) -> SampledDocuments:
    """Some documents as they lie in the index, with the texts that they have."""
    rows = _sample(corpus, _MAX_DOCUMENTS, settings.seed)
    if isinstance(corpus, StoreCorpus):
        texts = corpus.texts(rows)
    else:
        given = dataset.document_texts
        texts = None if given is None else [given[row] for row in rows.tolist()]
    there = {place: text for place, text in enumerate(texts or ()) if text.strip()}
    with_texts = torch.tensor(list(there), dtype=torch.int64, device=device)
    return SampledDocuments(corpus.rows(rows).to(device), with_texts, list(there.values()))


def _embedded_by_query_model(
    base: QueryModelBase,
    texts: list[str],
    documents: SampledDocuments,
    made: MadeToMeasure | None,
    settings: Settings,
) -> tuple[Tensor, Twins | None]:
    """All queries and some documents as the query model embeds them: (Q, E), and the documents by both models."""
    device = documents.vectors.device
    ours = embed_as_queries(base.encoder, texts, **how_to_embed(settings)).to(device)
    if made is not None:
        ours = ours.index_copy(0, made.rows, made.queries)
    if not documents.texts:
        return ours, None
    if made is None:
        as_queries = embed_as_queries(base.encoder, documents.texts, **how_to_embed(settings)).to(device)
    else:
        # These alone: the table reads all of a text, and the documents' model only as far as it goes.
        as_queries = made.documents
    return ours, Twins(as_queries, documents.with_texts[: len(as_queries)])


def _sample(corpus: Corpus, number: int, seed: int) -> Tensor:
    return torch.randperm(len(corpus), generator=torch.Generator().manual_seed(seed))[:number]


def _reference(data: Data, status_quo: Data | None, run: Run | None, settings: Settings) -> Reference:
    """What candidates have to be better than, or no worse than allowed: the best-known way to search today."""
    margin = settings.options.non_inferior
    queries = None if status_quo is None else labelled_split(status_quo.embedded)
    if run is not None:
        measured = evaluate_run(labelled_split(data.embedded), run)
        values = measured.base[HEADLINE_METRIC].tolist()
        return Reference(RUN_FILE, dict(zip(measured.query_ids, values, strict=True)), margin, queries)
    if status_quo is not None:
        return Reference(STATUS_QUO, found_by(status_quo.embedded, settings.seed), margin, queries)
    return Reference(BRIDGE, found_by(data.embedded, settings.seed), margin)
