"""Are these vectors of this model? A sample of the texts is embedded again and compared with what is stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from st_adapter.embeddings.corpus import Corpus
from st_adapter.embeddings.encoder import Encoder, SentenceTransformerEncoder, encode
from st_adapter.embeddings.roles import Role, prompt_of
from st_adapter.embeddings.store_corpus import StoreCorpus
from st_adapter.stores.store import Vectors
from st_adapter.words import counted

Cause = Literal["same", "rounded", "scaled", "truncated", "prompt", "order", "length", "texts", "other model"]

# Distances of unit vectors, 0 to 2. Half precision moves them by about .001, bytes by .01 to .03, a prompt by more.
_EQUAL, _ROUNDED = 2e-3, 4e-2
_MOST = 0.8  # share of a sample that shows a cause, where single texts may have changed since
SAMPLE = 50
# What is tried on texts whose vectors differ: prompts and lengths that models are published with. Many are used with a
# prompt that their settings do not name.
_TRIED = 16
_USUAL_PROMPTS = ("passage: ", "query: ", "search_document: ", "search_query: ")
_LENGTHS = (64, 128, 256, 384, 512)
_TEXTS_AT_ONCE = 32


@dataclass(frozen=True)
class IndexComparison:
    """What a comparison found.

    Attributes:
        same: whether the vectors can be used with the model.
        cause: why they differ, as far as it is known. ``same``; ``rounded``: half precision or quantised; ``scaled``:
            other lengths; ``truncated``: the first dimensions only; ``prompt``: embedded with another prompt, or none;
            ``order``: the vectors of other texts; ``length``: longer texts were cut elsewhere; ``texts``: some texts
            have changed since; ``other model``.
        sentence: that in words, with what to do.
        num_compared: texts that were embedded again.
        median_distance: between stored and new vectors at unit length, 0 to 2.
        largest_distance: the largest of them.
    """

    same: bool
    cause: Cause
    sentence: str
    num_compared: int
    median_distance: float
    largest_distance: float

    def __repr__(self) -> str:
        return f"IndexComparison({self.cause}: {self.sentence})"


def compare_vectors(
    encoder: Encoder, texts: Sequence[str], vectors: Vectors, role: Role = "document", among: Corpus | None = None
) -> IndexComparison:
    """Embed texts again and say whether vectors are the encoder's, and if not, why.

    Args:
        encoder: the model.
        texts: n texts, some fifty are enough.
        vectors: (n, D) as they are stored.
        role: whether they were embedded as documents or as queries.
        among: all vectors, of which these are a sample, to find those that stand at other texts.

    Raises:
        ValueError: there is not one vector for each text.

    Examples:
        >>> from st_adapter.embeddings.encoder import SentenceTransformerEncoder
        >>> encoder, texts = SentenceTransformerEncoder(model), ["red car", "blue house", "green book", "a"]
        >>> compare_vectors(encoder, texts, encoder.encode_document(texts).numpy()).cause
        'same'
        >>> compare_vectors(encoder, texts, encoder.encode_document(texts[1:] + texts[:1]).numpy()).cause
        'order'
    """
    if len(texts) != len(vectors) or not len(texts):
        raise ValueError(
            f"There are {len(texts)} texts and {len(vectors)} vectors. Pass at least one, and one of each."
        )
    ours = encode(encoder, role, texts, _TEXTS_AT_ONCE)
    if vectors.shape[1] != ours.shape[1]:
        return _of_another_dimension(ours, vectors)
    apart = _apart(ours, vectors)
    others = vectors if among is None else _nearest(among, ours)
    cause, same, sentence = _verdict(encoder, texts, ours, vectors, others, role, apart)
    return IndexComparison(same, cause, sentence, len(texts), float(np.median(apart)), float(apart.max()))


def compare_index(corpus: StoreCorpus, encoder: Encoder, num: int = SAMPLE, seed: int = 0) -> IndexComparison | None:
    """Compare a sample of a store with an encoder; see ``compare_vectors``.

    Args:
        corpus: the store.
        encoder: the model that shall search it.
        num: documents to embed again.
        seed: of the sample.

    Returns:
        What was found; None if the store keeps no texts.

    Examples:
        >>> import lancedb
        >>> from st_adapter.embeddings.encoder import SentenceTransformerEncoder
        >>> from st_adapter.stores import open_store
        >>> texts = dataset.corpus["text"]
        >>> rows = zip(dataset.corpus["id"], texts, model.encode_document(list(texts)))
        >>> table = [{"id": id, "text": text, "vector": vector} for id, text, vector in rows]
        >>> _ = lancedb.connect("database").create_table("docs", table)
        >>> corpus = StoreCorpus(open_store("lancedb:database#docs"), "cosine")
        >>> compare_index(corpus, SentenceTransformerEncoder(model)).same
        True
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(corpus), generator=generator)[:num]
    texts = corpus.texts(rows) or []
    # A store may keep a text for some documents only.
    there = [place for place, text in enumerate(texts) if text.strip()]
    if not there:
        return None
    return compare_vectors(encoder, [texts[place] for place in there], corpus.stored(rows)[there], among=corpus)


