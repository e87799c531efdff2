"""The settings of a training run."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from st_adapter.choices import as_whole, is_whole
from st_adapter.errors import InputError, check_at_least_one, setting_error

if TYPE_CHECKING:
    from transformers.trainer_utils import IntervalStrategy

NegativePool = Literal["corpus", "given"]

# Setting -> the other setting, and the value of it, without which nothing heeds it.
_HEEDED_WITH = {
    "rank": ("kind", "low_rank"),
    "hidden_dim": ("kind", "mlp"),
    "num_negatives": ("negatives", "corpus"),
    "unlabelled_weight": ("negatives", "corpus"),
    "eval_steps": ("eval_strategy", "steps"),
    "save_steps": ("save_strategy", "steps"),
}


@dataclass(frozen=True)
class AdapterTrainingArguments:
    """Settings of ``AdapterTrainer``; names as in ``transformers.TrainingArguments`` wherever the meaning is the same.

    Raises:
        ValueError: a value is out of its range, or nothing heeds it beside the others; the message names it.
    """

    output_dir: str = "adapter_output"
    """Folder that ``save_model()``, checkpoints and logging callbacks write to."""
    kind: Literal["linear", "low_rank", "mlp"] = "linear"
    """Form of the adapter: a full matrix, a matrix of low rank, or a network with one hidden layer; all residual."""
    rank: int = 32
    """Rank of a low_rank adapter."""
    hidden_dim: int = 128
    """Hidden units of an mlp adapter."""
    start: Literal["closed_form", "identity"] = "closed_form"
    """Where training starts: from the closed form, which few steps improve on, or from the base model."""
    num_train_epochs: int = 30
    """Passes over the training pairs at most; the best evaluation is kept."""
    per_device_train_batch_size: int = 128
    """(query, positive) pairs per step."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW, the same in all steps."""
    ema_decay: float = 0.95
    """The adapter is the moving average of the iterates with this decay per step; 0 takes the last iterate."""
    penalty: float = 0.003
    """Weight of the squared distance of the adapter from the base model in the loss."""
    scale: float = 20.0
    """Factor on the similarities in the loss, 1 / temperature."""
    negatives: NegativePool = "corpus"
    """Documents a query is trained against: the whole corpus, or those of its batch and its given negatives (256 of
    them, by chance, if there are more)."""
    unlabelled_weight: float = 0.1
    """With negatives 'corpus': how much a document that is no positive of any training query counts as a negative. At 1
    such documents are pushed away as strongly as others, which pays only where queries to come never ask for them."""
    num_negatives: int = 512
    """With negatives 'corpus': documents drawn per step from those that are a positive, and as many from
    the others, weighted so that they stand for all."""
    eval_strategy: Literal["epoch", "steps"] = "epoch"
    """When to evaluate on the dev split."""
    eval_steps: int = 50
    """Steps between evaluations with eval_strategy 'steps'."""
    early_stopping_patience: int = 5
    """Stop after this many evaluations without a new best."""
    save_strategy: Literal["no", "epoch", "steps"] = "no"
    """When to write a checkpoint to output_dir, from which train(resume_from_checkpoint=...) goes on."""
    save_steps: int = 50
    """Steps between checkpoints with save_strategy 'steps'."""
    logging_steps: int = 10
    """Steps between entries of the training loss in the log."""
    seed: int = 0
    """Seed of the order of the pairs, of drawn negatives and of random weights."""
    torch_compile: bool = False
    """Compile the loss, which on a GPU fuses its kernels and closes the gaps between them."""
    disable_tqdm: bool = False
    """Hide progress bars."""

    def __post_init__(self) -> None:
        for name in (
            "rank",
            "hidden_dim",
            "num_train_epochs",
            "per_device_train_batch_size",
            "eval_steps",
            "num_negatives",
            "early_stopping_patience",
            "save_steps",
            "logging_steps",
        ):
            value = getattr(self, name)
            if isinstance(value, float) and value.is_integer():  # transformers has some of them as such
                value = int(value)
            check_at_least_one(name, value)
            object.__setattr__(self, name, as_whole(value))
        _require(self, "seed", is_whole(self.seed) and self.seed >= 0, "a whole number of at least 0")
        object.__setattr__(self, "seed", as_whole(self.seed))
        for name in ("learning_rate", "scale"):
            _require(self, name, 0 < _number(getattr(self, name)) < math.inf, "a number above 0")
        for name in ("penalty", "unlabelled_weight"):
            _require(self, name, 0 <= _number(getattr(self, name)) < math.inf, "a number of at least 0")
        _require(self, "ema_decay", 0 <= _number(self.ema_decay) < 1, "a number of at least 0 and below 1")
        _require(self, "torch_compile", isinstance(self.torch_compile, bool), "True or False")
        for name in ("kind", "start", "negatives", "eval_strategy", "save_strategy"):
            choices = get_args(get_type_hints(AdapterTrainingArguments)[name])
            _require(self, name, getattr(self, name) in choices, f"one of {', '.join(choices)}")
        defaults = {each.name: each.default for each in dataclasses.fields(self)}
        for name in not_heeded(self.to_dict()):
            if getattr(self, name) != defaults[name]:
                raise _not_heeded(name, getattr(self, name))

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
        from transformers.trainer_utils import IntervalStrategy  # here, as the command line declares these settings

        return IntervalStrategy.STEPS

    @property
    def logging_first_step(self) -> bool:
        """The first step is not logged apart."""
        return False

    @property
    def eval_delay(self) -> float:
        """Evaluation starts at once."""
        return 0

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values."""
        return dataclasses.asdict(self)

    def hyperparameters(self) -> dict[str, Any]:
        """The settings that shape the result, without those that say where it goes and what is shown."""
        return {name: value for name, value in self.to_dict().items() if name not in ("output_dir", "disable_tqdm")}

    def to_sanitized_dict(self) -> dict[str, Any]:
        """All settings as values that logging tools accept as hyperparameters."""
        return self.to_dict()

    def to_json_string(self) -> str:
        """All settings as JSON."""
        return json.dumps(self.to_dict(), indent=2)


def not_heeded(settings: Mapping[str, Any]) -> list[str]:
    """The settings that nothing heeds beside the others, whatever their values are.

    Args:
        settings: name -> value, as ``to_dict`` gives them.

    Examples:
        >>> not_heeded(AdapterTrainingArguments(kind="low_rank", eval_strategy="steps").to_dict())
        ['hidden_dim', 'save_steps']
    """
    return [name for name, (other, value) in _HEEDED_WITH.items() if settings.get(other) != value]


def _not_heeded(name: str, value: object) -> InputError:
    other, needed = _HEEDED_WITH[name]
    flag, other_flag = (f"--{each.replace('_', '-')}" for each in (name, other))
    return InputError(
        "",
        python=f"{name} is {value!r}, but only {other}={needed!r} has a use for it. Pass {other}={needed!r}, or leave "
        f"{name} out.",
        flags=f"{flag} is {value!r}, but only {other_flag} {needed} has a use for it. Add {other_flag} {needed}, or "
        f"leave {flag} out.",
    )


def _number(value: object) -> float:
    """A number as one, and nothing else: no text of one, and no truth value."""
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan


def _require(args: AdapterTrainingArguments, name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise setting_error(name, getattr(args, name), expected)
