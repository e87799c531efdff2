"""What the command line refuses before any work, and the flags for how a model is opened."""

import json
import re
import shutil
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from sentence_transformers.sparse_encoder.modules import SpladePooling
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from st_adapter import AdapterTrainer, QueryAdapter, cli, embed, from_pretrained, save_pretrained
from st_adapter.cli import commands, opening
from st_adapter.cli.options import EmbeddingOptions
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings import embedding as embeddings_module
from st_adapter.embeddings.origin import name_of
from st_adapter.errors import InputError
from st_adapter.saving.attach import check_base
from st_adapter.storage.writing import check_writable


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    """Pairs whose two sides spell a letter in two ways, so that there is something to learn."""
    rows = [
        {"question": f"where is {a} {b}", "passage": f"here is {b} and {a} in a file"}
        for a in "abcdefg"
        for b in "xyzuvw"
    ]
    path = tmp_path_factory.mktemp("data") / "pairs.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture
def never_embedded(monkeypatch):
    """Fails if anything is embedded."""
    monkeypatch.setattr(embeddings_module, "_fill", lambda *_: pytest.fail("texts were embedded before the check"))


def refused(capsys, *words):
    """The error of a command line that is refused, on one line."""
    assert cli.main([str(word) for word in words]) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture(scope="module")
def saved_model(tiny_model_path, tmp_path_factory):
    """An output folder with an adapted model in it, whose adapter turns queries round."""
    base = SentenceTransformer(str(tiny_model_path), device="cpu")
    folder = tmp_path_factory.mktemp("saved") / "out"
    save_pretrained(base, QueryAdapter.from_matrix(torch.eye(32).flip(0)), folder / "model")
    return folder


# Other kinds of models


def cross_encoder(bert, folder):
    torch.manual_seed(0)
    CrossEncoder(str(bert), num_labels=1, device="cpu").save_pretrained(str(folder))


def plain_classifier(bert, folder):
    cross_encoder(bert, folder)
    for name in ("modules.json", "config_sentence_transformers.json"):
        (folder / name).unlink()


def sparse_encoder(bert, folder):
    transformer = Transformer(str(bert), transformer_task="fill-mask")
    SparseEncoder(modules=[transformer, SpladePooling("max")], device="cpu").save_pretrained(str(folder))


@pytest.mark.parametrize(
    ("make", "kind"),
    [(cross_encoder, "CrossEncoder"), (plain_classifier, "CrossEncoder"), (sparse_encoder, "SparseEncoder")],
)
def test_other_kinds_of_models_are_not_trained_on(make, kind, _bert_path, pairs_file, tmp_path, capsys, never_embedded):
    make(_bert_path, tmp_path / "other")
    common = ["--model", tmp_path / "other", "--data", pairs_file, "--output-dir", tmp_path / "out"]
    for command in ("train", "learning-curve"):
        said = refused(capsys, command, *common)
        assert f"The files of other are those of a {kind}, which gives" in said
        assert "Name such a model with --model." in said
    dataset = RetrievalDataset.load(str(pairs_file))
    model = SentenceTransformer(str(tmp_path / "other"), device="cpu")
    for door in (embed, lambda model, data: AdapterTrainer(model, train_dataset=data)):
        with pytest.raises(ValueError, match=f"those of a {kind}.*Load such a model with SentenceTransformer"):
            door(model, dataset)
    with pytest.raises(ValueError, match=f"those of a {kind}"):
        save_pretrained(model, None, tmp_path / "saved")


def test_the_objects_themselves_are_refused(_bert_path, pairs_file):
    model = CrossEncoder(str(_bert_path), num_labels=1, device="cpu")
    with pytest.raises(ValueError, match="The model is a CrossEncoder, which gives one score per query and document"):
        embed(model, RetrievalDataset.load(str(pairs_file)))


def test_a_plain_transformer_is_taken_with_a_warning(_bert_path):
    with pytest.warns(UserWarning, match="has no modules.json: it is a plain transformer, .* pools it by 'mean'"):
        check_base(SentenceTransformer(str(_bert_path), device="cpu"))
    check_base(SentenceTransformer(modules=[Transformer(str(_bert_path)), Pooling(32, "cls")], device="cpu"))


def test_an_adapted_model_is_no_base(saved_model, tiny_model_path, pairs_file, capsys, never_embedded):
    for model in (saved_model, saved_model / "model"):
        said = refused(capsys, "learning-curve", "--model", model, "--data", pairs_file)
        assert f"is a model with an adapter already. Name its base model: --model {tiny_model_path.name}." in said
    with pytest.raises(ValueError, match=r"already has a Router.* take it apart with detach\(model\)"):
        check_base(SentenceTransformer(str(saved_model / "model"), device="cpu"))


