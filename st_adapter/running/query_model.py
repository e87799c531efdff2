"""A run with a query model: its bridge to the documents, what it is compared with, and all ways side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from st_adapter.adapter import QueryAdapter
from st_adapter.choices import FitMethod
from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.embeddings.embedding import embed_as_queries, pseudo_queries_from, split_of_pseudo_queries
from st_adapter.embeddings.identity import identity_of
from st_adapter.embeddings.roles import encode_as
from st_adapter.evaluation.evaluation import EvaluationResult, PerQuery, evaluate
from st_adapter.evaluation.run_file import Run, evaluate_run
from st_adapter.evidence.changes import LargestChanges, largest_changes
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
from st_adapter.fitting.auto import fit, starts_from_pseudo_queries
from st_adapter.fitting.bridges import FittedBridge
from st_adapter.fitting.folds import labelled_split
from st_adapter.fitting.reference import Reference
from st_adapter.running.preparing import Data, how_to_embed, pseudo_queries_of
from st_adapter.running.settings import Settings
from st_adapter.saving.query_base import QueryModelBase


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
        """What few labels start from; none without any."""
        embedded = self.data.embedded
        if self.settings.options.without_labels:
            return None
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
            reference_run="" if self.run is None else Path(str(self.settings.options.reference_run)).name,
        )

    def _reference_on(self, split: str, seen_documents: Tensor) -> EvaluationResult:
        if self.run is not None:
            return evaluate_run(self.data.embedded[split], self.run, seen_documents)
        data = self.data if self.status_quo is None else self.status_quo
        return evaluate(data.embedded[split], seen_documents=seen_documents)

    def _status_quo_adapter(self) -> QueryAdapter | None:
        """What the same labels do without a query model."""
        if self.status_quo is None or self.base.status_quo is None or self.settings.options.without_labels:
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
        labels = not self.settings.options.without_labels
        if self.reference.name == RUN_FILE:
            systems[RUN_FILE] = evaluated.base
        if self.status_quo is not None:
            status_quo = evaluate(self.status_quo.embedded[split], own)
            systems[STATUS_QUO] = status_quo.base
            if labels:
                systems[WITH_ADAPTER] = status_quo.adapted
        systems[BRIDGE] = bridge.base
        if labels:
            systems[WITH_LABELS] = evaluate(mapped, best, base=bridge).adapted
        return side_by_side(self.reference.name, systems)

    def _speeds(self, best: QueryAdapter | None) -> dict[str, QuerySpeed]:
        texts = list(dict.fromkeys(self.data.texts.query_texts or ()))
        if not texts:
            return {}
        models = {"speed": None if best is None else self.base.adapted(best)}
        models["status_quo_speed"] = None if self.base.documents is None else self.base.documents.model
        return {
            name: QuerySpeed.of(partial(encode_as, model, "query", batch_size=64), texts)
            for name, model in models.items()
            if model is not None
        }
