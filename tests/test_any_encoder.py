"""The main job from end to end for a base that is no Sentence Transformers model: what is kept is the adapter alone."""

from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import st_adapter
from hub_double.server import ALICE
from openai_double import DIMENSION, MODEL, QUERY_PROMPT, OpenAIServer, vector
from problems import KINDS, ROOT, make_adapter, names
from st_adapter import QueryAdapter, cli, train
from st_adapter.embeddings import FunctionEncoder
from st_adapter.embeddings.encoder import SentenceTransformerEncoder
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.running.settings import RunOptions
from st_adapter.saving.alone import save_adapter
from st_adapter.saving.card import adapter_card

KEY = "sk-this-is-a-key-0123456789"
PAGE = (ROOT / "docs/ideas/encoders.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def running():
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def server(running, monkeypatch):
    running.reset()
    running.key = KEY
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return running


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    """Pairs whose queries the server embeds somewhere else, so that there is something to learn."""
    parts = "red blue old new big", "fast slow warm cold small round", "car house river book tree door lamp road"
    words = [" ".join(chosen) for chosen in itertools.product(*(part.split() for part in parts))]
    words = random.Random(0).sample(words, 120)
    path = tmp_path_factory.mktemp("data") / "pairs.csv"
    pairs = {"query": [f"find the {each}" for each in words], "document": [f"the {each} here" for each in words]}
    pd.DataFrame(pairs).to_csv(path, index=False)
    return path


def run(server, pairs_file, folder, *words):
    """The exit status of `st-adapter train` with the server's model."""
    given = ["--model", f"openai:{MODEL}", "--base-url", server.url, "--data", str(pairs_file)]
    places = ["--output-dir", str(folder / "out"), "--cache-dir", str(folder / "cache")]
    return cli.main(["train", *given, *places, "--method", "closed-form", *words])


@pytest.fixture(scope="module")
def finished(running, pairs_file, tmp_path_factory):
    """One training run through the command line."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        running.reset()
        running.key = KEY
        running.failures.extend([("status", 429), ("status", 500)])
        assert run(running, pairs_file, folder, "--query-prompt", QUERY_PROMPT) == 0
    return folder


def functions(**options):
    def queries(texts):
        return [vector(QUERY_PROMPT + text) for text in texts]

    def documents(texts):
        return np.array([vector(text) for text in texts])

    return FunctionEncoder(queries, documents, name="functions", **options)


def trained(encoder, pairs_file, folder, **options):
    arguments = {"method": "closed-form", "cache_dir": folder / "cache", "show_progress_bar": False, **options}
    return train(encoder, pairs_file, output_dir=folder / "out", **arguments)


def test_what_is_kept_is_the_adapter_alone(finished):
    out = finished / "out"
    assert {"adapter", "results.json"} <= set(names(out)) and "model" not in names(out)
    assert names(out / "adapter") == ["README.md", "config.json", "model.safetensors", "training.json"]
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["adopted"] and results["base_model"]["name"] == MODEL
    assert results["opened_with"] == {"query_prompt": QUERY_PROMPT}
    assert results["test"]["adapted"]["ndcg@10"] > results["test"]["base"]["ndcg@10"] + 0.3
    adapter = QueryAdapter.from_pretrained(out / "adapter")
    assert (adapter.base_model.name, adapter.base_model.query_prompt) == (MODEL, QUERY_PROMPT)


def test_its_figures_are_those_of_the_vectors(finished, pairs_file):
    results = json.loads((finished / "out/results.json").read_text(encoding="utf-8"))
    adapter = QueryAdapter.from_pretrained(finished / "out/adapter")
    pairs = pd.read_csv(pairs_file)
    corpus = np.array([vector(text) for text in pairs["document"]])
    of_test = st_adapter.RetrievalDataset.load(pairs_file)
    judged = set(of_test.qrels["test"]["query_id"])
    texts = [each["text"] for each in of_test.queries if each["id"] in judged]
    right = [pairs["query"].tolist().index(text) for text in texts]
    base = np.array([vector(QUERY_PROMPT + text) for text in texts])
    for side, embeddings in (("base", base), ("adapted", adapter.transform(base))):
        scores = embeddings @ corpus.T
        ranks = (scores > scores[np.arange(len(right)), right][:, None]).sum(axis=1) + 1
        ndcg = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0).mean()
        assert results["test"][side]["ndcg@10"] == pytest.approx(ndcg, abs=1e-6)


def test_no_key_is_in_any_file(finished):
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert len(files) >= 9
    assert [path.name for path in files if KEY.encode() in path.read_bytes()] == []


# Its card is code that runs.
def test_the_card_applies_it(finished, monkeypatch):
    card = (finished / "out/adapter/README.md").read_text(encoding="utf-8")
    assert (
        "import SentenceTransformer" not in card
        and "- sentence-transformers" not in card
        and "localhost" not in card
        and "127.0.0.1" not in card
    )
    monkeypatch.chdir(finished / "out/adapter")
    with_package, alone = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    embeddings = np.array([vector(QUERY_PROMPT + text) for text in ("a car", "a house", "where")])
    spaces = [{"query_embeddings": embeddings} for _ in range(2)]
    exec(with_package.replace('"adapter"', '"."'), spaces[0])
    exec(alone, spaces[1])
    np.testing.assert_allclose(*(space["query_embeddings"] for space in spaces), atol=1e-6)
    assert np.abs(spaces[0]["query_embeddings"] - embeddings).max() > 0.1


ACTIVATIONS = {"mlp": ["gelu", "relu", "silu"]}
CASES = [
    (kind, activation, bias, normalize)
    for kind in KINDS
    for activation in ACTIVATIONS.get(kind, ["gelu"])
    for bias, normalize in itertools.product((False, True), repeat=2)
]


@pytest.mark.parametrize(("kind", "activation", "bias", "normalize"), CASES)
def test_every_adapter_is_applied_with_numpy_alone(kind, activation, bias, normalize, tmp_path, monkeypatch):
    adapter = make_adapter(kind, bias=bias, normalize=normalize)
    if kind == "mlp":
        config = {**adapter.get_config_dict(), "activation": activation}
        weights = adapter.state_dict()
        adapter = QueryAdapter(**config)
        adapter.load_state_dict(weights)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.mul_(3)
    save_adapter(adapter, tmp_path / "adapter")
    generator = np.random.default_rng(0)
    x = generator.standard_normal((50, adapter.input_dimension)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    ours = adapter.transform(x)
    block = next(each for each in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "def adapted" in each)
    space = {}
    exec(block.partition("print(")[0], space)
    np.testing.assert_allclose(space["adapted"](x, tmp_path / "adapter"), ours, atol=1e-6)
    assert np.abs(ours - x).max() > 0.01
    # The card has the lines of this kind.
    identity = EncoderIdentity.probed("m", torch.eye(2))
    card = adapter_card("adapter", adapter.get_config_dict(), identity)
    alone = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)[1]
    monkeypatch.chdir(tmp_path / "adapter")
    space = {"query_embeddings": x}
    exec(alone, space)
    np.testing.assert_allclose(space["query_embeddings"], ours, atol=1e-6)


def test_arrays_give_arrays_and_tensors_tensors():
    adapter = make_adapter()
    x = torch.nn.functional.normalize(torch.randn(5, 32, generator=torch.Generator().manual_seed(0)))
    expected = adapter.transform(x).detach().numpy()
    for kind in (np.float16, np.float32, np.float64):
        given = x.numpy().astype(kind)
        given.setflags(write=False)
        ours = adapter.transform(given)
        assert isinstance(ours, np.ndarray) and ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, atol=2e-3 if kind == np.float16 else 1e-6)
    assert isinstance(adapter.transform(x), torch.Tensor)
    backwards = adapter.transform(np.ascontiguousarray(x.numpy())[::-1])
    np.testing.assert_allclose(backwards[::-1], expected, atol=1e-6)
    for wrong in (np.zeros((2, 32), dtype=np.int64), np.zeros(32), np.zeros((2, 3))):
        with pytest.raises(ValueError, match=r"expects floating point of shape \(B, 32\)"):
            adapter.transform(wrong)


def test_two_functions_find_what_the_endpoint_finds(finished, server, pairs_file, tmp_path):
    by_functions = trained(functions(), pairs_file, tmp_path)
    of_endpoint = QueryAdapter.from_pretrained(finished / "out/adapter")
    assert torch.equal(by_functions.adapter.delta, of_endpoint.delta)
    assert by_functions.model is None and by_functions.model_dir is None
    assert by_functions.adapter_dir == tmp_path / "out" / "adapter"
    queries = ["find the red car", "find it"]
    expected = of_endpoint.transform(np.array([vector(QUERY_PROMPT + query) for query in queries]))
    np.testing.assert_allclose(by_functions.encode_query(queries).detach().numpy(), expected, atol=1e-6)
    saved = by_functions.save_pretrained(tmp_path / "elsewhere")
    assert torch.equal(QueryAdapter.from_pretrained(saved).delta, of_endpoint.delta)


def test_a_kept_base_leaves_nothing_to_apply(pairs_file, tmp_path):
    trained(functions(), pairs_file, tmp_path)
    assert (tmp_path / "out" / "adapter").is_dir()

    def plain(texts):
        return [vector(text) for text in texts]

    kept = trained(FunctionEncoder(plain, plain, name="plain"), pairs_file, tmp_path, alpha=1e-9)
    assert kept.adapter is None and kept.adapter_dir is None
    assert names(kept.run_dir) == ["results.json"]
    assert names(tmp_path / "out") == ["adapter", "current", "results.json", "versions"], "what is deployed stays"
    np.testing.assert_array_equal(kept.encode_query(["x"]).numpy(), [vector("x")])
    with pytest.raises(ValueError, match="base model is kept, so there is no adapter to save"):
        kept.save_pretrained(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="There is no adapter to upload"):
        kept.push_to_hub("user/adapter")


def test_one_run_of_training(pairs_file, tmp_path):
    args = st_adapter.AdapterTrainingArguments(num_train_epochs=2, save_strategy="no")
    result = trained(functions(), pairs_file, tmp_path, method="gradient", args=args, alpha=0.9)
    assert result.results.arguments["num_train_epochs"] == 2


def test_a_model_in_its_encoder_is_saved_whole(pairs_file, tiny_model, tmp_path):
    plain = trained(tiny_model, pairs_file, tmp_path / "plain")
    result = trained(SentenceTransformerEncoder(tiny_model, batch_size=8), pairs_file, tmp_path / "encoder")
    assert result.model is tiny_model or result.adapter is not None
    assert result.model_dir is not None and result.adapter_dir is None
    assert result.verdict.sentence == plain.verdict.sentence
    np.testing.assert_allclose(
        result.encode_query(["where is it"]).numpy(), result.model.encode_query(["where is it"]), atol=1e-6
    )


def test_what_only_a_model_can_do_is_refused(pairs_file, tmp_path):
    with pytest.raises(ValueError, match="no model to write as ONNX. Leave onnx out"):
        trained(functions(), pairs_file, tmp_path, options=RunOptions(onnx=True))
    with pytest.raises(ValueError, match="batch_size is 8 .* an Encoder says itself"):
        trained(functions(), pairs_file, tmp_path, batch_size=8)
    (tmp_path / "out" / "adapter").mkdir(parents=True)
    (tmp_path / "out" / "adapter" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"not from an earlier run, the first: \['adapter'\]"):
        trained(functions(), pairs_file, tmp_path)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        (lambda texts: [[1.0, 2.0]], "name gave 1 vectors for 5 texts"),
        (lambda texts: [[1.0] * (1 + row) for row in range(len(texts))], r"shapes \[\(1,\), \(2,\), \(3,\)\]"),
        (lambda texts: [[float("nan"), 1.0] for _ in texts], "NaN or infinite values for 5 of 5 texts"),
        (lambda texts: [["a", "b"] for _ in texts], "something else than numbers"),
        (lambda texts: np.ones((len(texts), 2, 2)), r"shapes \[\(2, 2\)\]"),
    ],
)
def test_functions_that_give_something_else(gives, message):
    with pytest.raises(ValueError, match=message):
        _ = FunctionEncoder(gives, gives, name="name").identity


def test_functions_are_asked_for_some_texts_at_a_time_and_an_error_loses_no_answer(tmp_path):
    table = {side: [f"{side} number {row}" for row in range(80)] for side in ("query", "document")}
    dataset = st_adapter.RetrievalDataset.load(pd.DataFrame(table))
    answered, credit = [], [60]

    def costly(texts):
        assert len(texts) <= 7
        if len(answered) > credit[0]:
            raise RuntimeError("out of credit")
        answered.extend(texts)
        return np.array([vector(text) for text in texts])

    encoder = FunctionEncoder(costly, costly, name="costly", batch_size=7)
    with pytest.raises(RuntimeError, match="out of credit"):
        st_adapter.embed(encoder, dataset, cache_dir=tmp_path, show_progress_bar=False)
    before = {text for text in answered if text in table["query"]}
    assert len(before) > 32
    answered.clear()
    credit[0] = 1000
    embedded = st_adapter.embed(encoder, dataset, cache_dir=tmp_path, show_progress_bar=False)
    np.testing.assert_array_equal(embedded.query_embeddings.numpy(), [vector(text) for text in dataset.queries["text"]])
    assert len(before & {*answered}) == 32  # a sample, which is compared


def refused(capsys, *words):
    assert cli.main([str(word) for word in words]) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "bf16"], "--precision came with --model openai:acme/letters, but the server decides that"),
        (["--revision", "main", "--trust-remote-code"], "--revision, --trust-remote-code came with"),
        (["--max-seq-length", "8"], "--max-seq-length came with --model openai:acme/letters"),
        (["--onnx"], "no model to write as ONNX. Leave --onnx out."),
        (["--embedding-batch-size", "0"], "--embedding-batch-size is 0, but has to be a whole number of at least 1."),
        (["--truncate-dim", "0"], "--truncate-dim is 0, but has to be at least 1."),
        (["--device", "cpu"], "--device came with --model openai:acme/letters"),
    ],
)
def test_flags_that_an_endpoint_does_not_know_are_refused(words, message, server, pairs_file, tmp_path, capsys):
    given = ["train", "--model", f"openai:{MODEL}", "--base-url", server.url, "--data", pairs_file]
    assert message in refused(capsys, *given, "--output-dir", tmp_path / "out", *words)
    assert server.requests == []


def test_other_models_have_no_address(server, pairs_file, tiny_model_path, finished, capsys, monkeypatch):
    given = ["--data", pairs_file, "--output-dir", "out"]
    message = refused(capsys, "train", "--model", tiny_model_path, "--base-url", server.url, *given)
    assert "--base-url is for models behind an endpoint, --model openai:NAME, but --model is" in message
    assert "without a name" in refused(capsys, "train", "--model", "openai:", "--base-url", server.url, *given)
    message = refused(capsys, "evaluate", "--model", finished / "out", "--data", pairs_file)
    assert "out, which holds an adapter alone, but this command opens a whole model" in message
    message = refused(capsys, "evaluate", "--model", f"openai:{MODEL}", "--data", pairs_file)
    assert "an endpoint, but this command opens a saved model" in message
    monkeypatch.delenv("OPENAI_API_KEY")
    message = refused(capsys, "train", "--model", f"openai:{MODEL}", *given)
    assert "OPENAI_API_KEY is not set" in message and "name a server of your own with --base-url" in message


def test_a_wrong_key_is_one_line_without_the_key(server, pairs_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-wrong-key-0123456789")
    assert run(server, pairs_file, tmp_path) == 2
    printed = capsys.readouterr()
    assert "answered 401: Incorrect API key provided: ***." in " ".join(printed.err.split())
    assert "a-wrong-key" not in printed.out + printed.err


def test_a_learning_curve_of_an_endpoint(server, pairs_file, finished, tmp_path, capsys):
    given = ["--model", f"openai:{MODEL}", "--base-url", server.url, "--query-prompt", QUERY_PROMPT]
    places = ["--data", str(pairs_file), "--cache-dir", str(finished / "cache"), "--output-dir", str(tmp_path)]
    words = ["--method", "closed-form", "--num-draws", "1", "--sizes", "40", "84"]
    assert cli.main(["learning-curve", *given, *places, *words]) == 0
    assert json.loads((tmp_path / "learning_curve.json").read_text(encoding="utf-8"))["base_model"]["name"] == MODEL
    data = [text for text in server.answered if re.match(rf"({QUERY_PROMPT})?(find )?the ", text)]
    assert data == []  # all of them come from the cache


@pytest.mark.hub
def test_it_is_pushed_with_a_card_of_its_new_name(finished, hub_server, hub_client):
    hub_client.run(push_output, str(finished / "out"), "alice/adapter", token=ALICE)
    files = hub_server.files("alice/adapter")
    assert {"README.md", "config.json", "model.safetensors"} <= files.keys() and "training.json" in files
    card = files["README.md"].decode()
    assert "# alice/adapter" in card and 'QueryAdapter.from_pretrained("alice/adapter")' in card
    assert "## Does it help?" in card and KEY not in card
    assert files["model.safetensors"] == (finished / "out/adapter/model.safetensors").read_bytes()


def push_output(folder, repo_id):
    from st_adapter import cli

    status = cli.main(["push", folder, repo_id])
    if status:
        raise RuntimeError(f"status {status}")


def test_the_code_of_the_page_runs_as_printed(server, pairs_file, tmp_path, monkeypatch, capsys):
    code = "".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
    assert "http://localhost:8080/v1" in code and "BAAI/bge-small-en-v1.5" in code
    code = code.replace("http://localhost:8080/v1", server.url).replace("BAAI/bge-small-en-v1.5", MODEL)
    (tmp_path / "pairs.csv").write_bytes(Path(pairs_file).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("st_adapter.embeddings.embedding.HF_HOME", str(tmp_path / "cache"))
    whole = train
    monkeypatch.setattr(st_adapter, "train", lambda *args, **options: whole(*args, **options, method="closed-form"))
    exec(compile(code, "encoders.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "Deploy." in printed and f"torch.Size([1, {DIMENSION}])\n{DIMENSION}\n" in printed
    assert printed.endswith("True\n")
