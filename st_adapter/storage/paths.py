"""What lies in a folder that may be a stranger's: which files, whether they are files, and their hashes."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.utils.sha import sha_fileobj

MAX_FILES = 10_000
_PICKLE_SUFFIXES = {".pkl", ".pickle", ".joblib"}
_PICKLE_PROTOCOLS = {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}


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
    with path.open("rb") as file:
        return sha_fileobj(file).hex()


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
