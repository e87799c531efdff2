"""Secrets beside a model stay where they are, and what strangers made is one clear error or harmless."""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session
from rich.text import Text
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules

from problems import TEXTS, make_adapter
from st_adapter import cli
from st_adapter.cli.tables import console
from st_adapter.errors import printable, without_secrets
from st_adapter.saving.declared_sizes import check_module
from st_adapter.saving.folder import CONFIG_FILE_NAME, copy_as, left_out, read_saved
from st_adapter.saving.model_files import model_files
from st_adapter.saving.opening import from_pretrained
from st_adapter.saving.record import TrainingRecord
from st_adapter.saving.save import save_pretrained
from st_adapter.saving.verify import check_saved
from st_adapter.storage.hub import explained_errors
from st_adapter.storage.paths import file_sha256
from st_adapter.storage.reading import checked

TOKEN = "hf_" + "abcdefgh" * 4
PRIVATE = [".env", "id_rsa", "credentials.json", "customers.csv", "optimizer.pt", "notes.ipynb", "train.log", "evil.py"]


@pytest.fixture
def base(tiny_model_path: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model_path, tmp_path / "base")


@pytest.fixture(scope="module")
def saved_once(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = SentenceTransformer(str(tiny_model_path), device="cpu")
    return save_pretrained(model, make_adapter(), tmp_path_factory.mktemp("once") / "model")


@pytest.fixture
def saved(saved_once: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved_once, tmp_path / "model")


def forge(folder: Path, name: str, **changes: object) -> None:
    """Change a JSON file, and write its hash anew."""
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    config = json.loads((folder / CONFIG_FILE_NAME).read_text())
    config["files"][name] = file_sha256(path)
    (folder / CONFIG_FILE_NAME).write_text(json.dumps(config))


def pairs(folder: Path) -> Path:
    """A file of pairs."""
    path = folder / "pairs.csv"
    path.write_text("query,document\n" + "".join(f"question {n},answer {n}\n" for n in range(30)))
    return path


# What is copied


def test_private_files_are_not_saved(base: Path, tmp_path: Path) -> None:
    expected = set(model_files(base))
    for folder in (base, base / "1_Pooling"):
        for name in PRIVATE:
            (folder / name).write_text(TOKEN)
        os.mkfifo(folder / "pipe")
        (folder / "wandb").mkdir()
        (folder / "wandb" / "config.json").write_text("{}")
        (folder / "passwords").symlink_to("/etc/passwd")
    assert set(model_files(base)) == expected
    saved = save_pretrained(SentenceTransformer(str(base), device="cpu"), make_adapter(), tmp_path / "saved")
    names = {path.name for path in saved.rglob("*")}
    assert names.isdisjoint({*PRIVATE, "pipe", "wandb", "passwords"})
    assert {"vocab.txt", "tokenizer.json"} & names and "model.safetensors" in names


def test_a_needed_file_is_not_taken_from_elsewhere(base: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(base), device="cpu")
    (base / "config.json").rename(tmp_path / "elsewhere.json")
    (base / "config.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ValueError, match=r"config\.json is or lies behind a link that leads out of"):
        save_pretrained(model, make_adapter(), tmp_path / "saved")
    (base / "config.json").unlink()
    os.mkfifo(base / "config.json")
    with pytest.raises(ValueError, match="no regular file"):
        save_pretrained(model, make_adapter(), tmp_path / "saved")


@pytest.mark.parametrize("target", ["round", "..", "."])
def test_a_loop_of_links_stays_an_error(target: str, base: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(base), device="cpu")
    (base / "1_Pooling" / "round").symlink_to(target)
    with pytest.raises(ValueError, match="loop"):
        save_pretrained(model, make_adapter(), tmp_path / "saved")


def test_a_snapshot_of_the_hub_cache_is_copied_through_its_links(base: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--user--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "blobs").mkdir(parents=True)
    for path in [path for path in base.rglob("*") if path.is_file()]:
        link = snapshot / path.relative_to(base)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = repository / "blobs" / file_sha256(path)
        shutil.copyfile(path, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    model = SentenceTransformer(str(snapshot), device="cpu")
    saved = save_pretrained(model, make_adapter(), tmp_path / "saved", base_model=snapshot)
    opened = from_pretrained(saved, device="cpu")
    np.testing.assert_array_equal(opened.encode_document(TEXTS), model.encode_document(TEXTS))


def test_code_is_copied_if_it_is_trusted_with_what_it_imports(base: Path) -> None:
    entries = json.loads((base / "modules.json").read_text())
    entries[1]["type"] = "pooling.Pooling"
    (base / "modules.json").write_text(json.dumps(entries))
    (base / "pooling.py").write_text('from .words import read\n\nread("words.bin.txt")\n')
    (base / "words.py").write_text("import os\n")
    for name in ("words.bin.txt", "other.py", ".env"):
        (base / name).write_text("x")
    trusted = set(model_files(base, custom_code=True))
    assert trusted - set(model_files(base)) == {"pooling.py", "words.py", "words.bin.txt"}


def test_what_was_put_into_a_saved_folder_is_not_published(saved: Path, tmp_path: Path) -> None:
    for name in ("customers.csv", "1_Pooling/id_rsa", ".env"):
        (saved / name).write_text(TOKEN)
    # An earlier release listed private files with their hashes.
    (saved / "secrets.json").write_text("{}")
    forge(saved, "secrets.json")
    record = read_saved(saved)
    assert left_out(saved, record) == [".env", "1_Pooling/id_rsa", "customers.csv", "secrets.json"]
    copied = copy_as(saved, tmp_path / "copied", "document", "user/name")
    names = {path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file()}
    assert names == {*record.files, "README.md", CONFIG_FILE_NAME} - {"secrets.json"}
    check_saved(copied)


# What is opened


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "config.json",
            {"num_hidden_layers": 20_000},
            "declares num_hidden_layers=20,000, but its weights are those of",
        ),
        ("config.json", {"vocab_size": 10**9}, "declares .* weights, but its files hold"),
        ("config.json", {"intermediate_size": 10**7}, "declares .* weights, but its files hold"),
        ("config.json", {"hidden_size": 10**15, "num_attention_heads": 1}, "declares sizes that no model can have"),
        ("config.json", {"num_labels": 10**9}, "which no model has"),
        ("config.json", {"attn_implementation": "someone/kernel"}, "not code to fetch"),
        ("config.json", {"text_config": {"_attn_implementation": "someone/kernel"}}, "not code to fetch"),
        ("config.json", {"dtype": "os.system"}, "a dtype is expected"),
        ("sentence_bert_config.json", {"max_seq_length": 2**40}, "a number of tokens is expected"),
        ("sentence_bert_config.json", {"model_args": {"gguf_file": "x"}}, "neither fetch nor run"),
        ("sentence_bert_config.json", {"model_kwargs": {"device_map": "auto"}}, "neither fetch nor run"),
        ("sentence_bert_config.json", {"config_args": {"num_hidden_layers": 20_000}}, "neither fetch nor run"),
        ("sentence_bert_config.json", {"tokenizer_name_or_path": "/etc"}, "takes its tokenizer from elsewhere"),
        ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}, "a file elsewhere on this machine"),
        ("tokenizer.json", {"padding": {"strategy": {"Fixed": 10**9}}}, "pads every text to 1,000,000,000"),
        (
            "tokenizer.json",
            {"normalizer": {"type": "Replace", "pattern": {"String": "e"}, "content": "x" * 1000}},
            "normalizer that can make a text 1e\\+03 times as long",
        ),
        (
            "tokenizer.json",
            {
                "normalizer": {
                    "type": "Sequence",
                    "normalizers": [{"type": "Replace", "pattern": {"Regex": "a"}, "content": "aa"}] * 40,
                }
            },
            "times as long",
        ),
    ],
)
def test_what_a_model_declares_is_held_against_its_weights(name: str, changes: dict, message: str, saved: Path) -> None:
    forge(saved, name, **changes)
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message):
        from_pretrained(saved, device="cpu")
    assert time.perf_counter() - start < 20


