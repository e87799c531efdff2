"""An evaluator for Sentence Transformers that knows graded judgements and embeddings that are already there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import SentenceEvaluator
from torch import Tensor

from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.judgements import own_copies
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedQrels, EmbeddedSplit
from st_adapter.embeddings.own_copies import OwnCopies
from st_adapter.evaluation.evaluation import evaluate

logger = logging.getLogger(__name__)


class GradedRetrievalEvaluator(SentenceEvaluator):  # type: ignore[misc]
    """Retrieval metrics of a Sentence Transformers model, for ``SentenceTransformerTrainer`` and ``model.evaluate``.

    Names, cut-offs, csv file and model card follow ``InformationRetrievalEvaluator``, so results stand side by side:
    ``cosine_ndcg@10`` and so on, means over the queries. What differs: judgements have grades; the corpus may be given
    as embeddings, so that a run which trains the query side alone embeds no document; documents with equal scores keep
    corpus order; and MAP@k divides by the number of all relevant documents, as trec_eval does, not by k where that is
    less.

    Queries are embedded with ``encode_query``, documents with ``encode_document``, and compared by the model's own
    similarity. Queries without a relevant document are left out, and so is, among a query's hits, a document with its
    very text (apart from case and spacing), unless it is judged relevant; where the corpus came as ids alone, that is
    the document with the query's id and vector.

    Args:
        queries: query_id -> text.
        corpus: corpus_id -> text; with ``corpus_embeddings`` the ids alone are enough.
        qrels: ``qrels[query_id][corpus_id] = relevance``; > 0 is relevant.
        corpus_embeddings: (N, D) embeddings of the documents in the order of ``corpus``, if they are already there; for
            models whose document side does not change.
        mrr_at_k: cut-offs of MRR, each >= 1; the others alike.
        ndcg_at_k: of nDCG; the largest is the primary metric.
        accuracy_at_k: of the share of queries with a relevant document.
        precision_recall_at_k: of precision and recall.
        map_at_k: of MAP.
        batch_size: texts per forward pass.
        name: put before the names of the metrics, and the name of the data set in the model card.
        write_csv: whether to add a line to a csv file in the output folder at each call.
        show_progress_bar: bars for embedding.

    Raises:
        ValueError: no query has a relevant document, an id of the qrels is unknown, or ids and embeddings do not fit
            together; at a call, the model compares by a distance or has another dimension.

    Examples:
        ::

            evaluator = GradedRetrievalEvaluator.from_dataset(dataset, "dev", embed(model, dataset), name="dev")
            model.evaluate(evaluator)["dev_cosine_ndcg@10"]

    Examples:
        >>> evaluator = GradedRetrievalEvaluator.from_dataset(dataset, "test")
        >>> 0 < evaluator(model)[evaluator.primary_metric] < 1
        True
    """

    def __init__(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str] | Sequence[str],
        qrels: Mapping[str, Mapping[str, float]],
        *,
        corpus_embeddings: Tensor | None = None,
        mrr_at_k: Sequence[int] = (10,),
        ndcg_at_k: Sequence[int] = (10,),
        accuracy_at_k: Sequence[int] = (1, 3, 5, 10),
        precision_recall_at_k: Sequence[int] = (1, 3, 5, 10),
        map_at_k: Sequence[int] = (100,),
        batch_size: int = 32,
        name: str = "",
        write_csv: bool = True,
        show_progress_bar: bool = False,
    ) -> None:
        super().__init__()
        self.corpus_ids = list(corpus)
        _check_judgements(queries, self.corpus_ids, qrels)
        _check_corpus(corpus, corpus_embeddings)
        # In the order of the queries, whatever order the judgements have.
        self.query_ids = [
            query_id for query_id in queries if any(relevance > 0 for relevance in qrels.get(query_id, {}).values())
        ]
        self.queries = [queries[query_id] for query_id in self.query_ids]
        self.corpus = list(corpus.values()) if isinstance(corpus, Mapping) else None
        self._qrels = _indexed(qrels, self.query_ids, self.corpus_ids)
        self._corpus_embeddings = corpus_embeddings
        self._own_copies: OwnCopies | None = None
        if self.corpus is not None:
            found = own_copies(self.queries, self.corpus)
            self._own_copies = OwnCopies(*(torch.tensor(rows, dtype=torch.int64) for rows in found))
        self._columns = [  # of the csv file, in InformationRetrievalEvaluator's order
            *(f"accuracy@{k}" for k in accuracy_at_k),
            *(f"{metric}@{k}" for k in precision_recall_at_k for metric in ("precision", "recall")),
            *(f"mrr@{k}" for k in mrr_at_k),
            *(f"ndcg@{k}" for k in ndcg_at_k),
            *(f"map@{k}" for k in map_at_k),
        ]
        self._ks = sorted({*mrr_at_k, *ndcg_at_k, *accuracy_at_k, *precision_recall_at_k, *map_at_k})
        self._primary = f"ndcg@{max(ndcg_at_k)}"
        self.batch_size = batch_size
        self.name = name
        self.write_csv = write_csv
        self.show_progress_bar = show_progress_bar
        self.csv_file = f"Graded-Retrieval_evaluation{'_' if name else ''}{name}_results.csv"

    @classmethod
    def from_dataset(
        cls, dataset: RetrievalDataset, split: str, embedded: EmbeddedDataset | None = None, **options: Any
    ) -> GradedRetrievalEvaluator:
        """Evaluate on a split of a retrieval data set.

        Args:
            dataset: queries, corpus and judgements.
            split: the split to evaluate on.
            embedded: the same data set embedded; if given, no document is embedded again.
            **options: those of the class.

        Raises:
            ValueError: there is no such split, or ``embedded`` is of other documents.
        """
        judged = dataset.judgements(split)
        query_texts, document_texts = dataset.all_texts("GradedRetrievalEvaluator")
        corpus = dict(zip(dataset.corpus["id"], document_texts, strict=True))
        if embedded is not None:
            if list(embedded.corpus.ids) != list(corpus):
                raise ValueError(
                    f"The embedded data set has {len(embedded.corpus)} documents, this one {len(corpus)}, or they "
                    "have other ids or another order. Pass embed(model, dataset) of the same data set."
                )
            options["corpus_embeddings"] = MemoryCorpus.of(embedded.corpus).embeddings
        qrels: dict[str, dict[str, float]] = {}
        for query_id, corpus_id, relevance in zip(
            *(judged[name] for name in ("query_id", "corpus_id", "relevance")), strict=True
        ):
            qrels.setdefault(query_id, {})[corpus_id] = relevance
        return cls(dict(zip(dataset.queries["id"], query_texts, strict=True)), corpus, qrels, **options)

    def __call__(
        self, model: SentenceTransformer, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Evaluate a model.

        Args:
            model: any Sentence Transformers model that compares by cosine or dot product.
            output_path: folder of the csv file.
            epoch: epoch of the training, -1 outside.
            steps: step of the training, -1 at the end of an epoch.

        Returns:
            Metric -> mean over the queries, 0-1.
        """
        similarity = str(getattr(model.similarity_fn_name, "value", model.similarity_fn_name))
        if similarity not in ("cosine", "dot"):
            raise ValueError(
                f"The model compares by {similarity!r}, but this evaluator can do cosine and dot product only. Load it "
                "with similarity_fn_name='cosine' or 'dot' if your index compares that way."
            )
        options = {
            "batch_size": self.batch_size,
            "show_progress_bar": self.show_progress_bar,
            "convert_to_tensor": True,
        }
        query_embeddings = model.encode_query(self.queries, **options)
        if self._corpus_embeddings is not None:
            corpus_embeddings = self._corpus_embeddings = self._corpus_embeddings.to(query_embeddings.device)
        else:
            corpus_embeddings = model.encode_document(self.corpus, **options)
        device, copies = query_embeddings.device, self._own_copies
        split = EmbeddedSplit(
            name=self.name,
            query_ids=self.query_ids,
            query_embeddings=query_embeddings,
            corpus=MemoryCorpus(self.corpus_ids, corpus_embeddings, "cosine" if similarity == "cosine" else "dot"),
            qrels=EmbeddedQrels(*(part.to(device) for part in self._qrels)),
            own_copies=None if copies is None else OwnCopies(*(part.to(device) for part in copies)),
        )
        means = evaluate(split, ks=self._ks).base_means
        metrics = {f"{similarity}_{metric}": means[metric] for metric in self._columns}
        if output_path is not None and self.write_csv:
            self._write_csv(Path(output_path), similarity, [epoch, steps, *metrics.values()])
        self.primary_metric = f"{similarity}_{self._primary}"
        metrics = dict(self.prefix_name_to_metrics(metrics, self.name))
        for metric, value in metrics.items():
            logger.info("%s: %.4f", metric, value)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the evaluation."""
        config = {"num_queries": len(self.query_ids), "num_documents": len(self.corpus_ids)}
        return config if self._corpus_embeddings is None else {**config, "precomputed_corpus_embeddings": True}

    def _write_csv(self, folder: Path, similarity: str, row: Sequence[float]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.csv_file
        lines = [",".join(map(str, row))]
        if not path.is_file():
            written = {"ndcg": "NDCG", "mrr": "MRR", "map": "MAP"}
            titles = [(written.get(name, name.capitalize()), k) for name, k in (c.split("@") for c in self._columns)]
            lines.insert(0, ",".join(["epoch", "steps", *(f"{similarity}-{name}@{k}" for name, k in titles)]))
        with path.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def _indexed(
    qrels: Mapping[str, Mapping[str, float]], query_ids: Sequence[str], corpus_ids: Sequence[str]
) -> EmbeddedQrels:
    """The judgements of some queries as indices."""
    corpus_rows = {corpus_id: row for row, corpus_id in enumerate(corpus_ids)}
    pairs = [
        (row, corpus_rows[corpus_id], float(relevance))
        for row, query_id in enumerate(query_ids)
        for corpus_id, relevance in qrels[query_id].items()
    ]
    return EmbeddedQrels(*(torch.tensor(column) for column in zip(*pairs, strict=True)))


def _check_judgements(
    queries: Mapping[str, str], corpus_ids: Sequence[str], qrels: Mapping[str, Mapping[str, float]]
) -> None:
    if not any(relevance > 0 for judged in qrels.values() for relevance in judged.values()):
        raise ValueError(
            f"None of the {len(qrels)} queries of the qrels has a relevant document, so there is nothing to "
            "measure. Check the relevance scores: > 0 is relevant."
        )
    _check_known("query_ids", qrels, queries, "queries")
    _check_known("corpus_ids", {c for judged in qrels.values() for c in judged}, dict.fromkeys(corpus_ids), "corpus")


def _check_corpus(corpus: Mapping[str, str] | Sequence[str], corpus_embeddings: Tensor | None) -> None:
    if corpus_embeddings is not None and len(corpus_embeddings) != len(corpus):
        raise ValueError(
            f"corpus_embeddings have {len(corpus_embeddings)} rows, but the corpus has {len(corpus)} ids. "
            "Pass one row per document, in the same order."
        )
    if corpus_embeddings is None and not isinstance(corpus, Mapping):
        raise ValueError(
            "The corpus came as ids alone and without corpus_embeddings. Pass corpus_id -> text, or the embeddings."
        )


def _check_known(what: str, given: Mapping[str, Any] | set[str], known: Mapping[str, Any], where: str) -> None:
    unknown = sorted(one for one in given if one not in known)
    if unknown:
        raise ValueError(
            f"{len(unknown)} {what} of the qrels are not in the {where}, the first: {unknown[:3]}. "
            f"Add them to the {where}, or take them out of the qrels."
        )
