"""What the tests of runs train on."""

import pytest


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory):
    """Pairs whose two sides name things differently, so that there is something to learn."""
    # Not above: this file may be read before pytest is ready to rewrite what tests share.
    import pandas as pd

    from problems import COLORS, THINGS

    rows = [
        {"question": f"where is the {color} {thing}", "passage": f"{thing} : this {thing} has the color {color}"}
        for color in COLORS
        for thing in THINGS
    ]
    path = tmp_path_factory.mktemp("data") / "pairs.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path
