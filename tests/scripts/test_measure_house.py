"""Lines, functions and parameters are counted as a reader would count them, and the package keeps within its limits."""

import ast

import measure_house
import pytest
from measure_house import PACKAGE

SOURCE = '''"""A docstring
of two lines."""

import os  # counts

# does not count


class Map:
    """Does not count."""

    text = """counts
    twice"""

    def apply(self, a, *, b=1):
        """Neither does this.

        Nor this.
        """

        def inner(x):
            return x

        return inner(a) + b


def free(*items, first, **rest):
    return first
'''


def test_code_lines_are_neither_blank_nor_comment_nor_docstring():
    # import, class, text (2), def apply, def inner, return, return, def free, return
    assert measure_house.code_lines(SOURCE, ast.parse(SOURCE)) == 10


def test_functions_are_measured_with_what_they_contain_and_without_self():
    found = {f.name: f for f in measure_house.functions_of(PACKAGE / "data" / "x.py", ast.parse(SOURCE))}
    assert {name: (f.lines, f.parameters) for name, f in found.items()} == {
        "data/x.py: Map.apply": (10, 2),
        "data/x.py: Map.apply.inner": (2, 1),
        "data/x.py: free": (2, 1),
    }


@pytest.fixture(scope="module")
def house():
    return measure_house.house({path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")})


def test_every_function_fits_a_screen(house):
    assert house["long_functions"] == {}


def test_every_file_stays_short(house):
    assert house["largest_file"]["count"] < 350, house["largest_file"]["name"]


def test_functions_behind_the_public_door_take_few_parameters(house):
    assert house["most_parameters"]["count"] <= 8, house["most_parameters"]["name"]


def test_the_public_door_is_narrow(house):
    assert house["public_names"] <= 25
