from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from elsewhere import new_event, started_elsewhere, write_folders
from st_adapter.storage import writing
from st_adapter.storage.paths import is_pickle
from st_adapter.storage.reading import read_json, read_object
from st_adapter.storage.tensors import TensorInfo, read_weights, tensor_infos
from st_adapter.storage.writing import folder_written_whole, write_json


def fill(target: Path, content: str) -> None:
    with folder_written_whole(target) as folder:
        for name in "ab":
            (folder / name).write_text(content)


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_takes_the_place_of_the_old_one(
    exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchanges:
        monkeypatch.setattr(writing, "_exchange", lambda first, second: False)
    target = tmp_path / "new" / "folder"
    for content in ("first", "second"):
        fill(target, content)
        assert {path.name: path.read_text() for path in target.iterdir()} == {"a": content, "b": content}
        assert [path.name for path in target.parent.iterdir()] == ["folder"]


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path / "folder", "old")
    with pytest.raises(KeyError), folder_written_whole(tmp_path / "folder") as folder:
        (folder / "a").write_text("half")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "a").read_text() == "old"


def test_two_folders_are_exchanged_in_one_step(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert writing._exchange(tmp_path / "one", tmp_path / "other"), "this file system cannot exchange folders"
    assert (tmp_path / "one" / "other").exists() and (tmp_path / "other" / "one").exists()


def test_old_leftovers_of_killed_runs_are_removed_and_young_ones_are_not(tmp_path: Path) -> None:
    for name, age in (("old", 7200), ("young", 60)):
        (tmp_path / f".folder.saving-{name}").mkdir()
        os.utime(tmp_path / f".folder.saving-{name}", (time.time() - age,) * 2)
    fill(tmp_path / "folder", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".folder.saving-young", "folder"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_kill_9_at_any_moment_leaves_a_complete_folder(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    fill(target, "-1")
    found = set()
    for attempt in range(3):
        ready = new_event()
        writer = started_elsewhere(write_folders, target, ready)
        assert ready.wait(60)
        # While the writer runs, the folder is looked at as often as possible; then the writer is killed.
        until = time.monotonic() + 0.3 + 0.037 * attempt
        while time.monotonic() < until:
            assert target.is_dir(), "there was a moment without the folder"
        writer.kill()
        writer.join()
        contents = {path.name: path.read_text() for path in target.iterdir()}
        assert set(contents) == {"a", "b"} and len({*contents.values()}) == 1
        found |= {*contents.values()}
    assert len(found) > 1, "the writer was never killed after its first folder"


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_json(path, {"a": [1, "ü"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, "ü"]}
    with pytest.raises(ValueError, match="file.json is not JSON .*finite numbers"):
        write_json(path, {"a": float("nan")})
    assert read_object(path) == {"a": [1, "ü"]}
    assert [each.name for each in path.parent.iterdir()] == ["file.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN'])
def test_what_is_not_json_is_one_clear_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not JSON in UTF-8"):
        read_json(path)


def test_a_missing_file_and_a_list_are_no_object(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is missing, but expected"):
        read_object(tmp_path / "nothing.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match="holds a list, but a JSON object is expected"):
        read_object(tmp_path / "list.json")


def test_tensor_infos_come_from_the_header(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2, 3), "i": torch.zeros(1, dtype=torch.int64)}, tmp_path / "file.safetensors")
    assert tensor_infos(tmp_path / "file.safetensors") == {
        "w": TensorInfo((2, 3), torch.float32),
        "i": TensorInfo((1,), None),
    }


def header(length: int, text: bytes) -> bytes:
    return length.to_bytes(8, "little") + text


BROKEN = {
    "empty": b"",
    "shorter than its length field": b"\x01\x00",
    "header longer than the file": header(1000, b"{}"),
    "header of 2**63 bytes": header(2**63, b"{}"),
    "header that is no JSON": header(2, b"{{"),
    "data that is not there": header(58, b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}    '),
    "a pickle": pickle.dumps({"w": 1}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_safetensors_are_one_clear_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(BROKEN[name])
    with pytest.raises(ValueError, match="cannot be read as safetensors .* copy or download it again"):
        tensor_infos(path)


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(content: bytes) -> None:
    path = Path("/dev/shm" if Path("/dev/shm").is_dir() else ".") / f"st-adapter-{os.getpid()}.safetensors"
    try:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be read as safetensors|has the weights"):
            read_weights(path, {"w": (2,)})
    finally:
        path.unlink()


def test_pickles_are_known_by_their_content(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "zipped.anything")
    torch.save({"w": torch.zeros(1)}, tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.model").write_bytes(pickle.dumps([1]))
    (tmp_path / "old.pkl").write_bytes(pickle.dumps([1], protocol=0))
    whole = (tmp_path / "zipped.anything").read_bytes()
    (tmp_path / "cut.bin").write_bytes(whole[: len(whole) // 2])
    assert all(is_pickle(path) for path in tmp_path.iterdir())
    others = tmp_path / "others"
    others.mkdir()
    (others / "openvino_model.bin").write_bytes(b"\x00\x01\x80\x04 raw weights")
    save_file({"w": torch.zeros(1)}, others / "model.safetensors")
    (others / "empty.bin").touch()
    shutil.make_archive(str(others / "archive"), "zip", tmp_path, "old.pkl") and (others / "archive.zip").unlink()
    assert not any(is_pickle(path) for path in others.iterdir())