# Places


@pytest.mark.parametrize("command", ["train", "learning-curve", "demo"])
def test_an_output_folder_that_cannot_be_made_is_refused_first(
    command, tiny_model_path, pairs_file, tmp_path, capsys, never_embedded
):
    (tmp_path / "file").touch()
    data = [] if command == "demo" else ["--data", pairs_file]
    said = refused(capsys, command, "--model", tiny_model_path, *data, "--output-dir", tmp_path / "file" / "a" / "out")
    assert f"Nothing can be written to {tmp_path / 'file' / 'a' / 'out'} ({tmp_path / 'file'} is not a folder)." in said
    assert said.endswith("Choose another --output-dir.")


@pytest.mark.parametrize("flag", ["--output", "--run-dir"])
def test_so_is_a_place_for_results(flag, saved_model, pairs_file, tmp_path, capsys, never_embedded):
    (tmp_path / "file").touch()
    said = refused(
        capsys, "evaluate", "--model", saved_model, "--data", pairs_file, flag, tmp_path / "file" / "results" / "x.json"
    )
    assert "is not a folder" in said and said.endswith(f"Choose another {flag}.")


def test_writing_is_tried_and_nothing_stays(tmp_path):
    check_writable(tmp_path / "new" / "folder", "output_dir")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"GB are free, 1000000000\.00 GB are needed"):
        check_writable(tmp_path, "output_dir", num_bytes=10**18)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="nowhere is not a folder"):
        check_writable(tmp_path / "nowhere" / "out", "output_dir")
    with pytest.raises(InputError, match="Choose another output_dir"):
        check_writable(tmp_path.__class__("/proc/st-adapter"), "output_dir")


def test_a_cache_that_cannot_be_made_is_done_without(tiny_model, pairs_file, tmp_path, monkeypatch):
    dataset = RetrievalDataset.load(str(pairs_file))
    expected = embed(tiny_model, dataset, cache_dir=tmp_path / "cache", show_progress_bar=False)
    (tmp_path / "file").touch()
    monkeypatch.setattr(embeddings_module, "HF_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="kept in memory only.*cache_dir, or --cache-dir on the command line"):
        found = embed(tiny_model, dataset, show_progress_bar=False)
    assert torch.equal(found.query_embeddings, expected.query_embeddings)
    assert torch.equal(found.corpus.embeddings, expected.corpus.embeddings)
    with pytest.raises(InputError, match="Choose another cache_dir"):
        embed(tiny_model, dataset, cache_dir=tmp_path / "file" / "cache", show_progress_bar=False)


# Names of models


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/folder", "is no/such/folder, but there is no such folder. Name the folder of a model, or a Hub id"),
        ("./missing", "is ./missing, but there is no such folder."),
        ("user/missing", "is user/missing, but there is no such folder, and no such model on the Hub that can be read"),
        ("missing", "is missing, but there is no such folder, and no such model on the Hub that can be read"),
    ],
)
def test_a_model_that_is_not_there(name, message, pairs_file, tmp_path, capsys):
    for command in ("train", "evaluate"):
        said = refused(capsys, command, "--model", name, "--data", pairs_file)
        assert f"--model {message}" in said
    assert f"--model {message}" in refused(capsys, "check", "json:dumps", "json:dumps", "--model", name)


def test_a_folder_or_file_without_a_model(pairs_file, tmp_path, capsys):
    said = refused(capsys, "train", "--model", tmp_path, "--data", pairs_file)
    assert f"--model is the folder {tmp_path}, which holds no model" in said
    said = refused(capsys, "train", "--model", pairs_file, "--data", pairs_file)
    assert f"--model is {pairs_file}, a file, but the folder of a model or a Hub id is expected" in said


def test_a_revision_is_for_the_hub(tiny_model_path, pairs_file, capsys):
    said = refused(capsys, "train", "--model", tiny_model_path, "--data", pairs_file, "--revision", "main")
    assert "--revision main is for models on the Hub" in said


def test_evaluate_takes_the_output_folder(saved_model, pairs_file, tmp_path):
    output = tmp_path / "results.json"
    arguments = ["evaluate", "--model", saved_model, "--data", pairs_file, "--output", output, "--cache-dir", tmp_path]
    assert cli.main([str(word) for word in arguments]) == 0
    results = json.loads(output.read_text())
    assert results["adapted"] != results["base"]


# Flags


