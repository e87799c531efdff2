"""What `st-adapter check-data` takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from st_adapter.choices import SplitBy
from st_adapter.cli.column_options import UNSAID, ColumnOptions
from st_adapter.cli.options import DataOptions, EmbeddingOptions


@dataclass(frozen=True, kw_only=True)
class CheckDataOptions(DataOptions):
    """Show how data are read: columns, counts, samples and what is odd, before any model is loaded."""

    path: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="DATA", help_behavior_hint="")] = None
    """What --data takes."""
    model: Annotated[str, UNSAID] = ""
    """Base model, to count the texts that it cuts, and to estimate time and memory from some of them."""
    output: Annotated[Path | None, UNSAID] = None
    """JSON file to write the same to."""
    split_by: SplitBy = "query"
    """Kept on one side of a cut, as for `st-adapter train`; by document, queries are cut once they are embedded."""
    seed: int = 0
    """Seed of the split, if the data come without one."""
    reading: Annotated[ColumnOptions, tyro.conf.arg(name="data")] = field(default_factory=ColumnOptions)
    embedding: EmbeddingOptions = field(default_factory=EmbeddingOptions)

    def source(self) -> DataOptions:
        """The data, wherever they were named."""
        return replace(self, data=self.data or self.path, path=None)

    def check(self) -> None:
        """See whether the flags belong together."""
        if self.path is not None and self.data is not None:
            raise ValueError(f"--data came with {self.path}, which says the same. Give one of them.")
        DataOptions.check(self.source())