def test_a_base_model_is_looked_at_before_it_is_built(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 20_000}))
    assert cli.main(["evaluate", "--model", str(base), "--data", str(pairs(base.parent))]) == 2
    assert "declares num_hidden_layers=20,000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "sizes", "forged"),
    [
        ("LSTM", {"embedding_dimension": 32, "hidden_dim": 16}, {"num_layers": 20_000}),
        ("LSTM", {"embedding_dimension": 32, "hidden_dim": 16}, {"hidden_dim": 10**6}),
        ("CNN", {"in_embedding_dimension": 32, "out_channels": 8}, {"kernel_sizes": [1] * 10**5}),
        ("CNN", {"in_embedding_dimension": 32, "out_channels": 8}, {"out_channels": 10**9}),
        ("LayerNorm", {"dimension": 32}, {"dimension": 10**11}),
        ("WeightedLayerPooling", {"embedding_dimension": 32, "num_hidden_layers": 2}, {"num_hidden_layers": 10**11}),
    ],
)
def test_other_modules_have_the_sizes_of_their_weights(kind: str, sizes: dict, forged: dict, tmp_path: Path) -> None:
    module = getattr(modules, kind)(**sizes)
    module.save(str(tmp_path))
    check_module(tmp_path, kind)
    path = tmp_path / module.config_file_name
    path.write_text(json.dumps({**json.loads(path.read_text()), **forged}))
    with pytest.raises(ValueError, match=f"{path.name} (declares|is not the configuration)"):
        check_module(tmp_path, kind)


