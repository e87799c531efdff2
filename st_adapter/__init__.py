"""Teach a Sentence Transformers model your domain without re-embedding a single document.

A small adapter, fitted on (query, relevant document) pairs, changes query embeddings only; the base model, the
documents' embeddings and every index built on them stay as they are.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from st_adapter.adapter import QueryAdapter
    from st_adapter.data import RetrievalDataset
    from st_adapter.embeddings import EmbeddedDataset, EmbeddedQrels, EmbeddedSplit, embed
    from st_adapter.evaluation import EvaluationResult, evaluate
    from st_adapter.evidence import GradedRetrievalEvaluator, learning_curve
    from st_adapter.fitting import AdapterTrainingArguments, FitResult, fit
    from st_adapter.running import Result, train
    from st_adapter.saving import from_pretrained, push_adapter, push_to_hub, save_adapter, save_pretrained
    from st_adapter.saving.attach import attach, detach
    from st_adapter.stacks import check_stack
    from st_adapter.trainer import AdapterTrainer
else:
    from st_adapter.lazy import names_on_demand

    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "data": ["RetrievalDataset"],
            "embeddings": ["EmbeddedDataset", "EmbeddedQrels", "EmbeddedSplit", "embed"],
            "adapter": ["QueryAdapter"],
            "evaluation": ["EvaluationResult", "evaluate"],
            "fitting": ["AdapterTrainingArguments", "FitResult", "fit"],
            "saving": ["from_pretrained", "push_adapter", "push_to_hub", "save_adapter", "save_pretrained"],
            "saving.attach": ["attach", "detach"],
            "trainer": ["AdapterTrainer"],
            "evidence": ["GradedRetrievalEvaluator", "learning_curve"],
            "stacks": ["check_stack"],
            "running": ["Result", "train"],
        },
        # Public here in version 0.1, and at home in these rooms.
        former={
            "data": ["LeakReport", "drop_leaks", "find_leaks as check_leaks"],
            "embeddings": ["EncoderIdentity as BaseModel", "model_fingerprint"],
            "embeddings.search": ["search"],
            "evaluation": ["Comparison", "adapt", "ranking_metrics", "run_metrics", "seen_documents"],
            "saving": ["SplitScores", "TrainingRecord", "export_onnx", "push_folder"],
            "evidence": [
                "IndexEvaluation",
                "LearningCurve",
                "build_index",
                "evaluate_indexes",
                "evaluate_saved",
                "mteb_task",
                "write_report",
                "write_trec",
            ],
            "stacks": ["StackCheck", "StackProblem"],
        },
    )

__all__ = [
    "AdapterTrainer",
    "AdapterTrainingArguments",
    "EmbeddedDataset",
    "EmbeddedQrels",
    "EmbeddedSplit",
    "EvaluationResult",
    "FitResult",
    "GradedRetrievalEvaluator",
    "QueryAdapter",
    "Result",
    "RetrievalDataset",
    "__version__",
    "attach",
    "check_stack",
    "detach",
    "embed",
    "evaluate",
    "fit",
    "from_pretrained",
    "learning_curve",
    "push_adapter",
    "push_to_hub",
    "save_adapter",
    "save_pretrained",
    "train",
]
