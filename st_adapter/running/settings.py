"""The settings of a run, and what can be checked of them before anything is embedded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from sentence_transformers import SentenceTransformer

from st_adapter.choices import PARAPHRASE_THRESHOLD, Method, Precision, check_choice
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.sources import DataSource
from st_adapter.data.unlabelled import queries_alone
from st_adapter.embeddings.encoder import Encoder
from st_adapter.embeddings.origin import remember_origin
from st_adapter.embeddings.teacher import TeacherModel, open_teacher
from st_adapter.embeddings.teaching import School
from st_adapter.errors import InputError, setting_error
from st_adapter.evaluation.run_file import check_run_file
from st_adapter.evidence import output_folder as output
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.fitting.auto import check_learns_from_teacher, check_seed_and_level
from st_adapter.saving.base import Base
from st_adapter.saving.declared_sizes import check_sizes
from st_adapter.saving.query_base import STATIC, nothing_to_distil
from st_adapter.storage.writing import check_writable


@dataclass(frozen=True)
class RunOptions:
    """What few runs need.

    Attributes:
        drop_leaks: whether to take queries out of train and dev that a later split has too, as text or paraphrase; see
            the function ``drop_leaks``. They are counted in any case.
        paraphrase_threshold: how near two queries are that count as paraphrases; see ``find_leaks``. Where the splits
            were cut by document, paraphrases stay on one side as well; see ``cut_splits``.
        resume_from_checkpoint: go on with a ``gradient`` run that was cut off, from its newest checkpoint.
        save_base: whether to save the base model to ``output_dir`` if it is kept.
        onnx: whether to save the model to ``output_dir`` as ONNX too.
        base_model: Hub id or folder that the base model came from, if the model itself no longer knows it.
        opened_with: settings that the model was opened with and its files do not say, such as ``truncate_dim``, for
            results, report and model card.
        script: the script that makes the model, for the model card.
        without_labels: learn from portions of the documents alone, or with a query model from what both models find;
            the judgements of the data take no part in it. What comes of it is not tested, and is handed over all the
            same.
        unlabelled_queries: queries that users have and nobody has judged, for a teacher or a query model: texts, or
            whatever holds a column of queries; those of the data that no split judges are taken in any case.
        allow_other_vectors: go on where the vectors that came with the data, or lie in a store, are not the model's.
        non_inferior: with a query model: how much worse than the status quo, in nDCG@10, is good enough; 0: only what
            is better is handed over.
        reference_run: with a query model: a TREC run file of the status quo, where the documents' model is not there,
            or is not how they are searched today.

    Examples:
        >>> options = RunOptions(paraphrase_threshold=0.95)
        >>> result = st_adapter.train(model, dataset, options=options, cache_dir="cache", show_progress_bar=False)
        >>> result.results.data.leaks["paraphrase_threshold"]
        0.95
    """

    drop_leaks: bool = False
    paraphrase_threshold: float = PARAPHRASE_THRESHOLD
    resume_from_checkpoint: bool = False
    save_base: bool = True
    onnx: bool = False
    base_model: str | Path | None = None
    opened_with: Mapping[str, Any] = field(default_factory=dict)
    script: str = ""
    without_labels: bool = False
    unlabelled_queries: DataSource | Sequence[str] | None = None
    allow_other_vectors: bool = False
    non_inferior: float = 0.0
    reference_run: str | Path | None = None


@dataclass(frozen=True)
class Settings:
    """The arguments of ``train`` besides models and data, under the same names."""

    method: Method
    seed: int
    alpha: float
    args: AdapterTrainingArguments | None
    output_dir: Path | None
    cache_dir: str | os.PathLike[str] | None
    show_progress_bar: bool
    options: RunOptions
    teacher: TeacherModel | str | Path | None = None
    batch_size: int = 32
    precision: Precision = "fp32"


def check_settings(settings: Settings) -> None:
    """Check what model and data have no part in.

    Raises:
        ValueError: settings do not fit together, or the folder is of something else.
    """
    if not isinstance(settings.options, RunOptions):
        name = type(settings.options).__name__
        raise ValueError(f"options are a {name}, but RunOptions are expected. Pass RunOptions(...).")
    check_choice("method", settings.method, get_args(Method))
    check_choice("precision", settings.precision, get_args(Precision))
    if settings.output_dir is not None:
        output.check_output_folder(settings.output_dir)
    if settings.args is not None and settings.method != "gradient":
        raise InputError(
            f"Training settings were given, but method {settings.method!r} takes none.",
            python="Choose method='gradient'.",
            flags="Add --method gradient.",
        )
    if settings.options.resume_from_checkpoint and settings.method != "gradient":
        raise ValueError(
            f"Method {settings.method!r} writes no checkpoints to resume from. Run it again, or choose 'gradient'."
        )
    if not 0 <= settings.options.non_inferior < 1:
        raise setting_error("non_inferior", settings.options.non_inferior, "a difference in nDCG@10, from 0 to below 1")
    if not 0 < settings.options.paraphrase_threshold <= 1:
        raise setting_error("paraphrase_threshold", settings.options.paraphrase_threshold, "above 0 and at most 1")
    if settings.options.without_labels and settings.method != "auto":
        raise InputError(
            f"Method {settings.method!r} learns from labels, and none are to be used.",
            python="Leave method out, or without_labels.",
            flags="Leave out --method, or --without-labels.",
        )
    check_learns_from_teacher(settings.method, settings.teacher)
    check_seed_and_level(settings.seed, settings.alpha)


def check_query_model(settings: Settings, query_model: object, with_base: bool) -> None:
    """Check what only a run with a query model takes, and what such a run does not.

    Args:
        settings: of the run.
        query_model: it, or what it is called; None if there is none.
        with_base: whether there is a model of the documents.

    Raises:
        ValueError: settings do not fit together.
    """
    options, given = settings.options, query_model is not None
    if not given and not with_base:
        raise InputError(
            "There is no model.",
            python="Pass the base model first, or, for documents with vectors, query_model.",
            flags="Name one with --model.",
        )
    if query_model == STATIC and not with_base:
        raise nothing_to_distil()
    if not given and settings.teacher is None and options.unlabelled_queries is not None:
        raise InputError(
            "There are queries without labels, but no teacher and no query model, and nothing else learns from them.",
            python="Give teacher=... or query_model=..., or leave unlabelled_queries out.",
            flags="Add --teacher MODEL or --query-model MODEL, or leave out --unlabelled-queries.",
        )
    if given and not with_base and (options.without_labels or options.unlabelled_queries is not None):
        name = "without_labels" if options.without_labels else "unlabelled_queries"
        raise InputError(
            "What a query model learns of queries without labels it learns from the model of the documents, which was "
            "not given.",
            python=f"Pass the model of the index first, or leave {name} out.",
            flags=f"Name the model of the index with --model, or leave --{name.replace('_', '-')} out.",
        )
    _check_compared(options, given)
    if given and settings.teacher is not None:
        raise InputError(
            "A teacher and a query model came together, and what a teacher says is learned by an adapter of one model.",
            python="Leave teacher or query_model out.",
            flags="Leave --teacher or --query-model out.",
        )
    if given and settings.method == "gradient":
        raise InputError(
            "What is fitted behind a query model is chosen among what fits in folds give.",
            python="Leave method='gradient' out.",
            flags="Leave --method gradient out.",
        )


def _check_compared(options: RunOptions, given: bool) -> None:
    """Check what was said of the comparison with the status quo, if anything was."""
    if not options.non_inferior and options.reference_run is None:
        return
    if options.reference_run is not None:
        check_run_file(options.reference_run)
    name = "non_inferior" if options.non_inferior else "reference_run"
    flag = f"--{name.replace('_', '-')}"
    if not given:
        raise InputError(
            "What the status quo is compared with was said of, but there is no query model, and an adapter has to "
            "be better than its base model.",
            python=f"Pass query_model, or leave {name} out.",
            flags=f"Add --query-model, or leave {flag} out.",
        )
    if options.without_labels:
        raise InputError(
            "What the status quo is compared with was said of, but without labels nothing is compared.",
            python=f"Leave {name} or without_labels out.",
            flags=f"Leave {flag} or --without-labels out.",
        )


def opened(
    model: SentenceTransformer | Encoder | str | Path, device: torch.device | None = None
) -> SentenceTransformer | Encoder:
    """A model as it is, or the one that a Hub id, folder or output folder of a run names.

    Args:
        model: it, or its name.
        device: where to open it; the best there is if None.

    Raises:
        OSError: there is no such folder, and the Hub has no such model, or cannot be reached.
        ValueError: it is no name of a model, or of an adapter alone.
    """
    if not isinstance(model, str | Path):
        return model
    if model == "":
        raise ValueError("The name of a model is empty. Name a Hub id or a folder.")
    alone = output.adapter_alone(str(model))
    if alone is not None:
        raise ValueError(
            f"{alone} holds an adapter alone, and nothing that embeds. Pass the encoder that it was trained for; its "
            "new adapter is compared with the base, and with the one in use by evaluating both."
        )
    place = output.model_path(str(model))
    if Path(place).is_dir():
        check_sizes(Path(place))
    try:
        loaded = SentenceTransformer(place, device=device and str(device))
    except (OSError, ValueError) as error:
        if Path(place).is_dir() or "trust_remote_code" in str(error):
            raise
        reason, kind = " ".join(str(error).split())[:300], OSError if isinstance(error, OSError) else ValueError
        raise kind(
            f"There is no folder {place} here, and it could not be opened from the Hub ({reason}). Check the spelling, "
            "the connection, and whether it needs `hf auth login`."
        ) from error
    remember_origin(loaded, place)
    return loaded


def opened_school(settings: Settings, device: torch.device) -> School | None:
    """The teacher, opened, with the queries that it is asked besides those of the data; None without one.

    Raises:
        ValueError: the teacher is of no use, or the queries cannot be read.
    """
    if settings.teacher is None:
        return None
    cache_dir, bar, given = settings.cache_dir, settings.show_progress_bar, settings.options.unlabelled_queries
    teacher = open_teacher(settings.teacher, device=device, cache_dir=cache_dir, show_progress_bar=bar)
    return School(teacher, [] if given is None else queries_alone(given))


def check_fit_together(base: Base, dataset: RetrievalDataset, settings: Settings) -> None:
    """Check everything that can be checked before anything is embedded."""
    base.check(onnx=settings.options.onnx)
    missing = [split for split in ("train", "dev") if split not in dataset.splits]
    if settings.options.without_labels:
        if dataset.document_texts is None or dataset.store is not None:
            raise ValueError(
                "The documents have no texts, or lie in a store, so that without labels there is nothing to learn from."
            )
    elif settings.teacher is not None and (dataset.document_texts is None or dataset.store is not None):
        raise InputError(
            "A teacher reads the documents, but they have no texts, or lie in a store.",
            python="Give their texts as corpus, or leave teacher out.",
            flags="Give their texts with --corpus FILE, or leave out --teacher.",
        )
    if missing and not settings.options.without_labels:
        raise ValueError(f"The data have no split {missing[0]!r}, only {dataset.splits}. Training needs both.")
    if settings.output_dir is not None:
        check_writable(settings.output_dir, "output_dir", num_bytes=base.num_bytes)
        base.check_target(settings.output_dir / output.VERSIONS_FOLDER / "new" / model_folder(base))


def model_folder(base: Base) -> str:
    """Name of the folder in the output folder that a model, or an adapter alone, is saved to."""
    return output.MODEL_FOLDER if base.model is not None else output.ALONE_FOLDER