def _verdict(
    encoder: Encoder,
    texts: Sequence[str],
    ours: Vectors,
    vectors: Vectors,
    others: Vectors,
    role: Role,
    apart: NDArray[np.float64],
) -> tuple[Cause, bool, str]:
    number = counted(len(texts), "text")
    near = apart <= _EQUAL
    if near.all() or np.quantile(apart, _MOST) <= _ROUNDED and apart.max() <= 2 * _ROUNDED:
        lengths = np.linalg.norm(vectors, axis=1) / np.maximum(np.linalg.norm(ours, axis=1), 1e-12)
        if encoder.similarity == "dot" and np.abs(lengths - 1).max() > _ROUNDED:
            return (
                "scaled",
                False,
                f"The stored vectors point where the model's do, but have {np.median(lengths):.2g} times their length, "
                "and this model compares by dot product, in which lengths count. Store its vectors as they are.",
            )
        if near.all():
            return "same", True, f"{number} embedded again: the stored vectors are this model's."
        # In long texts a prompt moves a vector no further than rounding does.
        return _as_otherwise_embedded(encoder, texts, vectors, role, apart) or (
            "rounded",
            True,
            f"{number} embedded again: the stored vectors are this model's, rounded (half precision or quantised).",
        )
    if _matching_others(ours, others, apart) >= _MOST:
        return (
            "order",
            False,
            "The stored vectors are this model's, but stand at other texts: rows are in another order than ids and "
            "texts. Read vectors, ids and texts from one place.",
        )
    return _as_otherwise_embedded(encoder, texts, vectors, role, apart) or _of_some(texts, apart)


def _as_otherwise_embedded(
    encoder: Encoder, texts: Sequence[str], vectors: Vectors, role: Role, apart: NDArray[np.float64]
) -> tuple[Cause, bool, str] | None:
    """The prompt or length that explains vectors better than the encoder's own, if it can be told to embed so."""
    # Of a few texts that changed there is nothing to explain.
    if not isinstance(encoder, SentenceTransformerEncoder) or (apart <= _EQUAL).mean() >= _MOST:
        return None
    rows = np.argsort(-apart, kind="stable")[:_TRIED]
    tried = [texts[row] for row in rows]
    remedy = f"Set its {role} prompt to that (--{role}-prompt, model.prompts[{role!r}])."
    found: list[tuple[Cause, str, NDArray[np.float64]]] = [
        (
            "prompt",
            f"The stored vectors were embedded {words}; the model embeds {role}s otherwise. {remedy}",
            _apart(theirs, vectors[rows]),
        )
        for words, theirs in _with_other_prompts(encoder, tried, role)
    ]
    found += [
        (
            "length",
            f"The stored vectors are of texts cut at {length} tokens; this model reads {encoder.model.max_seq_length}. "
            f"Set it (--max-seq-length {length}, model.max_seq_length).",
            _apart(theirs, vectors[rows]),
        )
        for length, theirs in _with_other_lengths(encoder, tried, role)
    ]
    if not found:
        return None
    # Several may come near; only one embedded them.
    cause, sentence, distances = min(found, key=lambda each: float(np.median(each[2])))
    explains = (distances <= _ROUNDED).mean() >= _MOST and np.median(distances) <= np.median(apart[rows]) / 2
    return (cause, False, sentence) if explains else None


