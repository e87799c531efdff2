"""What a run gives: the model, its evidence, and the ways to keep both."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_adapter.adapter import QueryAdapter
from st_adapter.data.leaks import LeakReport
from st_adapter.evaluation.evaluation import EvaluationResult
from st_adapter.evidence.output_folder import ALONE_FOLDER, MODEL_FOLDER, current_run
from st_adapter.evidence.report import write_page
from st_adapter.evidence.results import Results
from st_adapter.evidence.tables import print_evaluation, print_systems, print_verdict
from st_adapter.evidence.terminal import Terminal
from st_adapter.evidence.verdict import RunVerdict
from st_adapter.saving.base import Base, Kept

_WIDTH = 100


@dataclass(frozen=True, repr=False)
class Result:
    """What ``train`` found; printing it shows the evidence and the verdict.

    Attributes:
        model: the base model with the adapter on its query side, or the base model as it was; None if the base is no
            Sentence Transformers model. With a query model, both in one; see ``save_joined``.
        adapter: None if the base model is kept.
        results: everything that judging and repeating the run takes.
        evaluations: split (``dev`` and, if the data have one, ``test``) -> base and adapted, per query.
        leaks: queries and documents that stand in two splits, as far as they were not dropped.
        output_dir: the folder that model and results were written to, if there is one.
        run_dir: where in it the run is kept, whichever is in use.
        instead: what becomes of the run that was in use in ``output_dir`` before; empty where there is nothing to say.
        base: what the adapter was fitted for.
        kept: what saving takes besides.
    """

    model: SentenceTransformer | None
    adapter: QueryAdapter | None
    results: Results
    evaluations: dict[str, EvaluationResult]
    leaks: LeakReport
    base: Base
    kept: Kept
    output_dir: Path | None = field(default=None, kw_only=True)
    run_dir: Path | None = field(default=None, kw_only=True)
    instead: str = field(default="", kw_only=True)

    @property
    def verdict(self) -> RunVerdict:
        """Whether to deploy the adapter, and why."""
        return self.results.verdict

    @property
    def evaluation(self) -> EvaluationResult:
        """Base and adapted on test, or else on dev, even if the adapter was fitted on it; see ``results.fitted_on``."""
        return self.evaluations.get("test") or self.evaluations["dev"]

    @property
    def model_dir(self) -> Path | None:
        """The saved model, in ``output_dir`` itself as long as this run is the one in use; None if there is none."""
        return self._saved(MODEL_FOLDER)

    @property
    def adapter_dir(self) -> Path | None:
        """The adapter saved alone in ``output_dir``, of a base that is no Sentence Transformers model; or else None."""
        return self._saved(ALONE_FOLDER)

    def encode_query(self, texts: Sequence[str]) -> Tensor:
        """The (T, D) float32 vectors of texts as queries, with the adapter if there is one.

        Args:
            texts: T queries.
        """
        return self.base.encode_query(self.adapter, texts)

    def print_to(self, console: Console) -> None:
        """Show the figures that are evidence, and the verdict."""
        for split, evaluation in self.evaluations.items():
            if split not in self.results.fitted_on:
                print_evaluation(console, evaluation, self.results.data.corpus_is_labelled_only)
        if self.results.query_model is not None:
            print_systems(console, self.results.query_model, but=self.results.fitted_on)
        print_verdict(console, self.verdict)

    def report(self, path: str | Path) -> Path:
        """Write a page that says whether to use the adapter, with figures and the queries that changed most.

        Args:
            path: the HTML file.

        Raises:
            ImportError: ``st-adapter[report]`` is not installed.
        """
        return write_page(self.results, path)

    def save_pretrained(self, output_dir: str | Path, **options: Any) -> Path:
        """Save the model so that plain Sentence Transformers opens it; the adapter alone if the base is no such model.

        Args:
            output_dir: a new or empty folder, or one that a model was saved to before.
            **options: of the function ``save_pretrained``, such as ``onnx=True``, or of ``save_adapter``.

        Raises:
            ValueError: the base is no Sentence Transformers model and is kept, so that there is nothing to save.
        """
        return self.base.save(self.adapter, output_dir, self.kept, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what ``save_pretrained`` saves to the Hugging Face Hub; returns the address of the commit.

        Args:
            repo_id: ``user/name``.
            **options: of the function ``push_to_hub`` or ``push_adapter``, such as ``private=True``.

        Raises:
            ValueError: the base model is kept, so that there is nothing new to upload; or the Hub refuses it.
        """
        if self.adapter is None:
            raise ValueError(
                f"{self.verdict.headline} There is no adapter to upload, and a copy of the base model would help "
                "nobody. Use the base model as it is."
            )
        return self.base.push(self.adapter, repo_id, self.kept, **options)

    def _saved(self, name: str) -> Path | None:
        if self.output_dir is None or self.run_dir is None or not (self.run_dir / name).is_dir():
            return None
        return (self.output_dir if current_run(self.output_dir) == self.run_dir else self.run_dir) / name

    def __str__(self) -> str:
        text = io.StringIO()
        # The same everywhere: in a notebook, a pipe and a terminal of any width.
        self.print_to(Terminal(file=text, width=_WIDTH, color_system=None, force_terminal=False, force_jupyter=False))
        return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())

    def __repr__(self) -> str:
        return f"Result({self.verdict.sentence!r})"
