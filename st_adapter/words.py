"""Words for numbers, counts and names in messages, tables and reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# More digits than these burden a line, and Python refuses to write numbers of some thousand.
_MAX_DIGITS = 18
# An estimate above this is no number to plan with.
MOST_ESTIMATED = 10_000
_METRICS = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP"}


# --- counts ---


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """A number and its noun.

    Examples:
        >>> counted(1, "query", "queries"), counted(2000, "document")
        ('1 query', '2,000 documents')
    """
    return f"{whole(number)} {singular if number == 1 else plural or singular + 's'}"


def whole(number: int) -> str:
    """A whole number, its digits in groups of three.

    Examples:
        >>> whole(12345), whole(10**30)
        ('12,345', 'a number of more than 18 digits')
    """
    return f"{number:,}" if abs(number) < 10**_MAX_DIGITS else f"a number of more than {_MAX_DIGITS} digits"


def roughly(number: float) -> str:
    """An estimated number of queries: two digits of it, none beyond 10,000.

    Examples:
        >>> roughly(447.1), roughly(8), roughly(9_860), roughly(12_345)
        ('about 450', 'about 8', 'about 9,900', 'more than 10,000')
    """
    if number > MOST_ESTIMATED:
        return f"more than {MOST_ESTIMATED:,}"
    return f"about {float(f'{number:.1e}'):,.0f}"


def documents_searched(number: int, labelled_only: bool) -> str:
    """How large the corpus is, for wherever figures stand.

    Examples:
        >>> documents_searched(3847, True)
        '3,847 documents, the labelled ones only'
    """
    return counted(number, "document") + (", the labelled ones only" if labelled_only else "")


# --- measures ---


def fraction(value: float, decimals: int = 3) -> str:
    """A number without a leading zero, as tables of metrics have them.

    Examples:
        >>> fraction(0.5), fraction(-0.0002), fraction(1), fraction(0.25, decimals=1)
        ('.500', '.000', '1.000', '.2')
    """
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        return text.lstrip("-0")
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def signed(value: float, decimals: int = 3, minus: str = "−") -> str:
    """A difference of fractions with its sign, as far as rounding leaves one.

    Examples:
        >>> signed(0.5), signed(-0.25), signed(-0.0002)
        ('+.500', '−.250', '.000')
    """
    text = fraction(value, decimals)
    return f"+{text}" if float(text) > 0 else text.replace("-", minus)


def signed_in_ascii(value: float) -> str:
    """The same with a hyphen for the minus, for sentences that are read in terminals and files as well.

    Examples:
        >>> signed_in_ascii(0.5), signed_in_ascii(-0.25)
        ('+.500', '-.250')
    """
    return signed(value, minus="-")


def metric_name(metric: str) -> str:
    """A metric as it is written in text.

    Examples:
        >>> metric_name("ndcg@10"), metric_name("recall@100")
        ('nDCG@10', 'recall@100')
    """
    name, at, k = metric.partition("@")
    return f"{_METRICS.get(name, name)}{at}{k}"


def rank(reciprocal_rank: float) -> str:
    """The rank of a first relevant document, of which the first 100 are looked at.

    Examples:
        >>> rank(0.25), rank(0.0)
        ('4', '> 100')
    """
    return str(round(1 / reciprocal_rank)) if reciprocal_rank > 0 else "> 100"


# --- names ---


def listed(names: Iterable[object]) -> str:
    """Quote and join names: 'a', 'b'."""
    return ", ".join(repr(str(name)) for name in names)


def first_three(labels: Sequence[str]) -> str:
    """Name the first three of a list and show that there are more: 'a', 'b', 'c', ..."""
    return listed(labels[:3]) + (", ..." if len(labels) > 3 else "")


def own_copies_left_out(number: int) -> str:
    """How many queries are documents too, for wherever figures stand.

    Examples:
        >>> own_copies_left_out(1)
        '1 query stands in the corpus as a document too; left out of its own hits.'
    """
    if number == 1:
        return "1 query stands in the corpus as a document too; left out of its own hits."
    return f"{whole(number)} queries stand in the corpus as documents too; left out of their own hits."
