"""The seam between what makes vectors and what uses them, with encoders that are no models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from torch import Tensor

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.embeddings.encoder import Encoder, SentenceTransformerEncoder
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.long_texts import LongTexts, long_texts
from st_adapter.embeddings.probe_texts import CHECK_TEXTS

TEXTS = [f"document {'very ' * (number % 9)}{number}" for number in range(50)]


@dataclass
class TwoFunctions(Encoder):
    """Plain functions, as a user would bring them: nothing but a name and what they give tells who they are."""

    query: Callable[[str], list[float]]
    document: Callable[[str], list[float]]
    name: str = "two functions"
    similarity: str = "dot"
    asked: list[str] = field(default_factory=list)

    @property
    def identity(self) -> EncoderIdentity:
        vectors = [[*map(function, CHECK_TEXTS)] for function in (self.query, self.document)]
        return EncoderIdentity.probed(self.name, torch.tensor(vectors).flatten(0, 1))

    def encode_query(self, texts: Sequence[str]) -> Tensor:
        self.asked.extend(texts)
        return torch.tensor([self.query(text) for text in texts])

    def encode_document(self, texts: Sequence[str]) -> Tensor:
        self.asked.extend(texts)
        return torch.tensor([self.document(text) for text in texts])


def letters(text):
    return [float(text.count(letter)) for letter in "aeiou"]


def length(text):
    return [float(len(text)), 1.0, 0.0, 0.0, 0.0]


def reversed_letters(text):
    return letters(text)[::-1]


def make_dataset(documents=TEXTS):
    return RetrievalDataset(
        queries=Dataset.from_dict({"id": ["q0", "q1"], "text": ["which one", "and which other one"]}),
        corpus=Dataset.from_dict({"id": [f"d{i}" for i in range(len(documents))], "text": list(documents)}),
        qrels={"train": Dataset.from_dict({"query_id": ["q0"], "corpus_id": ["d1"], "relevance": [1.0]})},
    )


def embedded_by(encoder, cache_dir, documents=TEXTS):
    """The vectors, and the texts that the encoder was asked for."""
    encoder.asked.clear()
    return embed(encoder, make_dataset(documents), cache_dir=cache_dir, show_progress_bar=False), [*encoder.asked]


def test_two_functions_are_an_encoder(tmp_path):
    embedded, asked = embedded_by(TwoFunctions(letters, length), tmp_path)
    assert embedded.query_embeddings.tolist() == [letters("which one"), letters("and which other one")]
    assert embedded.corpus.embeddings.tolist() == [*map(length, TEXTS)]
    assert sorted(asked) == sorted([*TEXTS, "which one", "and which other one", *CHECK_TEXTS * 2])
    assert embedded.similarity == "dot" and embedded.long_texts is None
    identity = embedded.base_model
    assert (identity.name, identity.dimension, identity.weights_sha256) == ("two functions", 5, None)
    assert EncoderIdentity.from_dict(identity.to_dict()) == identity


def test_their_vectors_are_cached_and_a_sample_is_compared(tmp_path):
    first, _ = embedded_by(TwoFunctions(letters, length), tmp_path)
    again, asked = embedded_by(TwoFunctions(letters, length), tmp_path, [*TEXTS, "new"])
    assert "new" in asked and len(asked) == 2 + 32 + 1  # the queries, a sample of the documents, and what is new
    assert torch.equal(again.corpus.embeddings[:-1], first.corpus.embeddings)
    other = TwoFunctions(letters, reversed_letters)
    with pytest.warns(UserWarning, match="vectors of another model .* of 32 document texts embedded again"):
        changed, _ = embedded_by(other, tmp_path)
    assert changed.corpus.embeddings.tolist() == [*map(reversed_letters, TEXTS)]
    assert first.base_model.difference(changed.base_model).startswith("the same texts get other vectors")
    named, asked = embedded_by(TwoFunctions(reversed_letters, length, name="another"), tmp_path)
    assert len(asked) == 52 + 2 * len(CHECK_TEXTS) and named.query_embeddings.tolist()[0] == reversed_letters(
        "which one"
    )


def test_vectors_of_two_encoders_are_never_mixed_where_no_text_is_known_yet(tmp_path):
    embedded_by(TwoFunctions(letters, length), tmp_path, TEXTS[20:23])
    with pytest.warns(UserWarning, match="vectors of another model .* of 5 document texts embedded again"):
        embedded_by(TwoFunctions(letters, reversed_letters), tmp_path, [*TEXTS[:20], *TEXTS[23:]])
    with pytest.warns(UserWarning, match="vectors of another model .* of 3 document texts embedded again"):
        all_of_it, asked = embedded_by(TwoFunctions(letters, reversed_letters), tmp_path)
    assert all_of_it.corpus.embeddings.tolist() == [*map(reversed_letters, TEXTS)]
    assert (
        len(asked) == 2 + 3 + 3 + 32 + 3
    )  # the queries, a sample that differs, one by one too, one that does not, new
    _, asked = embedded_by(TwoFunctions(letters, length), tmp_path, ["other", "texts"])
    assert len(asked) == 2 + len(CHECK_TEXTS) + 2, "the first encoder goes on where it was"
    for path in tmp_path.rglob("*.arrow"):  # of a cache without the fixed texts
        if Dataset.from_file(str(path)).num_rows == len(CHECK_TEXTS):
            path.unlink()
    unchecked, _ = embedded_by(TwoFunctions(letters, letters), tmp_path, ["once", "more"])
    assert unchecked.corpus.embeddings.tolist() == [letters("once"), letters("more")]
    assert len({path.parent for path in tmp_path.rglob("*.arrow")}) == 4


def test_an_encoder_of_a_model_has_a_cache_of_its_weights(tmp_path):
    class Wrapped(TwoFunctions):
        @property
        def identity(self) -> EncoderIdentity:
            return replace(super().identity, fingerprint=self.query.__name__)

    first, second = Wrapped(letters, letters), Wrapped(length, letters)
    assert first.cache_key(first.identity, "document") != second.cache_key(second.identity, "document")
    _, asked = embedded_by(first, tmp_path)
    assert len(asked) == 52, "no text is asked for only to compare it"


def test_functions_that_change_from_call_to_call_are_noticed(tmp_path):
    def noise(text):
        return torch.rand(5).tolist()

    embedded_by(TwoFunctions(letters, noise), tmp_path)
    with pytest.warns(UserWarning, match="another vector when other texts share its batch"):
        embedded_by(TwoFunctions(letters, noise), tmp_path)


def test_how_an_encoder_is_run_is_its_own_business(tiny_model, tmp_path):
    for encoder in (TwoFunctions(letters, length), SentenceTransformerEncoder(tiny_model)):
        with pytest.raises(ValueError, match="batch_size is 8 and precision 'fp32', but an Encoder says itself"):
            embed(encoder, make_dataset(), cache_dir=tmp_path, batch_size=8)
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (Encoder,), {"encode_query": length})()


def test_a_model_and_its_encoder_are_one(tiny_model, tmp_path):
    by_model = embed(tiny_model, make_dataset(), cache_dir=tmp_path, batch_size=4, show_progress_bar=False)
    encoder = SentenceTransformerEncoder(tiny_model, batch_size=4)
    again = embed(encoder, make_dataset(), cache_dir=tmp_path, show_progress_bar=False)
    assert torch.equal(by_model.corpus.embeddings, again.corpus.embeddings)
    assert by_model.base_model is again.base_model
    assert len({path.name for path in tmp_path.rglob("*.arrow")}) == 2
    assert encoder.dimension == 32
    assert str(encoder).startswith("SentenceTransformerEncoder('") and str(encoder).endswith(
        ", 32 dimensions, cosine, fp32, batches of 4 on cpu)"
    )
    assert str(tiny_model[0].model.config._name_or_path) not in str(encoder)


def without_the_column(path):
    """Rewrite a shard as version 0.1 wrote it."""
    table = Dataset.from_file(str(path)).data.table.select(["key", "embedding"]).combine_chunks()
    with pa.OSFile(str(path.with_suffix(".old")), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    path.with_suffix(".old").replace(path)


@pytest.mark.parametrize("old", [False, True])
def test_long_texts_are_counted_once_and_kept_beside_the_vectors(old, tiny_model, tmp_path, monkeypatch):
    documents = [*TEXTS, "file " * 70, "file " * 71, "x" * 100, "file " * 71]
    dataset = make_dataset(documents)
    embedded = embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    assert embedded.long_texts == long_texts(tiny_model, dataset) == LongTexts(64, 0, 3)
    for path in tmp_path.rglob("*.arrow") if old else ():
        without_the_column(path)
    looked_at = []
    are_cut = SentenceTransformerEncoder.are_cut
    monkeypatch.setattr(
        SentenceTransformerEncoder,
        "are_cut",
        lambda self, texts, role: looked_at.extend(texts) or are_cut(self, texts, role),
    )
    again = embed(tiny_model, dataset, cache_dir=tmp_path, show_progress_bar=False)
    assert again.long_texts == embedded.long_texts
    assert torch.equal(again.corpus.embeddings, embedded.corpus.embeddings)
    assert len(looked_at) == (len(set(documents)) + 2 if old else 0)


def test_what_is_no_encoder_is_refused(tmp_path):
    class NoEncoder(CrossEncoder):
        def __init__(self):
            pass

    with pytest.raises(ValueError, match="The model is a NoEncoder, but an adapter needs"):
        embed(NoEncoder(), make_dataset(), cache_dir=tmp_path)
