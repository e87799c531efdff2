"""The flags of a query model on the index that is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from st_adapter.cli.column_options import UNSAID, Text

# Given for --model where the documents' model is not there any more.
NO_MODEL = "none"


@dataclass(frozen=True)
class QueryModelOptions:
    """For another query model on the index that is there."""

    query_model: Text = None
    """Hub id or folder of a Sentence Transformers model that is to embed queries, or static, a table of token vectors
    that is distilled from --model (needs st-adapter[static]) and with --method linear stays one. --model is then the
    one that the documents were embedded with, or none if it is not there any more and --corpus has vectors."""
    non_inferior: float = 0.0
    """Hand it over also if it is no worse than the status quo by more than this, in nDCG@10."""
    reference_run: Annotated[Path | None, UNSAID] = None
    """TREC run file of how the queries are searched today, to compare with instead of --model's own queries."""

    def check(self, model: str, opened_with: Mapping[str, object]) -> None:
        """See whether a query model is there where --model is none, and nothing was said of what is not there.

        Args:
            model: what --model names.
            opened_with: flags of how it is opened, by their names in Python; None where one was not given.

        Raises:
            ValueError: it is not.
        """
        if model != NO_MODEL:
            return
        if self.query_model is None:
            raise ValueError(f"--model {NO_MODEL} came without --query-model, so that nothing embeds queries. Add it.")
        given = [f"--{name.replace('_', '-')}" for name, value in opened_with.items() if value is not None]
        if given:
            raise ValueError(
                f"{given[0]} says how --model is opened, but --model {NO_MODEL} opens none, and a query model is "
                "opened as it is. Leave it out."
            )
