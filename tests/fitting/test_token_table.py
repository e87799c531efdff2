"""A table of token vectors fitted to another model's vectors: against refits, a library, and a lookup."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import PairwiseKernel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from st_adapter.fitting.agreement import Agreement
from st_adapter.fitting.token_table import Sample, _Problem, _Settings, fit_token_table, token_shares

WORDS = ["[UNK]", *"red green blue car house river book garden train".split()]


@pytest.fixture
def tokenizer():
    made = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    return made


def drawn_texts(number, seed):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS[1:], size=generator.integers(1, 6))) for _ in range(number)]


def drawn(tokenizer, noise=0.3, numbers=(80, 60)):
    """Texts of two kinds and vectors that a hidden table gives, each kind somewhere else, with noise."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(len(WORDS), 4, generator=generator)
    samples = []
    for kind, number in enumerate(numbers):
        shares = token_shares(tokenizer, drawn_texts(number, kind), len(WORDS))
        theirs = torch.from_numpy(shares @ hidden.double().numpy()).float()
        theirs = theirs + noise * torch.randn(number, 4, generator=generator) + 2.0 * kind
        samples.append(Sample(shares, theirs))
    return torch.randn(len(WORDS), 3, generator=generator), hidden, samples


def test_shares_are_counted_by_hand(tokenizer):
    found = token_shares(tokenizer, ["red car red", "", "river sky"], len(WORDS))
    expected = np.zeros((3, len(WORDS)))
    expected[0, [1, 4]] = 2 / 3, 1 / 3
    expected[2, [6, 0]] = 0.5
    np.testing.assert_allclose(found.toarray(), expected)
    cut = token_shares(tokenizer, ["red car red"], len(WORDS), max_length=2)
    np.testing.assert_allclose(cut.toarray()[0, [1, 4]], 0.5)


def test_what_a_text_gets_from_all_others_is_what_a_fit_without_it_gives(tokenizer):
    table, _, samples = drawn(tokenizer)
    settings = _Settings(10.0, 3.0)
    problem = _Problem(table, samples)
    left_out = problem.solve(settings).left_out
    for text in (0, 17, 100):
        # The same means and scales, which one text hardly moves, so that only the solution is compared.
        others = torch.arange(140) != text
        kernel = 10.0 * problem.turned + 3.0 * problem.added
        weights = torch.linalg.solve(kernel[others][:, others] + torch.eye(139), problem.targets[others])
        torch.testing.assert_close(left_out[text], kernel[text, others] @ weights, rtol=1e-8, atol=1e-10)


def test_the_solution_is_that_of_a_gaussian_process_of_scikit_learn(tokenizer):
    table, _, samples = drawn(tokenizer)
    problem = _Problem(table, samples)
    solved = problem.solve(_Settings(30.0, 1.0))
    rows = np.hstack(
        [
            problem.old_rows.numpy() * np.sqrt(30.0 * float(problem.scales[0])),
            problem.weighted.toarray() * np.sqrt(1.0 * float(problem.scales[1])),
        ]
    )
    process = GaussianProcessRegressor(PairwiseKernel(metric="linear"), alpha=1.0, optimizer=None)
    expected = process.fit(rows, problem.targets.numpy()).predict(rows)
    found = torch.from_numpy(samples[0].tokens @ problem.table(solved).numpy()) - problem.means[:80]
    np.testing.assert_allclose(found.numpy(), expected[:80], atol=1e-6)


def test_a_table_says_what_the_hidden_one_says_to_texts_that_it_has_not_seen(tokenizer):
    table, hidden, samples = drawn(tokenizer)
    fitted = fit_token_table(table, samples)
    unseen = token_shares(tokenizer, drawn_texts(200, 9), len(WORDS))

    def cosines(rows):
        right = torch.from_numpy(unseen @ hidden.double().numpy())
        return torch.nn.functional.cosine_similarity(torch.from_numpy(unseen @ rows.double().numpy()), right).mean()

    assert cosines(fitted.table) > 0.95
    # What is held out promises no more than what unseen texts get.
    held_out = torch.nn.functional.cosine_similarity(fitted.held_out[0], samples[0].theirs).mean()
    assert held_out < cosines(fitted.table)


@pytest.mark.parametrize("with_documents", [True, False])
def test_what_is_chosen_ranks_most_alike(tokenizer, with_documents):
    table, _, samples = drawn(tokenizer, noise=1.5)
    theirs = samples[0].theirs
    ranked = samples[1].theirs if with_documents else torch.nn.functional.normalize(theirs)
    problem, agreement = _Problem(table, samples), Agreement(theirs, ranked)
    left_out = [
        (problem.solve(_Settings(turned, added)).left_out + problem.means)[:80]
        for turned in (3.0, 10.0, 30.0)
        for added in (1.0, 3.0)
    ]
    best = max(left_out, key=agreement.of)
    assert len({round(agreement.of(each), 6) for each in left_out}) > 1
    found = fit_token_table(table, samples, ranked if with_documents else None).held_out[0]
    torch.testing.assert_close(found, best.float())


def test_tokens_without_a_text_are_where_the_old_table_turned_has_them(tokenizer):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(len(WORDS), 4, generator=generator)
    known = [text for text in drawn_texts(300, 0) if "train" not in text]
    shares = token_shares(tokenizer, known, len(WORDS))
    theirs = torch.from_numpy(shares @ hidden.double().numpy()).float()
    fitted = fit_token_table(hidden, [Sample(shares, theirs)])
    assert float(torch.nn.functional.cosine_similarity(fitted.table[-1], hidden[-1], dim=0)) > 0.8


def test_texts_of_no_token_and_texts_all_alike_have_a_table(tokenizer):
    shares = token_shares(tokenizer, [""] * 30 + ["red car"] * 30, len(WORDS))
    fitted = fit_token_table(torch.zeros(len(WORDS), 2), [Sample(shares, torch.ones(60, 2))])
    assert fitted.table.isfinite().all() and fitted.held_out[0].isfinite().all()


def test_stock_lookup_gives_what_was_fitted(tokenizer):
    table, _, samples = drawn(tokenizer)
    fitted = fit_token_table(table, samples)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=fitted.table)], device="cpu")
    texts = drawn_texts(20, 5)
    expected = token_shares(tokenizer, texts, len(WORDS)) @ fitted.table.numpy()
    np.testing.assert_allclose(model.encode(texts), expected, atol=1e-5)
