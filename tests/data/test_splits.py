import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from st_adapter.data.cutting import Share, connected, cut_by_text, cut_in_groups, hashes_of, text_key

PARTS = [Share("train", 0.7), Share("dev", 0.1), Share("test", 0.2)]
NO_LINKS = (np.array([], dtype=np.int64), np.array([], dtype=np.int64))


def grouped(documents, links=(), texts=None, seed=0, parts=PARTS):
    """Cut queries given as lists of documents."""
    texts = [f"query {number:04}" for number in range(len(documents))] if texts is None else texts
    edges = [(query, document) for query, asked in enumerate(documents) for document in asked]
    query, document = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    one, other = np.array(list(links), dtype=np.int64).reshape(-1, 2).T
    return cut_in_groups(texts, query, document, (one, other), parts, seed)


def components_slowly(num_nodes, edges):
    """One edge after the other, every label by hand."""
    labels = list(range(num_nodes))
    for one, other in edges:
        low, high = sorted((labels[one], labels[other]))
        labels = [low if label == high else label for label in labels]
    return labels


@pytest.mark.parametrize(
    "one,other", [("ﬁle", "FILE"), ("Straße", "STRASSE"), ("Ａ１", "a1"), ("é", "e\u0301"), (" a \n b", "A\u3000B")]
)
def test_case_width_and_spacing_do_not_count(one, other):
    assert text_key(one) == text_key(other)


def test_words_and_punctuation_do_count():
    assert len({text_key(text) for text in ("a b", "ab", "a, b", "a b?", "b a")}) == 5


edges = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=16)


@given(edges, edges)
def test_components_are_named_by_their_smallest_node(first, second):
    one, other = np.array(first + second, dtype=np.int64).reshape(-1, 2).T
    assert connected(12, one, other).tolist() == components_slowly(12, first + second)


@settings(max_examples=60)
@given(
    documents=st.lists(st.lists(st.integers(0, 20), max_size=2), min_size=1, max_size=24),
    links=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=4),
    copies=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=3),
    seed=st.integers(0, 2**32),
)
def test_what_belongs_together_stays_together(documents, links, copies, seed):
    # Some queries without company, so that no group has to be cut for want of others.
    documents = documents + [[100 + number] for number in range(60)]
    num_queries = len(documents)
    texts = [f"query {number:04}" for number in range(num_queries)]
    for one, other in copies:
        texts[one % num_queries] = texts[other % num_queries]
    links = [(one % num_queries, other % num_queries) for one, other in links]
    found = grouped(documents, links, texts, seed)
    assert len(found.sides) == num_queries and set(found.sides.tolist()) == {0, 1, 2}
    sides = {}
    for text, asked, part in zip(texts, documents, found.sides.tolist(), strict=True):
        sides.setdefault(text, set()).add(part)
        for document in asked if not found.num_torn_groups else []:
            sides.setdefault(document, set()).add(part)
    assert {len(parts) for parts in sides.values()} == {1}
    for one, other in links if not found.num_torn_groups else []:
        assert found.sides[one] == found.sides[other]

    order = np.random.default_rng(seed).permutation(num_queries)
    place = np.argsort(order)
    shuffled = grouped(
        [documents[query] for query in order], [(place[a], place[b]) for a, b in links], [texts[q] for q in order], seed
    )
    assert (shuffled.sides == found.sides[order]).all(), "the order of the queries decides nothing"


def test_a_small_group_goes_where_its_first_text_goes():
    documents = [[number // 3] for number in range(300)]
    found = grouped(documents, seed=5)
    first = [f"query {number:04}" for number in range(0, 300, 3)]
    assert found.sides.tolist() == np.repeat(cut_by_text(first, PARTS, 5), 3).tolist()
    assert found.num_torn_groups == 0
    more = grouped(documents + [[1000 + number] for number in range(100)], seed=5)
    assert (more.sides[:300] == found.sides).all(), "more data moves no group that it does not join"
    assert (grouped(documents, seed=6).sides != found.sides).any()


def test_a_large_group_stays_whole_and_the_shares_hold():
    documents = [[0]] * 500 + [[number] for number in range(1, 501)]
    found = grouped(documents)
    assert found.num_torn_groups == 0 and set(found.sides[:500].tolist()) == {0}
    sizes = np.bincount(found.sides) / 1000
    assert sizes == pytest.approx([0.7, 0.1, 0.2], abs=0.05)  # about four standard errors of 500 draws


def test_as_many_groups_as_parts_are_one_each():
    for seed in range(5):
        found = grouped([[number // 10] for number in range(30)], seed=seed)
        assert found.num_torn_groups == 0
        assert sorted({tuple(set(found.sides[start : start + 10])) for start in (0, 10, 20)}) == [(0,), (1,), (2,)]


def test_a_giant_group_is_cut_by_the_document_most_asked_for():
    """Fifty documents with ten queries each, strung together by one query between each two neighbours."""
    documents = [[number // 10] for number in range(500)]
    for bridge in range(49):
        documents[bridge * 10 + 3] = [bridge, bridge + 1]
    found = grouped(documents)
    assert (found.num_torn_groups, found.num_torn_queries) == (1, 500)
    assert set(found.sides.tolist()) == {0, 1, 2}
    plain = [n for n in range(500) if n % 10 != 3]
    sides = {}
    for number in plain:
        sides.setdefault(number // 10, set()).add(int(found.sides[number]))
    assert {len(parts) for parts in sides.values()} == {1}, "only the queries between two documents may stray"


def test_a_chain_of_links_gives_way_before_documents_do():
    documents = [[number // 5] for number in range(200)]
    links = [(number, number + 5) for number in range(195)]
    found = grouped(documents, links)
    assert (found.num_torn_groups, found.num_torn_queries) == (1, 200)
    assert (found.sides.reshape(40, 5) == found.sides[::5, None]).all()
    assert (found.sides == grouped(documents).sides).all()


def test_one_document_for_everything_is_cut_by_text():
    texts = [f"query {number:04}" for number in range(100)]
    found = grouped([[7]] * 100, texts=texts)
    assert (found.num_torn_groups, found.num_torn_queries) == (1, 100)
    assert found.sides.tolist() == cut_by_text(texts, PARTS, 0).tolist()


@pytest.mark.parametrize("documents", [[[1]], [[]], [[1], [1]]])
def test_too_few_queries_leave_a_part_empty_and_end(documents):
    assert len(set(grouped(documents).sides.tolist())) < 3


def test_hashes_are_even():
    shares = hashes_of([f"query {number}" for number in range(4000)], 0)
    assert (shares >= 0).all() and (shares < 1).all()
    assert np.histogram(shares, bins=4, range=(0, 1))[0] == pytest.approx([1000] * 4, abs=110)  # four standard errors
