"""What `st-adapter embed` takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from st_adapter.cli.column_options import Text
from st_adapter.cli.options import BaseName, EmbeddingOptions


@dataclass(frozen=True)
class TextOptions:
    """How the texts are read."""

    id_column: Text = None
    """Column of the ids, if it has an unusual name."""
    text_column: Text = None
    """Column of the texts."""
    title_column: Text = None
    """Column of titles, put before the text of their documents."""


@dataclass(frozen=True)
class EngineOptions:
    """What runs the model."""

    engine: Literal["local", "ray"] = "local"
    """local: this machine; ray: a Ray cluster, with st-adapter[ray] installed."""
    num_processes: int = 1
    """Processes that embed, each with a GPU of its own if the model is on one."""
    part_size: int = 2048
    """Texts in a file of --output: what a process that is killed loses at most."""
    ray_address: Text = None
    """Address of a running Ray cluster; one on this machine, for this command, if not given."""
    ray_gpus: float = 0
    """GPUs that each process of Ray takes; a share such as 0.5 lets two have one."""


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """Embed queries or documents once, into a folder that --corpus and --queries read; go on where a run was cut off.

    Documents beyond what lies in memory stay on disk and are searched there.
    """

    model: BaseName
    data: str
    """File of texts with ids, folder of such files, which are read one at a time, folder in BEIR form, or Hub data set
    id."""
    output: Path
    """Folder for the vectors: parquet files of id and embedding, and _vectors.json, which names their model."""
    role: Literal["document", "query"] = "document"
    """What the texts are embedded as."""
    dtype: Literal["float32", "float16"] = "float32"
    """How the vectors are kept; float16 takes half the room."""
    reading: Annotated[TextOptions, tyro.conf.arg(name="data-columns")] = field(default_factory=TextOptions)
    engine: EngineOptions = field(default_factory=EngineOptions)
    embedding: EmbeddingOptions = field(default_factory=EmbeddingOptions)