def _of_some(texts: Sequence[str], apart: NDArray[np.float64]) -> tuple[Cause, bool, str]:
    """What is left: some texts agree, or none."""
    near = apart <= _ROUNDED
    if near.mean() < 0.2:
        return (
            "other model",
            False,
            f"The stored vectors are not this model's (median distance {np.median(apart):.2f} at unit length, of at "
            "most 2): another model, or one with other settings, made them. Name the model that did.",
        )
    lengths = np.array([len(text) for text in texts])
    if not near.all() and lengths[~near].min() >= np.median(lengths[near]):
        return (
            "length",
            False,
            f"The stored vectors of short texts are this model's, those of the {int((~near).sum())} longer ones are "
            "not: they were cut at another length. Set it (--max-seq-length, model.max_seq_length).",
        )
    return (
        "texts",
        bool(near.mean() >= _MOST),
        f"{int((~near).sum())} of {len(texts)} stored vectors are not this model's vector of their text: these texts "
        "have changed since they were embedded. Embed them again.",
    )


def _of_another_dimension(ours: Vectors, vectors: Vectors) -> IndexComparison:
    ours_dimension, dimension = ours.shape[1], vectors.shape[1]
    apart = _apart(ours[:, :dimension], vectors) if dimension < ours_dimension else np.full(len(ours), 2.0)
    median, largest = float(np.median(apart)), float(apart.max())
    if dimension < ours_dimension and (apart <= _ROUNDED).mean() >= _MOST:
        sentence = (
            f"The stored vectors are the first {dimension} of this model's {ours_dimension} dimensions. Truncate the "
            f"model as well (--truncate-dim {dimension}, truncate_dim={dimension})."
        )
        return IndexComparison(False, "truncated", sentence, len(ours), median, largest)
    sentence = (
        f"The stored vectors have {dimension} dimensions, this model's {ours_dimension}: another model made them. Name "
        "the model that did."
    )
    return IndexComparison(False, "other model", sentence, len(ours), median, largest)


def _apart(one: Vectors, other: Vectors) -> NDArray[np.float64]:
    """The distances of the rows of two (n, D) matrices at unit length, 0 to 2: (n,)."""
    return np.asarray(np.linalg.norm(_unit(one) - _unit(other), axis=1))


def _unit(vectors: Vectors) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))


def _nearest(among: Corpus, ours: Vectors) -> Vectors:
    """For each of the model's vectors the stored one that is nearest: (n, D)."""
    found = among.search(torch.from_numpy(_unit(ours)).float(), 1).indices[:, 0]
    return np.asarray(among.rows(found.clamp_min(0)).cpu().numpy())


def _matching_others(ours: Vectors, others: Vectors, apart: NDArray[np.float64]) -> float:
    """The share of the model's vectors that are stored, but at another text, 0-1."""
    near = _unit(ours) @ _unit(others).T >= 1 - _ROUNDED**2 / 2
    return float((near.any(axis=1) & (apart > _ROUNDED)).mean())


def _with_other_prompts(
    encoder: SentenceTransformerEncoder, texts: Sequence[str], role: Role
) -> Iterator[tuple[str, Vectors]]:
    """The texts without a prompt, with each of the model's and with usual ones, and the words for it."""
    words = {prompt: f"with the prompt {prompt!r}" for prompt in _USUAL_PROMPTS}
    words |= {prompt: f"with the prompt {name!r} ({prompt!r})" for name, prompt in encoder.model.prompts.items()}
    words[""] = "without a prompt"
    for prompt in sorted(words, key=len):
        if prompt != prompt_of(encoder.model, role):
            theirs = encoder.model.encode(list(texts), prompt=prompt, show_progress_bar=False, convert_to_numpy=True)
            yield words[prompt], theirs
    if role == "document":
        yield "as queries", encoder.encode_query(texts).cpu().numpy()
    else:
        yield "as documents", encoder.encode_document(texts).cpu().numpy()


def _with_other_lengths(
    encoder: SentenceTransformerEncoder, texts: Sequence[str], role: Role
) -> Iterator[tuple[int, Vectors]]:
    """The texts cut at usual lengths but for the model's own, as far as it can read."""
    model, own = encoder.model, encoder.model.max_seq_length
    if not isinstance(own, int):
        return
    longest = getattr(getattr(model[0], "config", None), "max_position_embeddings", own)
    try:
        for length in _LENGTHS:
            if length != own and length <= longest:
                model.max_seq_length = length
                theirs = encode(encoder, role, texts, _TEXTS_AT_ONCE)
                model.max_seq_length = own
                yield length, theirs
    finally:
        model.max_seq_length = own
