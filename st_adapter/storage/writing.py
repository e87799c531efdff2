"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from st_adapter.errors import InputError

# What a killed run may have left beside its target; another run may still be writing a younger one.
_UNFINISHED, _LEFTOVER_SECONDS = "saving", 3600
_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2


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


def linked(source: Path, target: Path) -> None:
    """Put a file, or a folder with all in it, in a second place: by hard links, or else, where there are none, copied.

    What is written here replaces files and never changes them, so that neither place sees what happens in the other.
    """
    if source.is_dir():
        target.mkdir()
        for path in source.iterdir():
            linked(path, target / path.name)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


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
    for leftover in target.parent.glob(f".*.{_UNFINISHED}-*"):
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
