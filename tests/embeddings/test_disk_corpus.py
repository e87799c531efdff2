"""A folder of vectors is searched as if it lay in memory, a block at a time."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from problems import written_vectors
from st_adapter import RetrievalDataset, cli, embed
from st_adapter.data.texts import TextSource
from st_adapter.data.unlabelled import documents_alone
from st_adapter.embeddings.checked_embedding import checked_folders
from st_adapter.embeddings.corpus import MemoryCorpus, blocks
from st_adapter.embeddings.disk_corpus import DiskCorpus
from st_adapter.embeddings.embed_folder import FolderSettings, embed_to_folder
from st_adapter.embeddings.function_encoder import FunctionEncoder
from st_adapter.embeddings.identity import identity_of
from st_adapter.embeddings.search import merged
from st_adapter.storage.vector_parts import write_part
from st_adapter.stores import folder as folders
from st_adapter.stores.folder import VectorFolder

COLORS = ["red", "green", "blue", "black", "white", "yellow", "grey", "brown"]
THINGS = ["car", "house", "river", "mountain", "book", "table", "window", "garden", "bird", "train"]
TEXTS = [f"{thing} : this {thing} has the color {color}" for color in COLORS for thing in THINGS]
IDS = [f"d{number}" for number in range(80)]
QUERIES = [f"where is the {color} {thing}" for color in COLORS for thing in THINGS]


def slowly_found(queries, vectors, k):
    """Every pair by itself, in float64; equal scores in corpus order."""
    found = []
    for query in queries.astype(np.float64):
        scores = [np.float32(sum(float(a) * float(b) for a, b in zip(query, row, strict=True))) for row in vectors]
        found.append(sorted(range(len(vectors)), key=lambda row: (-scores[row], row))[:k])
    return found


@given(data=st.data())
def test_whatever_the_blocks_the_search_finds_what_a_slow_loop_does(data, tmp_path_factory):
    # Few whole numbers, so that many scores are equal, within a part and across parts.
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    numbers = st.lists(st.integers(-1, 1), min_size=2, max_size=2)
    rows = data.draw(st.lists(numbers, min_size=sum(sizes), max_size=sum(sizes)))
    queries = np.array(data.draw(st.lists(numbers, min_size=1, max_size=3)), dtype=np.float32)
    k, most = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 20))
    vectors = np.array(rows, dtype=data.draw(st.sampled_from(["float16", "float32"])))
    folder = written_vectors(tmp_path_factory.mktemp("folder") / "v", vectors, sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VectorFolder, "block_rows", most)
        corpus = DiskCorpus(folder, "dot")
        found = corpus.search(torch.from_numpy(queries), k)
        assert found.indices.tolist() == slowly_found(queries, vectors.astype(np.float64), k)
        cut = len(folder.parts) // 2
        spans = [(first, last) for first, last in ((0, cut), (cut, len(folder.parts))) if first < last]
        parts = [corpus.search_parts(torch.from_numpy(queries), k, *span) for span in spans]
    assert all(map(torch.equal, merged(parts, k), found))
    in_memory = MemoryCorpus(list(folder.ids), torch.from_numpy(vectors).float(), "dot")
    assert all(map(torch.equal, in_memory.search(torch.from_numpy(queries), k), found))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("unit", [True, False])
def test_search_and_rows_are_those_of_a_corpus_in_memory(unit, dtype, tmp_path, monkeypatch):
    vectors = torch.randn((700, 24), generator=torch.Generator().manual_seed(0))
    vectors = (torch.nn.functional.normalize(vectors) if unit else vectors).numpy().astype(dtype)
    vectors[300:340] = vectors[7]
    monkeypatch.setattr(VectorFolder, "block_rows", 150)
    corpus = DiskCorpus(written_vectors(tmp_path / "v", vectors, [100] * 7, normalized=unit), "cosine")
    memory = MemoryCorpus(list(corpus.ids), torch.from_numpy(vectors.astype("float32")), "cosine")
    queries = torch.nn.functional.normalize(torch.randn((30, 24), generator=torch.Generator().manual_seed(1)))
    queries[0] = memory.embeddings[7]
    for k in (1, 30, 1000):
        assert all(map(torch.equal, corpus.search(queries, k), memory.search(queries, k)))
    index = torch.tensor([699, 0, 300, 299, 0])
    assert torch.equal(corpus.rows(index), memory.rows(index))
    assert torch.equal(torch.cat(list(blocks(corpus))), memory.embeddings)
    assert (len(corpus), corpus.dimension, corpus.ids[699]) == (700, 24, "d699")
    assert corpus.ids[1:3] == ["d1", "d2"] and list(corpus.ids) == list(memory.ids)


def test_a_part_of_zeros_alone_says_nothing_about_lengths(tmp_path):
    vectors = torch.nn.functional.normalize(torch.randn((500, 32), generator=torch.Generator().manual_seed(0)))
    vectors[96:160] = 0

    def vectors_of(texts):
        return vectors[[int(text) if text.isdigit() else 0 for text in texts]]

    encoder = FunctionEncoder(vectors_of, vectors_of, name="numbers")
    table = pd.DataFrame({"id": [f"d{row}" for row in range(500)], "text": [str(row) for row in range(500)]})
    settings = FolderSettings(show_progress_bar=False, part_size=32)
    folder = embed_to_folder(encoder, TextSource(table, "corpus"), tmp_path / "v", settings)
    corpus, memory = DiskCorpus(folder, "cosine"), MemoryCorpus(list(folder.ids), vectors, "cosine")
    assert folder.normalized and torch.equal(corpus.rows(torch.arange(500)), memory.rows(torch.arange(500)))
    queries = torch.nn.functional.normalize(torch.randn((20, 32), generator=torch.Generator().manual_seed(1)))
    assert all(map(torch.equal, corpus.search(queries, 10), memory.search(queries, 10)))


def test_a_folder_says_what_is_wrong_with_it(tmp_path):
    vectors = np.ones((4, 2), dtype=np.float32)
    assert written_vectors(tmp_path / "v", vectors, [4]).fetch(["d3", "d1"]).ids == ["d3", "d1"]
    with pytest.raises(ValueError, match="has no vector for 1 of 2 ids, the first: .'x'."):
        VectorFolder(tmp_path / "v").fetch(["d3", "x"])
    with pytest.raises(ValueError, match="memory is 1000000, but has to be at least"):
        VectorFolder(tmp_path / "v", memory=10**6)
    with pytest.raises(ValueError, match="holds queries, but a corpus is of documents"):
        DiskCorpus(written_vectors(tmp_path / "v", vectors, [4], role="query"), "dot")
    vectors[2] = np.nan
    with pytest.raises(ValueError, match="vectors that are NaN or infinite among the documents 0 to 4"):
        DiskCorpus(written_vectors(tmp_path / "v", vectors, [4]), "dot").search(torch.ones(1, 2), 1)
    written_vectors(tmp_path / "v", np.ones((4, 2), dtype=np.float32), [4])
    write_part(tmp_path / "v" / "part-9.parquet", ["y"], np.ones((1, 3), dtype=np.float32), False)
    with pytest.raises(ValueError, match="holds 3 dimensions in float32, but _vectors.json says 2"):
        VectorFolder(tmp_path / "v")


def test_what_needs_all_documents_in_memory_says_so(tmp_path, monkeypatch):
    corpus = DiskCorpus(written_vectors(tmp_path / "v", np.ones((4, 2), dtype=np.float32), [4]), "dot")
    assert MemoryCorpus.of(corpus).ids[3] == "d3"
    monkeypatch.setattr(corpus.folder, "memory", 31)
    with pytest.raises(ValueError, match=r"needs all 4 documents in memory, .* Open the folder with VectorFolder"):
        MemoryCorpus.of(corpus)


# From the command line


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_flat_model_path):
    """A folder with texts, labels, and queries and documents embedded by the command."""
    folder = tmp_path_factory.mktemp("vectors")
    pd.DataFrame({"query": QUERIES, "chunk": IDS}).to_csv(folder / "labels.csv", index=False)
    numbers = [f"q{number}" for number in range(80)]
    pd.DataFrame({"query_id": numbers, "corpus_id": IDS}).to_csv(folder / "ids.csv", index=False)
    pd.DataFrame({"uuid": IDS, "body": TEXTS}).to_parquet(folder / "texts.parquet")
    pd.DataFrame({"id": numbers, "text": QUERIES}).to_parquet(folder / "queries.parquet")
    common = ["embed", "--model", str(tiny_flat_model_path), "--part-size", "30"]
    data = ["--data", str(folder / "texts.parquet"), "--text-column", "body"]
    assert cli.main([*common, *data, "--output", str(folder / "documents")]) == 0
    data = ["--data", str(folder / "queries.parquet"), "--role", "query", "--dtype", "float16"]
    assert cli.main([*common, *data, "--output", str(folder / "queries")]) == 0
    return folder


def trained(model, place, output, *words):
    arguments = ["train", "--model", model, "--method", "closed-form", "--alpha", "0.99", "--disable-tqdm"]
    return cli.main([str(word) for word in (*arguments, "--output-dir", output, *words)])


def test_a_corpus_on_disk_gives_the_adapter_of_one_in_memory(tiny_flat_model_path, place, tmp_path, capsys):
    """Fit, report, examples, evaluation with an index and a run: from texts, and from the folder."""
    figures = []
    for name in ("documents", "texts.parquet"):
        words = ["--labels", place / "labels.csv", "--corpus", place / name, "--cache-dir", tmp_path / "cache"]
        assert trained(tiny_flat_model_path, place, tmp_path / name, *words) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert ("says that the stored vectors are this model's" in told) == (name == "documents")
        results = json.loads((tmp_path / name / "results.json").read_text())
        evaluate = ["evaluate", "--model", tmp_path / name, *words, "--index", "int8", "--seed", "0"]
        evaluate += ["--output", tmp_path / f"{name}.json", "--run-dir", tmp_path / f"{name}-runs"]
        assert cli.main([str(word) for word in evaluate]) == 0
        evaluated = json.loads((tmp_path / f"{name}.json").read_text())
        runs = [(path.name, path.read_text()) for path in sorted((tmp_path / f"{name}-runs").iterdir())]
        figures.append([results["adopted"], results["test"]["adapted"], evaluated["adapted"], runs])
    assert figures[0] == figures[1] and figures[0][0]


def test_queries_and_documents_as_vectors_need_no_texts(tiny_flat_model_path, place, tmp_path, capsys):
    words = ["--labels", place / "ids.csv", "--queries", place / "queries", "--corpus", place / "documents"]
    assert trained(tiny_flat_model_path, place, tmp_path / "out", *words, "--memory", "2GB") == 0
    words[3:4] = [place / "documents"]
    assert trained(tiny_flat_model_path, place, tmp_path / "out", *words) == 2
    assert "holds documents, but queries are expected" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--memory", "lots"], "--memory is 'lots', but a number of bytes is expected, such as 4GB"),
        (["--memory", "1MB"], "--memory is 1000000, but has to be at least"),
        (["--corpus", "texts.parquet", "--memory", "4GB"], "--memory is for a --corpus that st-adapter embed wrote"),
        (["--corpus", "texts.parquet", "--ray-address", "local"], "--ray-address is for a --corpus that"),
    ],
)
def test_flags_that_do_not_fit_are_refused(words, problem, tiny_flat_model_path, place, tmp_path, capsys):
    words = [place / word if word == "texts.parquet" else word for word in words]
    corpus = [] if "--corpus" in words else ["--corpus", place / "documents"]
    words = ["--labels", place / "labels.csv", *corpus, *words]
    assert trained(tiny_flat_model_path, place, tmp_path / "out", *words) == 2
    assert problem in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--ray-address", "auto"], "--ray-address came without --engine ray"),
        (["--cache-dir", "x"], "--cache-dir came with embed"),
        (["--engine", "ray", "--num-processes", "0"], "--num-processes is 0"),
        (["--part-size", "0"], "--part-size is 0"),
    ],
)
def test_flags_of_embed_that_do_not_fit_are_refused(words, problem, tiny_flat_model_path, place, tmp_path, capsys):
    common = ["embed", "--model", str(tiny_flat_model_path), "--data", str(place / "texts.parquet")]
    assert cli.main([*common, "--output", str(tmp_path / "v"), *words]) == 2
    assert problem in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "v").exists()


def test_documents_of_another_model_are_refused(tiny_model, tiny_flat_model_path, place, tmp_path):
    dataset = RetrievalDataset.load(place / "labels.csv", corpus=place / "documents")
    assert isinstance(dataset.store, VectorFolder) and dataset.num_documents == 80
    how = {"cache_dir": place / "cache", "show_progress_bar": False}
    with pytest.raises(ValueError, match="The vectors of the documents cannot be used with this model.*Name that"):
        embed(tiny_model, dataset, **{**how, "cache_dir": tmp_path / "nothing"})
    assert not (tmp_path / "nothing").exists(), "before any text is embedded"
    embedded = embed(tiny_model, dataset, allow_other_vectors=True, **how)
    assert "the weights differ" in embedded.notes[-1]
    model = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    model.prompts["query"] = "another: "
    assert "are this model's" in checked_folders(model, dataset).notes[-1]


def test_queries_of_another_model_or_prompt_are_refused(tiny_model, tiny_flat_model_path, place, tmp_path, capsys):
    """They have no texts to compare by, but say themselves what they are."""
    dataset = RetrievalDataset.load(place / "ids.csv", queries=place / "queries", corpus=place / "documents")
    model = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    notes = checked_folders(model, dataset).notes
    assert notes[-1] == "Queries: the manifest of queries says that the stored vectors are this model's."
    for change, difference in (
        ({"prompt": "query: "}, "the prompts of queries are 'query: ' there and '' here"),
        ({"encoder": identity_of(tiny_model).to_dict()}, "the weights differ"),
    ):
        other = tmp_path / "other"
        shutil.copytree(place / "queries", other)
        manifest = json.loads((other / "_vectors.json").read_text())
        (other / "_vectors.json").write_text(json.dumps({**manifest, **change}))
        words = ["--labels", place / "ids.csv", "--queries", other, "--corpus", place / "documents"]
        assert trained(tiny_flat_model_path, place, tmp_path / "out", *words) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "The vectors of the queries cannot be used with this model." in said and difference in said
        words = ["check-data", "--model", str(tiny_flat_model_path), *map(str, words)]
        assert cli.main(words) == 0 and difference in " ".join(capsys.readouterr().out.split())
        shutil.rmtree(other)


def test_without_texts_there_is_nothing_to_make_queries_of(place):
    with pytest.raises(ValueError, match="holds vectors without texts"):
        documents_alone(place / "documents")


def test_a_query_that_is_a_document_itself_is_left_out_of_its_hits(tiny_flat_model_path, tmp_path):
    model = SentenceTransformer(str(tiny_flat_model_path), device="cpu")
    table = pd.DataFrame({"id": IDS, "text": TEXTS})
    folder = embed_to_folder(
        model, TextSource(table, "corpus"), tmp_path / "v", FolderSettings(show_progress_bar=False, part_size=30)
    )
    labels = pd.DataFrame({"query_id": IDS, "corpus_id": IDS[1:] + IDS[:1]})
    dataset = RetrievalDataset.load(labels, queries=table, corpus=folder)
    embedded = embed(model, dataset, cache_dir=tmp_path / "cache", show_progress_bar=False)
    assert embedded.own_copies is not None and embedded.own_copies.query_index.tolist() == list(range(80))
    assert folders.DEFAULT_MEMORY == folder.memory
