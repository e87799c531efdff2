# /// script
# requires-python = ">=3.10"
# dependencies = ["mteb"]
# ///
"""mteb: pass the model as it is to `mteb.evaluate`, which calls `encode_query` and `encode_document`."""

import mteb
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from sentence_transformers import SentenceTransformer


class OwnData(AbsTaskRetrieval):
    metadata = TaskMetadata(
        name="OwnData",
        description="Retrieval on data of your own.",
        type="Retrieval",
        dataset={"path": "own/data", "revision": "1"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    def __init__(self, documents, queries, qrels):
        super().__init__()
        self.texts, self.qrels = (documents, queries), qrels

    def load_data(self, **kwargs):
        corpus, queries = (Dataset.from_dict({"id": list(texts), "text": list(texts.values())}) for texts in self.texts)
        relevant = {
            query: {corpus_id: int(score) for corpus_id, score in row.items()} for query, row in self.qrels.items()
        }
        split = {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": None}
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


def evaluate(model_path, documents, queries, qrels):
    task = OwnData(documents, queries, qrels)
    result = mteb.evaluate(SentenceTransformer(model_path), task, cache=None)
    return result.task_results[0].scores["test"][0]["ndcg_at_10"]
