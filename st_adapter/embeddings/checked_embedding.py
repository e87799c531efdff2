"""Embed a data set and cut it, after a look at whether vectors that came with it are the model's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_adapter.choices import PARAPHRASE_THRESHOLD, Precision
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.paraphrases import cut_splits
from st_adapter.embeddings.corpus import Corpus, MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedDataset
from st_adapter.embeddings.embedding import as_encoder, embed_texts, judged_by
from st_adapter.embeddings.encoder import Encoder
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.index_check import SAMPLE, IndexComparison, compare_index, compare_vectors
from st_adapter.embeddings.roles import Role
from st_adapter.embeddings.store_corpus import StoreCorpus
from st_adapter.errors import InputError
from st_adapter.storage.manifest import Manifest
from st_adapter.stores.folder import VectorFolder
from st_adapter.stores.store import Vectors


def embed(
    model: SentenceTransformer | Encoder,
    dataset: RetrievalDataset,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    precision: Precision = "fp32",
    show_progress_bar: bool = True,
    allow_other_vectors: bool = False,
) -> EmbeddedDataset:
    """Embed every query and every document, each distinct text once; what came with vectors is not embedded.

    Vectors are cached as Arrow files under a key made of everything that can be read of the model in memory (see
    ``model_fingerprint``), the role, the prompt and the precision, and within it by text. Before cached vectors are
    used, 32 of their texts, the longest among them, are embedded afresh and compared: if they differ, all are embedded
    anew, with a warning. A second run embeds no more than these; a killed one goes on after its last finished shard.

    Splits that are to be cut by document are cut here, with the paraphrases that the embeddings show.

    Args:
        model: base model, on the device it shall run on; its ``encode_query`` and ``encode_document`` are used. Or
            another ``Encoder``, which says itself how it is run.
        dataset: queries, corpus and judgements.
        cache_dir: where the cache lies; ``st_adapter`` in ``HF_HOME`` if None. One that cannot be written to is read,
            and what is new is kept in memory only, with a warning.
        batch_size: texts per forward pass of a ``SentenceTransformer``, >= 1.
        precision: ``bf16`` or ``fp16`` run the model under autocast (GPUs); vectors are kept in float32 all the same.
        show_progress_bar: one bar for the queries, one for the documents, if there is anything to embed.
        allow_other_vectors: go on where vectors that came with the data, or lie elsewhere, are not the model's.

    Returns:
        Tensors on the model's device, rows in data set order.

    Raises:
        ValueError: the model is a cross-encoder or sparse, compares by Euclidean or Manhattan distance, has quantised
            weights, or gives a vector that is not finite; ``cache_dir`` cannot be made; a cached file cannot be read;
            vectors that came with the data are not the model's.

    Examples:
        >>> embedded = embed(model, dataset, cache_dir="cache", show_progress_bar=False)
        >>> embedded["test"].query_embeddings.shape[1]
        32
    """
    return embed_to_measure(
        model,
        dataset,
        paraphrase_threshold=PARAPHRASE_THRESHOLD,
        allow_other_vectors=allow_other_vectors,
        cache_dir=cache_dir,
        batch_size=batch_size,
        precision=precision,
        show_progress_bar=show_progress_bar,
    )[1]


def embed_to_measure(
    model: SentenceTransformer | Encoder,
    dataset: RetrievalDataset,
    *,
    paraphrase_threshold: float,
    allow_other_vectors: bool,
    **embedding: Any,
) -> tuple[RetrievalDataset, EmbeddedDataset]:
    """As ``embed``, with the data set as it was cut, and notes on what was compared.

    Args:
        model: what its documents are embedded with.
        dataset: the data.
        paraphrase_threshold: of the training, for the same splits where they were cut by document.
        allow_other_vectors: go on where vectors that came with the data are not the model's.
        **embedding: arguments of ``embed``, such as ``cache_dir``.

    Raises:
        InputError: the vectors are not the model's.
    """
    dataset = checked_folders(model, dataset, allow_other_vectors)
    embedded = embed_texts(model, dataset, **embedding)
    dataset = checked_given(model, dataset, embedded, allow_other_vectors)
    dataset = cut_splits(dataset, embedded.query_embeddings, threshold=paraphrase_threshold)
    return dataset, judged_by(embedded, dataset)


def checked_folders(
    model: SentenceTransformer | Encoder, dataset: RetrievalDataset, allow_other: bool = False
) -> RetrievalDataset:
    """Compare what folders of vectors say of their encoder with the model, before any text is embedded.

    Args:
        model: what queries are embedded with.
        dataset: the data; of those without such a folder nothing is compared.
        allow_other: whether vectors that are not the model's are an error, or a note.

    Returns:
        The data set with a note on each comparison.

    Raises:
        InputError: the vectors are not the model's.
    """
    encoder, found = as_encoder(model), {}
    if isinstance(dataset.store, VectorFolder):
        found["documents"] = compare_manifest(dataset.store.manifest, dataset.store.address, encoder)
    if dataset.queries_manifest is not None:
        found["queries"] = compare_manifest(dataset.queries_manifest, dataset.apart["queries"], encoder)
    return _with_notes(dataset, found, allow_other)


def checked_given(
    model: SentenceTransformer | Encoder,
    dataset: RetrievalDataset,
    embedded: EmbeddedDataset,
    allow_other: bool = False,
) -> RetrievalDataset:
    """Compare the vectors that came with the data, or lie in a store, with the model before anything is done with them.

    Those of folders say themselves whose they are; see ``checked_folders``.

    Args:
        model: what queries are embedded with.
        dataset: the data.
        embedded: the same, embedded.
        allow_other: whether vectors that are not the model's are an error, or a note.

    Returns:
        The data set with a note on each comparison.

    Raises:
        InputError: the vectors are not the model's.
    """
    encoder = as_encoder(model)
    found: dict[str, IndexComparison | None] = {}
    if isinstance(embedded.corpus, StoreCorpus):
        found["documents"] = compare_index(embedded.corpus, encoder)
    vectors, texts = dataset.corpus_embeddings, dataset.document_texts
    if vectors is not None:
        found["documents"] = compare_sample(encoder, "document", texts, vectors, embedded.corpus)
    vectors, texts = dataset.query_embeddings, dataset.query_texts
    if vectors is not None and dataset.queries_manifest is None:
        queries = MemoryCorpus(embedded.query_ids, embedded.query_embeddings, encoder.similarity)
        found["queries"] = compare_sample(encoder, "query", texts, vectors, queries)
    return _with_notes(dataset, found, allow_other)


def _with_notes(
    dataset: RetrievalDataset, found: Mapping[str, IndexComparison | None], allow_other: bool
) -> RetrievalDataset:
    """The data set with what was found of its documents and queries, if that is as it has to be."""
    notes = []
    for name, comparison in found.items():
        if comparison is None:
            notes.append(f"The vectors of the {name} have no texts, so it was not checked that they are this model's.")
        elif comparison.same or allow_other:
            notes.append(f"{name.capitalize()}: {comparison.sentence}")
        else:
            raise InputError(
                f"The vectors of the {name} cannot be used with this model. {comparison.sentence}",
                python="If it shall be so, pass allow_other_vectors=True, to train in options=RunOptions(...).",
                flags="If it shall be so, add --allow-other-vectors.",
            )
    return replace(dataset, notes=(*dataset.notes, *notes)) if notes else dataset


def compare_sample(
    encoder: Encoder,
    role: Role,
    texts: Sequence[str] | None,
    vectors: Vectors | Tensor,
    among: Corpus,
    num: int = SAMPLE,
) -> IndexComparison | None:
    """Compare the vectors of some texts with those that an encoder gives; see ``compare_vectors``.

    Args:
        encoder: the encoder.
        role: of the texts.
        texts: T texts; without any there is nothing to compare.
        vectors: (T, D), theirs, on any device.
        among: the corpus that a vector in another place is looked for in.
        num: how many are compared.
    """
    if texts is None:
        return None
    rows = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))[:num].tolist()
    drawn = vectors[rows]
    drawn = drawn.cpu().numpy() if isinstance(drawn, Tensor) else drawn
    return compare_vectors(encoder, [texts[row] for row in rows], drawn, role, among)


def compare_manifest(manifest: Manifest, name: str, encoder: Encoder) -> IndexComparison:
    """Compare what a folder of vectors says of its encoder with an encoder; see ``compare_vectors``.

    Args:
        manifest: of the folder.
        name: of the folder.
        encoder: the encoder.
    """
    there, ours = EncoderIdentity.from_dict(dict(manifest.encoder)), encoder.identity
    apart = there.document_difference(ours) if manifest.role == "document" else there.difference(ours)
    prompt = encoder.prompt(manifest.role)
    if manifest.prompt != prompt:
        of = "documents" if manifest.role == "document" else "queries"
        apart = apart or f"the prompts of {of} are {manifest.prompt!r} there and {prompt!r} here"
    if apart is None:
        sentence = f"the manifest of {name} says that the stored vectors are this model's."
        return IndexComparison(True, "same", sentence, 0, 0.0, 0.0)
    sentence = f"{name} was embedded with {there}: {apart}. Name that model."
    return IndexComparison(False, "other model", sentence, 0, 0.0, 0.0)
