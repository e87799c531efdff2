"""`st-adapter embed`: texts to a folder of vectors."""

from __future__ import annotations

from pathlib import Path

from st_adapter.cli.embed_options import EmbedOptions
from st_adapter.cli.opening import is_endpoint, open_base
from st_adapter.cli.tables import console
from st_adapter.data.texts import TextSource
from st_adapter.embeddings.embed_folder import Engine, FolderSettings, embed_to_folder
from st_adapter.embeddings.embedding import as_encoder
from st_adapter.embeddings.local_engine import LocalEngine
from st_adapter.embeddings.ray_engine import RayEngine
from st_adapter.evidence.terminal import escape
from st_adapter.storage.writing import check_writable


def embed(options: EmbedOptions) -> int:
    """Embed texts into a folder of vectors."""
    check_writable(options.output, "output")
    engine, embedding = _engine(options), options.embedding
    model = open_base(options.model, embedding)
    if not is_endpoint(options.model):
        model = as_encoder(model, embedding.embedding_batch_size, embedding.precision)
    path = Path(options.data).expanduser()
    folder = embed_to_folder(
        model,
        TextSource(
            path if path.exists() else options.data,
            "queries" if options.role == "query" else "corpus",
            {name.removesuffix("_column"): column for name, column in vars(options.reading).items() if column},
        ),
        options.output,
        FolderSettings(options.dtype, options.engine.part_size, engine),
    )
    for note in folder.notes:
        console.print(f"  note: {escape(note)}", style="dim")
    size = sum(part.path.stat().st_size for part in folder.parts)
    console.print(
        f"{folder.count:,} vectors of {folder.dimension} dimensions in [bold]{escape(folder.address)}[/bold] "
        f"({len(folder.parts):,} files, {size / 1e9:.2f} GB)"
    )
    flag = "queries" if options.role == "query" else "corpus"
    console.print(f"Read them with --{flag} {escape(folder.address)} and --labels.", highlight=False)
    return 0


def _engine(options: EmbedOptions) -> Engine:
    asked = options.engine
    if options.embedding.cache_dir is not None:
        raise ValueError("--cache-dir came with embed, whose vectors are kept in --output alone. Leave it out.")
    if asked.engine == "ray":
        return RayEngine(asked.num_processes, address=asked.ray_address, gpus_each=asked.ray_gpus)
    unused = {"--ray-address": asked.ray_address is not None, "--ray-gpus": asked.ray_gpus > 0}
    given = [flag for flag, came in unused.items() if came]
    if given:
        raise ValueError(f"{', '.join(given)} came without --engine ray. Add it, or leave the flag out.")
    return LocalEngine(asked.num_processes)
