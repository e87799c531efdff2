"""Find the columns of tables by their usual names, or by the names that the user gives."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from st_adapter.data.tables import Tables
from st_adapter.errors import InputError
from st_adapter.words import listed

# What columns are usually called, the likeliest first. Compared without case; "-" and " " count as "_".
_QUERY = (
    *("query", "question", "anchor", "claim", "queries", "questions"),
    *("user_input", "search_query", "search_term", "input", "title"),  # the first of Ragas, input of Langfuse
)
_DOCUMENT = (
    *("positive", "document", "chunk", "passage", "context"),
    *("positive_ctxs", "positive_passages"),  # of DPR and Tevatron, whose `answers` are no documents
    "reference_contexts",  # of Ragas and LlamaIndex, whose `reference` is no document
    # Before answers: where texts that were looked up stand beside what was made of them, those are searched for.
    *("positives", "documents", "docs", "chunks", "passages", "contexts", "answer", "answers"),
    *("response", "abstract", "content", "body", "text", "output", "expected_output", "expectedoutput"),
)
# Of logs; see `clicks.read_clicks`.
_LOG_COLUMNS = {
    "clicks": ("clicks", "clicked", "click", "num_clicks", "click_count"),
    "impressions": ("impressions", "shown", "views", "impression", "num_impressions", "impression_count"),
    "rank": ("rank", "position"),
}
PAIR_COLUMNS: Mapping[str, Sequence[str]] = {
    "query": _QUERY,
    "document": _DOCUMENT,
    "title": ("title",),
    "negative": (
        *("negative", "negatives", "hard_negative", "hard_negatives"),
        *("negative_ctxs", "hard_negative_ctxs", "negative_passages"),
    ),
    "score": ("score", "relevance", "label", "scores", "labels"),
    "split": ("split",),
    **_LOG_COLUMNS,
}
_EMBEDDING = ("embedding", "embeddings", "vector", "vectors", "dense_vector")
QUERIES_COLUMNS = {
    "id": ("_id", "id", "query_id", "qid"),
    "text": ("text", "query", "question", "claim"),
    "embedding": _EMBEDDING,
}
_CORPUS_IDS = (
    *("corpus_id", "document_id", "doc_id", "docid", "pid"),
    *("chunk_id", "passage_id", "node_id", "point_id", "uuid"),
)
CORPUS_COLUMNS = {
    "id": ("_id", "id", *_CORPUS_IDS),
    "text": ("text", "document", "passage", "chunk", "content", "page_content", "body", "abstract"),
    "title": ("title",),
    "embedding": _EMBEDDING,
}
QRELS_COLUMNS: Mapping[str, Sequence[str]] = {
    "query_id": ("query_id", "qid"),
    "corpus_id": _CORPUS_IDS,
    "score": ("score", "relevance", "label"),
    "split": ("split",),
    **_LOG_COLUMNS,
}
_REQUIRED = ("query", "document", "id", "text", "query_id", "corpus_id")


class ColumnsRead(NamedTuple):
    """Which columns of a table played which role.

    Attributes:
        where: Of which table, as in messages; empty if there is just one.
        roles: Pairs of a role and the columns that play it.
    """

    where: str
    roles: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def of(cls, found: Mapping[str, Sequence[str]], where: str) -> ColumnsRead:
        """Of the columns that were found."""
        return cls(where, tuple((role, tuple(map(str, played))) for role, played in found.items()))


def find_columns(
    frame: pd.DataFrame,
    usual: Mapping[str, Sequence[str]],
    columns: Mapping[str, str],
    where: str,
    optional: Collection[str] = (),
) -> dict[str, list[str]]:
    """Find which columns play which role; "document" and "negative" may be played by several, numbered ones.

    Args:
        frame: A table.
        usual: Role -> usual names of its column, the likeliest first.
        columns: Role -> column, as named by the user.
        where: Of which table this is, for messages.
        optional: Roles that need no column here, though they do elsewhere. What has vectors needs no texts.

    Raises:
        InputError: A role has no column, or several that cannot be told apart.
    """
    by_name: dict[str, list[str]] = {}
    for column in frame.columns:
        name = re.sub(r"[ -]", "_", str(column).strip().casefold())
        by_name.setdefault(name, []).append(column)
        if numbered := re.fullmatch(r"(.+)_\d+", name):
            by_name.setdefault(numbered[1], []).append(column)
    found: dict[str, list[str]] = {role: [columns[role]] for role in usual if columns.get(role) in frame.columns}
    for role, names in usual.items():
        taken = {column for played in found.values() for column in played}
        free = [[c for c in by_name.get(name, []) if c not in taken] for name in names]
        played = next((candidates for candidates in free if candidates), [])
        if role not in columns and played:
            # Whatever is called a negative is one; of several names for a document the likeliest counts.
            several = [column for candidates in free for column in candidates] if role == "negative" else played
            _check_distinct(several, where)
            found[role] = several if role in ("document", "negative") else played[:1]
    optional = (*optional, *(("text",) if "embedding" in found else ()))
    for role in usual:
        if role not in found and ((role in _REQUIRED and role not in optional) or role in columns):
            mapped = f"{columns[role]!r}" if role in columns else ", ".join(usual[role])
            raise InputError(
                f"No {role} column was found{where}. Found the columns {listed(frame.columns)}; looked for {mapped}.",
                python=f"Name yours with columns={{{role!r}: 'your_column'}}.",
                flags=f"Name yours with {column_flag(role)} YOUR_COLUMN.",
            )
    return found


def column_flag(role: str) -> str:
    """The command line's flag that names the column of a role."""
    return f"--{role.replace('_', '-')}-column"