def test_flags_reach_the_saved_model_and_the_results(tiny_model_path, pairs_file, tmp_path):
    flags = ["--query-prompt", "q: ", "--document-prompt", "d: ", "--truncate-dim", "16", "--max-seq-length", "12"]
    arguments = ["train", "--model", tiny_model_path, "--data", pairs_file, "--output-dir", tmp_path / "out"]
    arguments += ["--cache-dir", tmp_path / "cache", "--method", "closed-form", "--alpha", "0.99", *flags]
    assert cli.main([str(word) for word in arguments]) == 0
    asked = {"query_prompt": "q: ", "document_prompt": "d: ", "truncate_dim": 16, "max_seq_length": 12}
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["opened_with"] == asked
    assert results["base_model"]["query_prompt"] == "q: " and results["base_model"]["dimension"] == 16
    opened = SentenceTransformer(str(tmp_path / "out" / "model"), device="cpu")
    assert opened.prompts == {"query": "q: ", "document": "d: "}
    assert (opened.truncate_dim, opened.max_seq_length) == (16, 12)
    base = SentenceTransformer(str(tiny_model_path), device="cpu", truncate_dim=16)
    base.max_seq_length = 12
    texts = ["open a file", "read every line of a file and close it " * 3]
    np.testing.assert_array_equal(opened.encode_document(texts), base.encode([f"d: {text}" for text in texts]))
    page = (tmp_path / "out" / "report.html").read_text()
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        assert f"{flag} {value}" in page.replace("&#39;", "").replace("'", "")
    assert results["adopted"]
    assert "opened with: `query_prompt=q:" in (tmp_path / "out" / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--truncate-dim", 64, "--truncate-dim is 64, but 1 to 32 is expected"),
        ("--truncate-dim", 0, "--truncate-dim is 0, but 1 to 32 is expected"),
        ("--max-seq-length", 65, "--max-seq-length is 65, but 3 to 64 tokens are expected"),
        ("--max-seq-length", 0, "--max-seq-length is 0, but 3 to 64 tokens are expected"),
    ],
)
def test_flags_that_the_model_does_not_allow(flag, value, message, tiny_model_path, pairs_file, capsys):
    assert message in refused(capsys, "train", "--model", tiny_model_path, "--data", pairs_file, flag, value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--alpha", "2"], "--alpha is 2.0, but has to be"),
        (["train", "--seed", "-1"], "--seed is -1, but has to be"),
        (["train", "--embedding-batch-size", "0"], "--embedding-batch-size is 0, but has to be"),
        (
            ["train", "--paraphrase-threshold", "5"],
            "--paraphrase-threshold is 5.0, but has to be above 0",
        ),
        (["train", "--rank", "8"], "--rank came with --method auto"),
        (["train", "--method", "gradient", "--num-train-epochs", "0"], "--num-train-epochs is 0, but has to be"),
        (["train", "--method", "gradient", "--resume-from-checkpoint"], "Train with --save-strategy epoch"),
        (["learning-curve", "--num-draws", "0"], "--num-draws is 0, but has to be"),
        (["learning-curve", "--sizes", "1", "2"], "--sizes is [1, 2], but has to be whole numbers of at least 2"),
    ],
)
def test_errors_name_flags(words, message, tiny_model_path, pairs_file, tmp_path, capsys):
    command, *flags = words
    places = ["--output-dir", tmp_path / "out", "--cache-dir", tmp_path / "cache"]
    said = refused(capsys, command, "--model", tiny_model_path, "--data", pairs_file, *places, *flags)
    assert message in said
    assert not re.search(r"[a-z]_[a-z]+ is |[a-z]=['\d]|ValueError|Traceback", said)


def test_warnings_of_ours_are_words_and_those_of_libraries_as_ever(capsys, monkeypatch):
    def warned(_):
        for file in (commands.__file__, json.__file__):
            sys.stdout.write(warnings.formatwarning("Two files are left out.", UserWarning, file, 7, ""))
        return 0

    usual = warnings.formatwarning
    monkeypatch.setattr(commands, "list_runs", warned)
    assert cli.main(["list", "out"]) == 0
    ours, theirs = capsys.readouterr().out.splitlines()
    assert ours == "warning: Two files are left out."
    assert theirs == f"{json.__file__}:7: UserWarning: Two files are left out."
    assert warnings.formatwarning is usual


