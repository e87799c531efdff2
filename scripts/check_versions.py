"""Open saved models in many releases of Sentence Transformers, without st-adapter and without flags.

Builds one virtual environment per release with pip. In each, what this process saved is opened, compared with the
vectors of this process, saved again by that release, and opened and compared once more. The layout "twin", which has no
Router, is opened in a release before 5 too. Of two models in one the twin is the query model's part alone, a static
table in half precision. Writes scripts/results/check_versions.json.

    python scripts/check_versions.py                    # tiny random models, one for each kind of adapter
    python scripts/check_versions.py --model DIR/model  # a repository that st-adapter saved
    python scripts/check_versions.py --only 5.0.0 newest
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
import torch
from benchmark_quality import ROOT, git_commit, write_results
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import BertConfig, BertModel

from st_adapter import QueryAdapter, save_pretrained
from st_adapter.adapter import Kind
from st_adapter.bridge import Bridge, RadialUnits
from st_adapter.embeddings.identity import identity_of
from st_adapter.saving.folder import copy_as
from st_adapter.saving.joined_files import JoinedModel, save_joined
from st_adapter.saving.query_part import has_half_table
from st_adapter.saving.record import installed_versions

OUTPUT = ROOT / "scripts" / "results" / "check_versions.json"
# Release -> what pip is asked for; transformers 5 came after the earlier ones.
RELEASES = {
    "4.1.0": ["sentence-transformers==4.1.0", "transformers<5"],
    "5.0.0": ["sentence-transformers==5.0.0", "transformers<5"],
    "5.1.2": ["sentence-transformers==5.1.2", "transformers<5"],
    "5.2.3": ["sentence-transformers==5.2.3"],
    "5.4.1": ["sentence-transformers==5.4.1"],
    "5.7.0": ["sentence-transformers==5.7.0"],
    "6.0.1": ["sentence-transformers==6.0.1"],
    "6.2.0": ["sentence-transformers==6.2.0"],
    "newest": ["sentence-transformers"],
}
BEFORE_ROUTER = "4.1.0"
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
# Before 6.2 they compute in half precision what is stored in half precision.
HALF_TOLERANCE = 1e-3
HALF = "queries in half precision"

# Runs in each environment, isolated (-I) from this source tree.
OPEN_AND_ENCODE = """
import importlib.util, json, platform, sys
assert importlib.util.find_spec("st_adapter") is None, "this environment must not have st_adapter"
import numpy, sentence_transformers, torch, transformers
texts, folders, output = json.loads(sys.argv[1])
vectors = {}
for name, (folder, encoders) in folders.items():
    model = sentence_transformers.SentenceTransformer(folder, device="cpu")
    again = f"{output}.{name}"
    model.save(again)
    for prefix, opened in (("", model), ("again.", sentence_transformers.SentenceTransformer(again, device="cpu"))):
        for encoder in encoders:
            method, _, task = encoder.partition(" ")
            chosen = {"task": task, "prompt_name": "query"} if task else {}
            vectors[f"{prefix}{name}.{encoder}"] = getattr(opened, method)(texts, **chosen)
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

    def compared_as(self, encoder: str, name: str) -> str:
        """What the vectors of an encoder are, of a model that ends with the name of its layout."""
        of_task, plain_is_adapted = " " in encoder, encoder == "encode" and not name.endswith("document")
        if not (encoder == "encode_query" or of_task or plain_is_adapted):
            return "documents"
        return HALF if has_half_table(self.folder) else "queries"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, help="a repository saved by st-adapter; default: tiny random models")
    parser.add_argument("--only", nargs="+", choices=list(RELEASES), default=list(RELEASES))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    commit = git_commit()  # of the code that this process has read; the working copy may go on while it waits

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        models = tiny_models(work) if arguments.model is None else opened_here(arguments.model, work)
        releases = {}
        for name in arguments.only:
            print(f"{name}: installing {' '.join(RELEASES[name])}", flush=True)
            # Before release 5 there is no Router, and plain encode() is all there is.
            chosen = {
                model: saved._replace(vectors={"encode": saved.vectors["encode"]}) if name == BEFORE_ROUTER else saved
                for model, saved in models.items()
                if name != BEFORE_ROUTER or model.endswith("twin")
            }
            with tempfile.TemporaryDirectory(dir=work) as environment:
                releases[name] = check(Path(environment), RELEASES[name], chosen)
            print(json.dumps(releases[name], indent=2), flush=True)
    result = {
        "models": "tiny random BERT, one adapter per kind, all of them behind one model, and two models in one, "
        "queries by BERT and by a static table"
        if arguments.model is None
        else arguments.model.name,
        "num_texts": len(TEXTS),
        "tolerance": TOLERANCE,
        "half_tolerance": HALF_TOLERANCE,
        "this_process": installed_versions(),
        "releases": releases,
        "platform": f"{platform.system()} {platform.machine()}, CPU",
        "git_commit": commit,
        "command": command_of(arguments),
    }
    write_results(arguments.output, result)
    print(markdown_table(result))
    if not all(passed(release) for release in releases.values()):
        raise SystemExit(1)


