"""Fit a bridge between two models without labels, on texts that both of them have embedded."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from st_adapter.bridge import Bridge, RadialUnits
from st_adapter.fitting.agreement import Agreement
from st_adapter.fitting.closed_form import procrustes, ridge_between
from st_adapter.fitting.folds import near_copies
from st_adapter.storage.tensors import device_of_float64

Texts = Literal["queries", "documents", "queries and documents", "no texts"]

_RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3)
# Texts that have a unit. With half as many, labels find much less behind the bridge; with more, a fit takes far longer.
MAX_UNITS = 4096
# Of one unit, times the mean square of the texts' distance from their mean. From .3 to 1 it made little difference; the
# wider units are, the more they are alike, and the less exact are queries in half precision.
_SCALE = 0.8
_RIDGES_OF_UNITS = (0.0003, 0.001, 0.01)
# Texts of a kind that their weights are fitted on; each is a row of all units.
_MAX_IN_UNITS = 20_000
_NUM_FOLDS = 5
# Held-out texts of a fold that search; more would cost time and no longer change a choice.
_MAX_MEASURED = 1000
# With fewer queries their mean says little, and a fold of them nothing.
MIN_TEXTS = 50


class Twins(NamedTuple):
    """The vectors of the same T texts by two models.

    Attributes:
        ours: (T, E), by the query model.
        theirs: (T, D), by the model that embedded the documents.
    """

    ours: Tensor
    theirs: Tensor

    def subset(self, kept: Tensor) -> Twins:
        """The texts for which ``kept``, (T,) bool, is True."""
        return Twins(self.ours[kept], self.theirs[kept])


class _Method(NamedTuple):
    """How a matrix is solved for; see ``_bridges``."""

    name: Literal["none", "Procrustes", "ridge", "mix", "units"]
    ridge: float = 0.0

    def __str__(self) -> str:
        ridge = f"ridge {self.ridge:g}"
        return {
            "none": "no map, vectors as they are",
            "Procrustes": "Procrustes",
            "ridge": ridge,
            "mix": f"mean of Procrustes and {ridge}",
            "units": f"{ridge} of radial basis functions",
        }[self.name]


class _Candidate(NamedTuple):
    """A method and the texts that it is fitted on."""

    texts: Texts
    method: _Method


class _Ends(NamedTuple):
    """How vectors come and go; see ``Bridge``."""

    normalize: bool
    of_length: bool = False


_METHODS = (
    _Method("Procrustes"),
    *(_Method("mix", ridge) for ridge in _RIDGES),
    *(_Method("ridge", ridge) for ridge in _RIDGES),
)


@dataclass(frozen=True)
class FittedBridge:
    """A bridge and how it came about.

    Attributes:
        bridge: the map.
        name: what was chosen, in words.
        num_queries: queries that it was fitted on, labelled or not.
        num_documents: documents that it was fitted on.
        agreement: how alike, 0-1, texts that a fit had not seen rank documents to what they do as embedded by the other
            model; see ``Agreement``.
        mapped_by_others: (T, D) the queries, each mapped by a bridge that was fitted in the same way on others, before
            it is brought to unit length; None if there were no queries.
    """

    bridge: Bridge
    name: str
    num_queries: int
    num_documents: int
    agreement: float
    mapped_by_others: Tensor | None = None

    @property
    def held_out(self) -> Tensor | None:
        """``mapped_by_others`` as queries to come will be; what is fitted and tested behind the bridge takes these.

        With those that it was fitted on, a bridge does better than it will.
        """
        mapped = self.mapped_by_others
        return torch.nn.functional.normalize(mapped) if mapped is not None and self.bridge.normalize else mapped


def fit_bridge(
    queries: Twins | None,
    documents: Twins | None,
    *,
    ranked: Tensor | None = None,
    normalize: bool,
    affine: bool = False,
    of_length: bool = False,
    seed: int = 0,
    show_progress_bar: bool = False,
) -> FittedBridge:
    """Fit centred orthogonal Procrustes, ridge regression and means of both, and take what holds best on unseen texts.

    Each is fitted on queries, on documents and on both. Within each of the two kinds, vectors are centred first, since
    models with prompts put queries and documents in different places; the means are carried as a bias, those of the
    queries if there are any. Two models differ in more than a matrix, so ridge regression on how near a query is to
    each of up to 4,096 of the texts (radial basis functions) is tried besides, on all there are. Vectors of a query
    model made for these documents may do best as they are. The choice is by cross-fitting: how alike texts left out
    rank the documents, or one another if there are none, to what they do as embedded by the other.

    Args:
        queries: queries by both models, or None where the documents' model is not there.
        documents: documents by both, in the index as it compares them.
        ranked: (N, D) documents as the index compares them, to be ranked where these are too few.
        normalize: whether the documents' model gives vectors of unit length.
        affine: leave radial basis functions out, which take as much time as a static table needs for a query.
        of_length: map the query model's vectors as they are and not their directions; implies ``affine``.
        seed: of the folds.
        show_progress_bar: one step per fold, to choose and then to map what it left out.

    Raises:
        ValueError: there are too few texts.

    Examples:
        >>> turned = torch.nn.functional.normalize(torch.randn(60, 2, generator=torch.Generator().manual_seed(0)))
        >>> found = fit_bridge(Twins(turned, turned.flip(1)), None, normalize=True)
        >>> torch.allclose(found.bridge(turned), turned.flip(1), atol=1e-2), found.agreement
        (True, 1.0)
    """
    there, ends = _usable_kinds(queries, documents, of_length), _Ends(normalize, of_length)
    measured = "queries" if "queries" in there else "documents"
    choices: list[Texts] = [*there, *(["queries and documents"] if len(there) == 2 else [])]  # type: ignore[list-item]
    candidates = _candidates(choices, there[measured], affine or of_length)
    folds = list(folds_of_texts(there[measured].ours, seed))
    shown = functools.partial(tqdm, folds, unit="fold", disable=not show_progress_bar)
    scores = _agreements(there, measured, shown(desc="Choosing a bridge"), candidates, ranked, ends)
    chosen = candidates[int(scores.argmax())]
    used = _used(chosen, there)
    bridge = next(_bridges(there, [chosen], ends))
    return FittedBridge(
        bridge=bridge,
        name=f"{chosen.method} on {chosen.texts}" if used else str(chosen.method),
        num_queries=used.get("queries", 0),
        num_documents=used.get("documents", 0),
        agreement=float(scores.max()),
        mapped_by_others=None
        if measured == "documents"
        else _mapped_by_others(there, shown(desc="Mapping queries"), chosen, bridge, ends),
    )


def _used(chosen: _Candidate, there: Mapping[str, Twins]) -> dict[str, int]:
    """How many texts of each kind a candidate is fitted on."""
    at_most = _MAX_IN_UNITS if _in_units(chosen) else None
    return {name: len(twins.ours[:at_most]) for name, twins in there.items() if name in chosen.texts}


def _agreements(
    there: dict[str, Twins],
    measured: str,
    folds: Collection[Tensor],
    candidates: Sequence[_Candidate],
    ranked: Tensor | None,
    ends: _Ends,
) -> Tensor:
    """How alike each candidate ranks held-out texts of the measured kind: the mean of the folds, (C,)."""
    scores = torch.zeros(len(candidates))
    for train in folds:
        fitted_on = {**there, measured: there[measured].subset(train)}
        held = Twins(*(vectors[:_MAX_MEASURED] for vectors in there[measured].subset(~train)))
        # A document that is a text itself is not ranked: anything like it would find it first.
        agreement = Agreement(held.theirs, fitted_on["documents"].theirs if "documents" in there else ranked)
        for place, bridge in enumerate(_bridges(fitted_on, candidates, ends)):
            scores[place] += agreement.of(bridge(held.ours)) / len(folds)
    return scores


def _candidates(choices: Sequence[Texts], twins: Twins, affine: bool) -> list[_Candidate]:
    """What is fitted on what; vectors of another dimension cannot be taken as they are."""
    as_they_are = [_Candidate("no texts", _Method("none"))] if twins.ours.shape == twins.theirs.shape else []
    # What is not linear takes all texts there are: bumps near queries, and near what queries to come may be like.
    ridges = () if affine else _RIDGES_OF_UNITS
    units = [_Candidate(choices[-1], _Method("units", ridge)) for ridge in ridges]
    return [*(_Candidate(texts, method) for texts in choices for method in _METHODS), *units, *as_they_are]


def _mapped_by_others(
    there: dict[str, Twins], folds: Collection[Tensor], chosen: _Candidate, of_all: Bridge, ends: _Ends
) -> Tensor:
    """The queries, each mapped by a bridge that did not see it (stacking: Wolpert 1992, "Stacked generalization")."""
    queries = there["queries"]
    mapped = of_all.before_length(queries.ours)  # of queries that are one and the same to the model there are no others
    for train in folds:
        bridge = next(_bridges({**there, "queries": queries.subset(train)}, [chosen], ends))
        mapped[~train] = bridge.before_length(queries.ours[~train])
    return mapped


def _usable_kinds(queries: Twins | None, documents: Twins | None, of_length: bool) -> dict[str, Twins]:
    """What can be fitted on, by name."""
    kinds = {"queries": _usable(queries, of_length), "documents": _usable(documents, of_length)}
    there = {name: twins for name, twins in kinds.items() if twins is not None}
    if not there:
        raise ValueError(
            f"Fewer than {MIN_TEXTS} texts are embedded by both models, so that no map between them can be found. "
            "Give more queries, or documents with their texts."
        )
    return there


def _usable(twins: Twins | None, of_length: bool) -> Twins | None:
    """Directions of the query model or its vectors, and as float32; None of too few texts."""
    if twins is None or len(twins.ours) < MIN_TEXTS:
        return None
    ours = twins.ours.float()
    return Twins(ours if of_length else torch.nn.functional.normalize(ours), twins.theirs.float())


def folds_of_texts(ours: Tensor, seed: int) -> Iterator[Tensor]:
    """Which of (T, E) texts to fit on, (T,) bool; the others are held out, each together with its copies."""
    place = torch.randperm(len(ours), generator=torch.Generator().manual_seed(seed)).argsort()
    fold = (place // math.ceil(len(ours) / _NUM_FOLDS))[near_copies(ours).cpu()]
    for number in range(_NUM_FOLDS):
        train = fold != number
        if 0 < train.sum() < len(ours):
            yield train


def _bridges(there: dict[str, Twins], candidates: Sequence[_Candidate], ends: _Ends) -> Iterator[Bridge]:
    """One bridge for each candidate; those on the same texts follow each other."""
    for (texts, in_units), group in itertools.groupby(candidates, key=lambda each: (each.texts, _in_units(each))):
        if texts == "no texts":
            yield _as_they_are(next(iter(there.values())).theirs, ends)
            continue
        used = [twins for name, twins in there.items() if name in texts]
        units = None
        if in_units:
            used = [Twins(*(vectors[_drawn(len(vectors), _MAX_IN_UNITS)] for vectors in twins)) for twins in used]
            units = _units_of(used)
        yield from _solved(used, [candidate.method for candidate in group], units, ends)


def _in_units(candidate: _Candidate) -> bool:
    return candidate.method.name == "units"


def _units_of(used: Sequence[Twins]) -> RadialUnits:
    """Bumps around some of the texts, as many queries as documents if there are enough of both."""
    centred = torch.cat([twins.ours - twins.ours.mean(dim=0) for twins in used])
    centres: list[Tensor] = []
    for place, directions in enumerate(sorted((twins.ours for twins in used), key=len)):
        room = (MAX_UNITS - sum(map(len, centres))) // (len(used) - place)
        centres.append(directions[_drawn(len(directions), room)])
    return RadialUnits(torch.cat(centres), _SCALE / max(float(centred.square().sum(dim=1).mean()), 1e-6))


def _drawn(number: int, at_most: int) -> Tensor:
    return torch.randperm(number, generator=torch.Generator().manual_seed(0))[:at_most]


def _solved(
    used: Sequence[Twins], methods: Sequence[_Method], units: RadialUnits | None, ends: _Ends
) -> Iterator[Bridge]:
    """One bridge for each method, from the same texts and what the units make of them."""
    seen = used if units is None else [Twins(units(twins.ours), twins.theirs) for twins in used]
    means = [(twins.ours.mean(dim=0), twins.theirs.mean(dim=0)) for twins in seen]
    centred = [
        Twins(twins.ours - ours, twins.theirs - theirs) for twins, (ours, theirs) in zip(seen, means, strict=True)
    ]
    device = means[0][0].device
    # Units overlap, so that what is solved is near to singular.
    exact = device_of_float64(device)
    scatter = torch.stack([twins.ours.T @ twins.ours for twins in centred]).sum(dim=0).to(exact).double()  # (E, E)
    cross = torch.stack([twins.theirs.T @ twins.ours for twins in centred]).sum(dim=0).to(exact).double()  # (D, E)
    rotation = functools.cache(lambda: procrustes(scatter, cross))
    for method in methods:
        matrix = rotation() if method.name == "Procrustes" else ridge_between(scatter, cross, method.ridge)
        if method.name == "mix":
            matrix = (matrix + rotation()) / 2
        matrix = matrix.float().to(device)
        yield Bridge(matrix, means[0][1] - matrix @ means[0][0], ends.normalize, units, ends.of_length)


def _as_they_are(theirs: Tensor, ends: _Ends) -> Bridge:
    """Vectors as they are; directions of the mean length that the other model's (T, D) vectors have."""
    length = 1.0 if ends.normalize or ends.of_length else theirs.norm(dim=1).mean()
    matrix = torch.eye(theirs.shape[1], device=theirs.device) * length
    return Bridge(matrix, torch.zeros_like(theirs[0]), ends.normalize, of_length=ends.of_length)