def test_links_of_a_saved_folder_stay_within_it(saved: Path, tmp_path: Path) -> None:
    shutil.move(saved / "1_Pooling", tmp_path / "elsewhere")
    (saved / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="leads out of"):
        from_pretrained(saved, device="cpu")


def test_a_pipe_in_place_of_a_file_does_not_hang(saved: Path) -> None:
    (saved / "vocab.txt").unlink(missing_ok=True)
    os.mkfifo(saved / "adapter_config.json")
    with pytest.raises(ValueError, match="was not saved with"):
        from_pretrained(saved, device="cpu")


def record_in(path: Path, record: dict) -> None:
    content = json.loads(path.read_text())
    content["routes"]["query"]["training"] = record
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "changes",
    [
        {"versions": []},
        {"versions": {"torch": 2}},
        {"reason": None},
        {"fitted_on": "train"},
        {"fitted_on": [1]},
        {"num_queries": {"dev": "3"}},
        {"num_documents": True},
        {"seed": 1.5},
        {"split_by": "token"},
        {"paraphrase_threshold": float("nan")},
        {"arguments": 3},
        {"scores": {"split": "test"}},
        {"scores": []},
    ],
)
def test_a_record_of_other_types_is_one_clear_error(changes: dict, saved: Path) -> None:
    path = saved / CONFIG_FILE_NAME
    record_in(path, {**asdict(TrainingRecord(data="pairs")), **changes})
    with pytest.raises(
        ValueError, match=rf"{CONFIG_FILE_NAME} is not that of a saved model: .*\['training'\].* expected"
    ):
        read_saved(saved)


def test_a_newer_release_may_record_more(saved: Path) -> None:
    path = saved / CONFIG_FILE_NAME
    record_in(path, {**asdict(TrainingRecord(data="pairs")), "more": 1})
    with pytest.warns(UserWarning, match="records 'more', as a newer st-adapter may do"):
        assert read_saved(saved).training == TrainingRecord(data="pairs")


@pytest.mark.parametrize(
    ("value", "hint"),
    [("1", int), (True, int), (1, bool), (10**30, int), (float("inf"), float), (10**400, float), ([1], list[str])],
)
def test_other_types_are_told(value: object, hint: object) -> None:
    with pytest.raises(ValueError, match="^it.* is .*, but .* is expected"):
        checked(value, hint, "it")


# What is said


def test_secrets_are_not_told() -> None:
    text = f"see https://me:secret@host/x?a=1&token=secret and {TOKEN} or Authorization: Bearer secret1"
    assert "secret" not in without_secrets(text)
    assert TOKEN not in without_secrets(text)
    assert without_secrets("a word of mine", ["mine"]) == "a word of ***"
    assert without_secrets("me@host and https://host/a@b") == "me@host and https://host/a@b"


def test_what_a_server_echoes_is_not_chained() -> None:
    request = get_session().build_request("GET", "http://127.0.0.1/x", headers={"authorization": f"Bearer {TOKEN}"})
    response = type("Answer", (), {"status_code": 403, "headers": {}, "request": request})()
    with pytest.raises(ValueError, match="403") as raised, explained_errors("It", "mysecret"):
        raise HfHubHTTPError(f"you sent {TOKEN} and mysecret", response=response, server_message=f"{TOKEN} mysecret")
    told = "".join(traceback.format_exception(raised.value))
    assert TOKEN not in told and "mysecret" not in str(raised.value)
    assert raised.value.__cause__ is None and raised.value.__context__ is None


@pytest.mark.parametrize("words", [["--tokenn", TOKEN], [f"--tokne={TOKEN}"], ["--tokenn", "not-of-the-hub"]])
def test_a_misspelt_flag_does_not_show_the_token(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["push", "folder", "user/name", *words])
    printed = "".join(capsys.readouterr())
    assert TOKEN not in printed and "not-of-the-hub" not in printed
    assert "--tok" in printed


@pytest.mark.parametrize("name", ["[/red]", "[bold]x", "\x1b[31mred", "a\nb", "\u202egnp.exe", "\x9b31m"])
def test_names_reach_the_terminal_as_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["push", name, "user/name"]) == 2
    printed = capsys.readouterr().err
    assert not any(character in printed for character in "\x1b\x9b\u202e")
    assert printed.count("\n") == 1
    assert printable(name) in printed


def test_markup_that_was_forgotten_is_shown_as_it_is() -> None:
    assert console.render_str("x [/red] \x1b[2J").plain == "x [/red] \\x1b[2J"
    assert isinstance(console.render_str("[bold]x[/bold]"), Text)
