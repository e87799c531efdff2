"""A model of two in a stack, of one embedding for both sides and of two: what goes wrong with two models is named."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from langchain_core.embeddings import Embeddings
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from problems import make_adapter
from st_adapter import check_stack, from_pretrained
from st_adapter.bridge import Bridge
from st_adapter.embeddings.identity import identity_of
from st_adapter.saving import save_query_part
from st_adapter.saving.base import ModelBase
from st_adapter.saving.query_base import Index, query_model_base


def opened(path, **kwargs):
    return SentenceTransformer(str(path), device="cpu", **kwargs)


class Two(NamedTuple):
    """Models in memory, and the folders of the whole and of the query model's part."""

    documents: SentenceTransformer
    queries: SentenceTransformer
    whole: SentenceTransformer
    folder: str
    alone: str


class _Kept:
    training, check_texts = None, {}


def saved(documents, queries, folder):
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(32, queries.get_embedding_dimension(), generator=generator)
    bridge = Bridge(matrix, 0.3 * torch.randn(32, generator=generator), True)
    base = query_model_base(ModelBase(documents), ModelBase(queries))
    base = base.with_bridge(bridge, Index(identity_of(documents), "cosine"))
    return base.save(make_adapter(), folder, _Kept)


@pytest.fixture(scope="module")
def two(tiny_prompt_model_path, tiny_unnormalized_model_path, tmp_path_factory):
    """Queries by a model without prompts and of other weights, whose vectors have not unit length."""
    place = tmp_path_factory.mktemp("saved")
    documents, other = opened(tiny_prompt_model_path), opened(tiny_unnormalized_model_path)
    with torch.no_grad():
        next(other.parameters()).copy_(next(other.parameters()).flip(0))
    other.save_pretrained(str(place / "other"), create_model_card=False)
    queries = opened(place / "other")
    folder = saved(documents, queries, place / "two")
    return Two(documents, queries, opened(folder), str(folder), str(save_query_part(folder, place / "alone")))


class OneForBoth(Embeddings):
    """As LangChain's own class for Sentence Transformers embeds, with the arguments of the recipe."""

    def __init__(self, model, **query_arguments):
        self.model, self.query_arguments = model, query_arguments

    def embed_query(self, text):
        return self.model.encode([text], **self.query_arguments)[0].tolist()

    def embed_documents(self, texts):
        return self.model.encode(texts, prompt_name="document").tolist()


def test_one_embedding_for_both_sides_is_right_with_its_setting(two):
    right = OneForBoth(two.whole, task="query", prompt_name="query")
    check = check_stack(two.folder, right.embed_query, right.embed_documents)
    assert check.ok
    assert max(check.query_distance, check.document_distance) < 1e-6
    from st_adapter.stacks.llama_index import AdaptedEmbedding

    ours = AdaptedEmbedding(two.folder, device="cpu")
    assert check_stack(two.folder, ours.get_query_embedding, ours.get_text_embedding_batch).ok
    plain = OneForBoth(two.whole, prompt_name="query")
    (problem,) = check_stack(two.folder, plain.embed_query, plain.embed_documents).problems
    assert problem.found == "queries are embedded by the model of the documents, not by the query model"
    assert "task='query'" in problem.remedy


def test_two_embeddings_are_right_with_the_query_models_part(two):
    alone = opened(two.alone)
    assert check_stack(two.folder, alone.encode, two.documents.encode_document).ok
    assert check_stack(two.folder, alone.encode_query, two.whole.encode_document).ok


def without(kind):
    def embed(two, texts):
        modules = [module for module in opened(two.alone) if type(module).__name__ != kind]
        return SentenceTransformer(modules=modules, device="cpu").encode(texts)

    return embed


MISTAKES = {
    "status quo": (
        lambda two, texts: two.documents.encode_query(texts),
        lambda two, texts: two.documents.encode_document(texts),
        ["query: queries are embedded by the model of the documents, not by the query model"],
    ),
    "documents by the query model": (
        lambda two, texts: two.whole.encode_query(texts),
        lambda two, texts: two.whole.encode_query(texts),
        ["document: documents are embedded by the query model"],
    ),
    "documents by what the query model was": (
        lambda two, texts: two.whole.encode_query(texts),
        lambda two, texts: two.queries.encode(texts),
        ["document: documents are embedded by the query model"],
    ),
    "no Dense": (
        lambda two, texts: two.queries.encode(texts),
        lambda two, texts: two.whole.encode_document(texts),
        ["query: queries are the query model's own vectors, without the Dense that belongs behind it"],
    ),
    "no Normalize": (
        without("Normalize"),
        lambda two, texts: two.whole.encode_document(texts),
        ["query: queries pass through the Dense behind the query model without the Normalize"],
    ),
    "other length": (
        lambda two, texts: 2 * two.whole.encode_query(texts),
        lambda two, texts: two.whole.encode_document(texts),
        ["query: vectors of queries have lengths 2 to 2 instead of 1: they are not normalised"],
    ),
    "swapped": (
        lambda two, texts: two.whole.encode_document(texts),
        lambda two, texts: two.whole.encode_query(texts),
        ["both: the models for queries and for documents are swapped"],
    ),
    "prompt": (
        lambda two, texts: two.whole.encode(texts, task="query", prompt="query: "),
        lambda two, texts: two.whole.encode_document(texts),
        ["query: queries are embedded with the prompt 'query: ', but the model embeds them without one"],
    ),
    "another model": (
        lambda two, texts: np.random.default_rng(0).standard_normal((len(texts), 32)),
        lambda two, texts: two.whole.encode_document(texts),
        ["query: vectors of queries are none that this model can give"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_with_two_models_is_named(mistake, two):
    embed_query, embed_documents, found = MISTAKES[mistake]
    check = check_stack(two.whole, lambda texts: embed_query(two, texts), lambda texts: embed_documents(two, texts))
    told = [f"{problem.side}: {problem.found}" for problem in check.problems]
    assert len(told) == len(found), told
    assert all(part in each for part, each in zip(found, told, strict=True)), told


@pytest.mark.parametrize("dimension", [16, 48])
def test_a_missing_map_between_two_dimensions_is_named(dimension, tiny_model_path, tmp_path):
    documents, queries = opened(tiny_model_path), opened(tiny_model_path)
    weight = torch.randn(dimension, 32, generator=torch.Generator().manual_seed(0))
    queries.append(Dense(32, dimension, bias=False, activation_function=torch.nn.Identity(), init_weight=weight).eval())
    with pytest.warns(UserWarning, match="written by Sentence Transformers as it is in memory"):
        folder = saved(documents, queries, tmp_path / "two")
    model = opened(folder)
    assert check_stack(model, model.encode_query, model.encode_document).ok
    (problem,) = check_stack(model, queries.encode, model.encode_document).problems
    parts = {
        16: "queries are the query model's own vectors, without the Dense",
        48: "vectors of queries have the 48 dimensions of the query model alone, those of the index 32",
    }
    assert parts[dimension] in problem.found
    assert "not with the query model that it was made from" in problem.remedy


def test_of_a_model_for_queries_alone_only_these_are_checked(two):
    alone = from_pretrained(two.alone, device="cpu")
    for model in (two.alone, alone):
        check = check_stack(model, alone.encode, two.documents.encode_document)
        assert check.ok
        assert check.notes == ("the model is for queries alone, so documents are not checked",)
    (problem,) = check_stack(two.alone, two.queries.encode, two.documents.encode_document).problems
    assert "without the Dense that belongs behind it" in problem.found
    assert not check_stack(two.alone, two.documents.encode_query, two.documents.encode_document).ok