def command_of(arguments: argparse.Namespace) -> str:
    """What to type for the same result; where something lies on this machine is nobody's business."""
    model = [] if arguments.model is None else ["--model", arguments.model.name]
    only = [] if arguments.only == list(RELEASES) else ["--only", *arguments.only]
    return " ".join(["python scripts/check_versions.py", *model, *only])


def passed(release: dict[str, Any]) -> bool:
    """Whether queries are adapted up to rounding, and documents are the base model's, bit for bit."""
    allowed = {"queries": TOLERANCE, "documents": 0.0, HALF: HALF_TOLERANCE}
    differences = release["max_difference"]
    return all(value <= allowed[name.removesuffix(", saved again")] for name, value in differences.items())


def markdown_table(results: dict[str, Any]) -> str:
    """One row per release; from the content of the result file."""
    found = {name for release in results["releases"].values() for name in release["max_difference"]}
    kinds = [kind for kind in ("queries", "documents", HALF) if kind in found]
    columns = (*kinds, *(f"{kind}, saved again" for kind in kinds))
    half = ", queries of a table that is stored in half precision from those of the whole one" if HALF in found else ""
    lines = [
        f"| sentence-transformers | transformers | layouts | {' | '.join(columns)} |",
        f"|---|---|---|{'---:|' * len(columns)}",
    ]
    for name, release in results["releases"].items():
        versions = release["versions"]
        number = versions["sentence-transformers"] + (" (newest)" if name == "newest" else "")
        cells = [
            f"{release['max_difference'][column]:.1g}" if column in release["max_difference"] else "–"
            for column in columns
        ]
        lines.append(f"| {number} | {versions['transformers']} | {release['layouts']} | {' | '.join(cells)} |")
    lines += [
        "",
        "Largest absolute difference of a component, as saved and after that release has saved the model again: "
        f"queries from the adapter's own result, documents and plain `encode` from the base model's{half}. "
        f"Models: {results['models']}; {results['num_texts']} texts; no flag, no other package.",
    ]
    return "\n".join(lines)


def tiny_models(work: Path) -> dict[str, Saved]:
    """Models for each kind of adapter in each layout, on one random base model in the form of old repositories."""
    write_base_model(work / "base")
    base = SentenceTransformer(str(work / "base"), device="cpu")
    queries = base.encode_query(TEXTS)
    documents = {"encode_document": base.encode_document(TEXTS), "encode": base.encode(TEXTS)}
    models: dict[str, Saved] = {}
    adapters: dict[str, QueryAdapter] = {}
    for kind in get_args(Kind):
        torch.manual_seed(0)
        adapter = QueryAdapter(32, kind, rank=8)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
            adapters[kind.replace("_", "-")] = adapter
        adapted = adapter.transform(queries)
        folder = save_pretrained(base, adapter, work / f"saved-{kind}")
        models |= in_all_layouts(kind, folder, {"encode_query": adapted, **documents})
    models |= several_adapters(base, adapters, documents, work)
    write_static_model(work / "table")
    for name, place in (("two models", work / "base"), ("two models, static", work / "table")):
        other = SentenceTransformer(str(place), device="cpu")
        vectors = torch.from_numpy(other.encode_query(TEXTS))
        is_table = place == work / "table"
        bridge = random_bridge(vectors.shape[1], 32, num_units=None if is_table else 40, of_length=is_table)
        adapter = adapters["mlp" if is_table else "linear"]
        two = JoinedModel(base, other, bridge.fold(adapter), identity_of(base), "cosine", (work / "base", place))
        folder = save_joined(two, work / f"saved-{name}")
        adapted = adapter.transform(bridge(vectors)).detach().numpy()
        models |= in_all_layouts(name, folder, {"encode_query": adapted, **documents})
    return models


