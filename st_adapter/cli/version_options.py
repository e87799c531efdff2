"""What `st-adapter list` and `st-adapter rollback` take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Show the runs that an output folder keeps, and which of them is in use."""

    output_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT_DIR")]
    """Folder that `st-adapter train` wrote to."""


@dataclass(frozen=True, kw_only=True)
class RollbackOptions:
    """Use an earlier run again: OUTPUT_DIR/model/ and results.json are then those of it. Nothing is deleted."""

    output_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT_DIR")]
    """Folder that `st-adapter train` wrote to."""
    version: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="VERSION", help_behavior_hint="")] = None
    """Run to use, as `st-adapter list` names it; the one in use before the present one, if not given."""
