"""Opening a saved model: what is damaged or forged is one clear error; each layout opens with stock libraries."""

from __future__ import annotations

import json
import os
import random
import shutil
import warnings
from pathlib import Path

import fuzz_repository
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from problems import TEXTS, adapted_queries, assert_adapted, hashes, make_adapter
from st_adapter.adapter import QueryAdapter
from st_adapter.saving.alone import save_adapter
from st_adapter.saving.folder import CONFIG_FILE_NAME, copy_as, is_saved_model, read_saved
from st_adapter.saving.opening import from_pretrained, saved_training
from st_adapter.saving.record import TrainingRecord
from st_adapter.saving.save import save_pretrained
from st_adapter.saving.verify import check_saved
from st_adapter.storage.adapters import ADAPTER_FOLDER
from st_adapter.storage.paths import file_sha256

ROUTER = "3_Router/router_config.json"
DENSE = "3_Router/query_0_Dense"


@pytest.fixture(scope="module")
def saved_once(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    folder = tmp_path_factory.mktemp("saved") / "model"
    return save_pretrained(base, make_adapter(), folder, training=TrainingRecord(data="pairs", seed=3))


@pytest.fixture
def saved(saved_once: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved_once, tmp_path / "model")


def change(folder: Path, name: str, content: bytes | None) -> None:
    """Change a file and its hash, as a forger would."""
    path = folder / name
    path.unlink() if content is None else path.write_bytes(content)
    config = json.loads((folder / CONFIG_FILE_NAME).read_text())
    if content is None:
        config["files"].pop(name, None)
    else:
        config["files"][name] = file_sha256(path)
    (folder / CONFIG_FILE_NAME).write_text(json.dumps(config))


def change_json(folder: Path, name: str, **values: object) -> None:
    content = json.loads((folder / name).read_text())
    change(folder, name, json.dumps({**content, **values}).encode())


# Opening


def test_a_saved_model_opens(saved: Path, tiny_model: SentenceTransformer) -> None:
    assert_adapted(from_pretrained(saved, device="cpu"), tiny_model, make_adapter())
    assert check_saved(saved) == read_saved(saved)
    assert saved_training(str(saved)) == TrainingRecord(data="pairs", seed=3)


def test_the_adapter_of_a_saved_model_is_the_one_that_was_saved(saved: Path) -> None:
    adapter, expected = QueryAdapter.from_pretrained(saved), make_adapter()
    assert adapter.base_model == read_saved(saved).base_model
    assert adapter.get_config_dict() == {
        **expected.get_config_dict(),
        "base_model": adapter.get_config_dict()["base_model"],
    }
    assert all(torch.equal(expected.get_parameter(name), value) for name, value in adapter.named_parameters())
    assert all(parameter.requires_grad for parameter in adapter.parameters())


def test_a_base_saved_alone_opens(tiny_model: SentenceTransformer, tmp_path: Path) -> None:
    saved = save_pretrained(tiny_model, None, tmp_path / "base-alone")
    np.testing.assert_array_equal(from_pretrained(saved, device="cpu").encode(TEXTS), tiny_model.encode(TEXTS))
    with pytest.raises(ValueError, match="but an adapter's configuration expects exactly"):
        QueryAdapter.from_pretrained(saved)


def test_routes_have_names(saved: Path) -> None:
    content = json.loads((saved / CONFIG_FILE_NAME).read_text())
    query = content["routes"]["query"]
    for routes, message in (
        ({"query": query, "code-search": {"adapter": "adapter/code-search", "training": None}}, None),
        ({"query": query, "code-search": {"adapter": None, "training": None}}, "one of its tasks has no adapter"),
        ({"query": query, "items": query}, "short names"),
        ({"code": query}, "its routes are .'code'., but short names and 'query' are expected"),
        ({"query": query, "../x": query}, "short names"),
        ({"query": {"adapter": "adapter"}}, "has no training"),
        ({"query": {"adapter": True, "training": None}}, "str"),
        ({"query": {"adapter": "../adapter", "training": None}}, "leads out of its folder"),
    ):
        (saved / CONFIG_FILE_NAME).write_text(json.dumps({**content, "routes": routes}))
        if message is None:
            assert list(read_saved(saved).routes) == ["query", "code-search"]
            assert read_saved(saved).has_adapter and read_saved(saved).training.data == "pairs"
        else:
            with pytest.raises(ValueError, match=message):
                read_saved(saved)


def test_a_saved_model_prints_in_a_line(saved: Path) -> None:
    number = len(read_saved(saved).files)
    expected = (
        f"SavedModel('{read_saved(saved).base_model.name}', adapters for query, layout 'document', {number} files)"
    )
    assert repr(read_saved(saved)) == str(read_saved(saved)) == expected


def test_texts_that_people_edit_may_change(saved: Path) -> None:
    (saved / "README.md").write_text("# Mine")
    (saved / "notes.txt").write_text("more")
    (saved / ".gitattributes").write_text("*.safetensors filter=lfs")
    from_pretrained(saved, device="cpu")


@pytest.mark.parametrize("name", ["/nowhere/at/all", "a/b/c"])
def test_what_is_nowhere_is_said(name: str) -> None:
    with pytest.raises(ValueError, match="is neither a folder nor a Hub id such as user/name"):
        from_pretrained(name)


def test_a_folder_of_another_making_is_refused(tiny_model_path: Path) -> None:
    assert not is_saved_model(tiny_model_path)
    with pytest.raises(ValueError, match=f"{CONFIG_FILE_NAME} is missing"):
        from_pretrained(tiny_model_path)


# Layouts


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        (None, None),
        ({"query": "query: ", "document": "document: "}, None),
        ({"query": "query: "}, None),
        ({"query": "query: "}, "query"),
        ({"query": "", "document": "document: "}, "document"),
        ({"passage": "passage: "}, None),
        ({"other": "other: "}, "other"),
    ],
)
@pytest.mark.parametrize("layout", ["query", "twin"])
def test_plain_encode_is_for_queries(
    layout: str, prompts: dict | None, default: str | None, tiny_model_path: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_path, tmp_path / "base")
    if prompts is not None:
        config = json.loads((folder / "config_sentence_transformers.json").read_text())
        (folder / "config_sentence_transformers.json").write_text(
            json.dumps({**config, "prompts": prompts, "default_prompt_name": default})
        )
    base, adapter = SentenceTransformer(str(folder), device="cpu"), make_adapter("mlp")
    direct = save_pretrained(base, adapter, tmp_path / "direct", layout=layout)
    derived = copy_as(save_pretrained(base, adapter, tmp_path / "document"), tmp_path / "derived", layout, "derived")
    unlike = {"README.md", CONFIG_FILE_NAME}
    first, second = (
        {name: value for name, value in hashes(each).items() if name not in unlike} for each in (direct, derived)
    )
    assert first == second
    for opened in (SentenceTransformer(str(direct), device="cpu"), from_pretrained(derived, device="cpu")):
        expected = adapted_queries(adapter, base)
        np.testing.assert_allclose(opened.encode(TEXTS), expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(opened.encode_query(TEXTS), expected, rtol=0, atol=1e-6)
        assert any(isinstance(module, Router) for module in opened) == (layout == "query")
        if layout == "query":
            np.testing.assert_array_equal(opened.encode_document(TEXTS), base.encode_document(TEXTS))
    assert read_saved(derived).layout == layout


# What is damaged


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "custom.py"])
def test_nothing_may_be_added_that_the_libraries_load(name: str, saved: Path) -> None:
    (saved / name).write_text("{}")
    with pytest.raises(ValueError, match="which it was not saved with and which the libraries may load"):
        from_pretrained(saved, device="cpu")


