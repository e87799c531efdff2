"""What can be chosen both in Python and on the command line, declared without importing anything heavy."""

import numbers
from typing import Any, Literal

Method = Literal["auto", "linear", "closed-form", "gradient"]
FitMethod = Literal["auto", "linear", "closed-form"]
SplitBy = Literal["query", "document"]
Precision = Literal["fp32", "bf16", "fp16"]

# What duplicate finders for encoders of this kind start from (semhash: 0.9). Set high on purpose: dropping a query that
# only resembles another costs a label for nothing, while a looser paraphrase that goes uncounted is still a new query.
PARAPHRASE_THRESHOLD = 0.9


def is_whole(value: object) -> bool:
    """Whether it is a whole number, of Python or NumPy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def as_whole(value: Any) -> Any:
    """A whole number of NumPy as one of Python, which JSON can hold; all else as it is."""
    return int(value) if is_whole(value) else value


def check_whole(name: str, value: object) -> None:
    """Raise ValueError if a setting is no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}, but a whole number of at least 1 is expected. Pass such a number.")


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise ValueError if a setting is none of its choices."""
    # `is` for booleans: 1 == True, but a 1 in a configuration is a mistake.
    if not any(value is choice if isinstance(choice, bool) else value == choice for choice in choices):
        raise ValueError(f"{name} is {value!r}, but one of {choices} is expected. Pass one of these.")
