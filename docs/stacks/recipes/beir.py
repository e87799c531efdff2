# /// script
# requires-python = ">=3.10"
# dependencies = ["beir", "sentence-transformers"]
# ///
"""BEIR: pass two models to `SentenceBERT`, the first loaded from branch `query`, and the names of the prompts."""

from beir.retrieval.evaluation import EvaluateRetrieval
from beir.retrieval.models import SentenceBERT
from beir.retrieval.search.dense import DenseRetrievalExactSearch


def two_models(model_path, query_model_path):
    return SentenceBERT((query_model_path, model_path), prompt_names={"query": "query", "passage": "document"})


def embedders(model_path, query_model_path):
    model = two_models(model_path, query_model_path)
    return model.encode_queries, lambda texts: model.encode_corpus([{"title": "", "text": text} for text in texts])


def evaluate(model_path, query_model_path, documents, queries, qrels):
    corpus = {corpus_id: {"title": "", "text": text} for corpus_id, text in documents.items()}
    judged = {query: {corpus_id: int(score) for corpus_id, score in row.items()} for query, row in qrels.items()}
    retriever = EvaluateRetrieval(DenseRetrievalExactSearch(two_models(model_path, query_model_path)))
    run = retriever.retrieve(corpus, queries)
    ndcg, _, _, _ = retriever.evaluate(judged, run, [10])
    return ndcg["NDCG@10"]
