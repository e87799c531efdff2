"""The indexes that adapted queries will meet: truncated, quantised or approximate.

Every index here is built from the documents' embeddings of the base model alone, once, and never sees a query before
it is searched, as in a store that was filled before there was an adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.util import quantize_embeddings, truncate_embeddings
from torch import Tensor

from st_adapter.embeddings.corpus import Corpus, MemoryCorpus
from st_adapter.embeddings.search import Index, TopK, rescore, search

EXACT = "exact"
# HNSW: links per document and width of the search while building; with the width while searching below, the defaults
# of Chroma 1.x.
_HNSW_LINKS, _HNSW_EF_CONSTRUCTION = 16, 100
# IVF: lists per root of the number of documents, and documents per list that k-means asks for (FAISS's guidelines).
_IVF_LISTS_PER_ROOT, _IVF_TRAINING_POINTS = 4, 39
_SEED = 0


def check_index(name: str) -> str:
    """The name of an index with its number filled in, if it can be built here.

    Raises:
        ValueError: there is no such index, or its number is missing, not a number or below 1.
        ImportError: the index needs ``st-adapter[index]``, which is not installed.

    Examples:
        >>> check_index("binary")
        'binary:40'
    """
    form, colon, number = name.partition(":")
    if form not in _FORMS:
        raise ValueError(f"There is no index {name!r}. Choose from {', '.join(_usage(form) for form in _FORMS)}.")
    if _FORMS[form].needs_faiss:
        _faiss()
    parameter, default = _FORMS[form].parameter, _FORMS[form].default
    if parameter is None:
        if colon:
            raise ValueError(f"The index {form!r} takes no number, but {name!r} was given. Leave it out.")
        return form
    if not colon and default is not None:
        return f"{form}:{default}"
    if not (number.isascii() and number.isdecimal() and int(number) >= 1):
        raise ValueError(f"The index {name!r} is not in the form {_usage(form)} with {parameter} >= 1.")
    return f"{form}:{int(number)}"


def build_index(corpus: Corpus, name: str) -> Index:
    """Build an index over all documents of a corpus.

    ================================ =================================================================================
    ``exact``                        Every document, full precision.
    ``truncate:DIM``                 Documents and queries cut to their first DIM dimensions, as the base model's
                                     ``truncate_dim`` does after its last module, and brought back to unit length if
                                     the similarity is cosine (Kusupati et al. 2022, "Matryoshka representation
                                     learning"; a model not trained that way loses more).
    ``int8``                         Documents as int8 with the ranges of their own dimensions, queries in full
                                     precision: FAISS's and Milvus's SQ8, and the scores that Sentence Transformers
                                     rescores with.
    ``int8-both``                    The query is brought to int8 too, with the ranges of the documents; what lies
                                     outside of them is clipped.
    ``binary[:CANDIDATES]``          One bit per dimension. The nearest documents by Hamming distance between bits,
                                     scored again as the dot product of the query in full precision with the
                                     document's bits (Yamada, Asai & Hajishirzi 2021, "Efficient passage retrieval with
                                     hashing for open-domain question answering"). Nothing but bits is stored.
    ``binary-rescored[:CANDIDATES]`` The same candidates, scored again with the documents in full precision, as Qdrant
                                     and pgvector's guide do, which keep these on disk.
    ``hnsw[:EF_SEARCH]``             FAISS: graph (Malkov & Yashunin 2020, "Efficient and robust approximate nearest
                                     neighbor search using hierarchical navigable small world graphs"), 16 links,
                                     ef_construction 100.
    ``ivf[:NPROBE]``                 FAISS: inverted lists around k-means centres, about 4 sqrt(N) of them, the nearest
                                     NPROBE searched (Jégou, Douze & Schmid 2011, "Product quantization for nearest
                                     neighbor search", without the quantisation).
    ================================ =================================================================================

    Numbers left out are 40 candidates (a client that wants 10 documents and takes four times as many), ef_search 100
    (Chroma's and, by way of ef_construct, Qdrant's default) and nprobe 8 (Milvus's). They are those of one search,
    however deep the metrics look: an index with 40 candidates returns no more than 40 documents. So a shallower search
    is the beginning of a deeper one, and nDCG@10 does not depend on which other cut-offs are asked for.

    Building is seeded and the same every time; FAISS therefore works on one thread.

    Args:
        corpus: the documents; they are read into memory.
        name: as in the table.

    Returns:
        A function of (Q, D) query embeddings, of unit length if the similarity is cosine, and k.

    Raises:
        ValueError: there is no such index, or it has more dimensions than the documents.
        ImportError: the index needs ``st-adapter[index]``, which is not installed.

    Examples:
        >>> build_index(MemoryCorpus(["a", "b"], torch.eye(2)), "int8")(torch.ones(1, 2), 1).indices.tolist()
        [[0]]
    """
    form, _, number = check_index(name).partition(":")
    return _FORMS[form].build(MemoryCorpus.of(corpus), int(number or 0))


def describe_index(name: str) -> str:
    """An index in words.

    Examples:
        >>> describe_index("truncate:64")
        'first 64 dimensions'
    """
    form, _, number = name.partition(":")
    return _FORMS[form].words.format(number)


# --- exact search over fewer numbers ---


def _exact(corpus: MemoryCorpus, _: int) -> Index:
    return corpus.search


def _truncated(corpus: MemoryCorpus, dimension: int) -> Index:
    if dimension > corpus.dimension:
        raise ValueError(
            f"The index truncate:{dimension} was asked for, but the embeddings have {corpus.dimension} dimensions."
        )

    def cut(embeddings: Tensor) -> Tensor:
        kept = truncate_embeddings(embeddings, dimension)
        return torch.nn.functional.normalize(kept) if corpus.similarity == "cosine" else kept.contiguous()

    documents = cut(corpus.embeddings)  # (N, dimension)
    return lambda queries, k: search(cut(queries), documents, k)


def _int8(corpus: MemoryCorpus, _: int) -> Index:
    documents = _int8_round_trip(corpus)(corpus.embeddings)
    return lambda queries, k: search(queries, documents, k)


def _int8_both(corpus: MemoryCorpus, _: int) -> Index:
    through_int8 = _int8_round_trip(corpus)
    documents = through_int8(corpus.embeddings)
    return lambda queries, k: search(through_int8(queries), documents, k)


def _int8_round_trip(corpus: MemoryCorpus) -> Callable[[Tensor], Tensor]:
    """Embeddings as they come back from int8 with the ranges of the documents."""
    documents = _numpy(corpus.embeddings)
    ranges = np.stack([documents.min(axis=0), documents.max(axis=0)])  # (2, D)

    def round_trip(embeddings: Tensor) -> Tensor:
        codes = quantize_embeddings(_numpy(embeddings), "int8", ranges=ranges)
        # Codes are rounded down from 255 steps; half a step up lies the middle, where FAISS decodes to as well.
        shares = (codes.astype(np.float32) + 128.5) / 255
        return torch.from_numpy(ranges[0] + shares * (ranges[1] - ranges[0])).to(embeddings)

    return round_trip


def _binary(corpus: MemoryCorpus, num_candidates: int) -> Index:
    signs = _signs(corpus.embeddings)
    return _hamming_index(signs, signs, num_candidates)


def _binary_rescored(corpus: MemoryCorpus, num_candidates: int) -> Index:
    return _hamming_index(_signs(corpus.embeddings), corpus.embeddings, num_candidates)


def _hamming_index(signs: Tensor, rescored_with: Tensor, num_candidates: int) -> Index:
    def index(queries: Tensor, k: int) -> TopK:
        # The dot product of two rows of signs is D - 2 times their Hamming distance, and exact in float32.
        candidates = search(_signs(queries), signs, num_candidates).indices
        return _first(rescore(queries, rescored_with, candidates), k)

    return index


def _signs(embeddings: Tensor) -> Tensor:
    """The bits of binary embeddings as +1 and -1, (N, D)."""
    bits = np.unpackbits(quantize_embeddings(_numpy(embeddings), "ubinary"), axis=1, count=embeddings.shape[1])
    return torch.from_numpy(2 * bits.astype(np.float32) - 1).to(embeddings)


# --- approximate search ---


def _hnsw(corpus: MemoryCorpus, ef_search: int) -> Index:
    faiss = _faiss()
    graph = faiss.IndexHNSWFlat(corpus.dimension, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = _HNSW_EF_CONSTRUCTION
    graph.hnsw.efSearch = ef_search
    with _one_thread(faiss):
        graph.add(_numpy(corpus.embeddings))

    def index(queries: Tensor, k: int) -> TopK:
        # Asked for more than ef_search documents, FAISS searches wider: always ask for the same number.
        with _one_thread(faiss):
            _, found = graph.search(_numpy(queries), ef_search)
        return _first(rescore(queries, corpus.embeddings, torch.from_numpy(found).to(queries.device)), k)

    return index


def _ivf(corpus: MemoryCorpus, nprobe: int) -> Index:
    faiss = _faiss()
    num_documents = len(corpus)
    num_lists = min(round(_IVF_LISTS_PER_ROOT * math.sqrt(num_documents)), num_documents // _IVF_TRAINING_POINTS)
    lists = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(corpus.dimension), corpus.dimension, max(1, num_lists), faiss.METRIC_INNER_PRODUCT
    )
    lists.cp.seed = _SEED
    lists.cp.min_points_per_centroid = 1  # a single list needs no warning
    lists.nprobe = nprobe
    documents = _numpy(corpus.embeddings)
    with _one_thread(faiss):
        lists.train(documents)
        lists.add(documents)

    def index(queries: Tensor, k: int) -> TopK:
        # Some more than asked for: FAISS may have rounded the order of the last ones another way.
        with _one_thread(faiss):
            _, found = lists.search(_numpy(queries), min(k + 8, num_documents))
        return _first(rescore(queries, corpus.embeddings, torch.from_numpy(found).to(queries.device)), k)

    return index


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "Approximate indexes need FAISS, which is not installed. Install it with: pip install 'st-adapter[index]'"
        ) from error
    return faiss


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    """Keep FAISS to one thread.

    Threads that add documents to a graph at the same time make another graph on every run; and on macOS FAISS's
    threads crash beside PyTorch's, because both packages bring an OpenMP of their own (faiss-wheels issue 73).
    """
    num_threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(num_threads)


# --- shared by the indexes ---


def _numpy(embeddings: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(embeddings.cpu().numpy(), dtype=np.float32)


def _first(found: TopK, k: int) -> TopK:
    return TopK(found.scores[:, :k], found.indices[:, :k])


class _IndexForm(NamedTuple):
    """How to build an index, what it is in words, and what the number after its name means."""

    build: Callable[[MemoryCorpus, int], Index]
    words: str
    parameter: str | None = None
    default: int | None = None
    needs_faiss: bool = False


_FORMS = {
    EXACT: _IndexForm(_exact, "exact search, full precision"),
    "truncate": _IndexForm(_truncated, "first {} dimensions", "DIM"),
    "int8": _IndexForm(_int8, "int8 documents"),
    "int8-both": _IndexForm(_int8_both, "int8 documents and queries"),
    "binary": _IndexForm(_binary, "binary documents, {} candidates rescored by their bits", "CANDIDATES", 40),
    "binary-rescored": _IndexForm(
        _binary_rescored, "binary documents, {} candidates rescored in full precision", "CANDIDATES", 40
    ),
    "hnsw": _IndexForm(_hnsw, "HNSW graph, ef_search {}", "EF_SEARCH", 100, needs_faiss=True),
    "ivf": _IndexForm(_ivf, "inverted lists, nprobe {}", "NPROBE", 8, needs_faiss=True),
}


def _usage(form: str) -> str:
    parameter, default = _FORMS[form].parameter, _FORMS[form].default
    if parameter is None:
        return form
    return f"{form}:{parameter}" if default is None else f"{form}[:{parameter}]"
