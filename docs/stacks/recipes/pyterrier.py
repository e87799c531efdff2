# /// script
# requires-python = ">=3.10"
# dependencies = ["pyterrier-dr", "python-terrier", "sentence-transformers"]
# ///
"""PyTerrier: subclass `BiEncoder` of pyterrier-dr, whose `SBertBiEncoder` calls plain `encode` for both sides."""

from pathlib import Path

import pandas as pd
from pyterrier_dr import BiEncoder, FlexIndex
from sentence_transformers import SentenceTransformer


class AdaptedBiEncoder(BiEncoder):
    def __init__(self, model_path):
        super().__init__()
        self.model = SentenceTransformer(model_path)

    def encode_queries(self, texts, batch_size=None):
        return self.model.encode_query(list(texts), batch_size=batch_size or self.batch_size)

    def encode_docs(self, texts, batch_size=None):
        return self.model.encode_document(list(texts), batch_size=batch_size or self.batch_size)


def embedders(model_path, query_model_path):
    encoder = AdaptedBiEncoder(model_path)

    def embed_query(texts):
        return list(encoder.query_encoder()(pd.DataFrame({"qid": texts, "query": texts}))["query_vec"])

    def embed_documents(texts):
        return list(encoder.doc_encoder()(pd.DataFrame({"docno": texts, "text": texts}))["doc_vec"])

    return embed_query, embed_documents


def opened(folder):
    return FlexIndex(str(Path(folder) / "documents.flex"), verbose=False)


def index(folder, base_model_path, documents):
    pipeline = AdaptedBiEncoder(base_model_path) >> opened(folder)
    pipeline.index([{"docno": corpus_id, "text": text} for corpus_id, text in documents.items()])


def search(folder, model_path, queries, k):
    pipeline = AdaptedBiEncoder(model_path) >> opened(folder).np_retriever(num_results=k)
    topics = pd.DataFrame({"qid": [str(number) for number in range(len(queries))], "query": queries})
    found = pipeline(topics).sort_values("rank").groupby("qid")
    hits = {qid: list(zip(rows["docno"], rows["score"], strict=True)) for qid, rows in found}
    return [hits[qid] for qid in topics["qid"]]


def stored_vectors(folder):
    return {row["docno"]: row["doc_vec"] for row in opened(folder).get_corpus_iter(verbose=False)}