def random_bridge(dimension: int, to_dimension: int, *, num_units: int | None, of_length: bool = False) -> Bridge:
    """Of random weights, by so many radial units or affine; of vectors of any length, if affine, for a table."""
    units = (
        None
        if num_units is None
        else RadialUnits(torch.nn.functional.normalize(torch.randn(num_units, dimension)), 1.0)
    )
    matrix = torch.randn(to_dimension, num_units or dimension)
    beside = None if units is None else torch.randn(to_dimension, dimension)
    return Bridge(matrix, torch.randn(to_dimension) / 10, True, units, of_length, beside)


def several_adapters(
    base: SentenceTransformer, adapters: dict[str, QueryAdapter], documents: dict[str, NDArray[np.float32]], work: Path
) -> dict[str, Saved]:
    """One model with all adapters, each for a task, with a default task and without one."""
    queries = base.encode_query(TEXTS)
    by_task = {f"encode {task}": adapter.transform(queries) for task, adapter in adapters.items()}
    default = next(iter(adapters))
    return {
        "several document": Saved(
            save_pretrained(base, adapters, work / "several"), {**by_task, **documents, "encode_query": queries}
        ),
        "several with default document": Saved(
            save_pretrained(base, adapters, work / "several-with-default", default_task=default),
            {**by_task, **documents, "encode_query": by_task[f"encode {default}"]},
        ),
    }


def opened_here(folder: Path, work: Path) -> dict[str, Saved]:
    model = SentenceTransformer(str(folder), device="cpu")
    vectors = {encoder: getattr(model, encoder)(TEXTS) for encoder in ENCODERS}
    return in_all_layouts(folder.name, folder.resolve(), vectors)


def in_all_layouts(name: str, folder: Path, vectors: dict[str, NDArray[np.float32]]) -> dict[str, Saved]:
    """The model as saved, and its two variants, in which plain encode() is for queries."""
    queries = {**vectors, "encode": vectors["encode_query"]}
    variants = {
        layout: copy_as(folder, folder.parent / f"{name}-{layout}", layout, name) for layout in ("query", "twin")
    }
    return {
        f"{name} document": Saved(folder, vectors),
        f"{name} query": Saved(variants["query"], queries),
        f"{name} twin": Saved(variants["twin"], {key: queries[key] for key in ("encode_query", "encode")}),
    }


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


def write_static_model(folder: Path) -> None:
    """A random table of single characters."""
    characters = ["[UNK]", *string.ascii_lowercase, *string.digits, *string.punctuation]
    tokenizer = Tokenizer(WordLevel({each: row for row, each in enumerate(characters)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    table = StaticEmbedding(tokenizer, torch.randn(len(characters), 16))
    SentenceTransformer(modules=[table], device="cpu").save_pretrained(str(folder), create_model_card=False)


def check(folder: Path, requirements: list[str], models: dict[str, Saved]) -> dict[str, Any]:
    """Build the environment and return its versions and the largest absolute differences."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), *requirements], check=True
    )
    output = folder / "vectors.npz"
    folders = {name: (str(saved.folder), list(saved.vectors)) for name, saved in models.items()}
    task = json.dumps([TEXTS, folders, str(output)])
    run = subprocess.run(
        [python, "-I", "-c", OPEN_AND_ENCODE, task], check=True, stdout=subprocess.PIPE, text=True, cwd=folder
    )
    vectors = np.load(output)
    largest: dict[str, float] = {}
    for name, saved in models.items():
        for encoder, expected in saved.vectors.items():
            for prefix, suffix in (("", ""), ("again.", ", saved again")):
                key = saved.compared_as(encoder, name) + suffix
                difference = float(np.abs(vectors[f"{prefix}{name}.{encoder}"] - expected).max())
                largest[key] = max(largest.get(key, 0.0), difference)
    layouts = sorted({name.rpartition(" ")[2] for name in models})
    versions = json.loads(run.stdout.splitlines()[-1])
    return {
        "requirements": requirements,
        "versions": versions,
        "layouts": ", ".join(layouts),
        "max_difference": largest,
    }


if __name__ == "__main__":
    main()
