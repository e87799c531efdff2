"""Tell columns that say what is relevant from other numbers, so that none of them goes unused without a word."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from st_adapter.data.cells import as_number, is_missing, laid_out
from st_adapter.errors import InputError
from st_adapter.words import listed

# What columns of labels are usually called, or have in their names as a word.
_LABEL_WORDS = frozenset(
    "accepted annotation best bm25 chosen click clicked clicks confidence correct correctness cosine feedback "
    "gain gold golden grade grades gt helpful helpfulness judgement judgements judgment judgments label labels "
    "like liked likes match matched matches points preference preferred prob probability qrel qrels quality "
    "rating ratings rel relevance relevances relevancy relevant reward score scores selected sim similarity "
    "star stars target targets thumbs upvote upvoted upvotes useful usefulness verdict vote votes weight "
    "weights".split()
)
# What columns that hold small numbers, but no labels, have in their names.
_OTHER_WORDS = frozenset(
    "chars chunk cluster count day date depth duration end fold hop hops hour id idx ids index iter iteration len "
    "length level line lines month nr num number offset order page part position rank row seconds section seed size "
    "start step time timestamp tokens turn unnamed version words year".split()
)
# What makes another thing of a word of labels before it: target_id, click_time.
_LAST_WORDS = frozenset(("id", "ids", "idx", "index", "time", "timestamp", "date", "url", "rank", "position"))
_MAX_GRADE = 4  # TREC and BEIR grade from 0 to 2, 3 or 4
_MAX_WORDS = 10  # of a column that labels in words, such as ESCI's E, S, C and I
# Qrels of these grades are those of TREC with the documents that are not relevant left out.
_PLAIN_GRADES, _PLAIN_NAMES = {1.0, 2.0, 3.0}, {"score", "relevance", "label", "grade", "scores", "labels"}


def looks_like_labels(name: str, cells: Iterable[Any]) -> bool:
    """Whether a column of pairs or qrels looks as if it said how relevant a document is, by its values and its name.

    It does if all cells that hold something are numbers (or true and false, yes and no) and differ, and

    - its name has a word of labels, such as `clicked`, `rating`, `relevance_label` or `similarity`; or
    - they are 0 and 1, whole grades from 0 to at most 4 or from 1 to 5, or fractions from 0 to 1, and its name has no
      word of other numbers, such as `id`, `index`, `rank` or `year`, and they are not the numbers of the rows.

    With a word of labels in the name it does as well if the cells are a few words (`E`, `S`, `C`, `I`), or some of
    them empty. Cells may hold lists.

    Examples:
        >>> looks_like_labels("clicked", ["1", "0", "1"]), looks_like_labels("shown_rank", [1, 2, 3])
        (True, False)
    """
    spelt = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    words = set(spelt)
    named = bool(words & _LABEL_WORDS) and spelt[-1] not in _LAST_WORDS
    flat = [each for cell in cells for each in laid_out(cell)]
    filled = [cell for cell in flat if not is_missing(cell)]
    # A look at some of them is enough to see that a column holds texts.
    if any(isinstance(cell, str) and math.isnan(as_number(cell)) for cell in filled[:100]) and not named:
        return False
    numbers = np.array([as_number(cell) for cell in filled], dtype=np.float64)
    if np.isnan(numbers).any():
        short = {cell for cell in filled if isinstance(cell, str)}
        return named and len(short) == len(set(map(str, filled))) and 1 < len(short) <= min(_MAX_WORDS, len(filled) - 1)
    values = np.unique(numbers)
    if named:
        return len(values) > 1 or (len(values) == 1 and (values[0] <= 0 or len(filled) < len(flat)))
    if len(values) < 2 or words & _OTHER_WORDS:
        return False
    if len(values) > 2 and bool((np.diff(numbers) > 0).all()):
        return False  # the numbers of the rows
    whole = bool((values == np.floor(values)).all())
    if bool(values[0] >= 0 and values[-1] <= 1):
        return True
    return whole and values[0] in (0, 1) and bool(values[-1] <= _MAX_GRADE + values[0])


def refuse_unused_labels(
    frame: pd.DataFrame, found: Mapping[str, Sequence[str]], columns: Mapping[str, str], where: str
) -> None:
    """Refuse a table of which a column that is not used may say what is relevant, though another one does too.

    Args:
        frame: pairs or judgements.
        found: role -> columns that play it.
        columns: role -> column, as named by the user; who names the score column has decided.
        where: of which table this is, for the message.

    Raises:
        InputError: see `looks_like_labels`.
    """
    if "score" in columns:
        return
    used = {column for played in found.values() for column in played}
    labels = [c for c in frame.columns if c not in used and looks_like_labels(str(c), frame[c].tolist())]
    if not labels:
        return
    first = str(labels[0])
    values = list(dict.fromkeys(str(v) for v in frame[labels[0]].tolist()))
    shown = ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")
    names = "Column" if len(labels) == 1 else "Columns"
    scores = [str(column) for column in found.get("score", [])]
    without = f"{scores[0]!r} says it too" if scores else "without that every document of these rows counts as relevant"
    raise InputError(
        f"{names} {listed(labels)}{where}: {'this is' if len(labels) == 1 else 'these are'} not used, but may say what "
        f"is relevant ({first!r} holds {shown}); {without}.",
        python=f"Pass columns={{'score': {first!r}}} if it does (above 0 is relevant, or from relevant_from on), or "
        f"ignore_columns={[str(label) for label in labels]} if it means nothing here.",
        flags=f"Pass --score-column {first} if it does (above 0 is relevant, or from --relevant-from on), or "
        f"--ignore-columns {' '.join(map(str, labels))} if it means nothing here.",
    )


def all_relevant_note(column: str, scores: Sequence[float], where: str) -> list[str]:
    """A note where scores differ, but all are above 0: a rating of 1 then counts as relevant."""
    values = set(scores)
    plain = values <= _PLAIN_GRADES and str(column).strip().casefold() in _PLAIN_NAMES
    if len(values) < 2 or min(values) <= 0 or plain:
        return []
    return [
        f"Every score in column {column!r}{where} is above 0 ({min(values):g} to {max(values):g}), so every document "
        "counts as relevant; relevant_from (--relevant-from) says from which score on one does."
    ]


def check_least(relevant_from: float, what: str, unit: str = "") -> None:
    """Refuse a least relevance, or click rate, that leaves nothing out, or everything."""
    if not (math.isfinite(relevant_from) and relevant_from > 0):
        raise InputError(
            f"The least {what} that counts is {relevant_from}{unit}, but one counts only above 0.",
            python="Give relevant_from a number above 0.",
            flags="Give --relevant-from a number above 0.",
        )
