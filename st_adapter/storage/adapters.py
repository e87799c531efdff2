"""The files of an adapter: a configuration and its weights, by themselves or in a folder of a whole adapted model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentence_transformers.base.modules import Module
from typing_extensions import Self

from st_adapter.errors import InputError
from st_adapter.storage.hub import download
from st_adapter.storage.reading import read_object
from st_adapter.storage.tensors import read_weights
from st_adapter.storage.writing import write_json
from st_adapter.words import listed

WEIGHTS_FILE = "model.safetensors"
# Where a whole model keeps its adapter by itself, or a folder for each of several.
ADAPTER_FOLDER = "adapter"


def adapter_folder(task: str | None) -> str:
    """Where a whole model keeps its adapter, or, of several, the one of a task."""
    return ADAPTER_FOLDER if task is None else f"{ADAPTER_FOLDER}/{task}"


def check_task(task: str | None, tasks: Iterable[str], *, has_default: bool) -> None:
    """Check that one adapter is meant, of a model that has them for these tasks.

    Raises:
        ValueError: the task is not among them; or none is named, where ``encode_query`` does not use one either.
    """
    tasks = list(tasks)
    if task is None and (has_default or not tasks):
        return
    if task is not None and not tasks:
        raise InputError(
            f"The task {task!r} was named, but the model does not have adapters for several tasks.",
            python="Leave task out.",
            flags="Leave --task out.",
        )
    if task not in tasks:
        came = "none was named" if task is None else f"{task!r} was named"
        raise InputError(
            f"The model has adapters for the tasks {listed(tasks)}, but {came}.",
            python=f"Pass one of them, such as task={tasks[0]!r}.",
            flags=f"Name one of them, such as --task {tasks[0]}.",
        )


class StoredAdapter(Module):  # type: ignore[misc]  # sentence_transformers is untyped, so its Module is Any
    """What an adapter is to files and the Hub: its constructor's arguments as JSON, its parameters as safetensors."""

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write ``config.json`` and ``model.safetensors`` into an existing folder.

        Raises:
            ValueError: ``safe_serialization=False``; an adapter is never written as, nor read from, a pickle.
        """
        if not safe_serialization:
            raise ValueError(
                "safe_serialization is False, but an adapter is only saved as safetensors. Leave it at True."
            )
        folder = Path(output_path)
        write_json(folder / self.config_file_name, self.get_config_dict())
        weights = {name: parameter.detach().cpu().contiguous() for name, parameter in self.named_parameters()}
        save_file(weights, folder / WEIGHTS_FILE)
        # safetensors makes files for the owner's eyes only; weights may be read by whoever may read the configuration.
        (folder / WEIGHTS_FILE).chmod((folder / self.config_file_name).stat().st_mode)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        task: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Read an adapter from a folder or a Hub repository: of an adapter alone, or of a whole adapted model.

        Args:
            name_or_path: folder or Hub id.
            task: whose adapter, of a whole model that has several.
            revision: branch, tag or commit on the Hub.
            token: access token; the one of ``hf auth login`` or ``HF_TOKEN`` if None.
            cache_dir: the Hub cache; the usual one if None.
            local_files_only: never ask the Hub.

        Returns:
            The adapter, in float32, on the CPU.

        Raises:
            ConnectionError: the Hub cannot be reached; it may work if tried again.
            ValueError: there is no such folder or repository, or none for this task, or configuration and weights are
                not those of an adapter: names, shapes, dtypes and values are checked.
        """
        folder = Path(name_or_path)
        if not folder.is_dir():
            # Of a whole model only the adapter's folder, and of several what their folders are called: beside them lie
            # the weights of the base.
            for place in (f"{ADAPTER_FOLDER}/", ""):
                files = [f"{place}{cls.config_file_name}", f"{place}{WEIGHTS_FILE}"]
                of_tasks = [f"{place}*/{cls.config_file_name}", f"{adapter_folder(task)}/{WEIGHTS_FILE}"]
                folder = download(
                    str(name_or_path),
                    revision=revision,
                    token=token,
                    cache_dir=cache_dir,
                    local_files_only=local_files_only,
                    allow_patterns=[*files, *(of_tasks if place else ())],
                )
                if (folder / ADAPTER_FOLDER).is_dir():
                    break
        inside = folder / ADAPTER_FOLDER
        found = sorted(path.parent.name for path in inside.glob(f"*/{cls.config_file_name}"))
        check_task(task, found, has_default=False)
        return cls._read(folder / adapter_folder(task) if inside.is_dir() else folder, str(name_or_path))

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> Self:
        """Read what ``save`` wrote: the hook by which Sentence Transformers loads a module; see ``from_pretrained``."""
        hub_kwargs = {name: kwargs.get(name) for name in ("token", "cache_folder", "revision", "local_files_only")}
        hub_kwargs["local_files_only"] = bool(hub_kwargs["local_files_only"])
        folder = cls.load_dir_path(model_name_or_path, subfolder, **hub_kwargs)
        if folder is None:
            raise ValueError(f"{model_name_or_path} has no folder {subfolder!r}, but an adapter is expected in it.")
        return cls._read(Path(folder), "/".join(filter(None, (str(model_name_or_path), subfolder))))

    @classmethod
    def is_config(cls, config: dict[str, Any]) -> bool:
        """Whether the content of a ``config.json`` is an adapter's."""
        return set(config) | {"base_model"} == set(cls.config_keys)

    @classmethod
    def _read(cls, folder: Path, where: str) -> Self:
        if not (folder / cls.config_file_name).is_file():
            raise ValueError(
                f"{where} has no {cls.config_file_name} of an adapter. Pass a folder or a Hub id that "
                "st_adapter.save_adapter, st_adapter.push_adapter or st_adapter.save_pretrained wrote."
            )
        config = read_object(folder / cls.config_file_name)
        if not cls.is_config(config):
            raise ValueError(
                f"{where}/{cls.config_file_name} has {sorted(config) or 'no keys'}, but an adapter's configuration "
                f"expects exactly {sorted(cls.config_keys)}. Pass a folder that an adapter was saved to."
            )
        # On the meta device an absurd size costs nothing, until the header of the weights has shown whether it is true.
        try:
            with torch.device("meta"):
                adapter = cls(**config)
        except (ValueError, TypeError, RuntimeError, OverflowError) as error:
            raise ValueError(f"{where}/{cls.config_file_name} is not of an adapter: {error}") from error
        shapes = {name: tuple(parameter.shape) for name, parameter in adapter.named_parameters()}
        weights = read_weights(folder / WEIGHTS_FILE, shapes)
        adapter.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
        adapter.requires_grad_()
        return adapter