def test_a_router_under_its_old_name_is_checked_too(saved: Path) -> None:
    modules = json.loads((saved / "modules.json").read_text())
    old = {**modules[-1], "type": "sentence_transformers.models.Asym"}
    change(saved, "modules.json", json.dumps([*modules[:-1], old]).encode())
    router = json.loads((saved / ROUTER).read_text())
    change_json(saved, ROUTER, types={**router["types"], "query_0_Dense": "os.system"})
    with pytest.raises(ValueError, match="only classes of sentence_transformers are expected"):
        from_pretrained(saved, device="cpu")


@pytest.mark.parametrize(
    "values",
    [
        {"structure": {"query": ["query_0_Dense"], "document": ["query_0_Dense"]}},
        {"parameters": {"default_route": "document", "allow_empty_key": True, "route_mappings": {}}},
        {"parameters": {"default_route": [], "allow_empty_key": True}},
    ],
)
def test_a_forged_router(values: dict, saved: Path) -> None:
    change_json(saved, ROUTER, **values)
    with pytest.raises(ValueError, match="are to be left as they are|does not describe a route"):
        from_pretrained(saved, device="cpu")


def test_a_folder_in_place_of_a_file(saved: Path) -> None:
    (saved / CONFIG_FILE_NAME).unlink()
    (saved / CONFIG_FILE_NAME).mkdir()
    assert not is_saved_model(saved)
    with pytest.raises(ValueError, match="cannot be read"):
        from_pretrained(saved, device="cpu")