def _check_distinct(played: Sequence[str], where: str) -> None:
    """Refuse columns that play one role and are told apart by case and spacing alone."""
    names = [re.sub(r"[ -]", "_", str(column).strip().casefold()) for column in played]
    if len(set(names)) < len(names):
        raise InputError(
            f"The columns {listed(played)}{where} have the same name apart from case and spacing.",
            python="Rename one, name the one to use with columns={...}, or drop one with ignore_columns=[...].",
            flags="Rename one, name the one to use with its --...-column flag, or drop one with --ignore-columns.",
        )


def check_mapping(columns: Mapping[str, str], roles: Iterable[str], frames: Iterable[pd.DataFrame]) -> None:
    """Refuse a mapping of which a part would go unused."""
    check_roles(columns, roles)
    present = {str(column): None for frame in frames for column in frame.columns}
    for role, column in columns.items():
        if column not in present:
            raise InputError(
                f"The mapping of columns maps {role!r} to {column!r}, which is not there. "
                f"Found the columns {listed(present)}.",
                python="Map it to one of these.",
                flags=f"Give {column_flag(role)} one of these.",
            )


def check_roles(columns: Mapping[str, str], roles: Iterable[str]) -> None:
    """Refuse a mapping that names a role which the data do not have."""
    for role in columns:
        if role not in roles:
            raise InputError(
                f"The mapping of columns maps the role {role!r}, but this data has the roles {listed(roles)}.",
                python="Use those."
                + (" It holds queries, a corpus and judgements (qrels, relevant_docs)." if "query_id" in roles else ""),
                flags=f"Use {', '.join(map(column_flag, roles))}.",
            )


def without_columns(tables: Tables, names: Collection[str]) -> Tables:
    """The tables without the columns that mean nothing here, after a look at the names of all columns.

    Args:
        tables: As `read_source` gives them.
        names: Columns to leave out, wherever they stand.

    Raises:
        ValueError: A table has two columns of one name; no table has one of `names`.
    """
    if isinstance(names, str):
        raise ValueError(f"ignore_columns is the string {names!r}. Expected a list of names: [{names!r}].")
    frames = [*tables.texts.items(), *tables.rows.items()]
    for part, frame in frames:
        twice = frame.columns[frame.columns.duplicated()].unique()
        if len(twice):
            where = f" in {part!r}" if part else ""
            raise ValueError(
                f"There are several columns called {listed(twice)}{where}. Expected every name once. "
                "Rename or drop the others."
            )
    present = {str(column) for _, frame in frames for column in frame.columns}
    unknown = [name for name in names if name not in present]
    if unknown:
        raise InputError(
            f"The columns to ignore are not all there: no {listed(unknown)}. Found the columns {listed(present)}.",
            python="Name some of these in ignore_columns.",
            flags="Name some of these with --ignore-columns.",
        )

    def kept(frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        return {name: frame.drop(columns=[c for c in frame if str(c) in names]) for name, frame in frames.items()}

    return replace(tables, rows=kept(tables.rows), texts=kept(tables.texts))


def unused_note(frame: pd.DataFrame, found: Mapping[str, list[str]], where: str) -> list[str]:
    """A note on the columns of a table that play no role, if there are any."""
    used = {column for played in found.values() for column in played}
    unused = [column for column in frame.columns if column not in used]
    return [f"Columns left unused{where}: {listed(unused)}."] if unused else []
