"""The training loop's step: batches of precomputed embeddings in, a better adapter out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.embedded import EmbeddedSplit
from st_adapter.embeddings.soft_targets import SoftTargets
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.closed_form import within_class_whitening
from st_adapter.fitting.losses import soft_target_loss, softmax_ranking_loss
from st_adapter.fitting.sampling import Batch, BatchSampler

START_RIDGE = 1.0
"""Ridge of the closed form that training starts from."""


class GradientFit:
    """One gradient run: ``step()`` as often as wanted, then take ``averaged``.

    Everything stays on the device of the embeddings, and no step does work per sample in Python. Scores are those of
    the map before its rescaling, so the run may also learn how sure of itself a query is; rankings do not depend on it.

    Args:
        split: the training split.
        args: settings of the run.
        adapter: where to start; by ``args.start`` if None.
        soft_targets: what a teacher says of other queries, which count as much as their weight says beside the pairs.

    Attributes:
        adapter: the current iterate, trained in place.
        averaged: exponential moving average of the iterates, which is what the run is meant to find; the same object
            as ``adapter`` if ``args.ema_decay`` is 0.
        optimizer: AdamW.

    Raises:
        ValueError: there is nothing to train on, or the adapter has another dimension.
    """

    def __init__(
        self,
        split: EmbeddedSplit,
        args: AdapterTrainingArguments,
        adapter: QueryAdapter | None = None,
        soft_targets: SoftTargets | None = None,
    ) -> None:
        self.args = args
        self.split = split
        self.sampler = BatchSampler(split, args, soft_targets)
        self.adapter = (adapter if adapter is not None else self._start()).to(self.sampler.device)
        if self.adapter.input_dimension != split.dimension:
            raise ValueError(
                f"The adapter takes {self.adapter.input_dimension} dimensions, but the embeddings have "
                f"{split.dimension}. Start from an adapter of this base model, or from none."
            )
        self.averaged = copy.deepcopy(self.adapter) if args.ema_decay else self.adapter
        self._fused = self.sampler.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            self.adapter.parameters(), lr=args.learning_rate, weight_decay=0.0, fused=self._fused
        )
        self._loss = torch.compile(self._batch_loss) if args.torch_compile else self._batch_loss

    def step(self) -> Tensor:
        """One update; the loss of its batch, a scalar without gradient."""
        args = self.args
        with fast_products(self.sampler.device):
            loss = self._loss(self.sampler.next())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        if args.ema_decay:
            with torch.no_grad():
                for mean, value in zip(self.averaged.parameters(), self.adapter.parameters(), strict=True):
                    mean.lerp_(value, 1 - args.ema_decay)
        return loss.detach()

    @property
    def matrix(self) -> Tensor:
        """What ``averaged`` does to vectors, if its kind is ``linear``: (D, D), applied as ``q @ W.T``."""
        identity = torch.eye(self.split.dimension, device=self.sampler.device)
        with torch.no_grad():
            matrix: Tensor = self.averaged.project(identity).T.clone()
        return matrix

    def state_dict(self) -> dict[str, Tensor]:
        """Everything ``load_state_dict`` needs to go on as if there had been no break."""
        state = {f"sampler.{name}": value for name, value in self.sampler.state_dict().items()}
        for name, parameter in self.adapter.named_parameters():
            state[f"adapter.{name}"] = parameter.detach()
            state[f"averaged.{name}"] = self.averaged.get_parameter(name).detach()
            for key, value in self.optimizer.state[parameter].items():
                state[f"optimizer.{name}.{key}"] = value
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where ``state_dict`` was taken."""
        with torch.no_grad():
            for name, parameter in self.adapter.named_parameters():
                parameter.copy_(state[f"adapter.{name}"])
                self.averaged.get_parameter(name).copy_(state[f"averaged.{name}"])
                prefix = f"optimizer.{name}."
                self.optimizer.state[parameter] = {
                    # A fused optimizer counts its steps on the device, another one on the CPU.
                    key.removeprefix(prefix): value.to(parameter.device if value.ndim or self._fused else "cpu")
                    for key, value in state.items()
                    if key.startswith(prefix)
                }
        prefix = "sampler."
        self.sampler.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    def _batch_loss(self, batch: Batch) -> Tensor:
        anchors = self.adapter.project(batch.anchors) * (self.args.scale * batch.anchor_scale)
        scores = anchors @ batch.candidates.T  # (B, M)
        positive_scores = (anchors * batch.positives).sum(dim=1)
        loss = softmax_ranking_loss(scores, positive_scores, batch.excluded, batch.weights, batch.log_priors)
        if batch.soft is not None:
            soft = batch.soft
            taught = self.adapter.project(soft.anchors) * (self.args.scale * soft.anchor_scale)
            soft_scores = torch.bmm(soft.documents, taught.unsqueeze(2)).squeeze(2)  # (S, K)
            loss = loss + soft.weight * soft_target_loss(soft_scores, soft.targets)
        if self.args.penalty:
            loss = loss + self.args.penalty * self.adapter.distance()
        return loss

    def _start(self) -> QueryAdapter:
        args = self.args
        # A linear adapter draws nothing, and the global generator is left alone where several runs share a process.
        with nullcontext() if args.kind == "linear" else torch.random.fork_rng(devices=[]):
            if args.kind != "linear":
                torch.manual_seed(args.seed)
            adapter = QueryAdapter(
                self.split.dimension,
                kind=args.kind,
                rank=args.rank,
                hidden_dim=args.hidden_dim,
                normalize=self.split.normalized,
                base_model=self.split.base_model,
            )
        if args.start == "closed_form":
            adapter.set_matrix(within_class_whitening(self.sampler.pairs, self.sampler.corpus, START_RIDGE))
        return adapter


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """On a CUDA device, TF32 products with float32 sums; elsewhere nothing changes."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
