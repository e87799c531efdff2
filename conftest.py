"""What holds for every process that runs tests, before anything is imported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Read when the libraries are imported, so they are set before that.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Small matrices gain nothing from a second thread. Processes that tests start inherit this, so that
        # the same texts give the same bits in each.
        "OMP_NUM_THREADS": "1",
    }
)


def pytest_configure(config: pytest.Config) -> None:
    """Fixtures import what takes seconds; a process that only hands tests out to workers has no use for them."""
    if config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("shared_fixtures")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What tests share has no examples to try, and would be imported once more under another name."""
    shared = collection_path.suffix == ".py" and not collection_path.name.startswith("test_")
    return True if shared and config.rootpath / "tests" in collection_path.parents else None
