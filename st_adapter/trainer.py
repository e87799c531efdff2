"""Train an adapter on precomputed embeddings, with the interface of a Sentence Transformers trainer."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
from datasets import Dataset, DatasetDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, get_scheduler
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback, ExportableState, ProgressCallback
from transformers.trainer_utils import TrainOutput

from st_adapter.adapter import QueryAdapter
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedDataset, EmbeddedSplit
from st_adapter.embeddings.embedding import embed
from st_adapter.embeddings.probe_texts import check_texts_of
from st_adapter.errors import InputError
from st_adapter.evaluation.evaluation import EvaluationResult, evaluate
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.gradient import GradientFit
from st_adapter.saving.attach import check_base
from st_adapter.saving.push import push_to_hub
from st_adapter.saving.record import TrainingRecord, installed_versions
from st_adapter.saving.save import save_pretrained
from st_adapter.storage.writing import check_writable, folder_written_whole

_CHECKPOINT = "checkpoint-"

TrainDataset: TypeAlias = RetrievalDataset | EmbeddedDataset | EmbeddedSplit | Dataset
EvalDataset: TypeAlias = EmbeddedSplit | Dataset


class AdapterTrainer:
    """Fit a query adapter on (query, relevant document) pairs while the base model and all documents stay as they are.

    Texts are embedded once before training; the base model is not called again. The base model itself counts as step 0,
    and the step with the best dev nDCG@10 is kept as a copy, so ``train()`` never leaves behind an adapter that was
    worse on the dev split than no adapter at all.

    Args:
        model: base model; the adapter is trained on its device.
        args: settings; the defaults of ``AdapterTrainingArguments`` if None.
        train_dataset: a whole data set with a ``train`` and a ``dev`` split (``RetrievalDataset``, or embedded), one
            embedded split, or a ``datasets.Dataset`` of pairs. Of pairs without a dev split, 15 % of the queries are
            dev, and the others train.
        eval_dataset: the dev split, if ``train_dataset`` is not a whole data set.
        adapter: starting point; a new adapter, at ``args.start``, if None.
        callbacks: any ``transformers.TrainerCallback``.

    Attributes:
        adapter: the adapter being trained, and after ``train()`` the best one.
        state: ``transformers.TrainerState`` with ``log_history``, ``best_metric`` and ``best_global_step``.

    Raises:
        ValueError: there is nothing to train or to evaluate on, or model, data and adapter do not fit together.

    Example:
        .. code-block:: python

            trainer = AdapterTrainer(model, args, train_dataset=RetrievalDataset.load("pairs.csv"))
            trainer.train()
            trainer.save_model("model-with-adapter")

    Example:
        >>> from st_adapter import AdapterTrainingArguments
        >>> args = AdapterTrainingArguments(num_train_epochs=1, disable_tqdm=True)
        >>> trainer = AdapterTrainer(model, args, embedded["train"], embedded["dev"])
        >>> trainer.train().global_step
        1
    """

    def __init__(
        self,
        model: SentenceTransformer,
        args: AdapterTrainingArguments | None = None,
        train_dataset: TrainDataset | None = None,
        eval_dataset: EvalDataset | None = None,
        adapter: QueryAdapter | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
    ) -> None:
        if model is not None:  # with embedded data it is only needed for saving
            check_base(model)
        self.model = model
        self.args = args = args if args is not None else AdapterTrainingArguments()
        if args.save_strategy != "no":
            check_writable(Path(args.output_dir), "output_dir")
        train_dataset, eval_dataset = _loaded(train_dataset, eval_dataset)
        # Vectors alone leave nothing to compare a saved model on but fixed texts.
        self._check_texts = check_texts_of(train_dataset) if isinstance(train_dataset, RetrievalDataset) else None
        self.train_dataset, self.eval_dataset = _splits(model, train_dataset, eval_dataset)
        # One run per seed, side by side; the average of linear maps is a linear map.
        self._fits = [
            GradientFit(self.train_dataset, replace(args, seed=args.seed + number), copy.deepcopy(adapter))
            for number in range(args.num_seeds)
        ]
        self.adapter = copy.deepcopy(self._fits[0].averaged)
        self.state = TrainerState()
        self.control = TrainerControl()
        self._best: dict[str, Tensor] = {}
        progress = [] if args.disable_tqdm else [_Progress()]
        stopping = EarlyStoppingCallback(args.early_stopping_patience)
        self.callback_handler = CallbackHandler(
            [DefaultFlowCallback(), *progress, stopping, *(callbacks or [])],
            self._fits[0].adapter,
            None,
            self._fits[0].optimizer,
            None,
        )
        self.control = self.callback_handler.on_init_end(args, self.state, self.control)

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Add a callback, as with ``transformers.Trainer``."""
        self.callback_handler.add_callback(callback)

    def train(self, resume_from_checkpoint: str | Path | bool | None = None) -> TrainOutput:
        """Train until the last epoch or until the dev metric stops rising, and keep the best step.

        Args:
            resume_from_checkpoint: folder of a checkpoint, or True for the newest one in ``args.output_dir``. On the
                CPU the result is, bit for bit, that of a run which was never interrupted.

        Returns:
            ``TrainOutput(global_step, training_loss, metrics)``.

        Raises:
            FloatingPointError: the loss is no longer a finite number; ``adapter`` then holds the best step so far.
            ValueError: there is no checkpoint, or it belongs to another run.
        """
        args = self.args
        start = time.perf_counter()
        before = _checksum(MemoryCorpus.of(self.train_dataset.corpus).embeddings)
        steps_per_epoch = self._fits[0].sampler.steps_per_epoch
        max_steps = steps_per_epoch * args.num_train_epochs
        self._schedulers = [
            get_scheduler(args.lr_scheduler_type, fit.optimizer, round(args.warmup_ratio * max_steps), max_steps)
            for fit in self._fits
        ]
        self.callback_handler.lr_scheduler = self._schedulers[0]
        self.state = TrainerState(
            max_steps=max_steps,
            num_train_epochs=args.num_train_epochs,
            logging_steps=args.logging_steps,
            eval_steps=args.eval_steps,
            save_steps=args.save_steps,
            train_batch_size=args.per_device_train_batch_size,
        )
        self._total_loss = torch.zeros((), device=self._fits[0].sampler.device)
        self._logged_loss, self._logged_step = 0.0, 0
        if resume_from_checkpoint:
            self._load_checkpoint(resume_from_checkpoint)
        self.control = self.callback_handler.on_train_begin(args, self.state, self.control)
        if not resume_from_checkpoint:
            self._evaluate_step(adapted=False)

        while self.state.global_step < max_steps and not self.control.should_training_stop:
            if self.state.global_step % steps_per_epoch == 0:
                self.control = self.callback_handler.on_epoch_begin(args, self.state, self.control)
            self.control = self.callback_handler.on_step_begin(args, self.state, self.control)
            for fit, scheduler in zip(self._fits, self._schedulers, strict=True):
                self._total_loss += fit.step() / len(self._fits)
                scheduler.step()
            self.state.global_step += 1
            self.state.epoch = self.state.global_step / steps_per_epoch
            self.control = self.callback_handler.on_step_end(args, self.state, self.control)
            self._log_evaluate_save()
            if self.state.global_step % steps_per_epoch == 0:
                self.control = self.callback_handler.on_epoch_end(args, self.state, self.control)
                self._log_evaluate_save()

        self._restore_best()
        if _checksum(MemoryCorpus.of(self.train_dataset.corpus).embeddings) != before:
            raise RuntimeError("The document embeddings changed while training. A callback must have written to them.")
        seconds = time.perf_counter() - start
        metrics = {
            "train_runtime": seconds,
            "train_samples_per_second": self.state.global_step * args.per_device_train_batch_size / seconds,
            "train_steps_per_second": self.state.global_step / seconds,
            "train_loss": float(self._total_loss) / max(1, self.state.global_step),
        }
        self._log(metrics)
        self.control = self.callback_handler.on_train_end(args, self.state, self.control)
        return TrainOutput(self.state.global_step, metrics["train_loss"], metrics)

    @property
    def best_adapter(self) -> QueryAdapter | None:
        """The adapter of the best step; None if no step was better on the dev split than the base model."""
        return self.adapter if self.state.best_global_step else None

    def evaluate(self, eval_dataset: EmbeddedSplit | None = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Measure the base model and the adapter as it stands on the dev split, or on another one.

        Returns:
            Fractions 0-1 such as ``eval_ndcg@10`` (adapted) and ``eval_base_ndcg@10``.
        """
        result: EvaluationResult = evaluate(eval_dataset or self.eval_dataset, self.adapter)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in result.adapted_means.items()}
        metrics |= {f"{metric_key_prefix}_base_{name}": value for name, value in result.base_means.items()}
        self._log(metrics)
        return metrics

    def save_model(self, output_dir: str | Path | None = None) -> None:
        """Save a repository that plain Sentence Transformers opens: base model and best adapter, or the base alone.

        Args:
            output_dir: ``model`` in ``args.output_dir``, beside the checkpoints, if None.
        """
        output_dir = output_dir or Path(self.args.output_dir) / "model"
        save_pretrained(
            self.model, self.best_adapter, output_dir, training=self._record(), check_texts=self._check_texts
        )

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Save the model and upload it to the Hub; see ``st_adapter.push_to_hub``.

        Returns:
            The URL of the commit on ``main``.
        """
        return push_to_hub(
            self.model,
            self.best_adapter,
            repo_id,
            private=private,
            token=token,
            training=self._record(),
            check_texts=self._check_texts,
        )

    def _record(self) -> TrainingRecord:
        return TrainingRecord(
            method="gradient", seed=self.args.seed, arguments=self.args.hyperparameters(), versions=installed_versions()
        )

    def _log_evaluate_save(self) -> None:
        """Do what the callbacks asked for."""
        if self.control.should_log:
            loss = self._finite_loss()
            steps = max(1, self.state.global_step - self._logged_step)
            rate = self._schedulers[0].get_last_lr()[0]
            self._log({"loss": (loss - self._logged_loss) / steps, "learning_rate": rate})
            self._logged_loss, self._logged_step = loss, self.state.global_step
        if self.control.should_evaluate:
            self._finite_loss()
            self._evaluate_step()
        if self.control.should_save:
            self._save_checkpoint()
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    @cached_property
    def _of_base(self) -> EvaluationResult:
        """The base model on the dev split, which no step changes."""
        return evaluate(self.eval_dataset, ks=(10,))

    def _evaluate_step(self, adapted: bool = True) -> None:
        """Measure the current step (or, before the first, the base model) and keep it if it is the best so far."""
        result = self._of_base
        if adapted:
            self._average_fits()
            result = evaluate(self.eval_dataset, self.adapter, ks=(10,), base=self._of_base)
        metrics = {f"eval_{name}": value for name, value in result.adapted_means.items()}
        self._log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics=metrics)
        metric = metrics[self.args.metric_for_best_model]
        if self.state.best_metric is None or metric > self.state.best_metric:
            self.state.best_metric = metric
            self.state.best_global_step = self.state.global_step
            kept = copy.deepcopy(self.adapter)
            if not adapted:
                kept.set_matrix(torch.eye(kept.input_dimension))
            self._best = kept.state_dict()

    def _average_fits(self) -> None:
        with torch.no_grad():
            for name, parameter in self.adapter.named_parameters():
                values = [fit.averaged.get_parameter(name) for fit in self._fits]
                parameter.copy_(torch.stack(values).mean(dim=0) if len(values) > 1 else values[0])

    def _restore_best(self) -> None:
        self.adapter.load_state_dict(self._best)

    def _finite_loss(self) -> float:
        loss = float(self._total_loss)
        if not math.isfinite(loss):
            self._restore_best()
            raise FloatingPointError(
                f"The loss is {loss} at step {self.state.global_step}. The adapter of step "
                f"{self.state.best_global_step} is kept. Train with a lower learning_rate "
                f"(now {self.args.learning_rate}) or a lower scale (now {self.args.scale})."
            )
        return loss

    def _log(self, logs: dict[str, float]) -> None:
        logs = {**logs, "epoch": self.state.epoch or 0.0}
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs=logs)

    def _save_checkpoint(self) -> None:
        """Write ``checkpoint-<step>``, whole or not at all: adapters, optimizers, samplers and the loop's place."""
        tensors = {f"best.{name}": value for name, value in self._best.items()}
        tensors["data"] = self._data_checksums()
        tensors["loss"] = torch.tensor(
            [float(self._total_loss), self._logged_loss, self._logged_step], dtype=torch.float64
        )
        for number, fit in enumerate(self._fits):
            tensors |= {f"fit{number}.{name}": value for name, value in fit.state_dict().items()}
        callbacks = [c for c in self.callback_handler.callbacks if isinstance(c, ExportableState)]
        self.state.stateful_callbacks = {type(callback).__name__: callback.state() for callback in callbacks}
        with folder_written_whole(Path(self.args.output_dir) / f"{_CHECKPOINT}{self.state.global_step}") as folder:
            save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "training_state.safetensors")
            self.state.save_to_json(str(folder / "trainer_state.json"))
            (folder / "training_args.json").write_text(self.args.to_json_string(), encoding="utf-8")

    def _data_checksums(self) -> Tensor:
        train, dev = self.train_dataset, self.eval_dataset
        corpus = MemoryCorpus.of(train.corpus).embeddings
        parts = [corpus, train.query_embeddings, dev.query_embeddings, *train.qrels, *dev.qrels]
        return torch.tensor([_checksum(part) for part in parts])

    def _load_checkpoint(self, checkpoint: str | Path | bool) -> None:
        folder = _newest_checkpoint(Path(self.args.output_dir)) if checkpoint is True else Path(str(checkpoint))
        try:
            tensors = load_file(folder / "training_state.safetensors")
            state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
            args = json.loads((folder / "training_args.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise ValueError(
                f"{folder} is no readable checkpoint ({error}). Name a checkpoint-<step> folder."
            ) from error
        if not torch.equal(tensors["data"], self._data_checksums()):
            raise ValueError(
                f"The checkpoint {folder} was written with other data. Resume with the data it was trained on."
            )
        passing = ("output_dir", "disable_tqdm", "num_train_epochs", "torch_compile")
        changed = {k for k, v in self.args.to_dict().items() if args.get(k) != v and k not in passing}
        if changed:
            raise ValueError(
                f"The checkpoint {folder} was written with other settings: {', '.join(sorted(changed))}. "
                "Resume with the settings it was written with."
            )
        state.max_steps, state.num_train_epochs = self.state.max_steps, self.state.num_train_epochs
        self.state = state
        self._best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        total, self._logged_loss, logged_step = tensors["loss"].tolist()
        self._total_loss.fill_(total)
        self._logged_step = int(logged_step)
        for number, (fit, scheduler) in enumerate(zip(self._fits, self._schedulers, strict=True)):
            prefix = f"fit{number}."
            fit.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
            scheduler.last_epoch = state.global_step
            for group, rate, at in zip(
                fit.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
            ):
                group["lr"] = rate * at(state.global_step)
        for callback in self.callback_handler.callbacks:
            saved = state.stateful_callbacks.get(type(callback).__name__)
            if saved is not None:
                vars(callback).update(vars(type(callback).from_state(saved)))


class _Progress(ProgressCallback):  # type: ignore[misc]  # transformers is not typed
    """One bar with the best metric so far, in place of a line of text for every entry of the log."""

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None and state.best_metric is not None:
            self.training_bar.set_postfix({"best dev nDCG@10": f"{state.best_metric:.4f}"}, refresh=False)


def _loaded(train: TrainDataset | None, dev: EvalDataset | None) -> tuple[TrainDataset | None, EvalDataset | None]:
    """Pairs as one retrieval data set; all else as it came."""
    if isinstance(train, Dataset) and isinstance(dev, Dataset):
        return RetrievalDataset.load(DatasetDict(train=train, dev=dev)), None
    if isinstance(train, Dataset) and dev is None:
        # A test split would be set aside for nothing: the trainer looks at train and dev alone.
        return RetrievalDataset.load(train, cut_into=("train", "dev")), None
    return train, dev


def _splits(
    model: SentenceTransformer, train: TrainDataset | None, dev: EvalDataset | None
) -> tuple[EmbeddedSplit, EmbeddedSplit]:
    """The embedded train and dev split of whatever was given."""
    if isinstance(train, RetrievalDataset):
        train = embed(model, train)
    if isinstance(train, EmbeddedDataset) and dev is None:
        train = train.in_memory()
        return train["train"], train["dev"]
    if isinstance(train, EmbeddedSplit) and isinstance(dev, EmbeddedSplit):
        if train.corpus is not dev.corpus and list(train.corpus.ids) != list(dev.corpus.ids):
            raise ValueError("train_dataset and eval_dataset search different corpora. Embed both as one data set.")
        return train.in_memory(), dev
    raise ValueError(
        f"train_dataset is {type(train).__name__} and eval_dataset is {type(dev).__name__}. Pass a whole data set with "
        "the splits 'train' and 'dev' as train_dataset, or two embedded splits, or two datasets.Dataset of pairs."
    )


def _newest_checkpoint(folder: Path) -> Path:
    checkpoints = [path for path in folder.glob(f"{_CHECKPOINT}*") if path.name.removeprefix(_CHECKPOINT).isdigit()]
    if not checkpoints:
        raise InputError(
            f"There is no checkpoint in {folder}.",
            python="Train with save_strategy='epoch' to have some.",
            flags="Train with --save-strategy epoch to have some.",
        )
    return max(checkpoints, key=lambda path: int(path.name.removeprefix(_CHECKPOINT)))


def _checksum(values: Tensor) -> int:
    words = values.contiguous().view(torch.int32).flatten().long()
    # Positions count, so that the same numbers in another order are noticed.
    return int((words * (torch.arange(len(words), device=words.device) % 1009 + 1)).sum())