def test_a_base_with_code_of_its_own(tiny_model_path, pairs_file, tmp_path, capsys):
    base = shutil.copytree(tiny_model_path, tmp_path / "base")
    code = "from sentence_transformers.base.modules import Normalize\nclass Mine(Normalize):\n    pass\n"
    (base / "custom_st.py").write_text(code)
    entries = json.loads((base / "modules.json").read_text())
    entries[-1]["type"] = "custom_st.Mine"
    (base / "modules.json").write_text(json.dumps(entries))
    said = refused(capsys, "train", "--model", base, "--data", pairs_file, "--output-dir", tmp_path / "out")
    assert "comes with code of its own, which is not run unless you trust it" in said
    assert said.endswith("add --trust-remote-code.")

    model = SentenceTransformer(str(base), device="cpu", trust_remote_code=True)
    saved = save_pretrained(model, QueryAdapter.from_matrix(torch.eye(32).flip(0)), tmp_path / "out" / "model")
    card = (saved / "README.md").read_text()
    assert f'SentenceTransformer("{saved.name}", trust_remote_code=True)' in card
    assert "The base model comes with code of its own, which runs when this model is opened" in card
    opened = from_pretrained(saved, device="cpu", trust_remote_code=True)
    np.testing.assert_array_equal(opened.encode_document(["a"]), model.encode_document(["a"]))
    with pytest.raises(ValueError, match="names the class 'custom_st.Mine'.*trust_remote_code=True"):
        from_pretrained(saved)
    evaluation = ["evaluate", "--model", tmp_path / "out", "--data", pairs_file, "--cache-dir", tmp_path]
    assert "add --trust-remote-code" in refused(capsys, *evaluation)
    assert cli.main([str(word) for word in [*evaluation, "--trust-remote-code"]]) == 0


def test_a_file_of_finished_vectors_is_not_opened_in_sentence_transformers(saved_model):
    with pytest.raises(ValueError, match="vectors are finished.*Leave file_name out"):
        from_pretrained(saved_model / "model", backend="onnx", model_kwargs={"file_name": "onnx/model_query.onnx"})


# Layouts


def test_a_base_that_reads_the_task_has_no_layout_for_plain_encode(tiny_model, tmp_path):
    class ByTask(Normalize):
        forward_kwargs = {"task"}

        def forward(self, features, task=None):
            if task == "query":
                features["sentence_embedding"] = -features["sentence_embedding"]
            return features

    tiny_model.append(ByTask())
    for layout in ("query", "twin"):
        with pytest.raises(ValueError, match=f"layout '{layout}' was asked for.* read `task`, which plain encode"):
            save_pretrained(tiny_model, QueryAdapter.from_matrix(torch.eye(32)), tmp_path / "saved", layout=layout)


def test_a_twin_is_wholly_in_the_old_form(tiny_model, tmp_path):
    adapter = QueryAdapter.from_matrix(torch.eye(32).flip(0))
    folder = save_pretrained(tiny_model, adapter, tmp_path / "twin", layout="twin")
    types = [entry["type"] for entry in json.loads((folder / "modules.json").read_text())]
    assert types == [
        f"sentence_transformers.models.{k}" for k in ("Transformer", "Pooling", "Normalize", "Dense", "Normalize")
    ]
    # As releases 2 to 5 wrote them; opened with 4.1.0 and 5.2.3.
    read = {
        name: json.loads((folder / name).read_text()) for name in ("1_Pooling/config.json", "sentence_bert_config.json")
    }
    assert read["sentence_bert_config.json"] == {"max_seq_length": 64, "do_lower_case": False}
    assert read["1_Pooling/config.json"] == {
        "include_prompt": True,
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": False,
    }
    assert not (folder / "2_Normalize" / "config.json").exists()


def test_a_twin_that_the_old_form_cannot_tell_is_saved_with_a_warning(_bert_path, tmp_path):
    modules = [Transformer(str(_bert_path)), Pooling(32, ("mean", "max")), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "base"))
    base = SentenceTransformer(str(tmp_path / "base"), device="cpu")
    adapter = QueryAdapter.from_matrix(torch.eye(64).flip(0))
    with pytest.warns(UserWarning, match="'twin' is for releases .* before 5 .*but Pooling of the base model"):
        saved = save_pretrained(base, adapter, tmp_path / "twin", layout="twin")
    np.testing.assert_allclose(
        SentenceTransformer(str(saved), device="cpu").encode(["a"]), base.encode_query(["a"])[:, ::-1], atol=1e-6
    )


def test_a_model_without_a_transformer_is_known_by_its_folder(tmp_path):
    words = ["[UNK]", "a", "car"]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, np.eye(3, dtype=np.float32))], device="cpu")
    model.save_pretrained(str(tmp_path / "table"))
    assert name_of(opening.open_model(str(tmp_path / "table"), EmbeddingOptions())) == "table"


def test_a_run_that_handed_no_model_over_is_called_so(pairs_file, tmp_path, capsys):
    (tmp_path / "results.json").write_text("{}")
    # Models carry files of any name.
    (tmp_path / "modules.json").write_text("[]")
    assert "the run" not in refused(capsys, "train", "--model", tmp_path, "--data", pairs_file)
    (tmp_path / "modules.json").unlink()
    assert "the run in use saved no model" in refused(capsys, "train", "--model", tmp_path, "--data", pairs_file)
