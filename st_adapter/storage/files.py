"""Files on disk: written whole or not at all, and read with suspicion."""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import json
import math
import os
import shutil
import stat
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints, is_typeddict

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from st_adapter.errors import InputError

MAX_JSON_BYTES = 1 << 28
MAX_FILES = 10_000
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


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        max_bytes: the size up to which it is read at all.

    Raises:
        ValueError: it is missing, larger than that, no regular file, or not JSON in UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} cannot be read: it is no regular file. Copy or download the folder again.")
        if status.st_size > max_bytes:
            raise ValueError(
                f"{path} has {status.st_size:,} bytes, but at most {max_bytes:,} are read of such a file. "
                "Do not open this folder, or make it shorter."
            )
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing, but expected. The folder is incomplete: copy or download it again."
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}). Copy or download the folder again.") from error
    except UnicodeDecodeError as error:
        raise _not_json(path, error) from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_json(path, error) from error


def _not_json(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is not JSON in UTF-8 ({type(error).__name__}: {error}). It is damaged: copy or download it again."
    )


def read_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ValueError: as ``read_json``, or it holds something else.
    """
    content = read_json(path, max_bytes=max_bytes)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, but a JSON object is expected. "
            "It is damaged: copy or download it again."
        )
    return content


def checked(value: Any, hint: Any, where: str) -> Any:
    """A value from a file, once it and everything in it are of a type; an int will do for a float.

    Args:
        value: as ``json.loads`` gives it.
        hint: a type such as ``dict[str, list[float]]``, ``int | None``, a ``Literal`` or a ``TypedDict``, whose other
            keys are not looked at.
        where: what the value is, for the error.

    Returns:
        The value.

    Raises:
        ValueError: the first thing in it of another type, or that is missing, or no finite number.

    Example:
        >>> checked({"dev": 3}, dict[str, int], "num_queries")
        {'dev': 3}
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        if not any(_is_of(value, each, where) for each in arguments):
            raise _other_type(value, hint, where)
    elif origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise ValueError(f"{where} is {_short(value)}, but one of {arguments} is expected.")
    elif is_typeddict(hint):
        _check_keys(value, hint, where)
    elif origin is list:
        if not isinstance(value, list):
            raise _other_type(value, hint, where)
        for number, each in enumerate(value):
            checked(each, arguments[0], f"{where}[{number}]")
    elif origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(arguments):
            raise _other_type(value, hint, where)
        for number, (each, expected) in enumerate(zip(value, arguments, strict=True)):
            checked(each, expected, f"{where}[{number}]")
    elif origin is dict or hint is dict:
        if not isinstance(value, dict):
            raise _other_type(value, hint, where)
        for key, each in value.items() if arguments else ():
            checked(key, arguments[0], f"{where}, a key")
            checked(each, arguments[1], f"{where}[{_short(key)}]")
    elif hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(_as_float(value)):
            raise _other_type(value, hint, where)
    elif not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _other_type(value, hint, where)
    elif hint is int and abs(value) >= 1 << 63:
        raise _other_type(value, hint, where)
    return value


def _is_of(value: Any, hint: Any, where: str) -> bool:
    try:
        checked(value, NoneType if hint is None else hint, where)
    except ValueError:
        return False
    return True


def _check_keys(value: Any, hint: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise _other_type(value, dict, where)
    missing = sorted(hint.__required_keys__ - value.keys())
    if missing:
        raise ValueError(f"{where} has no {', '.join(missing[:3])}, but is expected to.")
    for key, each in get_type_hints(hint).items():
        if key in value:
            checked(value[key], each, f"{where}[{key!r}]" if where else key)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _other_type(value: Any, hint: Any, where: str) -> ValueError:
    expected = hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint)
    return ValueError(f"{where} is {_short(value)}, but {expected.replace('typing.', '')} is expected.")


def _short(value: Any) -> str:
    # No `repr` of a whole: it may be as large as the file.
    if isinstance(value, dict | list):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**20:
        return "a number of more than 20 digits"
    return repr(value)[:80]


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


def file_within(folder: Path, path: Path) -> Path:
    """The regular file that a path in a folder leads to, after all links.

    Links may lead within the folder; in a snapshot of the Hub's cache also to the blobs of that cache, which is what
    such a snapshot consists of.

    Raises:
        ValueError: there is no such file, it is a device, pipe or folder, or a link leads out of the folder or round in
            a loop.
    """
    try:
        target = path.resolve(strict=True)
        status = target.stat()
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing, but expected. The folder is incomplete: copy or download it again."
        ) from error
    except (OSError, RuntimeError) as error:  # a RuntimeError is a loop of links before Python 3.13
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "a loop of links"
        raise ValueError(f"{path} cannot be read ({reason}). Put the file itself in its place.") from error
    if not any(target.is_relative_to(root) for root in _roots(folder)):
        raise ValueError(
            f"{path} is or lies behind a link that leads out of {folder}, and what lies elsewhere is not taken for a "
            "part of it. Put the file itself in its place."
        )
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} cannot be read: it is no regular file, but one is expected. Put a file in its place.")
    return target


def _roots(folder: Path) -> list[Path]:
    folder = folder.resolve()
    if folder.parent.name != "snapshots":
        return [folder]
    # .../models--user--name/snapshots/<commit>, with the blobs of that repository and those that repositories share.
    return [folder, folder.parents[1] / "blobs", folder.parents[2] / "blobs"]


def names_in(folder: Path, *, ignored: Sequence[str] = ()) -> list[str]:
    """Relative paths, with ``/``, of everything below a folder that is no folder; links to folders are not followed.

    Args:
        folder: the folder.
        ignored: names directly in it that are left out with everything below.

    Raises:
        ValueError: there are more than ``MAX_FILES``.
    """
    found: list[str] = []
    open_folders = [""]
    while open_folders:
        prefix = open_folders.pop()
        for entry in os.scandir(folder / prefix):
            name = f"{prefix}{entry.name}"
            if name in ignored:
                continue
            if entry.is_dir(follow_symlinks=False):
                open_folders.append(f"{name}/")
            else:
                found.append(name)
        if len(found) + len(open_folders) > MAX_FILES:
            raise ValueError(
                f"{folder} holds more than {MAX_FILES:,} files, but a model has a few dozen. Name the model's folder, "
                "or take away what is not part of it."
            )
    return sorted(found)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces of 1 MiB, so that large weights never lie in memory as a whole.

    Raises:
        ValueError: it is a device, pipe or folder, whose content has no end or none at all.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} cannot be read: it is no regular file, but one is expected. Put a file in its place.")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def is_pickle(path: Path) -> bool:
    """Whether a file is a Python pickle, bare or in the zip archive that ``torch.save`` makes; by content, not by name.

    An ``openvino_model.bin`` is none; a ``training_args.bin`` and a ``rust_model.ot`` are.
    """
    if not path.is_file():
        return False  # opening a pipe would wait for whoever writes to it
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
