"""Files on disk: written whole or not at all, and read with suspicion."""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from st_adapter.errors import InputError

WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# What a killed run may have left beside its target; another run may still be writing a younger one.
_UNFINISHED, _LEFTOVER_SECONDS = "saving", 3600
_SAFETENSORS_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PICKLE_SUFFIXES = {".pkl", ".pickle", ".joblib"}
_PICKLE_PROTOCOLS = {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}
_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2


# --- writing ---


def check_writable(folder: Path, argument: str, *, num_bytes: int = 0) -> None:
    """Check that files can be written to a folder, before the work whose result they are.

    Nothing stays behind: the nearest folder that exists is tried with a file that is gone at once.

    Args:
        folder: a folder, or one that is still to be made.
        argument: what it was given as, such as ``output_dir``, for the error.
        num_bytes: how much is going to be written at least.

    Raises:
        ValueError: it, or a folder above it, is a file, cannot be written to, or has less room.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        reason = f"{there} is not a folder"
    else:
        try:
            tempfile.TemporaryFile(dir=there).close()
            free = shutil.disk_usage(there).free
            reason = f"{free / 1e9:.2f} GB are free, {num_bytes / 1e9:.2f} GB are needed" if free < num_bytes else ""
        except OSError as error:
            reason = f"{there}: {error.strerror or error}"
    if reason:
        raise InputError(
            f"Nothing can be written to {folder} ({reason}).",
            python=f"Choose another {argument}.",
            flags=f"Choose another --{argument.replace('_', '-')}.",
        )


@contextmanager
def folder_written_whole(target: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of ``target`` when the block ends without an error.

    Where the system can exchange two folders in one step (Linux, macOS), ``target`` is the old or the new folder,
    complete, at every moment, also if the process is killed. Elsewhere there is an instant between two renames at which
    it is neither, but then the old folder lies beside it under a name with ``replaced``.

    Args:
        target: a folder, which is replaced as a whole, or nothing yet; its parents are made.

    Raises:
        OSError: the folder cannot be written; ``target`` is as it was.
    """
    temporary = target.parent / f".{target.name}.{_UNFINISHED}-{uuid.uuid4().hex[:8]}"
    try:
        with _explained_write_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(target)
            temporary.mkdir()
            yield temporary
            _replace_folder(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file whole or not at all, with the folders it lies in.

    Raises:
        ValueError: ``content`` is not JSON, for instance because of a NaN.
        OSError: the file cannot be written; what was there before is untouched.
    """
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"What was to be written to {path.name} is not JSON ({error}), but strings, finite numbers, lists and "
            "mappings are expected. Convert its values first."
        ) from error
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all, with the folders it lies in."""
    with file_written_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def file_written_whole(path: Path) -> Iterator[Path]:
    """Give a path to write a file to; it takes the place of ``path`` when the block ends without an error.

    Raises:
        OSError: the file cannot be written; what was there before is untouched.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with _explained_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def _explained_write_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own
        # Of a file within the folder: what counts is the folder. One that is not the system's explains itself.
        own = error.__cause__ if isinstance(error, OSError) and error.errno is None else error
        if not isinstance(own, OSError | SafetensorError):
            raise
        reason = own.strerror if isinstance(own, OSError) and own.strerror else own
        raise OSError(
            f"{target} could not be written ({reason}); what was there before is untouched. "
            "Make room or choose another place, and try again."
        ) from error


def _remove_leftovers(target: Path) -> None:
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.{_UNFINISHED}-*"):
        try:
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
        except FileNotFoundError:
            continue  # its own run has just finished


def _replace_folder(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
    elif _exchange(temporary, target):
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        aside = target.parent / f".{target.name}.replaced-{uuid.uuid4().hex[:8]}"
        try:
            target.rename(aside)
            temporary.rename(target)
        except BaseException:
            if aside.exists() and not target.exists():
                aside.rename(target)
            raise
        finally:
            if target.exists():
                shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; False where the system or the file system cannot."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        names = os.fsencode(first), os.fsencode(second)
        if sys.platform == "darwin":
            failed = libc.renamex_np(*names, _RENAME_SWAP)
        else:
            failed = libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    except (AttributeError, OSError, TypeError):  # no such function, or no such library
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV):
        return False
    raise OSError(number, os.strerror(number), str(second))


# --- reading ---


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: it is missing, or not JSON in UTF-8.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing, but expected. The folder is incomplete: copy or download it again."
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}). Copy or download the folder again.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not JSON in UTF-8 ({type(error).__name__}: {error}). It is damaged: copy or download it again."
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ValueError: as ``read_json``, or it holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, but a JSON object is expected. "
            "It is damaged: copy or download it again."
        )
    return content


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


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces of 1 MiB, so that large weights never lie in memory as a whole."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def is_pickle(path: Path) -> bool:
    """Whether a file is a Python pickle, bare or in the zip archive that ``torch.save`` makes; by content, not by name.

    An ``openvino_model.bin`` is none; a ``training_args.bin`` and a ``rust_model.ot`` are.
    """
    with path.open("rb") as file:
        start = file.read(2)
    if start in _PICKLE_PROTOCOLS or path.suffix in _PICKLE_SUFFIXES:
        return True
    if start != b"PK":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return path.suffix in (".bin", ".pt", ".pth")  # a damaged archive of torch.save
