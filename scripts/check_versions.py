"""Open saved models in the oldest supported and the newest Sentence Transformers, without st-adapter and without flags.

Builds one virtual environment per release with pip, opens in each what this process saved, and compares the query and
document vectors with those of this process. Writes scripts/results/check_versions.json.

    python scripts/check_versions.py                    # tiny random models, one for each kind of adapter
    python scripts/check_versions.py --model DIR/model  # a repository that st-adapter saved
"""

from __future__ import annotations

import argparse
import json
import platform
import string
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import sentence_transformers
import torch
import transformers
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel

from st_adapter.adapter import Kind, QueryAdapter
from st_adapter.saving import save_pretrained

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = {
    "oldest": ["sentence-transformers==5.0.0", "transformers<5"],
    "newest": ["sentence-transformers"],
}
TEXTS = [
    "how do i open a file?",
    "close the file and return the number of lines",
    "def read(path): return open(path).read()",
    "a longer text of many words, " * 6,
    "42",
]
ENCODERS = ("encode_query", "encode_document", "encode")
# Releases differ in how they call the same kernels, so equal files give equal vectors up to float32 rounding.
TOLERANCE = 1e-5

# Runs in each environment, isolated (-I) from this source tree.
OPEN_AND_ENCODE = """
import importlib.util, json, platform, sys
assert importlib.util.find_spec("st_adapter") is None, "this environment must not have st_adapter"
import numpy, sentence_transformers, torch, transformers
texts, encoders, folders, output = json.loads(sys.argv[1])
vectors = {}
for name, folder in folders.items():
    model = sentence_transformers.SentenceTransformer(folder, device="cpu")
    for encoder in encoders:
        vectors[f"{name}.{encoder}"] = getattr(model, encoder)(texts)
numpy.savez(output, **vectors)
print(json.dumps({
    "python": platform.python_version(),
    "sentence-transformers": sentence_transformers.__version__,
    "transformers": transformers.__version__,
    "torch": torch.__version__,
}))
"""


class Saved(NamedTuple):
    """A saved model and what its encoders must give."""

    folder: Path
    vectors: dict[str, NDArray[np.float32]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, help="a repository saved by st-adapter; default: tiny random models")
    parser.add_argument("--output", type=Path, default=ROOT / "scripts" / "results" / "check_versions.json")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        models = tiny_models(work) if arguments.model is None else {arguments.model.name: opened_here(arguments.model)}
        environments = {}
        for name, requirements in ENVIRONMENTS.items():
            print(f"{name}: installing {' '.join(requirements)}", flush=True)
            environments[name] = check(work / name, requirements, models)
            print(json.dumps(environments[name], indent=2), flush=True)
    result = {
        "models": "tiny random BERT, one adapter per kind" if arguments.model is None else arguments.model.name,
        "num_texts": len(TEXTS),
        "tolerance": TOLERANCE,
        "this_process": {
            "python": platform.python_version(),
            "sentence-transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
        "environments": environments,
        "platform": f"{platform.system()} {platform.machine()}, CPU",
        "git_commit": git_commit(),
        "command": "python scripts/check_versions.py" + (f" --model {arguments.model.name}" if arguments.model else ""),
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    worst = max(
        difference
        for environment in environments.values()
        for differences in environment["max_difference"].values()
        for difference in differences.values()
    )
    print(f"largest difference {worst:.1e}, allowed {TOLERANCE:.0e}; written to {arguments.output.name}")
    if not worst <= TOLERANCE:
        raise SystemExit(1)


def tiny_models(work: Path) -> dict[str, Saved]:
    """One saved model for each kind of adapter, on one random base model in the layout of old repositories."""
    write_base_model(work / "base")
    base = SentenceTransformer(str(work / "base"), device="cpu")
    queries = torch.from_numpy(base.encode_query(TEXTS))
    models = {}
    for kind in get_args(Kind):
        torch.manual_seed(0)
        adapter = QueryAdapter(32, kind, rank=8)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
            adapted = adapter.transform(queries).numpy()
        folder = save_pretrained(adapter, base, work / f"saved-{kind}")
        models[kind] = Saved(
            folder,
            {"encode_query": adapted, "encode_document": base.encode_document(TEXTS), "encode": base.encode(TEXTS)},
        )
    return models


def opened_here(folder: Path) -> Saved:
    model = SentenceTransformer(str(folder), device="cpu")
    return Saved(folder.resolve(), {encoder: getattr(model, encoder)(TEXTS) for encoder in ENCODERS})


def write_base_model(folder: Path) -> None:
    """Written by hand: what Sentence Transformers 6 saves by itself, releases before 5.4 cannot open."""
    characters = string.ascii_lowercase + string.digits + string.punctuation
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters)]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    types = ["Transformer", "Pooling", "Normalize"]
    paths = ["", "1_Pooling", "2_Normalize"]
    files: dict[str, Any] = {
        "tokenizer_config.json": {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            "model_max_length": 128,
            "unk_token": "[UNK]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "mask_token": "[MASK]",
        },
        "sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": False},
        "config_sentence_transformers.json": {"__version__": {"sentence_transformers": "2.0.0"}},
        "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
        "modules.json": [
            {"idx": idx, "name": str(idx), "path": path, "type": f"sentence_transformers.models.{type_}"}
            for idx, (type_, path) in enumerate(zip(types, paths, strict=True))
        ],
    }
    (folder / "1_Pooling").mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def check(folder: Path, requirements: list[str], models: dict[str, Saved]) -> dict[str, Any]:
    """Build the environment and return its versions and, per model and encoder, the largest absolute difference."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), *requirements], check=True
    )
    output = folder / "vectors.npz"
    folders = {name: str(saved.folder) for name, saved in models.items()}
    task = json.dumps([TEXTS, ENCODERS, folders, str(output)])
    run = subprocess.run(
        [python, "-I", "-c", OPEN_AND_ENCODE, task], check=True, stdout=subprocess.PIPE, text=True, cwd=folder
    )
    vectors = np.load(output)
    differences = {
        name: {
            encoder: float(np.abs(vectors[f"{name}.{encoder}"] - saved.vectors[encoder]).max()) for encoder in ENCODERS
        }
        for name, saved in models.items()
    }
    versions = json.loads(run.stdout.splitlines()[-1])
    return {"requirements": requirements, "versions": versions, "max_difference": differences}


def git_commit() -> str | None:
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=ROOT, capture_output=True, text=True
    )
    return run.stdout.strip() or None


if __name__ == "__main__":
    main()
