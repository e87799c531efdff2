"""What several tests share: texts, adapters with known weights, and embedded data sets with a known answer."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from st_adapter.adapter import Kind, QueryAdapter
from st_adapter.embeddings.corpus import MemoryCorpus, Similarity
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedQrels, EmbeddedSplit
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.storage.manifest import Manifest
from st_adapter.storage.vector_parts import write_part
from st_adapter.stores.folder import VectorFolder

ROOT = Path(__file__).parents[1]
KINDS = get_args(Kind)
TEXTS = ["open a file", "close the file", "read the line number of a list", "x" * 200, "what?"]
# Of pairs whose two sides name things differently.
COLORS = ["red", "green", "blue", "black", "white", "yellow", "grey", "brown"]
THINGS = ["car", "house", "river", "mountain", "book", "table", "window", "garden", "bird", "train"]
DIM = 16


# Folders of vectors


def written_vectors(
    folder: Path, vectors: np.ndarray, sizes: list[int], normalized: bool = False, **manifest: Any
) -> VectorFolder:
    """A folder of parts of these sizes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    first = 0
    for size in sizes:
        ids = [f"d{row}" for row in range(first, first + size)]
        write_part(folder / f"part-{first:03d}.parquet", ids, vectors[first : first + size], normalized)
        first += size
    identity = EncoderIdentity.probed("made up", torch.ones(2, vectors.shape[1])).to_dict()
    facts = {"role": "document", "count": len(vectors), **manifest}
    Manifest(
        identity, prompt="", dimension=vectors.shape[1], dtype=str(vectors.dtype), normalized=normalized, **facts
    ).write(folder)
    return VectorFolder(folder)


# Adapters and models


def trained(adapter: QueryAdapter, scale: float = 0.1, seed: int = 0) -> QueryAdapter:
    """Move every weight by a random amount, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return adapter


def unit_rows(num_rows: int, dimension: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(num_rows, dimension, generator=generator), dim=1)


def apply(modules: list[nn.Module], embeddings: Tensor) -> Tensor:
    features = {"sentence_embedding": embeddings}
    for module in modules:
        features = module(features)
    return features["sentence_embedding"]


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make_adapter(kind: Kind = "linear", *, bias: bool = False, normalize: bool = True) -> QueryAdapter:
    """The same weights at every call, so that a second process can be compared with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = QueryAdapter(32, kind, rank=4, hidden_dim=16, bias=bias, normalize=normalize)
    return trained(adapter, scale=0.2)


def adapted_queries(adapter: QueryAdapter, model: SentenceTransformer) -> np.ndarray:
    with torch.no_grad():
        return adapter.transform(torch.from_numpy(model.encode_query(TEXTS))).numpy()


def assert_adapted(model: SentenceTransformer, base: SentenceTransformer, adapter: QueryAdapter) -> None:
    np.testing.assert_allclose(model.encode_query(TEXTS), adapted_queries(adapter, base), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(model.encode_document(TEXTS), base.encode_document(TEXTS))
    np.testing.assert_array_equal(model.encode(TEXTS), base.encode(TEXTS))


# Embedded data sets


def corpus_of(documents: Tensor, similarity: Similarity = "cosine") -> MemoryCorpus:
    """Documents d0, d1, ... with the rows of a matrix."""
    return MemoryCorpus([f"d{row}" for row in range(len(documents))], documents, similarity)


def qrels_of(judgements):
    """Of triples (query, document, relevance), or of a dictionary (query, document) -> relevance; all by row."""
    if isinstance(judgements, dict):
        judgements = [(*pair, relevance) for pair, relevance in judgements.items()]
    query, document, relevance = zip(*judgements, strict=True)
    return EmbeddedQrels(torch.tensor(query), torch.tensor(document), torch.tensor([float(each) for each in relevance]))


def split_of(queries, documents, judgements=((0, 0, 1.0),), *, name="test", similarity="cosine", **fields):
    """Queries q0, q1, ... and documents d0, d1, ... with the rows of two matrices."""
    ids = [f"q{row}" for row in range(len(queries))]
    return EmbeddedSplit(name, ids, queries, corpus_of(documents, similarity), qrels_of(judgements), **fields)


def dataset_of(queries, documents, judgements, *, similarity="cosine", normalized=True):
    """The same with judgements by split."""
    ids = [f"q{row}" for row in range(len(queries))]
    qrels = {name: qrels_of(judged) for name, judged in judgements.items()}
    return EmbeddedDataset(ids, queries, corpus_of(documents, similarity), qrels, normalized)


def rotated_problem(seed=0, num_queries=240, num_documents=160, noise=0.05):
    """Queries are their document turned by an unknown rotation, so a linear adapter can put everything right."""
    generator = torch.Generator().manual_seed(seed)
    documents = torch.nn.functional.normalize(torch.randn(num_documents, DIM, generator=generator))
    turn = 0.25 * torch.randn(DIM, DIM, generator=generator)
    rotation = torch.linalg.matrix_exp(turn - turn.T)
    answers = torch.randint(0, num_documents, (num_queries,), generator=generator)
    queries = documents[answers] @ rotation + noise * torch.randn(num_queries, DIM, generator=generator)
    cut, end = int(0.6 * num_queries), int(0.8 * num_queries)
    pairs = [(query, document, 1.0) for query, document in enumerate(answers.tolist())]
    judgements = {"train": pairs[:cut], "dev": pairs[cut:end], "test": pairs[end:]}
    return dataset_of(torch.nn.functional.normalize(queries), documents, judgements)


def attacking_pairs(attack, before=""):
    """Eighty pairs with something to learn, whose texts end in something that is not to be taken for markup."""
    return [
        {
            "question": f"where is the {color} {thing} {attack}",
            "passage": f"{thing} : {before}this {thing} has the color {color} {attack}" + "x" * 300,
        }
        for color in COLORS
        for thing in THINGS
    ]


def with_wrong_labels(embedded, seed=0, splits=("train", "dev", "test")):
    """The same data with the documents of some splits dealt out to their queries at random."""
    generator = torch.Generator().manual_seed(seed)
    qrels = dict(embedded.qrels)
    for split in splits:
        order = torch.randperm(len(qrels[split].corpus_index), generator=generator)
        qrels[split] = qrels[split]._replace(corpus_index=qrels[split].corpus_index[order])
    return replace(embedded, qrels=qrels)


def random_split(seed, num_queries=6, num_documents=15, dim=8, repeated=True):
    """Random unit vectors, graded judgements in no order, and a repeated document so that ties occur."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.nn.functional.normalize(torch.randn(num_queries, dim, generator=generator))
    documents = torch.nn.functional.normalize(torch.randn(num_documents, dim, generator=generator))
    if repeated:
        documents[num_documents // 2] = documents[0]
    judged = torch.rand(num_queries, num_documents, generator=generator) < 0.4
    judged[torch.arange(num_queries), torch.arange(num_queries) % num_documents] = True
    pairs = judged.nonzero()[torch.randperm(int(judged.sum()), generator=generator)]
    grades = torch.randint(0, 4, (len(pairs),), generator=generator).float()
    grades[pairs[:, 0] == pairs[:, 1]] = 2.0
    return split_of(queries, documents, [*zip(*pairs.T.tolist(), grades.tolist(), strict=True)])
