"""Run the README's example as it is printed there, and keep what it printed.

Its pairs.csv holds the demo's data, the functions of Python's standard library: what a docstring promises, and the
source. Writes scripts/results/readme_example.json.

    python scripts/readme_example.py
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark_quality import ROOT, git_commit, write_results

OUTPUT = ROOT / "scripts" / "results" / "readme_example.json"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
EXAMPLE = f'''\
import st_adapter
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{MODEL}")
dataset = st_adapter.RetrievalDataset.load("pairs.csv")  # columns: query, document
result = st_adapter.train(model, dataset)  # embeds (cached), fits, tests, evaluates
print(result)
result.save_pretrained("model-with-adapter")  # or result.push_to_hub("user/model-with-adapter")

model = SentenceTransformer("model-with-adapter")  # anywhere, without this package
query_embeddings = model.encode_query(["Return the arc tangent of x."])  # adapted
document_embeddings = model.encode_document(["def atan(x): ..."])  # bit for bit the base model's
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    commit = git_commit()
    with tempfile.TemporaryDirectory() as name:
        # Read when the libraries are imported: nothing of this machine's cache may make the run faster.
        os.environ.update(HF_HOME=str(Path(name) / "cache"), COLUMNS="100", TQDM_DISABLE="1")
        steps, seconds = run(Path(name))
        from st_adapter.saving.record import installed_versions

        versions = installed_versions()
    write_results(
        arguments.output,
        {
            "script": "readme_example.py",
            "command": "python scripts/readme_example.py",
            "git_commit": commit,
            "versions": versions,
            "seconds": round(seconds, 1),
            "steps": steps,
        },
    )
    print(python_block({"steps": steps}))


def run(folder: Path) -> tuple[list[dict[str, Any]], float]:
    """Each statement of the example with the lines that it printed, and the seconds of all."""
    import pandas as pd

    from st_adapter.demo import demo_model_path, standard_library_dataset

    dataset = standard_library_dataset()
    queries, corpus = (dict(zip(rows["id"], rows["text"], strict=True)) for rows in (dataset.queries, dataset.corpus))
    pairs = [
        {"query": queries[row["query_id"]], "document": corpus[row["corpus_id"]]}
        for qrels in dataset.qrels.values()
        for row in qrels
    ]
    pd.DataFrame(pairs).to_csv(folder / "pairs.csv", index=False)
    lines, steps, names = EXAMPLE.splitlines(), [], dict[str, Any]()
    os.chdir(folder)
    start, done = time.perf_counter(), 0
    for statement in ast.parse(EXAMPLE).body:
        end = statement.end_lineno or statement.lineno
        code, done = "\n".join(lines[done:end]), end
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code.replace(MODEL, str(demo_model_path())), "README.md", "exec"), names)
        steps.append({"code": code, "output": [line.rstrip() for line in printed.getvalue().splitlines()]})
    os.chdir(ROOT)
    return steps, time.perf_counter() - start


def python_block(results: Mapping[str, Any]) -> str:
    """The code with what it printed as comments below; from the content of the result file."""
    lines = []
    for step in results["steps"]:
        lines += [step["code"], *(f"# => {line}".rstrip() for line in step["output"])]
    return "\n".join(["```python", *lines, "```"])


if __name__ == "__main__":
    main()
