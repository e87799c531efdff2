"""What a user can look at: report, learning curve, indexes, examples, files for other evaluation tools."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from st_adapter.evidence.against import SavedComparison as SavedComparison
    from st_adapter.evidence.against import compare_saved as compare_saved
    from st_adapter.evidence.curve import LearningCurve as LearningCurve
    from st_adapter.evidence.curve import learning_curve as learning_curve
    from st_adapter.evidence.evaluator import GradedRetrievalEvaluator as GradedRetrievalEvaluator
    from st_adapter.evidence.index_evaluation import IndexEvaluation as IndexEvaluation
    from st_adapter.evidence.index_evaluation import evaluate_indexes as evaluate_indexes
    from st_adapter.evidence.indexes import build_index as build_index
    from st_adapter.evidence.mteb import mteb_task as mteb_task
    from st_adapter.evidence.output_folder import current_run as current_run
    from st_adapter.evidence.report import write_report as write_report
    from st_adapter.evidence.saved import evaluate_saved as evaluate_saved
    from st_adapter.evidence.trec import write_trec as write_trec
    from st_adapter.evidence.versions import Version as Version
    from st_adapter.evidence.versions import rollback as rollback
    from st_adapter.evidence.versions import versions_of as versions_of
else:
    from st_adapter.lazy import names_on_demand

    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "against": ["SavedComparison", "compare_saved"],
            "curve": ["LearningCurve", "learning_curve"],
            "evaluator": ["GradedRetrievalEvaluator"],
            "index_evaluation": ["IndexEvaluation", "evaluate_indexes"],
            "indexes": ["build_index"],
            "mteb": ["mteb_task"],
            "output_folder": ["current_run"],
            "report": ["write_report"],
            "saved": ["evaluate_saved"],
            "trec": ["write_trec"],
            "versions": ["Version", "rollback", "versions_of"],
        },
    )