def test_every_changed_byte_is_noticed(saved: Path) -> None:
    names = [name for name in hashes(saved) if name not in ("README.md", CONFIG_FILE_NAME)]
    assert set(names) == set(read_saved(saved).files)
    for name in names:
        content = (saved / name).read_bytes()
        (saved / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match="is not the file that was saved: its hash is another one"):
            check_saved(saved)
        (saved / name).unlink()
        with pytest.raises(ValueError, match="but it was saved with one"):
            check_saved(saved)
        (saved / name).write_bytes(content)
    check_saved(saved)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (CONFIG_FILE_NAME, "{", "is not JSON"),
        (CONFIG_FILE_NAME, "[]", "a JSON object is expected"),
        (CONFIG_FILE_NAME, '{"layout": "document"}', "it has no base_model, routes, files, but"),
        (CONFIG_FILE_NAME, '{"layout": "document", "has_adapter": true}', "it has no base_model, files, but"),
        ("modules.json", "[]", "is not a list of modules"),
        ("modules.json", '[{"name": "0", "path": 1, "type": ""}]', "is not a list of modules"),
        (ROUTER, '{"types": {}}', "does not describe a route for queries and one for documents"),
    ],
)
def test_damaged_configurations(name: str, content: str, message: str, saved: Path) -> None:
    if name == CONFIG_FILE_NAME:
        (saved / name).write_text(content)
    else:
        change(saved, name, content.encode())
    with pytest.raises(ValueError, match=message):
        from_pretrained(saved, device="cpu")


@pytest.mark.parametrize("path", ["../outside", "/etc", "a/../../b", "C:\\windows", "..", "a\\..\\..\\b", "\0"])
def test_no_path_leads_out_of_the_folder(path: str, saved: Path) -> None:
    whole = {each: (saved / each).read_bytes() for each in ("modules.json", ROUTER, CONFIG_FILE_NAME)}
    for place in ("modules.json", ROUTER, CONFIG_FILE_NAME):
        if place == "modules.json":
            modules = json.loads(whole[place])
            change(saved, place, json.dumps([*modules[:-1], {**modules[-1], "path": path}]).encode())
        elif place == ROUTER:
            router = json.loads(whole[place])
            router["types"][path] = router["types"]["query_0_Dense"]
            router["structure"]["query"][0] = path
            change(saved, place, json.dumps(router).encode())
        else:
            config = json.loads(whole[place])
            (saved / place).write_text(json.dumps({**config, "files": {path: "0" * 64}}))
        with pytest.raises(ValueError, match="which leads out of its folder"):
            from_pretrained(saved, device="cpu")
        for each, content in whole.items():
            (saved / each).write_bytes(content)


@pytest.mark.parametrize("kind", ["os.system", "custom_st.Module", "sentence_transformersx.models.Dense", ""])
def test_no_foreign_class_is_loaded(kind: str, saved: Path) -> None:
    modules = json.loads((saved / "modules.json").read_text())
    before = {name: (saved / name).read_bytes() for name in ("modules.json", CONFIG_FILE_NAME)}
    change(saved, "modules.json", json.dumps([{**modules[0], "type": kind}, *modules[1:]]).encode())
    with pytest.raises(ValueError, match="only classes of sentence_transformers are expected: no other code runs"):
        from_pretrained(saved, device="cpu")
    for name, content in before.items():
        (saved / name).write_bytes(content)
    router = json.loads((saved / ROUTER).read_text())
    change_json(saved, ROUTER, types={**router["types"], "query_0_Dense": kind})
    with pytest.raises(ValueError, match="only classes of sentence_transformers are expected"):
        from_pretrained(saved, device="cpu")


