"""Train an adapter on precomputed embeddings, with the interface of a Sentence Transformers trainer."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, get_scheduler
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback, ProgressCallback
from transformers.trainer_utils import TrainOutput

from st_adapter.adapter import QueryAdapter
from st_adapter.data import RetrievalDataset
from st_adapter.embeddings import EmbeddedDataset, EmbeddedSplit, embed
from st_adapter.evaluation import EvaluationResult, adapt, evaluate, query_metrics
from st_adapter.hub import push_to_hub
from st_adapter.losses import softmax_ranking_loss
from st_adapter.model import save_pretrained
from st_adapter.sampling import TrainingPool, training_pool
from st_adapter.training_args import AdapterTrainingArguments

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
            embedded split, or a ``datasets.Dataset`` of pairs.
        eval_dataset: the dev split, if ``train_dataset`` is not a whole data set.
        adapter: starting point; a new adapter, which is the identity, if None.
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
        self.model = model
        self.args = args if args is not None else AdapterTrainingArguments()
        self.train_dataset, self.eval_dataset = _splits(model, train_dataset, eval_dataset)
        if adapter is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.args.seed)
                adapter = QueryAdapter(
                    self.train_dataset.dim,
                    kind=self.args.kind,
                    rank=self.args.rank,
                    hidden_dim=self.args.hidden_dim,
                    normalize=self.train_dataset.unit,
                )
        if adapter.embedding_dimension != self.train_dataset.dim:
            raise ValueError(
                f"The adapter takes {adapter.embedding_dimension} dimensions, but the embeddings have "
                f"{self.train_dataset.dim}. Start from an adapter of this base model, or from none."
            )
        self.adapter = adapter.to(self.train_dataset.query_embeddings.device)
        self.state = TrainerState()
        self.control = TrainerControl()
        self._best: dict[str, Tensor] | None = None
        progress = [] if self.args.disable_tqdm else [_Progress()]
        stopping = EarlyStoppingCallback(self.args.early_stopping_patience)
        self.callback_handler = CallbackHandler(
            [DefaultFlowCallback(), *progress, stopping, *(callbacks or [])], self.adapter, None, None, None
        )
        self.control = self.callback_handler.on_init_end(self.args, self.state, self.control)

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Add a callback, as with ``transformers.Trainer``."""
        self.callback_handler.add_callback(callback)

    def train(self) -> TrainOutput:
        """Train until the last epoch or until the dev metric stops rising, and keep the best step.

        Returns:
            ``TrainOutput(global_step, training_loss, metrics)``.

        Raises:
            FloatingPointError: the loss is no longer a finite number; ``adapter`` then holds the best step so far.
        """
        args, device = self.args, self.train_dataset.query_embeddings.device
        start = time.perf_counter()
        before = _checksum(self.train_dataset.corpus_embeddings)
        pool = training_pool(self.train_dataset, args.negatives)
        steps_per_epoch = math.ceil(len(pool) / args.per_device_train_batch_size)
        max_steps = steps_per_epoch * args.num_train_epochs
        optimizer = torch.optim.AdamW(self.adapter.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
        scheduler = get_scheduler(
            args.lr_scheduler_type, optimizer, round(args.warmup_ratio * max_steps), num_training_steps=max_steps
        )
        generator = torch.Generator().manual_seed(args.seed)
        self.state = TrainerState(
            max_steps=max_steps,
            num_train_epochs=args.num_train_epochs,
            logging_steps=args.logging_steps,
            eval_steps=args.eval_steps,
            train_batch_size=args.per_device_train_batch_size,
        )
        self._best = None
        self.callback_handler.optimizer, self.callback_handler.lr_scheduler = optimizer, scheduler
        self.control = self.callback_handler.on_train_begin(args, self.state, self.control)
        self._evaluate_step(adapted=False)

        total_loss = torch.zeros((), device=device)
        logged_loss, logged_step = 0.0, 0
        while self.state.global_step < max_steps and not self.control.should_training_stop:
            self.control = self.callback_handler.on_epoch_begin(args, self.state, self.control)
            order = torch.randperm(len(pool), generator=generator).to(device)
            for queries in order.split(args.per_device_train_batch_size):
                self.control = self.callback_handler.on_step_begin(args, self.state, self.control)
                total_loss += self._step(pool, queries, optimizer)
                scheduler.step()
                self.state.global_step += 1
                self.state.epoch = self.state.global_step / steps_per_epoch
                self.control = self.callback_handler.on_step_end(args, self.state, self.control)
                if self.control.should_log:
                    loss = self._finite(total_loss)
                    steps = self.state.global_step - logged_step
                    self._log({"loss": (loss - logged_loss) / steps, "learning_rate": scheduler.get_last_lr()[0]})
                    logged_loss, logged_step = loss, self.state.global_step
                if self.control.should_evaluate:
                    self._finite(total_loss)
                    self._evaluate_step()
                if self.control.should_training_stop:
                    break
            self.control = self.callback_handler.on_epoch_end(args, self.state, self.control)
            if self.control.should_evaluate:
                self._finite(total_loss)
                self._evaluate_step()

        self._restore_best()
        if _checksum(self.train_dataset.corpus_embeddings) != before:
            raise RuntimeError("The document embeddings changed while training. A callback must have written to them.")
        seconds = time.perf_counter() - start
        metrics = {
            "train_runtime": seconds,
            "train_samples_per_second": self.state.global_step * args.per_device_train_batch_size / seconds,
            "train_steps_per_second": self.state.global_step / seconds,
            "train_loss": total_loss.item() / max(1, self.state.global_step),
            "epoch": self.state.epoch,
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
        """Save a repository that plain Sentence Transformers opens: base model and best adapter, or the base alone."""
        save_pretrained(self.best_adapter, self.model, output_dir or self.args.output_dir)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Save the model and upload it to the Hub as one commit.

        Returns:
            The URL of the commit.
        """
        return push_to_hub(self.best_adapter, self.model, repo_id, private=private, token=token)

    def _step(self, pool: TrainingPool, queries: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        batch = pool.batch(queries)
        anchors = self.adapter.transform(batch.anchors)
        if self.train_dataset.similarity == "cosine":
            anchors = torch.nn.functional.normalize(anchors)
        scores = self.args.scale * anchors @ batch.candidates.T  # (B, M)
        positive_scores = scores[batch.rows, batch.columns]
        loss = softmax_ranking_loss(scores, batch.excluded, batch.rows, positive_scores, batch.weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), self.args.max_grad_norm)
        optimizer.step()
        return loss.detach()

    def _evaluate_step(self, adapted: bool = True) -> None:
        """Measure the current step (or, before the first, the base model) and keep it if it is the best so far."""
        split = self.eval_dataset
        queries = adapt(self.adapter, split.query_embeddings) if adapted else split.query_embeddings
        metrics = {
            f"eval_{name}": float(values.mean()) for name, values in query_metrics(split, queries, ks=(10,)).items()
        }
        self._log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics=metrics)
        metric = metrics[self.args.metric_for_best_model]
        if self.state.best_metric is None or metric > self.state.best_metric:
            self.state.best_metric = metric
            self.state.best_global_step = self.state.global_step
            self._best = copy.deepcopy(self.adapter.state_dict())

    def _restore_best(self) -> None:
        if self._best is not None:
            self.adapter.load_state_dict(self._best)

    def _finite(self, total_loss: Tensor) -> float:
        loss = float(total_loss)
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


class _Progress(ProgressCallback):  # type: ignore[misc]  # transformers is not typed
    """One bar with the best metric so far, in place of a line of text for every entry of the log."""

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None and state.best_metric is not None:
            self.training_bar.set_postfix({"best dev nDCG@10": f"{state.best_metric:.4f}"}, refresh=False)


def _splits(
    model: SentenceTransformer, train: TrainDataset | None, dev: EvalDataset | None
) -> tuple[EmbeddedSplit, EmbeddedSplit]:
    """The embedded train and dev split of whatever was given."""
    if isinstance(train, Dataset) and isinstance(dev, Dataset):
        train, dev = RetrievalDataset.load(DatasetDict(train=train, dev=dev)), None
    elif isinstance(train, Dataset) and dev is None:
        train = RetrievalDataset.load(train)
    if isinstance(train, RetrievalDataset):
        train = embed(model, train)
    if isinstance(train, EmbeddedDataset) and dev is None:
        return train["train"], train["dev"]
    if isinstance(train, EmbeddedSplit) and isinstance(dev, EmbeddedSplit):
        if train.corpus_embeddings is not dev.corpus_embeddings and train.corpus_ids != dev.corpus_ids:
            raise ValueError("train_dataset and eval_dataset search different corpora. Embed both as one data set.")
        return train, dev
    raise ValueError(
        f"train_dataset is {type(train).__name__} and eval_dataset is {type(dev).__name__}. Pass a whole data set with "
        "the splits 'train' and 'dev' as train_dataset, or two embedded splits, or two datasets.Dataset of pairs."
    )


def _checksum(embeddings: Tensor) -> int:
    return int(embeddings.view(torch.int32).sum(dtype=torch.int64))
