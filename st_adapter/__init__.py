"""Teach a Sentence Transformers model your domain without re-embedding a single document.

A small adapter, fitted on (query, relevant document) pairs, changes query embeddings only; the base model, the
documents' embeddings and every index built on them stay as they are.
"""

__version__ = "0.1.0"

from st_adapter.adapter import QueryAdapter
from st_adapter.auto import FitResult, fit
from st_adapter.base_model import BaseModel
from st_adapter.comparison import Comparison
from st_adapter.data import RetrievalDataset
from st_adapter.embeddings import EmbeddedDataset, EmbeddedQrels, EmbeddedSplit, embed
from st_adapter.evaluation import EvaluationResult, adapt, evaluate, seen_documents
from st_adapter.evaluator import GradedRetrievalEvaluator
from st_adapter.fingerprint import model_fingerprint
from st_adapter.index import IndexEvaluation, build_index, evaluate_indexes
from st_adapter.leaks import LeakReport, check_leaks, drop_leaks, regroup
from st_adapter.learning_curve import LearningCurve, learning_curve
from st_adapter.metrics import ranking_metrics, run_metrics
from st_adapter.model import attach, detach
from st_adapter.model_card import SplitScores, TrainingRecord
from st_adapter.mteb_task import mteb_task
from st_adapter.onnx_export import export_onnx
from st_adapter.pipeline import TrainingRun, evaluate_saved, run_training
from st_adapter.report import write_report
from st_adapter.repository import from_pretrained
from st_adapter.retrieval import search
from st_adapter.saving import push_folder, push_to_hub, save_pretrained
from st_adapter.stack_check import StackCheck, StackProblem, check_stack
from st_adapter.trainer import AdapterTrainer
from st_adapter.training_args import AdapterTrainingArguments
from st_adapter.trec import write_trec

__all__ = [
    "AdapterTrainer",
    "AdapterTrainingArguments",
    "BaseModel",
    "Comparison",
    "EmbeddedDataset",
    "EmbeddedQrels",
    "EmbeddedSplit",
    "EvaluationResult",
    "FitResult",
    "GradedRetrievalEvaluator",
    "IndexEvaluation",
    "LeakReport",
    "LearningCurve",
    "QueryAdapter",
    "RetrievalDataset",
    "SplitScores",
    "TrainingRecord",
    "StackCheck",
    "StackProblem",
    "TrainingRun",
    "__version__",
    "adapt",
    "attach",
    "build_index",
    "check_leaks",
    "check_stack",
    "detach",
    "drop_leaks",
    "embed",
    "evaluate",
    "evaluate_indexes",
    "evaluate_saved",
    "export_onnx",
    "fit",
    "from_pretrained",
    "learning_curve",
    "model_fingerprint",
    "push_folder",
    "push_to_hub",
    "mteb_task",
    "ranking_metrics",
    "regroup",
    "run_metrics",
    "run_training",
    "save_pretrained",
    "search",
    "seen_documents",
    "write_trec",
    "write_report",
]
