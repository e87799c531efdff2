"""A table of token vectors, fitted to how another model embeds texts, from which a mean of tokens says the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags, vstack
from torch import Tensor

from st_adapter.fitting.agreement import Agreement
from st_adapter.storage.tensors import device_of_float64

# How much of a target's variance the two parts may explain, over what neither explains: the table as it was, turned,
# and what each token adds to it.
_TURNED, _ADDED = (3.0, 10.0, 30.0), (1.0, 3.0)
# Texts of each kind that are fitted on; the time grows with the cube of their number.
MAX_TEXTS = 2000
# With fewer texts of a kind their mean says little.
MIN_TEXTS = 50


class Sample(NamedTuple):
    """Texts of one kind and their vectors by the model whose words are to be found.

    Attributes:
        tokens: (T, V), the share of each token in each text; see ``token_shares``.
        theirs: (T, D).
    """

    tokens: csr_matrix
    theirs: Tensor


class FittedTable(NamedTuple):
    """A table and how it would do on texts that it has not seen.

    Attributes:
        table: (V, D).
        held_out: for each kind of text (T, D), each text as the table would give it had it been fitted on all others.
    """

    table: Tensor
    held_out: list[Tensor]


class _Settings(NamedTuple):
    turned: float
    added: float


def fit_token_table(table: Tensor, samples: Sequence[Sample], ranked: Tensor | None = None) -> FittedTable:
    """Ridge regression of another model's vectors on the tokens of texts, towards a table as it was, turned.

    A text's vector is the mean of its tokens' vectors. The new row of token v is ``M (e_v - e) + m + t_v``: the row as
    it was, turned by one matrix for all, and what is learned for this token, penalised by its inverse document
    frequency, so that rare tokens may move further. e and m are means over texts. Both parts have one solution, by the
    dual of T x T; what each text would get from all others follows from the same inverse (Allen 1974, "The relationship
    between variable selection and data augmentation"). How much either part may explain is chosen by how alike what
    texts of the first kind get from all others ranks documents, or one another, to what the right vectors do.

    Args:
        table: (V, E), as it was.
        samples: kinds of texts with vectors, at least ``MIN_TEXTS`` each, that which is to be embedded first; of each
            its mean is left out, since models put queries and documents in different places.
        ranked: (N, D) documents as the index compares them; None: there are none.

    Examples:
        >>> tokens = csr_matrix(np.random.default_rng(0).dirichlet(np.ones(3) / 3, 60))
        >>> right = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> theirs = torch.from_numpy(tokens @ right.numpy().astype("float64")).float()
        >>> fitted = fit_token_table(torch.zeros(3, 2), [Sample(tokens, theirs)])
        >>> bool(torch.nn.functional.cosine_similarity(fitted.table, right).min() > 0.9)
        True
    """
    problem = _Problem(table, samples)
    first, agreement = len(samples[0].theirs), Agreement(samples[0].theirs, ranked)
    best, highest = None, -1.0
    for settings in (_Settings(turned, added) for turned in _TURNED for added in _ADDED):
        solved = problem.solve(settings)
        found = agreement.of((solved.left_out[:first] + problem.means[:first]).float().to(samples[0].theirs.device))
        if found > highest:
            best, highest = solved, found
    assert best is not None
    held_out = (best.left_out + problem.means).float().to(table.device).split([len(each.theirs) for each in samples])
    return FittedTable(problem.table(best).float().to(table.device), list(held_out))


class _Solved(NamedTuple):
    """A solution of the dual.

    Attributes:
        settings: what it is of.
        weights: (T, D) of the texts.
        left_out: (T, D), each text as all others give it, without its kind's mean.
    """

    settings: _Settings
    weights: Tensor
    left_out: Tensor


class _Problem:
    """Everything that the settings do not change, in float64."""

    def __init__(self, table: Tensor, samples: Sequence[Sample]) -> None:
        device = device_of_float64(table.device)
        self.old = table.to(device).double()
        tokens = vstack([sample.tokens for sample in samples]).tocsr()
        frequency = np.asarray((tokens > 0).sum(axis=0)).ravel()
        # A little for tokens that all texts have.
        self.idf = np.log((1 + tokens.shape[0]) / (1 + frequency)) + 0.1
        self.weighted = tokens @ diags(self.idf)
        averages = [torch.from_numpy(sample.tokens @ self.old.cpu().numpy()).to(device) for sample in samples]
        theirs = [sample.theirs.to(device).double() for sample in samples]
        self.mean_of_old, self.mean = averages[0].mean(dim=0), theirs[0].mean(dim=0)
        self.old_rows = torch.cat([rows - rows.mean(dim=0) for rows in averages])  # (T, E)
        self.means = torch.cat([each.mean(dim=0).expand(len(each), -1) for each in theirs])
        self.targets = torch.cat(theirs) - self.means
        turned = self.old_rows @ self.old_rows.T
        added = torch.from_numpy((self.weighted @ self.weighted.T).toarray()).to(device)
        self.scales = tuple(1 / each.diagonal().mean().clamp(min=1e-12) for each in (turned, added))
        self.turned, self.added = (each * scale for each, scale in zip((turned, added), self.scales, strict=True))

    def solve(self, settings: _Settings) -> _Solved:
        kernel = settings.turned * self.turned + settings.added * self.added
        kernel.diagonal().add_(1.0)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel))
        weights = inverse @ self.targets
        return _Solved(settings, weights, self.targets - weights / inverse.diagonal().unsqueeze(1))

    def table(self, solved: _Solved) -> Tensor:
        turn = solved.settings.turned * self.scales[0] * (self.old_rows.T @ solved.weights)  # (E, D)
        added = diags(self.idf) @ (self.weighted.T @ solved.weights.cpu().numpy())
        scale = solved.settings.added * self.scales[1]
        return (self.old - self.mean_of_old) @ turn + scale * torch.from_numpy(added).to(turn.device) + self.mean


def token_shares(tokenizer: Any, texts: Sequence[str], num_tokens: int, max_length: int | None = None) -> csr_matrix:
    """The share of each token in each text, (T, V), whose rows add up to 1; a text without tokens has none.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``.
        texts: T texts.
        num_tokens: V.
        max_length: tokens of a text that are read; None: all.
    """
    ids = [encoding.ids[:max_length] for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    ends = np.cumsum([0, *map(len, ids)])
    flat = np.fromiter((token for row in ids for token in row), dtype=np.int64, count=int(ends[-1]))
    shares = np.repeat([1 / max(1, len(row)) for row in ids], [len(row) for row in ids])
    found = csr_matrix((shares, flat, ends), shape=(len(ids), num_tokens))
    found.sum_duplicates()
    return found
