"""Checkpoints of a training run: written whole or not at all, and read after a look at what they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerState

from st_adapter.adapter import QueryAdapter
from st_adapter.errors import InputError
from st_adapter.fitting.arguments import AdapterTrainingArguments, not_heeded
from st_adapter.storage.writing import folder_written_whole, write_json

_PREFIX, _ADAPTER = "checkpoint-", "adapter"
# Settings that may be others when a run goes on.
_FREE = ("output_dir", "disable_tqdm", "num_train_epochs", "torch_compile")
# Settings of version 0.1 that are gone, with what all runs do now.
_GONE = {
    "loss": "softmax",
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "num_seeds": 1,
}


def write_checkpoint(
    args: AdapterTrainingArguments, state: TrainerState, tensors: dict[str, Tensor], adapter: QueryAdapter
) -> None:
    """Write ``checkpoint-<step>`` into the output folder.

    Args:
        args: settings of the run.
        state: place and log of the loop.
        tensors: adapters, optimizer, sampler, and what ``checksums`` gives for the data, as ``data``.
        adapter: that is trained, whose form its weights do not tell.
    """
    with folder_written_whole(Path(args.output_dir) / f"{_PREFIX}{state.global_step}") as folder:
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "training_state.safetensors")
        state.save_to_json(str(folder / "trainer_state.json"))
        write_json(folder / "training_args.json", {**args.to_dict(), _ADAPTER: _form(adapter)})


def read_checkpoint(
    checkpoint: str | Path | bool, args: AdapterTrainingArguments, data: Tensor, adapter: QueryAdapter
) -> tuple[dict[str, Tensor], TrainerState]:
    """Read what ``write_checkpoint`` wrote.

    Args:
        checkpoint: its folder; True for the newest one in the output folder.
        args: settings of the run that goes on.
        data: what ``checksums`` gives for its data.
        adapter: of that run.

    Raises:
        ValueError: there is no checkpoint, it cannot be read, or it was written with other data, settings or
            another form of adapter.
    """
    folder = _newest(Path(args.output_dir)) if checkpoint is True else Path(str(checkpoint))
    try:
        tensors = load_file(folder / "training_state.safetensors")
        state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
        written = json.loads((folder / "training_args.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ValueError(f"{folder} is no readable checkpoint ({error}). Name a checkpoint-<step> folder.") from error
    if not torch.equal(tensors["data"], data):
        raise ValueError(
            f"The checkpoint {folder} was written with other data. Resume with the data it was trained on."
        )
    free = {*_FREE, *not_heeded(args.to_dict())}  # earlier versions took what nothing heeds
    changed = {name for name, value in args.to_dict().items() if written.get(name) != value and name not in free}
    gone = {**_GONE, _ADAPTER: _form(adapter)}  # which earlier versions did not write
    if _ADAPTER in written:
        written[_ADAPTER] = _heeded(written[_ADAPTER])
    changed |= {name for name, value in gone.items() if written.get(name, value) != value}
    if changed:
        raise ValueError(
            f"The checkpoint {folder} was written with other settings: {', '.join(sorted(changed))}. "
            "Resume with the settings it was written with."
        )
    return tensors, state


def checksums(*tensors: Tensor) -> Tensor:
    """A number for each tensor that differs where its values do: (n,) int64."""
    return torch.tensor([_checksum(values) for values in tensors])


def _form(adapter: QueryAdapter) -> dict[str, Any]:
    return _heeded({name: value for name, value in adapter.get_config_dict().items() if name != "base_model"})


def _heeded(form: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in form.items() if name not in not_heeded(form)}


def _newest(folder: Path) -> Path:
    checkpoints = [path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit()]
    if not checkpoints:
        raise InputError(
            f"There is no checkpoint in {folder}.",
            python="Train with save_strategy='epoch' to have some.",
            flags="Train with --save-strategy epoch to have some.",
        )
    return max(checkpoints, key=lambda path: int(path.name.removeprefix(_PREFIX)))


def _checksum(values: Tensor) -> int:
    words = values.contiguous().view(torch.int32).flatten().long()
    # Positions count, so that the same numbers in another order are noticed.
    return int((words * (torch.arange(len(words), device=words.device) % 1009 + 1)).sum())
