"""Two models in one repository: opened by stock Sentence Transformers, taken apart, damaged, and refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertModel

from elsewhere import encoded_by_stock, run_elsewhere
from problems import TEXTS, hashes, make_adapter, unit_rows
from st_adapter import QueryAdapter, detach, from_pretrained
from st_adapter.bridge import Bridge, RadialUnits
from st_adapter.embeddings.identity import identity_of
from st_adapter.saving import save_query_part
from st_adapter.saving.base import ModelBase
from st_adapter.saving.folder import copy_as, read_saved
from st_adapter.saving.joined import check_joinable, parted
from st_adapter.saving.query_base import Index, query_model_base

ENCODERS = ("encode_query", "encode_document", "encode")


@pytest.fixture(scope="session")
def static_path(tmp_path_factory):
    """A static table of 12 dimensions, which is no transformer and gives vectors of any length."""
    words = ["[UNK]", *"how do i open close file the line number read what ? a of list".split()]
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = torch.randn(len(words), 12, generator=torch.Generator().manual_seed(0)).numpy()
    folder = tmp_path_factory.mktemp("models") / "static"
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, weights)], device="cpu").save_pretrained(str(folder))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "LICENSE").write_text("all of it")
    return folder


def opened(path):
    return SentenceTransformer(str(path), device="cpu")


def base_of_two(documents, queries, normalize=True, in_units=False, of_length=False):
    """Both models with a bridge of random weights between them."""
    base = query_model_base(ModelBase(documents), ModelBase(queries, queries.path))
    generator = torch.Generator().manual_seed(1)
    dimension = queries.get_embedding_dimension()
    units = RadialUnits(unit_rows(40, dimension), 0.8) if in_units else None
    matrix = torch.randn(32, 40 if in_units else dimension, generator=generator)
    beside = 0.3 * unit_rows(32, dimension, seed=1) if in_units else None
    bridge = Bridge(matrix, 0.1 * torch.randn(32, generator=generator), normalize, units, of_length, beside)
    return base.with_bridge(bridge, Index(identity_of(documents), "cosine"))


class _Kept:
    training, check_texts = None, {"query": TEXTS, "document": TEXTS}


def right_queries(base, adapter, texts=TEXTS):
    vectors = base.queries.model.encode_query(texts, convert_to_tensor=True)
    return adapter.transform(base.bridge(vectors)).detach().numpy()


@pytest.fixture(scope="module", params=["static", "transformer"])
def two(request, static_path, tiny_model_path, tiny_prompt_model_path, tmp_path_factory):
    """Documents by a model with prompts; queries by one without, a static table or a transformer."""
    documents = opened(tiny_prompt_model_path)
    queries = opened(static_path if request.param == "static" else tiny_model_path)
    queries.path = static_path if request.param == "static" else tiny_model_path
    base, adapter = base_of_two(documents, queries, in_units=request.param == "transformer"), make_adapter("mlp")
    folder = base.save(adapter, tmp_path_factory.mktemp("saved") / "two", _Kept)
    return base, adapter, folder


def test_stock_sentence_transformers_opens_it_without_this_package(two):
    base, adapter, folder = two
    vectors = run_elsewhere(encoded_by_stock, folder, TEXTS)
    documents = base.documents.model
    np.testing.assert_allclose(vectors["encode_query"], right_queries(base, adapter), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(vectors["encode_document"], documents.encode_document(TEXTS))
    np.testing.assert_array_equal(vectors["encode"], documents.encode(TEXTS))


def test_in_memory_it_is_the_same(two):
    base, adapter, folder = two
    model, saved = base.adapted(adapter), opened(folder)
    for name in ENCODERS:
        np.testing.assert_allclose(getattr(model, name)(TEXTS), getattr(saved, name)(TEXTS), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(base.encode_query(adapter, TEXTS).numpy(), model.encode_query(TEXTS))
    assert base.documents.model.prompts == {"query": "query: ", "document": "document: "}  # left as they were


def test_it_is_checked_when_it_is_opened(two):
    _, _, folder = two
    model = from_pretrained(folder, device="cpu")
    np.testing.assert_array_equal(model.encode_query(TEXTS), opened(folder).encode_query(TEXTS))
    saved = read_saved(folder)
    assert saved.has_adapter
    assert saved.query_model.dimension in (12, 32)
    assert "queries by" in str(saved)


@pytest.mark.parametrize("name", ["0_Router/router_config.json", "modules.json"])
def test_changed_files_are_refused(two, tmp_path, name):
    _, _, folder = two
    damaged = copy_as(folder, tmp_path / "damaged", "document", "x")
    (damaged / name).write_text((damaged / name).read_text().replace("Transformer", "CrossEncoder") + " ")
    with pytest.raises(ValueError, match="is not the file that was saved"):
        from_pretrained(damaged)


def test_taken_apart_they_are_the_two_again(two):
    base, adapter, folder = two
    documents, queries = parted(opened(folder))
    for name in ENCODERS:
        right = getattr(base.documents.model, name)(TEXTS)
        np.testing.assert_array_equal(getattr(documents, name)(TEXTS), right)
        np.testing.assert_allclose(getattr(queries, name)(TEXTS), right_queries(base, adapter), rtol=0, atol=1e-5)
    assert parted(base.documents.model) is None
    with pytest.raises(ValueError, match="The model is made of two"):
        detach(opened(folder))


def test_the_branch_for_queries_holds_no_model_for_documents(two, tmp_path):
    base, adapter, folder = two
    alone = copy_as(folder, tmp_path / "alone", "twin", "user/two")
    model = from_pretrained(alone, device="cpu")
    right, is_static = right_queries(base, adapter), isinstance(model[0], StaticEmbedding)
    for name in ENCODERS:
        # Half precision has 11 bits.
        np.testing.assert_allclose(getattr(model, name)(TEXTS), right, rtol=0, atol=1e-3 if is_static else 1e-5)
    names = hashes(alone)
    assert not any("document" in name for name in names)
    # A transformer lies at the top, where other clients look.
    place = "0_StaticEmbedding/" if is_static else ""
    assert {f"{place}model.safetensors", f"{place}tokenizer.json"} <= set(names)
    card = (alone / "README.md").read_text()
    assert 'SentenceTransformer("user/two", revision="query")' in card
    assert "holds the query model and none for documents" in card
    assert ("Its table is stored in half precision" in card) == is_static


@pytest.mark.parametrize("two", ["static"], indirect=True)
def test_alone_a_static_table_has_half_the_size_and_gives_float32(two, tmp_path):
    base, _, folder = two
    before = hashes(folder)
    alone = save_query_part(folder, tmp_path / "alone")
    weights = load_file(alone / "0_StaticEmbedding" / "model.safetensors")
    table = base.queries.model[0].embedding.weight.detach()
    assert weights["embeddings"].dtype == torch.float16
    torch.testing.assert_close(weights["embeddings"].float(), table, rtol=2**-11, atol=0)
    model = opened(alone)
    assert model.encode(TEXTS).dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(model.encode(TEXTS), axis=1), 1, rtol=0, atol=1e-6)
    assert hashes(folder) == before
    assert save_query_part(folder, alone) == alone  # it is replaced
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists, is not empty"):
        save_query_part(folder, tmp_path / "mine")
    with pytest.raises(ValueError, match="but a model of two, one for queries and one for documents, is expected"):
        save_query_part(alone, tmp_path / "again")


def test_a_table_that_half_precision_cannot_hold_stays_as_it_is(static_path, tiny_model_path, tmp_path):
    model = opened(static_path)
    with torch.no_grad():
        model[0].embedding.weight.mul_(1e6)
    model.save_pretrained(str(tmp_path / "large"))
    queries = opened(tmp_path / "large")
    queries.path = tmp_path / "large"
    base, adapter = base_of_two(opened(tiny_model_path), queries), make_adapter()
    folder = base.save(adapter, tmp_path / "two", _Kept)
    with pytest.warns(UserWarning, match="The static table stays in full precision"):
        alone = save_query_part(folder, tmp_path / "alone")
    assert load_file(alone / "0_StaticEmbedding" / "model.safetensors")["embedding.weight"].dtype == torch.float32
    names = [path.name for path in (alone / "0_StaticEmbedding").iterdir()]
    assert sorted(names) == ["model.safetensors", "tokenizer.json"]
    np.testing.assert_allclose(opened(alone).encode(TEXTS), right_queries(base, adapter), rtol=0, atol=1e-5)


def test_onnx_files_of_the_query_model_lie_beside_its_tokenizer(tiny_flat_model_path, tiny_prompt_model_path, tmp_path):
    queries = opened(tiny_flat_model_path)
    queries.path = tiny_flat_model_path
    base, adapter = base_of_two(opened(tiny_prompt_model_path), queries), make_adapter("mlp")
    folder = base.save(adapter, tmp_path / "two", _Kept, onnx=True)
    np.testing.assert_array_equal(opened(folder).encode(TEXTS), base.documents.model.encode(TEXTS))
    from_pretrained(folder, device="cpu")
    alone = save_query_part(folder, tmp_path / "alone")
    assert {"onnx/model.onnx", "onnx/model_query.onnx", "tokenizer.json", "config.json"} <= set(hashes(alone))
    session = onnxruntime.InferenceSession(str(alone / "onnx" / "model_query.onnx"))
    features = queries.preprocess(TEXTS)
    inputs = {put.name: features[put.name].numpy() for put in session.get_inputs()}
    tokens, vectors = session.run(["token_embeddings", "sentence_embedding"], inputs)
    np.testing.assert_allclose(vectors, right_queries(base, adapter), rtol=0, atol=1e-5)
    np.testing.assert_allclose(tokens[:, 0], vectors, rtol=0, atol=1e-6)  # whatever a client pools, it gets the vector
    assert "clients that only pool" in (alone / "README.md").read_text().lower()
    base.check(onnx=True)


def test_a_static_table_has_no_onnx_file(static_path, tiny_model_path):
    base = query_model_base(ModelBase(opened(tiny_model_path)), ModelBase(opened(static_path)))
    with pytest.raises(ValueError, match="starts with StaticEmbedding, but an ONNX file"):
        base.check(onnx=True)


def test_without_the_documents_model_the_query_model_is_saved_alone(two, tmp_path):
    base, adapter, _ = two
    alone = replace(base, status_quo=None)
    folder = alone.save(adapter, tmp_path / "alone", _Kept)
    model = from_pretrained(folder, device="cpu")
    for name in ENCODERS:
        np.testing.assert_allclose(getattr(model, name)(TEXTS), right_queries(base, adapter), rtol=0, atol=1e-5)
    assert read_saved(folder).layout == "twin"
    assert alone.adapted(None) is None
    with pytest.raises(ValueError, match="Nothing was handed over"):
        alone.encode_query(None, TEXTS)


def test_the_card_names_both_models_and_both_licenses(static_path, tiny_model_path, tmp_path):
    queries = opened(static_path)
    queries.path = static_path
    base = base_of_two(opened(tiny_model_path), queries)
    folder = base.save(make_adapter(), tmp_path / "two", _Kept)
    text = (folder / "README.md").read_text()
    assert "embeds documents exactly as `tiny` does, and queries by `static` through a map" in text
    assert "Licenses: for documents `tiny`, for queries `static` (mit)." in text
    assert ModelCard(text).data.license is None  # that of the query model is not that of the whole
    assert (folder / "LICENSE-query").read_text() == "all of it"
    alone = copy_as(folder, tmp_path / "alone", "twin", "user/two")
    assert ModelCard((alone / "README.md").read_text()).data.license == "mit"


@pytest.mark.parametrize(("kind", "behind"), [("linear", []), ("mlp", ["Normalize", "Dense", "Dense"])])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_map_right_behind_a_static_table_is_part_of_the_table(
    static_path, tiny_model_path, tiny_unnormalized_model_path, tmp_path, kind, behind, normalize
):
    queries, documents = opened(static_path), opened(tiny_model_path if normalize else tiny_unnormalized_model_path)
    queries.path = static_path
    base, adapter = base_of_two(documents, queries, normalize, of_length=True), make_adapter(kind, normalize=normalize)
    before = queries.encode(TEXTS)
    folder = base.save(adapter, tmp_path / "two", _Kept)
    alone = save_query_part(folder, tmp_path / "alone")
    expected = [name for name in ["StaticEmbedding", *behind, "Normalize"] if normalize or name != "Normalize"]
    for model in (parted(base.adapted(adapter)).queries, parted(from_pretrained(folder)).queries, opened(alone)):
        assert [type(module).__name__ for module in model] == expected
    right = right_queries(base, adapter)
    np.testing.assert_allclose(opened(folder).encode_query(TEXTS), right, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(opened(alone).encode(TEXTS), right, rtol=5e-3, atol=5e-3)
    np.testing.assert_array_equal(queries.encode(TEXTS), before)  # the model that was given stays as it is
    file = folder / "0_Router" / "query_0_StaticEmbedding" / "model.safetensors"
    assert file.stat().st_mode == file.with_name("tokenizer.json").stat().st_mode


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_text_without_a_token_is_measured_as_what_is_saved_embeds_it(static_path, tiny_model_path, kind):
    queries = opened(static_path)
    queries.path = static_path
    base, adapter = base_of_two(opened(tiny_model_path), queries, of_length=True), make_adapter(kind)
    found = base.adapted(adapter).encode_query([""])
    np.testing.assert_array_equal(found, np.zeros((1, 32)))
    np.testing.assert_array_equal(right_queries(base, adapter, [""]), found)


@pytest.mark.parametrize("dimension", [16, 31, 32, 40])
def test_a_table_takes_no_map_that_makes_it_larger(static_path, tiny_model_path, dimension):
    table = SentenceTransformer(modules=[StaticEmbedding(opened(static_path)[0].tokenizer, embedding_dim=dimension)])
    two = query_model_base(ModelBase(opened(tiny_model_path)), ModelBase(table))
    assert two.takes_map(32) == (dimension >= 32)
    cut = SentenceTransformer(str(tiny_model_path), device="cpu", truncate_dim=16)
    assert replace(two, status_quo=ModelBase(cut)).takes_map(16) == (dimension >= 32)  # what is cut was there before
    assert replace(two, status_quo=None).takes_map(16)
    assert not replace(two, queries=ModelBase(opened(tiny_model_path))).takes_map(8)


def test_vectors_without_unit_length_stay_so(static_path, tiny_unnormalized_model_path, tmp_path):
    queries = opened(static_path)
    queries.path = static_path
    base, adapter = base_of_two(opened(tiny_unnormalized_model_path), queries, False), make_adapter(normalize=False)
    model = opened(base.save(adapter, tmp_path / "two", _Kept))
    np.testing.assert_allclose(model.encode_query(TEXTS), right_queries(base, adapter), rtol=1e-4, atol=1e-4)


def test_truncated_documents_get_truncated_queries(static_path, tiny_model_path, tmp_path):
    documents, queries = SentenceTransformer(str(tiny_model_path), device="cpu", truncate_dim=16), opened(static_path)
    queries.path = static_path
    base = query_model_base(ModelBase(documents), ModelBase(queries, static_path))
    bridge = Bridge(torch.randn(16, 12, generator=torch.Generator().manual_seed(1)), torch.zeros(16), False)
    base = base.with_bridge(bridge, Index(identity_of(documents), "cosine"))
    model = opened(base.save(QueryAdapter(16, normalize=False), tmp_path / "two", _Kept))
    expected = bridge(torch.from_numpy(queries.encode_query(TEXTS))).numpy()
    np.testing.assert_allclose(model.encode_query(TEXTS), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model.encode_document(TEXTS), documents.encode_document(TEXTS))


def test_models_that_cannot_be_one_are_refused(tiny_model_path, tiny_prompt_model_path):
    model = opened(tiny_model_path)
    truncated = SentenceTransformer(str(tiny_model_path), device="cpu", truncate_dim=8)
    with pytest.raises(ValueError, match="truncates its embeddings to 8 dimensions"):
        check_joinable(model, truncated)
    half = opened(tiny_model_path).half()
    for documents, queries in ((model, half), (half, model), (half, opened(tiny_prompt_model_path).half())):
        with pytest.raises(ValueError, match=r"in torch.float16, but a model of two opens in float32 alone"):
            check_joinable(documents, queries)
    check_joinable(None, half)
    unpooled = opened(tiny_prompt_model_path)
    unpooled[1].include_prompt = False
    with pytest.raises(ValueError, match="leaves its prompts out of the pooling"):
        check_joinable(model, unpooled)
    own = opened(tiny_model_path)
    own.append(type("Own", (torch.nn.Identity,), {})())
    with pytest.raises(ValueError, match="The query model tiny comes with code of its own"):
        check_joinable(model, own)


@pytest.mark.parametrize("in_units", [True, False])
def test_in_half_precision_queries_stay_nearly_the_same(tiny_model_path, tiny_prompt_model_path, tmp_path, in_units):
    queries = opened(tiny_model_path)
    queries.path = tiny_model_path
    base, adapter = base_of_two(opened(tiny_prompt_model_path), queries, in_units=in_units), make_adapter()
    folder = base.save(adapter, tmp_path / "two", _Kept)
    found = opened(folder).half().encode_query(TEXTS)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(np.float32), right_queries(base, adapter), rtol=0, atol=5e-3)


@pytest.mark.parametrize("stored", ["documents", "queries"])
def test_a_model_that_is_stored_in_half_precision_opens_in_float32(stored, tiny_model_path, tmp_path):
    halved = shutil.copytree(tiny_model_path, tmp_path / "halved")
    BertModel.from_pretrained(halved).to(torch.bfloat16).save_pretrained(halved)
    in_float32 = SentenceTransformer(str(halved), device="cpu", model_kwargs={"dtype": torch.float32})
    in_float32.path = halved
    whole = opened(tiny_model_path)
    whole.path = tiny_model_path
    documents, queries = (in_float32, whole) if stored == "documents" else (whole, in_float32)
    base, adapter = base_of_two(documents, queries), make_adapter()
    found = opened(base.save(adapter, tmp_path / "two", _Kept))
    np.testing.assert_allclose(found.encode_query(TEXTS), right_queries(base, adapter), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.encode_document(TEXTS), documents.encode_document(TEXTS))


def test_a_query_model_alone_may_be_in_half_precision(tiny_model_path, tmp_path):
    queries = SentenceTransformer(str(tiny_model_path), device="cpu", model_kwargs={"dtype": torch.bfloat16})
    queries.path = tiny_model_path
    base, adapter = base_of_two(opened(tiny_model_path), queries), make_adapter()
    base = replace(base, status_quo=None)
    folder = base.save(adapter, tmp_path / "alone", _Kept)
    found = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.bfloat16})
    expected = torch.from_numpy(right_queries(base, adapter)).float()
    torch.testing.assert_close(found.encode_query(TEXTS, convert_to_tensor=True).float(), expected, rtol=0, atol=3e-2)


def test_a_folder_of_something_else_is_refused_before_anything_is_embedded(two, tmp_path):
    base, _, _ = two
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists, is not empty"):
        base.check_target(Path(tmp_path))


def test_nothing_is_saved_of_what_did_not_pass(two, tmp_path):
    base, _, _ = two
    with pytest.raises(ValueError, match="The query model did not pass"):
        base.save(None, tmp_path / "none", _Kept)
    assert base.adapted(None) is base.documents.model
