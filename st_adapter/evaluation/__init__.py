"""How well queries find their documents: search, metrics, and what a difference is worth."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from st_adapter.evaluation.comparison import Comparison as Comparison
    from st_adapter.evaluation.evaluation import EvaluationResult as EvaluationResult
    from st_adapter.evaluation.evaluation import evaluate as evaluate
    from st_adapter.evaluation.hits import adapt as adapt
    from st_adapter.evaluation.metrics import ranking_metrics as ranking_metrics
    from st_adapter.evaluation.metrics import run_metrics as run_metrics
    from st_adapter.evaluation.seen import seen_documents as seen_documents
else:
    from st_adapter.lazy import names_on_demand

    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "comparison": ["Comparison"],
            "evaluation": ["EvaluationResult", "evaluate"],
            "hits": ["adapt"],
            "metrics": ["ranking_metrics", "run_metrics"],
            "seen": ["seen_documents"],
        },
    )
