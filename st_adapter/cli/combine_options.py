"""What `st-adapter combine` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from st_adapter.cli.column_options import Flag, Text


@dataclass(frozen=True, kw_only=True)
class CombineOptions:
    """Put the adapters of several finished runs behind one model: the task of a query chooses between them.

    All have to be of the same base model, which is kept once. Plain sentence-transformers opens what comes of it:
    model.encode(queries, task="legal", prompt_name="query").
    """

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="TASK=RUN ...")]
    """Name of each task, and the output folder of `st-adapter train`, or the folder or Hub id of a saved model:
    legal=out-legal support=out-support."""
    output_dir: Path
    """Folder for the model."""
    default_task: Text = None
    """Task whose adapter encode_query uses, for software that cannot name a task; the base model's queries if not
    given."""
    trust_remote_code: Flag = False
    """Run code that comes with the base model."""
