"""Measure the package's house: files, functions, parameters, lines of code a room, public names, and a light start.

Code lines are lines that are neither blank nor comment nor docstring. The public door is what `st_adapter.__all__`
names, with the methods of its classes, and the command line; parameters are counted behind it. Writes
scripts/results/measure_house.json and prints a table.

    python scripts/measure_house.py
"""

from __future__ import annotations

import argparse
import ast
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmark_quality import ROOT, git_commit, write_results

import st_adapter

OUTPUT = ROOT / "scripts" / "results" / "measure_house.json"
PACKAGE = ROOT / "st_adapter"
LONG = 60  # lines of a function that no longer fits a screen
RUNS = 5  # starts of the command line
# The rooms whose code together is to stay under 4,000 lines.
CORE = ("data", "embeddings", "adapter", "evaluation", "fitting", "saving")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Function(NamedTuple):
    """A function or method, as it is written."""

    name: str  # with its file and class: "data/cells.py: as_ids"
    lines: int
    parameters: int  # without self and cls
    at_the_door: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    files = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    results = {
        "script": "measure_house.py",
        "command": "python scripts/measure_house.py",
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version(), "st-adapter": st_adapter.__version__},
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        **house(files),
        "help_seconds": seconds_of_help(),
    }
    write_results(arguments.output, results)
    print(markdown_table(results))


def house(files: Mapping[Path, str]) -> dict[str, Any]:
    """What the sources say, path -> text; files without code, such as a room's empty `__init__.py`, are not counted."""
    trees = {path: ast.parse(text) for path, text in files.items()}
    code = {path: code_lines(text, trees[path]) for path, text in files.items()}
    lengths = {named(path): len(files[path].splitlines()) for path in files if code[path]}
    functions = [function for path, tree in trees.items() for function in functions_of(path, tree)]
    inside = [function for function in functions if not function.at_the_door]
    rooms: Counter[str] = Counter()
    for path, count in code.items():
        rooms[path.relative_to(PACKAGE).with_suffix("").parts[0]] += count
    return {
        "files": len(lengths),
        "lines": sum(lengths.values()),
        "median_file_lines": statistics.median(lengths.values()),
        "largest_file": largest(lengths),
        "longest_function": largest({function.name: function.lines for function in functions}),
        "long_functions": {function.name: function.lines for function in functions if function.lines >= LONG},
        "most_parameters": largest({function.name: function.parameters for function in inside}),
        "code_lines": {**rooms, "all": rooms.total(), "data to saving": sum(rooms[room] for room in CORE)},
        "public_names": len(st_adapter.__all__),
    }


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def largest(values: Mapping[str, int]) -> dict[str, Any]:
    name = max(values, key=lambda key: values[key])
    return {"name": name, "count": values[name]}


def code_lines(text: str, tree: ast.Module) -> int:
    """How many lines are neither blank nor comment nor docstring."""
    documentation: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            documentation.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") for n, line in lines if n not in documentation)


def functions_of(path: Path, tree: ast.Module) -> Iterator[Function]:
    """All functions of a file, with those in classes and in other functions."""

    def walk(node: ast.AST, owners: tuple[str, ...]) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                qualified = (*owners, child.name)
                arguments = child.args
                names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
                yield Function(
                    f"{named(path)}: {'.'.join(qualified)}",
                    (child.end_lineno or child.lineno) - child.lineno + 1,
                    len(names) - (names[:1] in (["self"], ["cls"])),
                    qualified[0] in st_adapter.__all__ or named(path).startswith("cli"),
                )
                yield from walk(child, qualified)
            else:
                yield from walk(child, (*owners, child.name) if isinstance(child, ast.ClassDef) else owners)

    yield from walk(tree, ())


def seconds_of_help() -> dict[str, Any]:
    """Wall seconds of `st-adapter --help`, each in a process of its own."""
    command = Path(sys.executable).with_name("st-adapter")
    runs = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run([command, "--help"], stdout=subprocess.DEVNULL, check=True)
        runs.append(round(time.perf_counter() - start, 3))
    return {"median": statistics.median(runs), "runs": runs}


def markdown_table(results: dict[str, Any]) -> str:
    """From the content of the result file."""
    code = results["code_lines"]
    rows = [
        ("files, and the median of their lines", f"{results['files']}, {results['median_file_lines']:g}"),
        (f"largest file, `{results['largest_file']['name']}`", f"{results['largest_file']['count']} lines"),
        (f"longest function, `{results['longest_function']['name']}`", f"{results['longest_function']['count']} lines"),
        (f"functions of {LONG} lines or more", f"{len(results['long_functions'])}"),
        (
            f"most parameters behind the public door, `{results['most_parameters']['name']}`",
            f"{results['most_parameters']['count']}",
        ),
        *(
            (f"code lines in {room}", f"{count:,}")
            for room, count in code.items()
            if room not in ("all", "data to saving", "__init__", "__main__")
        ),
        ("code lines in all", f"{code['all']:,}"),
        (f"code lines in {', '.join(CORE)}", f"{code['data to saving']:,}"),
        ("names in `__all__`", f"{results['public_names']}"),
        (
            f"`st-adapter --help`, median of {len(results['help_seconds']['runs'])}",
            f"{results['help_seconds']['median']:.2f} s",
        ),
    ]
    return "\n".join(["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)])


if __name__ == "__main__":
    main()
