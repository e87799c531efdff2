"""Open saved models with Sentence Transformers' own ONNX backend, in an environment without st-adapter.

The backend needs optimum-onnx, which takes no transformers 5, so it runs in a virtual environment of its own, built
with pip. For bases with and without modules behind the pooling, `onnx/model.onnx` has to give the documents and the
adapted queries of the model in PyTorch, and the files of finished vectors have to be refused. Writes
scripts/results/check_onnx_backend.json.

    python scripts/check_onnx_backend.py
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_quality import ROOT, git_commit, write_results
from check_versions import TEXTS, write_base_model
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

from st_adapter import QueryAdapter, save_pretrained
from st_adapter.saving.onnx_files import DOCUMENT_FILE, QUERY_FILE
from st_adapter.saving.record import installed_versions

OUTPUT = ROOT / "scripts" / "results" / "check_onnx_backend.json"
REQUIREMENTS = ["sentence-transformers==5.2.3", "transformers==4.57.6", "optimum-onnx==0.1.0", "onnxruntime"]
BASES = ("pooling and normalizing", "Dense after the pooling")
# As far as onnxruntime's kernels may be from PyTorch's.
TOLERANCE = 1e-5

# Runs in the environment, isolated (-I) from this source tree.
OPEN_AND_ENCODE = """
import importlib.util, json, sys
assert importlib.util.find_spec("st_adapter") is None, "this environment must not have st_adapter"
import numpy, optimum.version, sentence_transformers, torch, transformers
texts, folders, finished, output = json.loads(sys.argv[1])
vectors, refused = {}, {}
for name, folder in folders.items():
    model = sentence_transformers.SentenceTransformer(folder, device="cpu", backend="onnx")
    vectors[f"{name}.documents"] = model.encode_document(texts)
    vectors[f"{name}.queries"] = model.encode_query(texts)
    for file in finished[name]:
        try:
            arguments = {"file_name": f"onnx/{file}"}
            model = sentence_transformers.SentenceTransformer(
                folder, device="cpu", backend="onnx", model_kwargs=arguments
            )
            model.encode_query(texts)
            refused[f"{name}: {file}"] = None
        except Exception as error:
            refused[f"{name}: {file}"] = f"{type(error).__name__}: {error}"
numpy.savez(output, **vectors)
print(json.dumps({"refused": refused, "versions": {
    "sentence-transformers": sentence_transformers.__version__,
    "transformers": transformers.__version__,
    "optimum": optimum.version.__version__,
    "torch": torch.__version__,
}}))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        expected: dict[str, Any] = {}
        folders = {}
        for name in BASES:
            saved = save_model(work / name.replace(" ", "-"), dense=name != BASES[0])
            model = SentenceTransformer(str(saved), device="cpu")
            expected[f"{name}.documents"] = model.encode_document(TEXTS)
            expected[f"{name}.queries"] = model.encode_query(TEXTS)
            folders[name] = saved
        result = check(work / "environment", folders, expected)
    result |= {
        "num_texts": len(TEXTS),
        "tolerance": TOLERANCE,
        "this_process": installed_versions(),
        "platform": f"{platform.system()} {platform.machine()}, CPU",
        "git_commit": git_commit(),
        "command": "python scripts/check_onnx_backend.py",
    }
    write_results(OUTPUT, result)
    print(json.dumps(result, indent=2))
    if max(result["max_difference"].values()) > TOLERANCE or not all(result["refused"].values()):
        raise SystemExit(1)


def save_model(folder: Path, *, dense: bool) -> Path:
    """A tiny random model with an adapter and its ONNX files, on a base in the form of old repositories."""
    base = folder / "base"
    write_base_model(base)
    if dense:
        _add_dense(base)
    model = SentenceTransformer(str(base), device="cpu")
    torch.manual_seed(0)
    adapter = QueryAdapter.from_matrix(torch.eye(32) + 0.2 * torch.randn(32, 32))
    return save_pretrained(model, adapter, folder / "saved", onnx=True)


def _add_dense(base: Path) -> None:
    """Put a Dense between the Pooling and the Normalize of a base model."""
    entries = json.loads((base / "modules.json").read_text(encoding="utf-8"))
    entries.insert(2, {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (base / "modules.json").write_text(json.dumps(entries, indent=2), encoding="utf-8")
    (base / "3_Dense").mkdir()
    activation = "torch.nn.modules.activation.Tanh"
    config = {"in_features": 32, "out_features": 32, "bias": True, "activation_function": activation}
    (base / "3_Dense" / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    torch.manual_seed(1)
    weights = {"linear.weight": torch.randn(32, 32), "linear.bias": torch.randn(32)}
    save_file(weights, base / "3_Dense" / "model.safetensors")


def check(environment: Path, folders: dict[str, Path], expected: dict[str, Any]) -> dict[str, Any]:
    """Build the environment; versions, largest absolute differences, and what the backend says to finished vectors."""
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), *REQUIREMENTS], check=True
    )
    output = environment / "vectors.npz"
    finished = {
        name: [file for file in (DOCUMENT_FILE, QUERY_FILE) if (folder / "onnx" / file).is_file()]
        for name, folder in folders.items()
    }
    paths = {name: str(folder) for name, folder in folders.items()}
    task = json.dumps([TEXTS, paths, finished, str(output)])
    run = subprocess.run(
        [python, "-I", "-c", OPEN_AND_ENCODE, task], check=True, stdout=subprocess.PIPE, text=True, cwd=environment
    )
    found = np.load(output)
    differences = {name: float(np.abs(found[name] - vectors).max()) for name, vectors in expected.items()}
    return {**json.loads(run.stdout.splitlines()[-1]), "requirements": REQUIREMENTS, "max_difference": differences}


if __name__ == "__main__":
    main()
