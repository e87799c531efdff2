"""The settings of a training run."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from transformers import SchedulerType
from transformers.trainer_utils import IntervalStrategy

NegativePool = Literal["corpus", "positives", "batch"]


@dataclass(frozen=True)
class AdapterTrainingArguments:
    """Settings of ``AdapterTrainer``; names as in ``transformers.TrainingArguments`` wherever the meaning is the same.

    Raises:
        ValueError: a value is out of its range; the message names it.
    """

    output_dir: str = "adapter_output"
    """Folder that ``save_model()`` and logging callbacks write to."""
    kind: Literal["linear", "low_rank", "mlp"] = "linear"
    """Form of the adapter: a full matrix, a matrix of low rank, or a network with one hidden layer; all residual."""
    rank: int = 32
    """Rank of a low_rank adapter."""
    hidden_dim: int = 128
    """Hidden units of an mlp adapter."""
    num_train_epochs: int = 30
    """Passes over the training queries at most; the best evaluation is kept."""
    per_device_train_batch_size: int = 64
    """Queries per step."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.0
    """Decoupled decay of the adapter's weights, that is, towards the base model."""
    lr_scheduler_type: str = "cosine"
    """Name of a transformers scheduler."""
    warmup_ratio: float = 0.05
    """Share of the steps in which the learning rate rises from 0."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled back to it."""
    scale: float = 20.0
    """Factor on the similarities before the softmax, 1 / temperature."""
    negatives: NegativePool = "positives"
    """Documents a query is trained against: the whole corpus, those that are a positive of some training query, or
    those of the same batch. The whole corpus pushes away documents nobody asked for yet, so it pays only where queries
    to come ask for the same documents as the training queries."""
    eval_strategy: Literal["epoch", "steps"] = "epoch"
    """When to evaluate on the dev split."""
    eval_steps: int = 50
    """Steps between evaluations with eval_strategy 'steps'."""
    early_stopping_patience: int = 5
    """Stop after this many evaluations without a new best."""
    logging_steps: int = 10
    """Steps between entries of the training loss in the log."""
    seed: int = 0
    """Seed of the order of the queries and of random weights."""
    disable_tqdm: bool = False
    """Hide progress bars."""

    def __post_init__(self) -> None:
        for name in (
            "rank",
            "hidden_dim",
            "num_train_epochs",
            "per_device_train_batch_size",
            "eval_steps",
            "early_stopping_patience",
            "logging_steps",
        ):
            _require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "scale", "max_grad_norm"):
            _require(self, name, 0 < getattr(self, name) < float("inf"), "a number above 0")
        _require(self, "weight_decay", self.weight_decay >= 0, "at least 0")
        _require(self, "warmup_ratio", 0 <= self.warmup_ratio < 1, "at least 0 and below 1")
        _require(self, "kind", self.kind in ("linear", "low_rank", "mlp"), "linear, low_rank or mlp")
        _require(self, "negatives", self.negatives in ("corpus", "positives", "batch"), "corpus, positives or batch")
        _require(self, "eval_strategy", self.eval_strategy in ("epoch", "steps"), "epoch or steps")
        schedulers = [scheduler.value for scheduler in SchedulerType]
        _require(self, "lr_scheduler_type", self.lr_scheduler_type in schedulers, f"one of {', '.join(schedulers)}")

    # What follows is read by transformers' own callbacks, which take these settings for TrainingArguments.

    @property
    def metric_for_best_model(self) -> str:
        """The metric by which the best step is kept."""
        return "eval_ndcg@10"

    @property
    def greater_is_better(self) -> bool:
        """Higher is better."""
        return True

    @property
    def load_best_model_at_end(self) -> bool:
        """The best step is what training leaves behind."""
        return True

    @property
    def logging_strategy(self) -> IntervalStrategy:
        """The loss is logged every ``logging_steps`` steps."""
        return IntervalStrategy.STEPS

    @property
    def logging_first_step(self) -> bool:
        """The first step is not logged apart."""
        return False

    @property
    def eval_delay(self) -> float:
        """Evaluation starts at once."""
        return 0

    @property
    def save_strategy(self) -> IntervalStrategy:
        """No checkpoints are written while training."""
        return IntervalStrategy.NO

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values."""
        return dataclasses.asdict(self)

    def to_sanitized_dict(self) -> dict[str, Any]:
        """All settings as values that logging tools accept as hyperparameters."""
        return self.to_dict()

    def to_json_string(self) -> str:
        """All settings as JSON."""
        return json.dumps(self.to_dict(), indent=2)


def _require(args: AdapterTrainingArguments, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {getattr(args, name)!r}, but has to be {expected}.")
