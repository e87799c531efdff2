"""Teach a Sentence Transformers model your domain without re-embedding a single document.

A small adapter, fitted on (query, relevant document) pairs, changes query embeddings only; the base model, the
documents' embeddings and every index built on them stay as they are.
"""

__version__ = "0.1.0"

from st_adapter.adapter import QueryAdapter
from st_adapter.auto import FitResult, fit
from st_adapter.data import RetrievalDataset
from st_adapter.embeddings import EmbeddedDataset, EmbeddedQrels, EmbeddedSplit, embed, model_fingerprint
from st_adapter.evaluation import EvaluationResult, adapt, evaluate
from st_adapter.metrics import ranking_metrics, run_metrics
from st_adapter.model import attach, detach, save_pretrained
from st_adapter.pipeline import TrainingRun, evaluate_saved, run_training
from st_adapter.retrieval import search
from st_adapter.stack_check import StackCheck, StackProblem, check_stack
from st_adapter.trainer import AdapterTrainer
from st_adapter.training_args import AdapterTrainingArguments

__all__ = [
    "AdapterTrainer",
    "AdapterTrainingArguments",
    "EmbeddedDataset",
    "EmbeddedQrels",
    "EmbeddedSplit",
    "EvaluationResult",
    "FitResult",
    "QueryAdapter",
    "RetrievalDataset",
    "StackCheck",
    "StackProblem",
    "TrainingRun",
    "__version__",
    "adapt",
    "attach",
    "check_stack",
    "detach",
    "embed",
    "evaluate",
    "evaluate_saved",
    "fit",
    "model_fingerprint",
    "ranking_metrics",
    "run_metrics",
    "run_training",
    "save_pretrained",
    "search",
]
