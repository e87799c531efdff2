"""Evaluation of a split against the dictionary form of the metrics and a slow search."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import corpus_of, dataset_of, random_split
from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.embedded import EmbeddedQrels
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.evaluation.hits import adapt
from st_adapter.evaluation.metrics import run_metrics
from st_adapter.evaluation.seen import seen_documents
from st_adapter.fitting.auto import fit


def as_dictionaries(split, queries):
    """Judgements and an exhaustive run, ties in corpus order because dictionaries keep it."""
    qrels = {query_id: {} for query_id in split.query_ids}
    for query, document, grade in zip(*(part.tolist() for part in split.qrels), strict=True):
        qrels[split.query_ids[query]][split.corpus.ids[document]] = grade
    scores = (torch.nn.functional.normalize(queries).double() @ split.corpus.embeddings.double().T).float()
    run = {
        q: dict(zip(split.corpus.ids, row, strict=True))
        for q, row in zip(split.query_ids, scores.tolist(), strict=True)
    }
    return qrels, run


@settings(max_examples=40)
@given(st.integers(0, 2**31))
def test_base_and_adapted_equal_the_dictionary_form(seed):
    split = random_split(seed)
    matrix = torch.eye(8) + 0.3 * torch.randn(8, 8, generator=torch.Generator().manual_seed(seed))
    adapter = QueryAdapter.from_matrix(matrix)
    result = evaluate(split, adapter, ks=[1, 3, 10])
    for side, queries in ((result.base, split.query_embeddings), (result.adapted, split.query_embeddings @ matrix.T)):
        expected = run_metrics(*as_dictionaries(split, queries), ks=[1, 3, 10])
        assert set(side) == set(expected)
        for name, values in side.items():
            assert dict(zip(result.query_ids, values.tolist(), strict=True)) == pytest.approx(expected[name], abs=1e-9)


def test_the_modules_of_a_saved_model_count_as_an_adapter():
    split = random_split(0)
    adapter = QueryAdapter.from_matrix(torch.eye(8) + 0.3 * torch.randn(8, 8))
    torch.testing.assert_close(
        adapt(adapter.fold(), split.query_embeddings),
        adapter.transform(split.query_embeddings).detach(),
        atol=1e-6,
        rtol=0,
    )
    assert torch.equal(adapt([], split.query_embeddings), split.query_embeddings)


def test_queries_without_a_relevant_document_are_reported():
    split = random_split(1)
    relevance = split.qrels.relevance.clone()
    relevance[split.qrels.query_index == 2] = 0.0
    partly = replace(split, qrels=split.qrels._replace(relevance=relevance))
    result = evaluate(partly)
    assert result.unjudged_query_ids == ["q2"] and "q2" not in result.query_ids
    assert len(result.query_ids) == 5
    full = evaluate(split)
    kept = [i for i in range(6) if i != 2]
    assert result.base["ndcg@10"].tolist() == full.base["ndcg@10"][kept].tolist()

    nothing = replace(split, qrels=split.qrels._replace(relevance=0 * relevance))
    with pytest.raises(ValueError, match=r"No query of the split 'test' has a relevant document"):
        evaluate(nothing)


def test_corpus_order_changes_nothing_without_ties():
    split = random_split(3)
    documents = split.corpus.embeddings.clone()
    documents[7] = torch.nn.functional.normalize(torch.arange(1.0, 9.0), dim=0)
    split = replace(split, corpus=corpus_of(documents))
    order = torch.randperm(15, generator=torch.Generator().manual_seed(3))
    place = order.argsort()
    shuffled = replace(
        split,
        corpus=MemoryCorpus([split.corpus.ids[i] for i in order.tolist()], documents[order]),
        qrels=split.qrels._replace(corpus_index=place[split.qrels.corpus_index]),
    )
    for name, values in evaluate(split).base.items():
        assert values.tolist() == evaluate(shuffled).base[name].tolist()


def test_an_adapter_of_another_dimension_is_refused():
    with pytest.raises(ValueError, match=r"8.*16|16.*8"):
        evaluate(random_split(0), QueryAdapter(16))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_adapted_queries_that_are_no_numbers_are_refused(value):
    split = random_split(0)
    broken = QueryAdapter(8)
    with torch.no_grad():
        broken.delta[0, 0] = value
    for adapter in (broken, lambda queries: queries * value):
        with pytest.raises(ValueError, match=rf"NaN or infinite values for \d+ of {len(split.query_ids)} queries"):
            evaluate(split, adapter)


def labelled_dataset():
    """Three documents: the first is a positive in train, the second only judged there, the third is new."""
    pairs = {
        "train": [(0, 0, 1.0), (0, 1, 0.0)],
        "test": [(1, 0, 1.0), (2, 1, 1.0), (3, 2, 2.0), (3, 0, 1.0), (4, 2, 1.0), (4, 0, 0.0), (5, 0, 0.0)],
    }
    queries = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)))
    return dataset_of(queries, torch.eye(4)[:3], pairs)


def test_queries_are_seen_by_the_documents_that_were_positives_in_training():
    embedded = labelled_dataset()
    documents = seen_documents(embedded, ["train"])
    assert documents.tolist() == [True, False, False]
    adapter = QueryAdapter.from_matrix(torch.eye(4).roll(1, 0))
    result = evaluate(embedded["test"], adapter, seen_documents=documents)
    assert result.query_ids == ["q1", "q2", "q3", "q4"], "q5 has no relevant document"
    assert result.seen.tolist() == [True, False, True, False]
    for metric in result.base:
        difference = result.adapted[metric] - result.base[metric]
        for part, kept in (("all", [0, 1, 2, 3]), ("seen", [0, 2]), ("unseen", [1, 3])):
            compared = result.compare(metric, part)
            assert compared.num_queries == len(kept)
            assert compared.difference == pytest.approx(difference[kept].mean())
    assert set(result.comparisons) == {"all", "seen", "unseen"}

    everything = evaluate(embedded["test"], adapter, seen_documents=torch.ones(3, dtype=torch.bool))
    assert set(everything.comparisons) == {"all", "seen"}
    assert everything.compare(part="seen") == everything.compare()


def test_without_seen_documents_only_the_whole_is_compared():
    embedded = labelled_dataset()
    result = evaluate(embedded["test"])
    assert result.seen is None and set(result.comparisons) == {"all"}
    assert result.compare().wins == result.compare().losses == 0 and result.compare().p_value == 1
    with pytest.raises(
        ValueError, match=r"no 'seen' queries to compare, only \['all'\]. Give evaluate\(\) the seen doc"
    ):
        result.compare(part="seen")
    with pytest.raises(ValueError, match=r"'ndcg@7' was not evaluated, only \['ndcg@1'"):
        result.compare("ndcg@7")
    with pytest.raises(ValueError, match=r"There is no split 'dev'"):
        seen_documents(embedded, ["train", "dev"])
    with pytest.raises(ValueError, match=r"seen_documents has shape \(2,\) of torch.bool, but the corpus has 3"):
        evaluate(embedded["test"], seen_documents=torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"seen_documents has shape \(3,\) of torch.int64"):
        evaluate(embedded["test"], seen_documents=torch.arange(3))
    as_array = evaluate(embedded["test"], seen_documents=np.array([True, False, False]))
    assert as_array.seen.tolist() == evaluate(embedded["test"], seen_documents=torch.arange(3) < 1).seen.tolist()


def test_what_is_no_adapter_and_what_is_there_twice_is_refused():
    split = random_split(0)
    for adapter, name in (("out/adapter", "str"), (object(), "object")):
        with pytest.raises(
            ValueError, match=rf"The adapter is a {name}, but a QueryAdapter.*Of a result pass its .adapter"
        ):
            evaluate(split, adapter)
    embedded = labelled_dataset()
    with pytest.raises(ValueError, match="'train' judges the same query and document twice"):
        twice = EmbeddedQrels(*(torch.cat([part, part[:1]]) for part in embedded.qrels["train"]))
        replace(embedded, qrels={"train": twice})
    with pytest.raises(ValueError, match="Two queries have the same id"):
        replace(embedded, query_ids=[embedded.query_ids[1], *embedded.query_ids[1:]])
    with pytest.raises(ValueError, match="An EmbeddedDataset is expected, but a EmbeddedSplit came"):
        fit(split)


def test_a_data_set_is_evaluated_on_test_unless_another_split_is_named():
    embedded = labelled_dataset()
    assert evaluate(embedded).query_ids == evaluate(embedded["test"]).query_ids
    assert evaluate(embedded, split="train").query_ids == ["q0"]
    assert evaluate(replace(embedded, qrels={"train": embedded.qrels["train"]})).split == "train", "the only one"
    with pytest.raises(ValueError, match=r"There is no split 'dev'; this data set has \['train', 'test'\]"):
        evaluate(embedded, split="dev")
    with pytest.raises(ValueError, match=r"The split 'test' was given, and 'train' asked for"):
        evaluate(embedded["test"], split="train")


def test_a_function_of_the_vectors_counts_as_an_adapter_and_a_base_is_searched_once():
    split, matrix = random_split(2), torch.eye(8).roll(1, 0)
    whole = evaluate(split, QueryAdapter.from_matrix(matrix))
    searched = []

    def index(queries, k):
        searched.append(len(queries))
        return split.corpus.search(queries, k)

    of_base = evaluate(split, index=index)
    again = evaluate(split, lambda queries: queries @ matrix.T, ks=[1, 10], index=index, base=of_base)
    assert searched == [6, 6], "once for the base and once for the adapted queries"
    assert set(again.base) == set(again.adapted) == {name for name in whole.base if name.endswith(("@1", "@10"))}
    for name, values in again.adapted.items():
        assert values.tolist() == whole.adapted[name].tolist()
        assert again.base[name].tolist() == whole.base[name].tolist()
    for changes in ({"ks": [7]}, {"embedded": split.subset(torch.arange(6) > 0)}, {"embedded": random_split(2, 5)}):
        with pytest.raises(ValueError, match=r"base is an evaluation of 'test' with 6 queries"):
            evaluate(**{"embedded": split, "base": of_base, **changes})


@pytest.mark.parametrize("form", [lambda found: found.double(), lambda found: found.numpy()])
def test_what_a_function_gives_may_be_of_another_kind(form):
    split, matrix = random_split(2), torch.eye(8).roll(1, 0)
    right = evaluate(split, lambda queries: queries @ matrix.T).adapted["ndcg@10"]
    assert evaluate(split, lambda queries: form(queries @ matrix.T)).adapted["ndcg@10"].tolist() == right.tolist()


@pytest.mark.parametrize("ks", [10, np.int64(10), (), np.array([], dtype=int), (1.5,), ("10",), (None,), (True,)])
def test_cut_offs_are_a_sequence(ks):
    with pytest.raises(ValueError, match="but whole numbers, the cut-offs, are expected"):
        evaluate(random_split(2), ks=ks)


def test_results_print_short():
    embedded = labelled_dataset()
    assert repr(embedded) == (
        "EmbeddedDataset(6 queries, 3 documents, 4 dimensions, cosine; train 1, test 5 queries)"
    ), "as they are judged"
    assert (
        repr(embedded["test"])
        == "EmbeddedSplit('test': 5 queries, 3 documents, 4 dimensions, cosine, 5 relevant pairs)"
    )
    base = evaluate(embedded)
    mean = f"{base.base_means['ndcg@10']:.3f}".lstrip("0")
    assert repr(base) == f"EvaluationResult('test', 4 queries, 3 documents: nDCG@10 {mean})"
    adapted = evaluate(embedded, QueryAdapter.from_matrix(torch.eye(4).roll(1, 0)))
    printed = repr(adapted)
    assert printed.startswith(f"EvaluationResult('test', 4 queries, 3 documents: nDCG@10 {mean} -> ")
    assert adapted.compare().sentence in printed and len(printed) < 220
    assert repr(adapted.compare()).startswith(f"Comparison(nDCG@10 {mean} -> ")
