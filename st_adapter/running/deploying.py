"""A run whose model has an adapter already: the base model, and the adapter in use, which a new one has to beat."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from st_adapter.adapter import QueryAdapter
from st_adapter.data.fingerprint import data_fingerprint, query_keys
from st_adapter.embeddings.encoder import Encoder
from st_adapter.embeddings.identity import identity_of, known_difference
from st_adapter.errors import InputError
from st_adapter.evaluation.evaluation import EvaluationResult, evaluate
from st_adapter.evaluation.statistics import Gate, gate
from st_adapter.evidence.output_folder import RESULTS_FILE
from st_adapter.evidence.results import Results
from st_adapter.evidence.split_results import HEADLINE_METRIC
from st_adapter.fitting.folds import LABELLED_SPLITS
from st_adapter.fitting.reference import DeployedAdapter
from st_adapter.fitting.verdict import AgainstDeployed
from st_adapter.running.preparing import Data
from st_adapter.running.settings import Settings
from st_adapter.saving.base import Base, base_of
from st_adapter.saving.deployed import TakenApart, taken_apart
from st_adapter.saving.record import TrainingRecord

# On fewer queries nothing could be told.
_LEAST = 20


@dataclass(frozen=True)
class InUse:
    """The adapter in use.

    Attributes:
        adapter: it.
        training: how it came about, if that is recorded.
        learned_from: the queries that it was fitted on, as ``query_keys`` has them; None if nothing tells.
    """

    adapter: QueryAdapter
    training: TrainingRecord | None
    learned_from: frozenset[str] | None

    @classmethod
    def of(cls, apart: TakenApart) -> InUse | None:
        """The adapter of a model, with what the results beside the saved model say of it; None if it has none."""
        if apart.adapter is None:
            return None
        known = None if apart.folder is None else _learned_from(apart.folder)
        return cls(apart.adapter, apart.training, known)

    def compared_on(self, data: Data, splits: Collection[str]) -> tuple[DeployedAdapter, Data]:
        """What is to be beaten, and the data with a note where queries may flatter it.

        What is fitted now is measured on queries that its fit has not seen; on those that the adapter in use was fitted
        on itself, the two cannot be compared, and they are left out as far as they are known and others are left.
        """
        keys = query_keys(data.texts, splits)
        known = {query_id for query_id, key in keys.items() if key in (self.learned_from or ())}
        note, caution = self._note(data, len(known), len(keys)), ""
        if len(keys) - len(known) < _LEAST:
            known = set()
        if not known:
            caution = note
        if note:
            data = replace(data, texts=replace(data.texts, notes=(*data.texts.notes, note)))
        return DeployedAdapter(self.adapter, frozenset(known), caution), data

    def _note(self, data: Data, num_known: int, number: int) -> str:
        if self.learned_from is not None:
            if num_known == 0:
                return ""
            said = f"The deployed adapter was fitted on {num_known:,} of the {number:,} labelled queries"
            if number - num_known < _LEAST:
                return f"{said}, and the others are too few to compare it on, so that it looks better than it is."
            return f"{said}; it is compared on the {number - num_known:,} others."
        if self.training is None or not self.training.data:
            which = "On which data the deployed adapter was fitted is not known"
        elif self.training.data_fingerprint == data_fingerprint(data.texts):
            which = f"The deployed adapter was fitted on these very data, {self.training.data!r}"
        elif self.training.data == data.texts.name:
            which = f"The deployed adapter was fitted on data of the same name, {self.training.data!r}"
        else:
            which = f"Which queries of {self.training.data!r} the deployed adapter was fitted on is not known"
        return f"{which}: on queries that it was fitted on, it looks better than it is."


def base_and_deployed(model: SentenceTransformer | Encoder, settings: Settings) -> tuple[Base, InUse | None]:
    """The base of a model or encoder, and the adapter that is on it, if there is one.

    Raises:
        InputError: the base is not as it was when the adapter was fitted.
    """
    if not isinstance(model, SentenceTransformer):
        return base_of(model, settings.options.base_model), None
    apart = taken_apart(model)
    if apart.adapter is not None:
        _check_opened_alike(apart.base, apart.adapter)
    # The base model's files lie where it was saved with its adapter.
    files = settings.options.base_model if apart.folder is None else None
    return base_of(apart.base, files), InUse.of(apart)


def _check_opened_alike(base: SentenceTransformer, adapter: QueryAdapter) -> None:
    identity = identity_of(base)
    difference = known_difference(adapter.base_model, identity)
    if adapter.input_dimension != identity.dimension:
        difference = f"the adapter takes {adapter.input_dimension} dimensions, and the base gives {identity.dimension}"
    if difference:
        raise InputError(
            f"The model has an adapter already, which is for its base model as that was opened then: {difference}. "
            "Opened otherwise, the two cannot be compared.",
            python="Open it as it was then, or pass the base model.",
            flags="Open it as then, by leaving out or adding flags such as --query-prompt, --truncate-dim and "
            "--max-seq-length, or name the base model with --model.",
        )


def check_deployed(settings: Settings, in_use: InUse | None, with_query_model: bool) -> None:
    """Check what a run with an adapter in use cannot do.

    Raises:
        ValueError: there is a query model as well, or nothing is tested.
    """
    if in_use is None:
        return
    if with_query_model:
        raise InputError(
            "The model has an adapter already, and with a query model it is the documents' model that queries are "
            "compared with.",
            python="Pass the base model, or leave query_model out.",
            flags="Name the base model with --model, or leave --query-model out.",
        )
    if settings.options.without_labels:
        raise InputError(
            "The model has an adapter already, and without labels nothing tells whether another one is better.",
            python="Pass the base model, or leave without_labels out.",
            flags="Name the base model with --model, or leave --without-labels out.",
        )


def beside_deployed(
    evaluated: EvaluationResult, data: Data, deployed: DeployedAdapter, alpha: float, seed: int
) -> AgainstDeployed:
    """The second gate on the queries of one split that were evaluated, for an adapter that was not chosen in folds."""
    base = evaluated.base[HEADLINE_METRIC]
    own = evaluate(data.embedded[evaluated.split], deployed.adapter, base=evaluated).adapted[HEADLINE_METRIC]
    there = np.array([query_id not in deployed.known for query_id in evaluated.query_ids])

    def tested(differences: NDArray[np.float64], against: str = "the base model") -> Gate:
        return gate(differences[there], alpha=alpha, seed=seed, against=against)

    return AgainstDeployed(tested(evaluated.adapted[HEADLINE_METRIC] - own, "the deployed adapter"), tested(own - base))


def splits_to_compare_on(settings: Settings) -> tuple[str, ...]:
    """The splits on which candidates are measured."""
    return ("dev",) if settings.method == "gradient" else LABELLED_SPLITS


def _learned_from(folder: Path) -> frozenset[str] | None:
    """What the results of the run that a model was saved by say, if they lie beside it."""
    path = folder.parent / RESULTS_FILE
    if not path.is_file():
        return None
    keys = Results.read(path).data.learned_from
    return frozenset(keys) if keys else None
