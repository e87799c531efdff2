"""Train an adapter on precomputed embeddings, with the interface of a Sentence Transformers trainer."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback, ExportableState, ProgressCallback
from transformers.trainer_utils import TrainOutput

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.evaluation.evaluation import EvaluationResult, evaluate
from st_adapter.evaluation.hits import NotFiniteError
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.checkpoint import checksums, read_checkpoint, write_checkpoint
from st_adapter.fitting.gradient import GradientFit
from st_adapter.fitting.training_data import EvalDataset, TrainDataset, training_data
from st_adapter.saving.attach import check_base, check_trained_for
from st_adapter.saving.push import push_to_hub
from st_adapter.saving.record import TrainingRecord, installed_versions
from st_adapter.saving.save import save_pretrained
from st_adapter.storage.writing import check_writable

# The name of the run in a checkpoint; version 0.1 could have several.
_FIT = "fit0."


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

    Examples:
        >>> args = st_adapter.AdapterTrainingArguments(num_train_epochs=1, disable_tqdm=True)
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
        self.train_dataset, self.eval_dataset, self._check_texts = training_data(model, train_dataset, eval_dataset)
        self._fit = GradientFit(self.train_dataset, args, copy.deepcopy(adapter))
        check_trained_for(model, self._fit.adapter, self.train_dataset.base_model)
        self._started_elsewhere = adapter is not None
        self.adapter = copy.deepcopy(self._fit.averaged)
        self.state = TrainerState()
        self.control = TrainerControl()
        self._best: dict[str, Tensor] = {}
        progress = [] if args.disable_tqdm else [_Progress()]
        stopping = EarlyStoppingCallback(args.early_stopping_patience)
        self.callback_handler = CallbackHandler(
            [DefaultFlowCallback(), *progress, stopping, *(callbacks or [])],
            self._fit.adapter,
            None,
            self._fit.optimizer,
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
            FloatingPointError: the loss or an adapted query is no longer a finite number; ``adapter`` then holds the
                best step so far.
            ValueError: there is no checkpoint, or it belongs to another run.
        """
        args = self.args
        start = time.perf_counter()
        documents = MemoryCorpus.of(self.train_dataset.corpus).embeddings
        before = checksums(documents)
        self._start(self._fit.sampler.steps_per_epoch * args.num_train_epochs)
        if resume_from_checkpoint:
            self._load_checkpoint(resume_from_checkpoint)
        self.control = self.callback_handler.on_train_begin(args, self.state, self.control)
        if any(each.early_stopping_patience_counter >= each.early_stopping_patience for each in self._stopping):
            self.control.should_training_stop = True  # where the run had stopped by itself it does not go on
        first = self.state.global_step
        if not resume_from_checkpoint:
            self._evaluate_step(adapted=False)
        while self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            self._step()
        self._restore_best()
        if not torch.equal(checksums(documents), before):
            raise RuntimeError("The document embeddings changed while training. A callback must have written to them.")
        seconds = time.perf_counter() - start
        steps_per_second = (self.state.global_step - first) / seconds
        metrics = {
            "train_runtime": seconds,
            "train_samples_per_second": steps_per_second * self._fit.sampler.batch_size,
            "train_steps_per_second": steps_per_second,
            "train_loss": float(self._total_loss) / max(1, self.state.global_step),
        }
        self._log(metrics)
        self.control = self.callback_handler.on_train_end(args, self.state, self.control)
        return TrainOutput(self.state.global_step, metrics["train_loss"], metrics)

    def _start(self, max_steps: int) -> None:
        """Go back to before the first step, but for the adapter."""
        args = self.args
        self.state = TrainerState(
            max_steps=max_steps,
            num_train_epochs=args.num_train_epochs,
            logging_steps=args.logging_steps,
            eval_steps=args.eval_steps,
            save_steps=args.save_steps,
            train_batch_size=args.per_device_train_batch_size,
        )
        self._total_loss = torch.zeros((), device=self._fit.sampler.device)
        self._logged_loss, self._logged_step = 0.0, 0
        for each in self._stopping:
            each.early_stopping_patience_counter = 0

    @property
    def _stopping(self) -> list[EarlyStoppingCallback]:
        return [each for each in self.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]

    def _step(self) -> None:
        """One step, with the callbacks around it."""
        args, steps_per_epoch = self.args, self._fit.sampler.steps_per_epoch
        if self.state.global_step % steps_per_epoch == 0:
            self.control = self.callback_handler.on_epoch_begin(args, self.state, self.control)
        self.control = self.callback_handler.on_step_begin(args, self.state, self.control)
        self._total_loss += self._fit.step()
        self.state.global_step += 1
        self.state.epoch = self.state.global_step / steps_per_epoch
        self.control = self.callback_handler.on_step_end(args, self.state, self.control)
        self._log_evaluate_save()
        if self.state.global_step % steps_per_epoch == 0:
            self.control = self.callback_handler.on_epoch_end(args, self.state, self.control)
            self._log_evaluate_save()

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
        _check_has_model(self.model)
        output_dir = output_dir or Path(self.args.output_dir) / "model"
        save_pretrained(
            self.model, self.best_adapter, output_dir, training=self._record(), check_texts=self._check_texts
        )

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Save the model and upload it to the Hub; see ``st_adapter.push_to_hub``.

        Returns:
            The URL of the commit on ``main``.
        """
        _check_has_model(self.model)
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
        arguments = self.args.hyperparameters()
        if self._started_elsewhere:
            arguments |= {name: getattr(self.adapter, name) for name in ("kind", "rank", "hidden_dim")}
            arguments["start"] = "given"
        return TrainingRecord(
            method="gradient", seed=self.args.seed, arguments=arguments, versions=installed_versions()
        )

    def _log_evaluate_save(self) -> None:
        """Do what the callbacks asked for."""
        if self.control.should_log:
            loss = self._finite_loss()
            steps = max(1, self.state.global_step - self._logged_step)
            self._log({"loss": (loss - self._logged_loss) / steps, "learning_rate": self.args.learning_rate})
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
            self.adapter.load_state_dict(self._fit.averaged.state_dict())
            try:
                result = evaluate(self.eval_dataset, self.adapter, ks=(10,), base=self._of_base)
            except NotFiniteError as error:
                raise self._diverged(str(error)) from error
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

    def _restore_best(self) -> None:
        self.adapter.load_state_dict(self._best)

    def _finite_loss(self) -> float:
        loss = float(self._total_loss)
        if not math.isfinite(loss):
            raise self._diverged(f"The loss is {loss}.")
        return loss

    def _diverged(self, found: str) -> FloatingPointError:
        self._restore_best()
        return FloatingPointError(
            f"Step {self.state.global_step}: {found} The adapter of step {self.state.best_global_step} is kept. Train "
            f"with a lower learning_rate (now {self.args.learning_rate}) or a lower scale (now {self.args.scale})."
        )

    def _log(self, logs: dict[str, float]) -> None:
        logs = {**logs, "epoch": self.state.epoch or 0.0}
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs=logs)

    def _save_checkpoint(self) -> None:
        tensors = {f"best.{name}": value for name, value in self._best.items()}
        tensors |= {f"{_FIT}{name}": value for name, value in self._fit.state_dict().items()}
        tensors["data"] = self._data_checksums()
        tensors["loss"] = torch.tensor(
            [float(self._total_loss), self._logged_loss, self._logged_step], dtype=torch.float64
        )
        callbacks = [c for c in self.callback_handler.callbacks if isinstance(c, ExportableState)]
        self.state.stateful_callbacks = {type(callback).__name__: callback.state() for callback in callbacks}
        write_checkpoint(self.args, self.state, tensors, self.adapter)

    def _data_checksums(self) -> Tensor:
        train, dev = self.train_dataset, self.eval_dataset
        documents = MemoryCorpus.of(train.corpus).embeddings
        return checksums(documents, train.query_embeddings, dev.query_embeddings, *train.qrels, *dev.qrels)

    def _load_checkpoint(self, checkpoint: str | Path | bool) -> None:
        tensors, state = read_checkpoint(checkpoint, self.args, self._data_checksums(), self.adapter)
        state.max_steps, state.num_train_epochs = self.state.max_steps, self.state.num_train_epochs
        self.state = state
        self._best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        self._fit.load_state_dict({k.removeprefix(_FIT): v for k, v in tensors.items() if k.startswith(_FIT)})
        total, self._logged_loss, logged_step = tensors["loss"].tolist()
        self._total_loss.fill_(total)
        self._logged_step = int(logged_step)
        for callback in self.callback_handler.callbacks:
            saved = state.stateful_callbacks.get(type(callback).__name__)
            if saved is not None:
                vars(callback).update(vars(type(callback).from_state(saved)))


def _check_has_model(model: SentenceTransformer | None) -> None:
    """Raise ValueError if there is no model to save an adapter with."""
    if model is None:
        raise ValueError(
            "The trainer has no model to save the adapter with. Pass the base model as model, or save the adapter "
            "alone: st_adapter.save_adapter(trainer.best_adapter, folder)."
        )


class _Progress(ProgressCallback):  # type: ignore[misc]  # transformers is not typed
    """One bar with the best metric so far, in place of a line of text for every entry of the log."""

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None and state.best_metric is not None:
            self.training_bar.set_postfix({"best dev nDCG@10": f"{state.best_metric:.4f}"}, refresh=False)
