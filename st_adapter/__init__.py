"""Teach a Sentence Transformers model your domain without re-embedding a single document.

A small adapter, fitted on (query, relevant document) pairs, changes query embeddings only; the base model, the
documents' embeddings and every index built on them stay as they are.
"""

__version__ = "0.1.0"

from st_adapter.adapter import QueryAdapter
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.leaks import LeakReport, drop_leaks, find_leaks
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedQrels, EmbeddedSplit
from st_adapter.embeddings.embedding import embed
from st_adapter.embeddings.fingerprint import model_fingerprint
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.embeddings.search import search
from st_adapter.evaluation.comparison import Comparison
from st_adapter.evaluation.evaluation import EvaluationResult, evaluate
from st_adapter.evaluation.hits import adapt
from st_adapter.evaluation.metrics import ranking_metrics, run_metrics
from st_adapter.evaluation.seen import seen_documents
from st_adapter.evidence.curve import LearningCurve, learning_curve
from st_adapter.evidence.evaluator import GradedRetrievalEvaluator
from st_adapter.evidence.indexes import IndexEvaluation, build_index, evaluate_indexes
from st_adapter.evidence.mteb import mteb_task
from st_adapter.evidence.report import write_report
from st_adapter.evidence.saved import evaluate_saved
from st_adapter.evidence.trec import write_trec
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.auto import FitResult, fit
from st_adapter.result import Result
from st_adapter.run import train
from st_adapter.saving.alone import push_adapter, save_adapter
from st_adapter.saving.attach import attach, detach
from st_adapter.saving.onnx_export import export_onnx
from st_adapter.saving.opening import from_pretrained
from st_adapter.saving.push import push_folder, push_to_hub
from st_adapter.saving.record import SplitScores, TrainingRecord
from st_adapter.saving.save import save_pretrained
from st_adapter.stacks.check import StackCheck, check_stack
from st_adapter.stacks.diagnosis import StackProblem
from st_adapter.trainer import AdapterTrainer

__all__ = [
    "AdapterTrainer",
    "AdapterTrainingArguments",
    "EncoderIdentity",
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
    "Result",
    "RetrievalDataset",
    "SplitScores",
    "TrainingRecord",
    "StackCheck",
    "StackProblem",
    "__version__",
    "adapt",
    "attach",
    "build_index",
    "find_leaks",
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
    "push_adapter",
    "push_folder",
    "push_to_hub",
    "mteb_task",
    "ranking_metrics",
    "run_metrics",
    "train",
    "save_adapter",
    "save_pretrained",
    "search",
    "seen_documents",
    "write_trec",
    "write_report",
]
