"""Tensors in safetensors files, read once the header shows that they are what is expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_SAFETENSORS_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class TensorInfo(NamedTuple):
    """What the header of a safetensors file says of a tensor; ``dtype`` is None if it is no floating-point one."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None


def tensor_infos(path: Path) -> dict[str, TensorInfo]:
    """Names, shapes and dtypes in a safetensors file, from its header alone; the header is checked against the size.

    Raises:
        ValueError: the file is missing, truncated, or not safetensors.
    """
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        return {
            name: TensorInfo(tuple(part.get_shape()), _SAFETENSORS_DTYPES.get(part.get_dtype()))
            for name, part in slices.items()
        }


def read_weights(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read the weights of a module from a safetensors file, once the header shows that they are what is expected.

    Args:
        path: the file.
        expected: name -> shape of every tensor that has to be there; there may be no other.

    Returns:
        Tensors on the CPU in the dtype of the file: float32, float16 or bfloat16.

    Raises:
        ValueError: the file cannot be read, or names, shapes, dtypes or values are not those of such a module.
    """
    infos = tensor_infos(path)
    if set(infos) != set(expected):
        raise ValueError(
            f"{path} has the weights {sorted(infos)[:6]}, but {sorted(expected)} are expected. "
            "It does not belong to the configuration beside it: save both again."
        )
    for name, info in infos.items():
        if info.shape != tuple(expected[name]):
            raise ValueError(
                f"{path} has {name} of shape {info.shape}, but {tuple(expected[name])} is expected. "
                "It does not belong to the configuration beside it: save both again."
            )
        if info.dtype not in WEIGHT_DTYPES:
            raise ValueError(
                f"{path} has {name} in a dtype that is none of {', '.join(map(str, WEIGHT_DTYPES))}. Save it again."
            )
    with _opened(path) as file:
        weights: dict[str, Tensor] = {name: file.get_tensor(name) for name in expected}
    for name, weight in weights.items():
        check_finite(f"{path}: {name}", weight, "Save it again.")
    return weights


def check_finite(name: str, tensor: Tensor, remedy: str = "Pass finite values.") -> None:
    """Raise a ValueError that counts the NaN and infinite values of a tensor, if there are any."""
    num_bad = int((~torch.isfinite(tensor)).sum())
    if num_bad:
        raise ValueError(f"{name} has {num_bad} NaN or infinite values of {tensor.numel()}, expected none. {remedy}")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise ValueError(
            f"{path} is missing, but expected; weights are read from safetensors files and nothing else. "
            "Copy or download the folder again."
        )
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, OverflowError) as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}). It may be truncated: copy or download it again."
        ) from error


def device_of_float64(device: torch.device) -> torch.device:
    """The device itself, or the CPU where it has no float64, as Apple's GPUs have none.

    Examples:
        >>> device_of_float64(torch.device("mps")).type, device_of_float64(torch.device("cuda")).type
        ('cpu', 'cuda')
    """
    return torch.device("cpu") if device.type == "mps" else device
