"""Classes for stacks: what they say when their stack is missing. scripts/check_stacks.py uses them."""

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("chroma", "chromadb", "chroma"),
        ("llama_index", "llama_index", "llama-index"),
        ("lancedb", "lancedb", "lancedb"),
    ],
)
def test_a_missing_stack_is_named_with_its_extra(module, package, extra, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"st_adapter.stacks.{module}", raising=False)
    with pytest.raises(ImportError, match=rf'Run `pip install "st-adapter\[{extra}\]"`'):
        importlib.import_module(f"st_adapter.stacks.{module}")
