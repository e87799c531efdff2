"""`st-adapter explore`: base and adapted side by side, on a page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from st_adapter.choices import PARAPHRASE_THRESHOLD
from st_adapter.cli.explore_options import ExploreOptions
from st_adapter.cli.opening import load_dataset, load_documents, open_model
from st_adapter.cli.tables import console, print_uploaded
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.demo import DATASET_NAME, standard_library_dataset
from st_adapter.evidence.explorer import Explorer
from st_adapter.evidence.exploring import Explored, explored
from st_adapter.evidence.output_folder import MODEL_FOLDER, RESULTS_FILE, current_run, model_path
from st_adapter.evidence.results import Results
from st_adapter.evidence.space import check_may_push_space, push_space, what_is_published, write_space
from st_adapter.evidence.terminal import escape
from st_adapter.saving.deployed import check_embeds_documents
from st_adapter.saving.folder import is_saved_model, read_saved
from st_adapter.storage.hub import check_can_write
from st_adapter.storage.writing import check_writable


def explore(options: ExploreOptions) -> int:
    """Open the page, or write and upload it as a Space."""
    sharing = options.sharing
    results = Results.read(current_run(options.directory) / RESULTS_FILE)
    model = Path(model_path(str(options.directory)))
    if not is_saved_model(model):
        raise ValueError(
            f"{options.directory} holds no model in {MODEL_FOLDER}/, only what was measured, so that there is nothing "
            "to ask. Run `st-adapter train` again with a Sentence Transformers model and without --no-save-base."
        )
    if sharing.space_dir is not None:
        check_writable(sharing.space_dir.parent, "space_dir")
    if sharing.space is not None:
        check_can_write(sharing.space, sharing.token)
        if not sharing.overwrite:
            check_may_push_space(sharing.space, sharing.token)
    elif sharing.space_dir is None:
        if options.page.port is not None and not 0 < options.page.port < 2**16:
            raise ValueError(
                f"--port is {options.page.port}, but a number from 1 to 65535 is expected. Give another one."
            )
        _check_gradio()
    training = read_saved(model).training
    opened = open_model(str(model), options.embedding)
    check_embeds_documents(opened)
    found = explored(
        opened,
        _dataset(options, results),
        results,
        paraphrase_threshold=(training and training.paraphrase_threshold) or PARAPHRASE_THRESHOLD,
        allow_other_vectors=options.reading.allow_other_vectors,
        **options.embedding.arguments(),
    )
    if sharing.space_dir is None and sharing.space is None:
        _serve(found, options)
    else:
        _share(found, model, options)
    return 0


def _dataset(options: ExploreOptions, results: Results) -> RetrievalDataset:
    """The data of the run, from the flags or from where its results say that they were."""
    name = results.data.name
    seed = results.seed if results.data.split_seed is None else results.data.split_seed
    how = {"seed": seed, "split_by": results.data.split_by or "query"}
    if options.data is not None or options.labels is not None:
        return load_dataset(options, options.reading, **how)
    if options.corpus is not None and not results.selection.tested:
        return load_documents(options.corpus, options, options.reading)
    if name == DATASET_NAME:
        return standard_library_dataset(results.seed)
    parts = {part: where for part in ("corpus", "queries") if (where := getattr(results.data, part))}
    unsaid = options.corpus is None and options.queries is None
    if name and unsaid and all(Path(where).exists() for where in (name, *parts.values())):
        if not (results.selection.tested or results.splits):
            return load_documents(name, options, options.reading)
        named = {"labels": name, **parts} if parts else {"data": name}
        return load_dataset(replace(options, **named), options.reading, **how)
    if unsaid and not parts and name.count("/") == 1:
        return load_dataset(replace(options, data=name), options.reading, **how)
    said = f"were {name!r}, which is not in this folder" if name else "lay in memory"
    with_corpus = f" and their documents in {results.data.corpus}" if results.data.corpus else ""
    raise ValueError(
        f"--data is needed: {options.directory / RESULTS_FILE} says that the data of the run {said}{with_corpus}. Name "
        "them as for `st-adapter train`, with --data, or --labels with --corpus."
    )


def _check_gradio() -> None:
    # Imported before anything is embedded, and only by this command: it takes seconds.
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'The page needs Gradio, which is not installed. Run `pip install "st-adapter[explore]"`; --space-dir '
            "writes the files of a Space without it."
        ) from error


def _serve(found: Explored, options: ExploreOptions) -> None:
    from st_adapter.evidence.explorer_page import look, page

    blocks = page(Explorer(found.material))
    where = options.page
    shown = {"inbrowser": where.open_browser, "quiet": True, "prevent_thread_lock": True, **look()}
    try:
        _, url, _ = blocks.launch(server_name=where.host, server_port=where.port, **shown)
    except OSError as error:
        place = where.host if where.port is None else f"{where.host}:{where.port}"
        raise ValueError(
            f"The page cannot be served on {place}, which is in use or no address of this machine. Give another --host "
            "or --port."
        ) from error
    console.print(f"Open [bold]{escape(url)}[/bold] in a browser; Ctrl-C ends it.", soft_wrap=True, highlight=False)
    blocks.block_thread()


def _share(found: Explored, model: Path, options: ExploreOptions) -> None:
    sharing = options.sharing
    with TemporaryDirectory() as temporary:
        folder = write_space(found, model, sharing.space_dir or Path(temporary) / "space")
        if sharing.space_dir is not None:
            console.print(f"The files of a Space are in [bold]{escape(str(folder))}[/bold]; they hold")
            console.print(f"{what_is_published(found)}. `python app.py` there tries them.", highlight=False)
        if sharing.space is not None:
            print_uploaded(
                push_space(
                    folder,
                    sharing.space,
                    private=sharing.private or None,
                    token=sharing.token,
                    overwrite=sharing.overwrite,
                )
            )
