import json

import datasets
import pandas as pd
import pytest

from st_adapter.data.dataset import RetrievalDataset

PAIRS = pd.DataFrame({"query": ["a?", "b?", "c?"], "document": ["A", "B", "C"], "split": ["train", "dev", "test"]})


@pytest.fixture
def outside(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "other"
    folder.mkdir()
    PAIRS.to_csv(folder / "file.csv", index=False)
    return folder / "file.csv"


def data_folder(outside, config, name="README.md"):
    folder = outside.parent.parent / "set"
    folder.mkdir(exist_ok=True)
    (folder / "link.csv").symlink_to(outside)
    text = f"configs:\n- config_name: default\n  {config.format(outside=outside)}\n"
    (folder / name).write_text(f"---\n{text}---\n" if name == "README.md" else text)
    return folder


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
    "config",
    [
        "data_files: ../other/file.csv",
        "data_files: '{outside}'",
        "data_files: ['file://{outside}']",
        "data_files: 'zip://x.csv::../other/x.zip'",
        "data_files: 'https://example.org/file.csv'",
        "data_files: [{{split: train, path: ['link.csv', '../other/*']}}]",
        "data_files: link.csv",
        "data_files: '*.csv'",
        "data_dir: ../other",
        "default: true",
    ],
)
def test_nothing_outside_the_folder_is_read(outside, config, name):
    folder = data_folder(outside, config, name)
    with pytest.raises(ValueError, match="names '.*', which lies outside that folder. Only what lies in it is read"):
        RetrievalDataset.load(folder)


def test_what_lies_in_the_folder_is_read(outside):
    folder = data_folder(outside, "data_files: data/*.csv")
    (folder / "data").mkdir()
    PAIRS.to_csv(folder / "data" / "pairs.csv", index=False)
    assert RetrievalDataset.load(folder).splits == ["train", "dev", "test"]


def test_a_snapshot_of_the_hubs_cache_is_read(outside):
    repository = outside.parent / "datasets--user--set"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    outside.rename(repository / "blobs" / "abc")
    (snapshot / "pairs.csv").symlink_to("../../blobs/abc")
    (snapshot / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: pairs.csv\n---\n")
    assert RetrievalDataset.load(snapshot).splits == ["train", "dev", "test"]


def test_a_link_that_no_card_names_is_the_users_own(outside):
    folder = outside.parent.parent / "mine"
    folder.mkdir()
    (folder / "pairs.csv").symlink_to(outside)
    assert RetrievalDataset.load(folder).splits == ["train", "dev", "test"]


@pytest.mark.parametrize("filename", ["../other/data.arrow", "/data.arrow", "link.arrow"])
def test_saved_to_disk_names_only_what_lies_beside_it(outside, filename):
    folder = outside.parent / "saved"
    datasets.Dataset.from_pandas(PAIRS).save_to_disk(folder)
    (folder / "link.arrow").symlink_to(outside)
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"] = [{"filename": filename}]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="state.json of .* names .*, which lies outside that folder"):
        RetrievalDataset.load(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"splits": 3}', '{"splits": ["../other"]}'])
def test_a_damaged_dictionary_of_splits(outside, content):
    (outside.parent / "dataset_dict.json").write_text(content)
    with pytest.raises(ValueError, match="Save the data set again|outside that folder"):
        RetrievalDataset.load(outside.parent)


@pytest.mark.parametrize("metadata", ["configs: 3", "configs: [a, b]", "configs:\n- a: ["])
def test_metadata_that_cannot_be_read(outside, metadata):
    (outside.parent / "README.md").write_text(f"---\n{metadata}\n---\n")
    with pytest.raises(ValueError, match="Mend (it|them), or give the path of a file"):
        RetrievalDataset.load(outside.parent)
