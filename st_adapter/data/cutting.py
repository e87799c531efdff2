"""Cut queries into train, dev and test by a seeded hash, with those that belong together on one side."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Indices = NDArray[np.int64]


class Share(NamedTuple):
    """A split to be made: its name and the share of the queries that it shall have, 0-1."""

    name: str
    size: float


class GroupedCut(NamedTuple):
    """Where the queries went.

    Attributes:
        sides: (Q,) int64, the split of each query, an index into the shares.
        num_torn_groups: groups that were too large for one side and had to be cut.
        num_torn_queries: queries in them.
    """

    sides: Indices
    num_torn_groups: int
    num_torn_queries: int


def text_key(text: str) -> str:
    """The text without what case, width and spacing add, for comparing texts."""
    if text.isascii():  # the same, many times faster
        return " ".join(text.lower().split())
    # The second NFKC puts together what casefold took apart, so that upper and lower case meet for every script.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def hashes_of(keys: Sequence[str], seed: int) -> NDArray[np.float64]:
    """Place each text, given by its key, in [0, 1): always in the same place for the same text and seed."""
    digests = (hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).digest() for key in keys)
    return np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests], dtype=np.float64)


def cut_by_text(keys: Sequence[str], shares: Sequence[Share], seed: int) -> Indices:
    """Cut queries by the hash of their text's key: (Q,) int64, the side of each. More data moves no query."""
    return _side_at(hashes_of(keys, seed), np.array([share.size for share in shares]))


def cut_in_groups(
    keys: Sequence[str],
    document_query: Indices,
    document: Indices,
    linked: tuple[Indices, Indices],
    shares: Sequence[Share],
    seed: int,
) -> GroupedCut:
    """Cut queries so that those with the same text, those linked and those of one document stay on one side.

    The groups are the connected components of the graph of queries, documents and links. Each goes where the hash of
    its first text in alphabetical order says, so more data moves only queries whose group it joins. A hash cannot place
    a group larger than the smallest part: such groups go, the largest first, to the part with the most room, and the
    small ones are hashed into the room that is left. A group larger than the largest part fits nowhere, and one that
    leaves a part empty is too large as well; it is cut, first along links, then by the document asked for by most of
    its queries, then by text, no further than it takes.

    Args:
        keys: Q texts, each by its key.
        document_query: (E,) queries of the relevant pairs, indices into `keys`.
        document: (E,) documents of these pairs, numbers of any kind; their order breaks ties between documents.
        linked: Two (L,) arrays of queries that belong together for other reasons.
        shares: What to cut into; they sum up to 1.
        seed: Seeds the hash.

    Examples:
        >>> queries = np.arange(40)
        >>> keys = [f"query {number:02}" for number in range(40)]
        >>> nothing = np.array([], dtype=np.int64)
        >>> shares = [Share("train", 0.7), Share("test", 0.3)]
        >>> found = cut_in_groups(keys, queries, queries // 4, (nothing, nothing), shares, 1)
        >>> found.sides.reshape(10, 4).sum(axis=1).tolist()
        [0, 0, 0, 0, 0, 0, 4, 0, 0, 4]
    """
    # One unit per text, in alphabetical order; a group is named by its first unit.
    distinct, unit_of = np.unique(np.array(keys, dtype=object), return_inverse=True)
    weights = np.bincount(unit_of, minlength=len(distinct))
    pairs = pd.DataFrame({"unit": unit_of[document_query], "document": document}).drop_duplicates()
    units = np.arange(len(distinct))
    # Documents are nodes behind the units, so a component is named by a unit.
    documents = pd.factorize(pairs["document"])[0] + len(units)
    num_nodes = len(units) + pairs["document"].nunique()
    one, other = pairs["unit"].to_numpy(), documents
    by_document = connected(num_nodes, one, other)[: len(units)]
    one, other = np.append(one, unit_of[linked[0]]), np.append(other, unit_of[linked[1]])
    levels = [connected(num_nodes, one, other)[: len(units)], by_document, _by_main_document(pairs, len(units)), units]
    hashes, room = hashes_of(list(distinct), seed), np.array([share.size for share in shares])
    placed, torn = _place_or_tear(levels, weights, hashes, room)
    num_torn_queries = int(weights[np.isin(levels[0], torn)].sum())
    return GroupedCut(placed[unit_of], len(torn), num_torn_queries)


