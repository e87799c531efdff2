"""The command that compares a saved model with its base model, or with what is deployed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sentence_transformers import SentenceTransformer

from st_adapter.adapter import QueryAdapter
from st_adapter.choices import PARAPHRASE_THRESHOLD
from st_adapter.cli.opening import load_dataset, open_model
from st_adapter.cli.options import EvaluateOptions
from st_adapter.cli.tables import console, print_dataset
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.splits import UNCUT
from st_adapter.embeddings.long_texts import long_texts
from st_adapter.evidence.against import SavedComparison, check_same_documents, compare_saved
from st_adapter.evidence.output_folder import adapter_alone, model_path
from st_adapter.evidence.saved import SavedModelResults, evaluate_saved
from st_adapter.evidence.tables import print_changes, print_evaluation, print_indexes, print_verdict
from st_adapter.evidence.terminal import escape
from st_adapter.saving.joined import documents_model
from st_adapter.saving.opening import saved_training
from st_adapter.saving.record import TrainingRecord
from st_adapter.saving.tasks import tasks_of
from st_adapter.storage.writing import check_writable
from st_adapter.words import counted, listed

_OWN_BASE, _TWO_MODELS = ("base", "adapted"), ("old", "new")


@dataclass(frozen=True)
class _Data:
    """What is measured on.

    Attributes:
        dataset: all of it.
        split: the split.
        seed: by which splits were cut, if they were.
        fitted_on: splits that the model was fitted on, if it was trained on these data.
    """

    dataset: RetrievalDataset
    split: str
    seed: int | None
    fitted_on: list[str]


def evaluate(options: EvaluateOptions) -> int:
    """Compare a saved model with its own base model, or with another one."""
    for path, argument in ((options.output and options.output.parent, "output"), (options.run_dir, "run_dir")):
        if path is not None:
            check_writable(path, argument)
    embedding = options.embedding
    model = model_path(options.model)
    trained = saved_training(model, embedding.revision, options.task)
    data = _data_to_evaluate_on(options, trained)
    saved = open_model(model, embedding)
    against = None if options.against is None else _open_other(options, saved)
    too_long = long_texts(documents_model(saved), data.dataset)
    print_dataset(data.dataset, too_long)
    for note in [*_notes_on_tasks(options, saved), *_notes(options, data, trained)]:
        console.print(f"note: {escape(note)}", soft_wrap=True, highlight=False)
    comparison = None
    if against is None:
        evaluations = evaluate_saved(saved, data.dataset, data.split, **_how(options, data, trained))
    else:
        how = _how(options, data, trained)
        comparison = compare_saved(saved, against, data.dataset, data.split, name=str(options.against), **how)
        evaluations = comparison.evaluations
    sides = _OWN_BASE if comparison is None else _TWO_MODELS
    print_evaluation(console, evaluations[0].result, data.dataset.corpus_is_labelled_only, sides)
    if len(evaluations) > 1:
        print_indexes(console, evaluations, sides)
    if comparison is not None:
        _print_comparison(options, comparison)
    if options.output is not None:
        SavedModelResults(
            model=model,
            task=options.task,
            data=data.dataset.name,
            split=data.split,
            seed=data.seed,
            opened_with=embedding.opened_with(),
            notes=data.dataset.notes,
            corpus_is_labelled_only=data.dataset.corpus_is_labelled_only,
            long_texts=too_long,
            evaluations=evaluations,
            against=options.against,
            verdict=None if comparison is None else comparison.verdict,
            changes=None if comparison is None else comparison.changes,
        ).write(options.output)
        console.print(f"Written to [bold]{escape(str(options.output))}[/bold]")
    if options.run_dir is not None:
        console.print(f"Runs and qrels in [bold]{escape(str(options.run_dir))}[/bold]")
    return 0


def _how(options: EvaluateOptions, data: _Data, recorded: TrainingRecord | None) -> dict[str, Any]:
    """The arguments that both kinds of comparison take."""
    trained = recorded or TrainingRecord()
    return {
        "task": options.task,
        "indexes": options.index,
        "fitted_on": data.fitted_on,
        "run_dir": options.run_dir,
        **options.embedding.arguments(),
        "paraphrase_threshold": trained.paraphrase_threshold or PARAPHRASE_THRESHOLD,
        "allow_other_vectors": options.reading.allow_other_vectors,
    }


def _open_other(options: EvaluateOptions, saved: SentenceTransformer) -> SentenceTransformer | QueryAdapter:
    """What --against names, opened as --model is, but for its revision."""
    name = str(options.against)
    alone = adapter_alone(name)
    if alone is not None:
        return QueryAdapter.from_pretrained(alone)
    other = open_model(model_path(name), replace(options.embedding, revision=None), "--against")
    check_same_documents(documents_model(saved), documents_model(other), name)
    return other


def _data_to_evaluate_on(options: EvaluateOptions, recorded: TrainingRecord | None) -> _Data:
    """The data, cut as for training if the model was trained on them or a seed is given."""
    trained = recorded or TrainingRecord()
    dataset = load_dataset(options, options.reading, cut_into=())
    of_training = bool(trained.data) and dataset.name == trained.data
    fitted_on = trained.fitted_on if of_training else []
    seed = options.seed
    if seed is None and not of_training:
        return _Data(dataset, dataset.split_to_evaluate(options.split), None, fitted_on)
    seed = _split_seed(trained) if seed is None else seed
    if "dev" not in dataset.qrels and {"train", UNCUT} & set(dataset.qrels):
        dataset = load_dataset(options, options.reading, seed=seed, split_by=trained.split_by)
    split = dataset.split_to_evaluate(options.split)
    if fitted_on and not _cut_alike(dataset, split, trained):
        raise ValueError(
            f"--seed {seed} cuts {dataset.name!r} otherwise than seed {_split_seed(trained)} did for the training, so "
            "that queries which the adapter was fitted on would count as new. Leave --seed out; if these are other "
            "data of the same name, give them another one."
        )
    return _Data(dataset, split, seed, fitted_on)


def _split_seed(trained: TrainingRecord) -> int:
    return trained.seed or 0 if trained.split_seed is None else trained.split_seed


def _cut_alike(dataset: RetrievalDataset, split: str, trained: TrainingRecord) -> bool:
    """Whether a split of the data that a model was trained on is the one of its training."""
    cut = dataset.cut
    if cut is None or (split not in cut.splits and split != UNCUT):
        return True
    return (cut.seed, cut.by) == (_split_seed(trained), trained.split_by)


def _notes(options: EvaluateOptions, data: _Data, recorded: TrainingRecord | None) -> list[str]:
    """Which queries are used, and what the figures are worth where a model was fitted on some of them."""
    dataset, split, notes = data.dataset, data.split, []
    number = sum(dataset.num_queries.values()) if split == UNCUT else dataset.num_queries.get(split)
    used = "The queries" if number is None else f"The {counted(number, 'query', 'queries')}"
    of = "all splits" if split == UNCUT else f"the split {split!r}"
    if UNCUT in dataset.qrels or dataset.splits == ["train"]:
        known = (
            f"was trained on {recorded.data!r}"
            if recorded is not None and recorded.data
            else "does not say on what data"
        )
        notes.append(
            f"The model {known}, so {dataset.name!r} counts as data that it has not seen, and all queries are used. If "
            "it was trained on some of them, the figures are too good: pass the --seed of its training to have the "
            "data cut as they were then."
        )
    elif options.seed is None and data.seed is not None and dataset.cut is not None and split != UNCUT:
        notes.append(
            f"The model was trained on data called {dataset.name!r}, so they are cut as they were then. {used} of {of} "
            "are used. If these are others, --split all uses every one."
        )
    elif dataset.splits != [split]:
        notes.append(f"{used} of {of} are used.")
    fitted = [each for each in data.fitted_on if split in (each, UNCUT)]
    if fitted:
        notes.append(
            f"The adapter was fitted on the split{'s' if len(fitted) > 1 else ''} {listed(fitted)}: of these queries "
            "the figures say how well it fits, no more."
        )
    return notes + _notes_on_other(options, data)


def _notes_on_tasks(options: EvaluateOptions, saved: SentenceTransformer) -> list[str]:
    """Whose adapter is measured, of several, where no task was named."""
    if options.task is not None or not tasks_of(saved):
        return []
    return [f"The adapter of encode_query is measured, of those for {listed(tasks_of(saved))}; --task names another."]


def _notes_on_other(options: EvaluateOptions, data: _Data) -> list[str]:
    """The same of what is compared with."""
    if options.against is None:
        return []
    other = saved_training(model_path(options.against), task=options.task)
    if other is None or other.data != data.dataset.name:
        return []
    if data.split not in (*other.fitted_on, UNCUT) and _cut_alike(data.dataset, data.split, other):
        return []
    return [f"{options.against} was fitted on data of the same name, so that it may know some of the queries."]


def _print_comparison(options: EvaluateOptions, found: SavedComparison) -> None:
    """Which is which, where each of them wins, and whether to deploy the new one."""
    print_changes(console, found.changes, found.evaluations[0].result, _TWO_MODELS)
    console.print(escape(f"old: {options.against}; new: {options.model}"), style="dim", soft_wrap=True)
    if found.verdict is not None:
        print_verdict(console, found.verdict)
    else:
        console.print("No verdict: the new one was fitted on some of these queries.")