def test_a_route_holds_only_the_modules_we_write(saved: Path) -> None:
    router = json.loads((saved / ROUTER).read_text())
    types = {**router["types"], "query_0_Dense": "sentence_transformers.models.Transformer"}
    change_json(saved, ROUTER, types=types)
    with pytest.raises(ValueError, match="names the class 'Transformer', but only Dense, Normalize, Dropout"):
        from_pretrained(saved, device="cpu")


def test_documents_are_left_as_they_are(saved: Path) -> None:
    change(saved, "3_Router/document_0_Dropout/config.json", b'{"dropout": 0.5}')
    with pytest.raises(ValueError, match="is not that of a Dropout of 0, which leaves documents as they are"):
        from_pretrained(saved, device="cpu")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"activation_function": "os.system"}, "names the activation 'os.system'"),
        ({"in_features": 10**12}, r"has linear.weight of shape \(32, 32\), but \(32, 1000000000000\) is expected"),
        ({"out_features": "32"}, "does not give the sizes of a Dense module"),
        ({"bias": True}, "has the weights"),
    ],
)
def test_a_forged_dense_configuration(values: dict, message: str, saved: Path) -> None:
    change_json(saved, f"{DENSE}/config.json", **values)
    with pytest.raises(ValueError, match=message):
        from_pretrained(saved, device="cpu")


@pytest.mark.parametrize("where", [DENSE, ADAPTER_FOLDER])
@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (lambda weight: weight[:-1].clone(), "of shape"),
        (lambda weight: weight.double(), "in a dtype that is none of"),
        (lambda weight: weight.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(torch.nan)), "has 1 NaN or"),
        (lambda weight: weight.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(torch.inf)), "has 1 NaN or"),
    ],
)
def test_forged_weights(where: str, forge: object, message: str, saved: Path) -> None:
    path = saved / where / "model.safetensors"
    assert callable(forge)
    save_file({name: forge(weight) for name, weight in load_file(path).items()}, path)
    change(saved, f"{where}/model.safetensors", path.read_bytes())
    with pytest.raises(ValueError, match=message):
        from_pretrained(saved, device="cpu")


def test_a_base_with_nan_weights(saved: Path) -> None:
    path = saved / "model.safetensors"
    weights = {name: torch.full_like(weight, torch.nan) for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    change(saved, "model.safetensors", path.read_bytes())
    with pytest.raises(ValueError, match="The query embeddings of .* NaN or infinite values"):
        from_pretrained(saved, device="cpu")


def test_an_index_of_shards_that_leads_out_of_the_folder(saved: Path) -> None:
    change(saved, "model.safetensors.index.json", b'{"weight_map": {"w": "../model.safetensors"}}')
    with pytest.raises(ValueError, match="which leads out of its folder"):
        from_pretrained(saved, device="cpu")


def test_weights_as_a_pickle_are_refused(saved: Path) -> None:
    torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
    change(saved, "pytorch_model.bin", (saved / "pytorch_model.bin").read_bytes())
    # Another file in the right format does not make up for it.
    change(saved, "decoy.safetensors", (saved / "model.safetensors").read_bytes())
    change(saved, "model.safetensors", None)
    with pytest.raises(ValueError, match=r"has weights as a pickle \(.bin\) only"):
        from_pretrained(saved, device="cpu")


def test_what_the_libraries_cannot_open_is_one_clear_error(saved: Path) -> None:
    change_json(saved, "config.json", hidden_size="many")
    with pytest.raises(ValueError, match="Sentence Transformers cannot open .*Its files are as they were saved"):
        from_pretrained(saved, device="cpu")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
@example(seed=303888)
def test_damaged_files_pass_the_checks_or_are_one_clear_error(
    seed: int, saved_once: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Path(os.path.realpath(tmp_path_factory.getbasetemp())) / "fuzzed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved_once, folder)
    _, _, must_be_noticed = fuzz_repository.mutate(folder, random.Random(seed))
    try:
        with warnings.catch_warnings():
            # A forged record may look like one of a newer version, which is not an error.
            warnings.filterwarnings("ignore", "(?s).* as a newer st-adapter may do", UserWarning)
            check_saved(folder)
    except ValueError as error:
        assert str(error)
    else:
        assert not must_be_noticed


def test_an_adapter_alone_is_no_damaged_model(tmp_path: Path) -> None:
    folder = save_adapter(make_adapter(), tmp_path / "adapter")
    with pytest.raises(ValueError, match="holds an adapter alone, without a base model. Open it with QueryAdapter"):
        from_pretrained(folder)
