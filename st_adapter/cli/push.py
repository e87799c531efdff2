"""`st-adapter push`: a saved model, or its adapter alone, to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from st_adapter.adapter import QueryAdapter
from st_adapter.cli.options import PushOptions
from st_adapter.cli.tables import print_uploaded
from st_adapter.evidence.output_folder import MODEL_FOLDER, adapter_alone, model_path
from st_adapter.saving.alone import push_adapter, push_adapter_folder
from st_adapter.saving.folder import CONFIG_FILE_NAME, is_saved_model, read_saved
from st_adapter.saving.push import push_folder


def push(options: PushOptions) -> int:
    """Upload a saved model, or its adapter alone."""
    folder = Path(model_path(str(options.directory)))
    alone = adapter_alone(str(options.directory))
    if not is_saved_model(folder) and alone is None:
        raise ValueError(
            f"{options.directory} holds no model that st-adapter saved: there is no {CONFIG_FILE_NAME} in it or in its "
            f"folder {MODEL_FOLDER}/. Pass the output folder of `st-adapter train`."
        )
    common: dict[str, Any] = {
        "private": options.private or None,
        "token": options.token,
        "commit_message": options.commit_message,
        "overwrite": options.overwrite,
    }
    if alone is not None:
        if options.twin:
            raise ValueError(f"--twin is for whole models, but {alone} holds an adapter alone. Leave it out.")
        _check_no_task(options)
        print_uploaded(push_adapter_folder(alone, options.repo_id, **common), "adapter")
        return 0
    if not options.adapter_only:
        _check_no_task(options)
        print_uploaded(push_folder(folder, options.repo_id, twin=options.twin, **common), "model")
        return 0
    if options.twin:
        raise ValueError("--twin is for whole models, but --adapter-only leaves the base model out. Choose one.")
    saved = read_saved(folder)
    if saved.query_model is not None:
        raise ValueError(f"{folder} has no adapter by itself: its query model is part of it. Leave --adapter-only out.")
    if not saved.has_adapter:
        raise ValueError(f"{folder} holds the base model alone: no adapter helped. There is no adapter to upload.")
    # encode_query may use the adapter of a task, which is then the one that is meant if none is named.
    task = options.task or saved.default_task
    training = saved.route(task).training
    adapter = QueryAdapter.from_pretrained(folder, task=task)
    print_uploaded(push_adapter(adapter, options.repo_id, training=training, **common), "adapter")
    return 0


def _check_no_task(options: PushOptions) -> None:
    if options.task is not None:
        raise ValueError(
            f"--task {options.task} came without an adapter of several to choose: it goes with --adapter-only and a "
            "model that has them. Leave it out."
        )