def _place_or_tear(
    levels: Sequence[Indices], weights: Indices, hashes: NDArray[np.float64], shares: NDArray[np.float64]
) -> tuple[Indices, Indices]:
    """The side of each unit, in the coarsest groups that fit, and the names of the groups that had to be torn.

    Args:
        levels: the group of each unit, named by its first unit; each level finer than the one before.
        weights: queries of each unit.
        hashes: of each unit.
        shares: of the parts.
    """
    groups, level = levels[0].copy(), np.zeros(len(weights), dtype=np.int64)
    while True:
        names, index = np.unique(groups, return_inverse=True)
        sizes = np.bincount(index, weights, minlength=len(names))
        placed = _place(sizes, hashes[names], shares)
        filled = np.bincount(placed, minlength=len(shares)) > 0
        # A group is too large if no part has its size, or if it is why another part stays empty.
        limit = (shares.max() if filled.all() else shares.min()) * weights.sum()
        too_large = np.flatnonzero((sizes > limit) & (level[names] < len(levels) - 1))
        if not len(too_large):
            break
        members = index == too_large[sizes[too_large].argmax()]
        level[members] += 1
        for number in range(1, len(levels)):
            chosen = members & (level == number)
            groups[chosen] = levels[number][chosen]
    torn = pd.Series(groups).groupby(levels[0]).nunique().loc[lambda count: count > 1].index
    return placed[index], torn.to_numpy()


def connected(num_nodes: int, one: Indices, other: Indices) -> Indices:
    """The connected components of a graph: (V,) int64, for each node the smallest one of its component.

    Args:
        num_nodes: V.
        one: (E,) nodes.
        other: (E,) nodes that belong together with those of `one`.

    Examples:
        >>> connected(5, np.array([3, 1]), np.array([4, 3])).tolist()
        [0, 1, 2, 1, 1]
    """
    edges = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(num_nodes, num_nodes))
    labels = connected_components(edges, directed=False)[1]
    first: Indices = np.unique(labels, return_index=True)[1][labels]
    return first


def _by_main_document(pairs: pd.DataFrame, num_units: int) -> Indices:
    """The units with the same main document: the one of theirs that most units ask for."""
    asked = pairs.assign(asked=pairs.groupby("document")["unit"].transform("size"))
    main = asked.sort_values(["asked", "document"], ascending=[False, True]).drop_duplicates("unit")
    labels = np.arange(num_units)
    labels[main["unit"]] = main.groupby("document")["unit"].transform("min")
    return labels


def _place(sizes: NDArray[Any], hashes: NDArray[np.float64], shares: NDArray[np.float64]) -> Indices:
    """The side of each group: large ones where most room is, the others by their hash."""
    room = shares * sizes.sum()
    large = np.flatnonzero(sizes > room.min())
    placed = np.zeros(len(sizes), dtype=np.int64)
    filled = np.zeros(len(shares), dtype=bool)
    for number, group in enumerate(large[np.lexsort((hashes[large], -sizes[large]))]):
        # The last groups there are go where nothing is yet.
        must_fill = len(sizes) - number <= (~filled).sum()
        part = np.where(filled & must_fill, -np.inf, room).argmax()
        placed[group], filled[part] = part, True
        room[part] -= sizes[group]
    small = np.setdiff1d(np.arange(len(sizes)), large)
    placed[small] = _side_at(hashes[small], room.clip(min=0))
    return placed


def _side_at(hashes: NDArray[np.float64], room: NDArray[np.float64]) -> Indices:
    bounds = room.cumsum()
    return np.searchsorted(bounds[:-1] / max(bounds[-1], 1e-300), hashes, side="right").astype(np.int64)
