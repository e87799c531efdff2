"""Queries made of documents: which portion, and of which document."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from st_adapter.data import pseudo_queries as module
from st_adapter.data.pseudo_queries import PseudoQueries, pseudo_queries


@pytest.mark.parametrize(
    ("document", "query"),
    [
        ("Adapters are small. They sit on the query side.", "Adapters are small."),
        ("  A title of three\n\nAnd its text", "A title of three"),
        ("Is this one? Yes it is.", "Is this one?"),
        ("Version 2.5 of it is out! Get it.", "Version 2.5 of it is out!"),
        ("one sentence without an end has its first half", "one sentence without an"),
        (" ".join(map(str, range(100))) + ". End.", " ".join(map(str, range(40)))),
        ("Too short. And then there is more of it.", None),
        ("five words are too few", None),
        ("", None),
        (" \n ", None),
    ],
)
def test_the_first_sentence_or_half_of_the_only_one(document, query):
    expected = PseudoQueries([], []) if query is None else PseudoQueries([query], [0])
    assert pseudo_queries([document]) == expected


def test_a_beginning_that_several_documents_share_tells_none_of_them():
    made = pseudo_queries(["How to begin. One.", "How to begin. Two.", "How to end. One.", "How to begin. Three."])
    assert made == PseudoQueries(["How to end."], [2])


@given(st.integers(0, 1000))
def test_of_many_documents_a_part_is_taken_that_the_seed_decides(seed):
    documents = [f"Document number {number}. Its text." for number in range(60)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MAX_DOCUMENTS", 20)
        made, again, other = pseudo_queries(documents, seed), pseudo_queries(documents, seed), pseudo_queries(documents)
    assert made == again and len(made.texts) == len(set(made.rows)) == 20
    assert all(documents[row].startswith(text) for text, row in zip(made.texts, made.rows, strict=True))
    assert seed == 0 or made != other
