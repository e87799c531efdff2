"""What `st-adapter explore` takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from st_adapter.cli.column_options import UNSAID, ColumnOptions, Flag, Text
from st_adapter.cli.options import DataOptions, EmbeddingOptions


@dataclass(frozen=True)
class PageOptions:
    """Where the page is."""

    host: str = "127.0.0.1"
    """Address to listen on; any other than 127.0.0.1 lets others read the documents."""
    port: Annotated[int | None, UNSAID] = None
    """Port; the first free one from 7860 on if not given."""
    open_browser: Flag = True
    """Whether to show the page in a browser at once."""


@dataclass(frozen=True)
class SpaceOptions:
    """The same page for others, as a Hugging Face Space."""

    space_dir: Annotated[Path | None, UNSAID] = None
    """Instead of opening a page, write the files of a Space to this folder."""
    space: Annotated[str | None, tyro.conf.arg(metavar="USER/NAME", help_behavior_hint="")] = None
    """Instead of opening a page, upload these files as a Space. Needs --publish-data."""
    publish_data: Flag = False
    """Agree that all documents' texts and vectors, and all queries with their judgements, are uploaded with a Space."""
    private: Flag = False
    """Make a new Space private."""
    overwrite: Flag = False
    """Replace a Space that holds something else."""
    token: Text = None
    """Hub access token; the one of `hf auth login` or HF_TOKEN if not given."""

    def check(self) -> None:
        """See whether the flags belong together.

        Raises:
            ValueError: they do not, or nobody agreed that data are published.
        """
        unused = {"--publish-data": self.publish_data, "--private": self.private, "--overwrite": self.overwrite}
        given = [flag for flag, came in unused.items() if came]
        if self.space is None and given:
            raise ValueError(
                f"{given[0]} is for --space USER/NAME, which did not come. Add it, or leave {given[0]} out."
            )
        if self.space is not None and not self.publish_data:
            raise ValueError(
                f"--space {self.space} uploads texts and vectors of all documents, and all queries with their "
                "judgements, for everybody who may see that Space. If that is meant, add --publish-data, and --private "
                "to keep it to yourself; --space-dir DIR only writes the files, to be looked through first."
            )


@dataclass(frozen=True, kw_only=True)
class ExploreOptions(DataOptions):
    """Look at what the adapter of a finished run changes: type a query, and see base and adapted side by side.

    Needs `pip install "st-adapter[explore]"`.
    """

    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT_DIR")]
    """Folder that `st-adapter train` wrote to. Its data are taken from where they were, or from the flags below."""
    model: tyro.conf.SuppressFixed[tyro.conf.Fixed[str]] = ""
    page: PageOptions = field(default_factory=PageOptions)
    sharing: Annotated[SpaceOptions, tyro.conf.arg(name="Space")] = field(default_factory=SpaceOptions)
    reading: Annotated[ColumnOptions, tyro.conf.arg(name="data")] = field(default_factory=ColumnOptions)
    embedding: EmbeddingOptions = field(default_factory=EmbeddingOptions)

    def check(self) -> None:
        """See whether the flags belong together; data that are not named are those of the run."""
        self.sharing.check()
        if self.data is not None or self.labels is not None or self.queries is not None:
            super().check()
