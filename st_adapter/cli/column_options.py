"""How data are read and cut into splits: the flags that all commands with data share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from st_adapter.choices import PARAPHRASE_THRESHOLD, SplitBy

# Help says nothing of a default that says nothing itself, such as None, or False of a flag.
UNSAID = tyro.conf.arg(help_behavior_hint="")
Text = Annotated[str | None, UNSAID]
Flag = Annotated[bool, UNSAID]


@dataclass(frozen=True)
class ColumnOptions:
    """How the data are read, the same for every command."""

    query_column: Text = None
    """Column of the queries, if it has an unusual name."""
    document_column: Text = None
    """Column of the relevant documents; so too the other columns."""
    negative_column: Text = None
    """Documents that are not relevant."""
    title_column: Text = None
    """Titles, put before the text of their documents."""
    score_column: Text = None
    """How relevant: a number, above 0 if at all."""
    split_column: Text = None
    """train, dev or test."""
    id_column: Text = None
    """BEIR form: id of a query or document."""
    text_column: Text = None
    """BEIR form: their text."""
    query_id_column: Text = None
    """BEIR form: id of the query in the qrels."""
    corpus_id_column: Text = None
    """BEIR form: id of the document in the qrels."""
    embedding_column: Text = None
    """Vectors of queries or documents."""
    clicks_column: Text = None
    """Logs: how often, or whether, a document was clicked."""
    impressions_column: Text = None
    """Logs: how often it was shown."""
    rank_column: Text = None
    """Logs: the rank at which it was shown."""
    columns: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TABLE.ROLE=NAME ...", help_behavior_hint="")] = ()
    """Columns of --labels, --queries and --corpus, such as corpus.id=uuid labels.corpus_id=chunk."""
    allow_other_vectors: Flag = False
    """Go on where the vectors of --corpus or --queries are not the model's."""
    ignore_columns: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Columns that mean nothing here."""
    relevant_from: Annotated[float | None, UNSAID] = None
    """Least score that is relevant; any above 0 if not given. Of logs, the least click rate in percent."""


@dataclass(frozen=True)
class SplitOptions(ColumnOptions):
    """How the data are read and cut into splits."""

    split_by: SplitBy = "query"
    """Kept on one side of a cut: duplicates of a query, or all queries of one document with their paraphrases."""
    drop_leaks: Flag = False
    """Take queries out of train and dev that a later split has too; they are counted in any case."""
    paraphrase_threshold: float = PARAPHRASE_THRESHOLD
    """How near two queries are that count as paraphrases: from 0, two at random, to 1, the same."""
