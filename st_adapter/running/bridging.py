"""From two models and a data set to the bridge between them, with what it takes to fit and judge behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from st_adapter.data.cutting import text_key
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.unlabelled import queries_alone
from st_adapter.embeddings.corpus import Corpus, MemoryCorpus, comparable
from st_adapter.embeddings.embedded import EmbeddedDataset
from st_adapter.embeddings.embedding import as_encoder, embed_as_queries, embed_role, own_copies_of, stored_corpus
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.roles import prompt_of
from st_adapter.embeddings.store_corpus import StoreCorpus
from st_adapter.embeddings.tolerance import is_normalized
from st_adapter.errors import InputError
from st_adapter.evaluation.run_file import Run, check_documents, evaluate_run, read_run
from st_adapter.evidence.split_results import HEADLINE_METRIC
from st_adapter.evidence.systems import BRIDGE, RUN_FILE, STATUS_QUO
from st_adapter.fitting.auto import Clock, has_few_labels
from st_adapter.fitting.bridges import FittedBridge, Twins, fit_bridge
from st_adapter.fitting.folds import LABELLED_SPLITS, labelled_split
from st_adapter.fitting.reference import Reference, found_by
from st_adapter.fitting.taught_bridge import can_be_taught, taught_by_both
from st_adapter.running.made_to_measure import MadeToMeasure, SampledDocuments, made_to_measure
from st_adapter.running.preparing import Data, checked_data, how_to_embed, prepared
from st_adapter.running.query_model import Bridged
from st_adapter.running.settings import Settings
from st_adapter.saving.query_base import Index, QueryModelBase

# Documents that both models embed for the bridge; more would take longer and no longer improve it.
_MAX_DOCUMENTS = 4000
_LOOKED_AT = 256  # whose lengths say whether documents have unit length


class _Index(NamedTuple):
    """The documents, and what is known of the model that they were embedded with."""

    corpus: Corpus
    normalized: bool
    identity: EncoderIdentity


def bridged(base: QueryModelBase, dataset: RetrievalDataset, settings: Settings, clock: Clock) -> Bridged:
    """Embed what is there with both models, and fit the bridge between them.

    Raises:
        ValueError: queries have no texts, or the vectors of the documents are not there and neither is their model.
    """
    assert settings.method != "gradient"  # see check_query_model
    if dataset.query_texts is None:
        raise ValueError("The queries have no texts, so that no query model can embed them. Give their texts.")
    given = settings.options.unlabelled_queries
    further = [] if given is None else queries_alone(given)
    run = _reference_run(dataset, settings)
    status_quo = None
    if base.status_quo is not None:
        status_quo = prepared(base.status_quo, dataset, settings, clock)
    index = _stored(dataset, base.device) if status_quo is None else _embedded(status_quo)
    # Of two models on two devices, what is fitted lies on that of the documents' model.
    device = base.device if status_quo is None else status_quo.embedded.query_embeddings.device
    sampled = _sampled_documents(dataset, index.corpus, settings, device)
    shown, made = None, None
    if status_quo is not None:
        shown = _shown_to_bridge(status_quo.embedded, dataset.query_texts)
        if base.to_measure:
            with clock("fitting the table"):
                made = made_to_measure(base, status_quo, shown, sampled, settings)
    known = base if made is None else made.base
    with clock("embedding"):
        ours, documents = _embedded_by_query_model(known, dataset.query_texts, sampled, made, settings)
    queries = None
    if status_quo is not None and shown is not None:
        queries = Twins(ours, status_quo.embedded.query_embeddings).subset(shown)
        with clock("embedding"):
            queries = _with_further(known, queries, _not_hidden(further, dataset.query_texts, shown), settings)
    found = _bridge(known, (queries, documents), sampled, made, index.normalized, settings, clock)
    # A static query model has all it knows from the documents' model.
    if queries is not None and documents is not None and not base.to_measure and _says_little(status_quo, settings):
        found = _taught(known, found, queries, documents, sampled.texts, settings, clock)
    mapped = found.bridge(ours)
    if found.held_out is not None and shown is not None:
        mapped[shown] = found.held_out[: int(shown.sum())]
    if status_quo is not None:
        data = replace(status_quo, embedded=replace(status_quo.embedded, query_embeddings=mapped))
    else:
        data = _data_of(dataset, mapped, index, settings)
    with clock("measuring the reference"):
        reference = _reference(data, status_quo, run, settings)
    known = known.with_bridge(found.bridge, Index(index.identity, index.corpus.similarity))
    return Bridged(known, data, found, status_quo, run, reference, settings, settings.method)


def _reference_run(dataset: RetrievalDataset, settings: Settings) -> Run | None:
    """The run file of the status quo, if there is one, after a look at whether it is of these data."""
    path = settings.options.reference_run
    if path is None:
        return None
    run = read_run(path)
    if run.keys().isdisjoint(dataset.queries["id"]):
        raise ValueError(
            f"{path} has none of the queries of the data; its first id is {next(iter(run), '')!r}. Name the run of "
            "these queries, under the ids that they have in the data."
        )
    judged = dict.fromkeys(query_id for rows in dataset.judged_rows.values() for query_id in rows["query_id"])
    missing = [query_id for query_id in judged if query_id not in run]
    if missing:
        # To count them as having found nothing would make whatever is compared with it look better than it is.
        raise ValueError(
            f"{path} has nothing for {len(missing)} of the {len(judged)} judged queries, the first: {missing[:3]}. "
            "Name a run of all of them; a query that found nothing has a line with a document that is not relevant."
        )
    if dataset.store is None:
        check_documents({query_id: run[query_id] for query_id in judged}, dataset.corpus["id"])
    return run


def _bridge(
    base: QueryModelBase,
    twins: tuple[Twins | None, Twins | None],
    sampled: SampledDocuments,
    made: MadeToMeasure | None,
    normalize: bool,
    settings: Settings,
    clock: Clock,
) -> FittedBridge:
    queries, documents = twins
    # A static table is to stay a lookup.
    affine = made is not None or settings.method == "linear"
    with clock("bridging"):
        return fit_bridge(
            queries,
            documents,
            ranked=sampled.vectors,
            normalize=normalize,
            affine=affine,
            of_length=affine and base.takes_map(sampled.vectors.shape[1]),
            seed=settings.seed,
            show_progress_bar=settings.show_progress_bar,
        )


def _says_little(status_quo: Data | None, settings: Settings) -> bool:
    """Whether there are no labels or few, so that what the query model knows itself counts more than they do."""
    if settings.options.without_labels or status_quo is None:
        return True
    return has_few_labels(labelled_split(status_quo.embedded))


def _taught(
    base: QueryModelBase,
    found: FittedBridge,
    queries: Twins,
    documents: Twins,
    texts: list[str],
    settings: Settings,
    clock: Clock,
) -> FittedBridge:
    """The bridge, taught by both models if that is any better."""
    if not can_be_taught(found, documents):
        return found
    with clock("embedding"):
        documents = documents._replace(ours=_as_documents(base, texts, documents.ours, settings))
    with clock("bridging"):
        bar = settings.show_progress_bar
        return taught_by_both(found, queries, documents, seed=settings.seed, show_progress_bar=bar) or found


def _not_hidden(texts: list[str], queries: list[str], shown: Tensor) -> list[str]:
    """Further queries, less those with the text of a query that nothing may be learned from."""
    hidden = {text_key(text) for text, may in zip(queries, shown.tolist(), strict=True) if not may}
    return [text for text in texts if text_key(text) not in hidden]


def _with_further(base: QueryModelBase, queries: Twins, texts: list[str], settings: Settings) -> Twins:
    """Queries by both models, with those of further texts behind them."""
    if not texts:
        return queries
    assert base.status_quo is not None  # or there were no queries by it
    encoders = (base.encoder, base.status_quo.encoder)
    by_each = (embed_as_queries(encoder, texts, **how_to_embed(settings)) for encoder in encoders)
    return Twins(*(torch.cat([given, more.to(given.device)]) for given, more in zip(queries, by_each, strict=True)))


def _embedded(status_quo: Data) -> _Index:
    embedded = status_quo.embedded
    identity = embedded.base_model or EncoderIdentity.unknown(embedded.dimension, embedded.normalized)
    return _Index(embedded.corpus, embedded.normalized, identity)


def _stored(dataset: RetrievalDataset, device: torch.device) -> _Index:
    """Documents as they lie in a store or came with the data, whose model is not there."""
    corpus: Corpus
    if dataset.store is not None:
        corpus = stored_corpus(dataset.store, "dot" if getattr(dataset.store, "metric", None) == "dot" else "cosine")
    elif dataset.corpus_embeddings is not None:
        corpus = MemoryCorpus(list(dataset.corpus["id"]), torch.from_numpy(dataset.corpus_embeddings).to(device))
    else:
        raise InputError(
            "The documents have no vectors, and the model to embed them with was not given.",
            python="Pass the model of the index first, or documents with their vectors.",
            flags="Name the model of the index with --model, or a --corpus with vectors.",
        )
    normalized = is_normalized(corpus.rows(_sample(corpus, _LOOKED_AT, 0)), torch.float16)
    return _Index(corpus, normalized, EncoderIdentity.unknown(corpus.dimension, normalized))


def _data_of(dataset: RetrievalDataset, mapped: Tensor, index: _Index, settings: Settings) -> Data:
    note = "The model of the documents was not given, so it was not checked whose vectors they are."
    embedded = EmbeddedDataset(
        query_ids=list(dataset.queries["id"]),
        query_embeddings=mapped,
        corpus=index.corpus,
        qrels={},
        normalized=index.normalized,
        base_model=index.identity,
        own_copies=own_copies_of(dataset, mapped, index.corpus),
    )
    return checked_data(replace(dataset, notes=(*dataset.notes, note)), embedded, settings.options)


def _shown_to_bridge(embedded: EmbeddedDataset, texts: list[str]) -> Tensor:
    """All queries but those that the outcome is measured on, of which nothing may have been learned: (Q,) bool.

    What has the same text as one of these is as little shown.
    """
    hidden = [qrels.query_index for split, qrels in embedded.qrels.items() if split not in LABELLED_SPLITS]
    keys = list(map(text_key, texts))
    measured = {keys[row] for rows in hidden for row in rows.tolist()}
    shown = torch.tensor([key not in measured for key in keys], dtype=torch.bool)
    return shown.to(embedded.query_embeddings.device)


def _sampled_documents(
    dataset: RetrievalDataset, corpus: Corpus, settings: Settings, device: torch.device
) -> SampledDocuments:
    """Some documents as they lie in the index, with the texts that they have."""
    rows = _sample(corpus, _MAX_DOCUMENTS, settings.seed)
    if isinstance(corpus, StoreCorpus):
        texts = corpus.texts(rows)
    else:
        given = dataset.document_texts
        texts = None if given is None else [given[row] for row in rows.tolist()]
    there = {place: text for place, text in enumerate(texts or ()) if text.strip()}
    with_texts = torch.tensor(list(there), dtype=torch.int64, device=device)
    return SampledDocuments(corpus.rows(rows).to(device), with_texts, list(there.values()))


def _embedded_by_query_model(
    base: QueryModelBase,
    texts: list[str],
    documents: SampledDocuments,
    made: MadeToMeasure | None,
    settings: Settings,
) -> tuple[Tensor, Twins | None]:
    """All queries and some documents as the query model embeds them: (Q, E), and the documents by both models."""
    device = documents.vectors.device
    ours = embed_as_queries(base.encoder, texts, **how_to_embed(settings)).to(device)
    if made is not None:
        ours = ours.index_copy(0, made.rows, made.queries)
    if not documents.texts:
        return ours, None
    if made is None:
        as_queries = embed_as_queries(base.encoder, documents.texts, **how_to_embed(settings)).to(device)
    else:
        # These alone: the table reads all of a text, and the documents' model only as far as it goes.
        as_queries = made.documents
    return ours, Twins(as_queries, documents.with_texts[: len(as_queries)])


def _as_documents(base: QueryModelBase, texts: list[str], as_queries: Tensor, settings: Settings) -> Tensor:
    """The sampled documents (M, D) as the query model embeds documents and compares them, if otherwise than queries."""
    encoder = as_encoder(base.encoder, settings.batch_size, settings.precision)
    vectors = as_queries
    if prompt_of(base.model, "query") != prompt_of(base.model, "document"):
        vectors = embed_role(encoder, "document", texts, settings.cache_dir, settings.show_progress_bar)
    return comparable(vectors.to(as_queries.device), encoder.similarity)


def _sample(corpus: Corpus, number: int, seed: int) -> Tensor:
    return torch.randperm(len(corpus), generator=torch.Generator().manual_seed(seed))[:number]


def _reference(data: Data, status_quo: Data | None, run: Run | None, settings: Settings) -> Reference:
    """What candidates have to be better than, or no worse than allowed: the best-known way to search today."""
    margin = settings.options.non_inferior
    if settings.options.without_labels:
        return Reference(STATUS_QUO, {}, margin)
    queries = None if status_quo is None else labelled_split(status_quo.embedded)
    if run is not None:
        measured = evaluate_run(labelled_split(data.embedded), run)
        values = measured.base[HEADLINE_METRIC].tolist()
        return Reference(RUN_FILE, dict(zip(measured.query_ids, values, strict=True)), margin, queries)
    if status_quo is not None:
        return Reference(STATUS_QUO, found_by(status_quo.embedded, settings.seed), margin, queries)
    return Reference(BRIDGE, found_by(data.embedded, settings.seed), margin)
