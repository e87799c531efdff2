"""The commands: each takes its options, calls the public API, prints, and returns an exit status."""

from __future__ import annotations

from pathlib import Path

from sentence_transformers import SentenceTransformer

from st_adapter.choices import Method
from st_adapter.cli.check_data import check_data as check_data
from st_adapter.cli.combine import combine as combine
from st_adapter.cli.embed import embed as embed
from st_adapter.cli.evaluate import evaluate as evaluate
from st_adapter.cli.explore import explore as explore
from st_adapter.cli.opening import (
    is_endpoint,
    load_for_training,
    open_base,
    open_base_or_deployed,
    open_model,
    open_query_model,
    set_options,
)
from st_adapter.cli.options import (
    CheckOptions,
    DemoOptions,
    GradientOptions,
    TrainOptions,
)
from st_adapter.cli.push import push as push
from st_adapter.cli.query_options import NO_MODEL
from st_adapter.cli.reports import learning_curve as learning_curve
from st_adapter.cli.reports import make_report
from st_adapter.cli.reports import report as report
from st_adapter.cli.tables import (
    console,
    print_dataset,
    print_leaks,
    print_result,
    print_uploaded,
)
from st_adapter.cli.versions import list_runs as list_runs
from st_adapter.cli.versions import rollback as rollback
from st_adapter.demo import demo_model, standard_library_dataset
from st_adapter.embeddings.encoder import Encoder
from st_adapter.errors import InputError
from st_adapter.evidence.output_folder import model_path
from st_adapter.evidence.tables import print_changes
from st_adapter.running.run import train as run_training
from st_adapter.running.settings import RunOptions, Settings, check_query_model, check_settings
from st_adapter.saving.alone import check_may_push_adapter, is_adapter_alone, push_adapter_folder
from st_adapter.saving.push import check_may_push, push_folder
from st_adapter.stacks.check import check_stack, load_function
from st_adapter.storage.hub import check_can_write
from st_adapter.storage.writing import check_writable

# Exit statuses besides 0 and that of bad input.
_NOT_BETTER, _WRONG_STACK = 3, 4


def train(options: TrainOptions) -> int:
    """Fit, test, evaluate and save."""
    output, embedding, query_model = options.output, options.embedding, options.querying.query_model
    with_base = options.model != NO_MODEL
    settings = _settings(options)
    check_settings(settings)
    check_query_model(settings, query_model, with_base)
    if output.push_to_hub is not None:
        check_can_write(output.push_to_hub, output.token)
        if not output.overwrite:
            alone = is_endpoint(options.model) and query_model is None
            (check_may_push_adapter if alone else check_may_push)(output.push_to_hub, output.token)
    opened_query_model = open_query_model(query_model, embedding)
    base_model = open_base_or_deployed(options.model, embedding) if with_base else None
    dataset = load_for_training(options)
    print_dataset(dataset)
    result = run_training(base_model, dataset, query_model=opened_query_model, **vars(settings))
    print_leaks(dataset, result)
    print_result(result)
    make_report(result.run_dir)
    verdict, saved = result.verdict, result.model_dir or result.adapter_dir
    if output.push_to_hub is not None and not verdict.adopted:
        console.print("Nothing was uploaded, as there is nothing new.")
    elif output.push_to_hub is not None and verdict.decision == "do not deploy":
        console.print("Nothing was uploaded, as the verdict is not to deploy it. `st-adapter push` does all the same.")
    elif output.push_to_hub is not None and saved is not None:
        _push_trained(saved, options)
    return _NOT_BETTER if options.fitting.fail_if_not_better and verdict.decision != "deploy" else 0


def demo(options: DemoOptions) -> int:
    """Train on the standard library, and show what changed."""
    check_writable(options.output_dir, "output_dir")
    embedding = options.embedding
    base_model: SentenceTransformer | Encoder
    if options.model is not None:
        base_model = open_base(options.model, embedding)
    else:
        base_model = set_options(demo_model(embedding.device), embedding)
    dataset = standard_library_dataset(options.seed)
    print_dataset(dataset)
    result = run_training(
        base_model,
        dataset,
        seed=options.seed,
        output_dir=options.output_dir,
        **embedding.arguments(run_here=not is_endpoint(options.model or "")),
        options=RunOptions(base_model=options.model, opened_with=embedding.opened_with()),
    )
    print_leaks(dataset, result)
    print_result(result)
    make_report(result.run_dir)
    if result.results.test is not None and result.results.test.examples is not None:
        print_changes(console, result.results.test.examples, result.evaluation)
    return 0


def check(options: CheckOptions) -> int:
    """Compare what a stack embeds with what the saved model does."""
    functions = load_function(options.embed_query), load_function(options.embed_documents)
    model = open_model(model_path(options.model), options.embedding)
    result = check_stack(model, *functions, task=options.task, tolerance=options.tolerance)
    console.print(result.summary(), highlight=False, markup=False, soft_wrap=True)
    return 0 if result.ok else _WRONG_STACK


def _settings(options: TrainOptions) -> Settings:
    """What the flags say besides model and data, which is checked before these are opened."""
    fitting, reading, embedding, querying = options.fitting, options.reading, options.embedding, options.querying
    _refuse_unused(options.gradient, options.method)
    return Settings(
        method=options.method,
        seed=options.seed,
        alpha=fitting.alpha,
        args=options.gradient.arguments() if options.method == "gradient" else None,
        output_dir=Path(options.output_dir),
        **embedding.arguments(run_here=not is_endpoint(options.model)),
        show_progress_bar=not options.output.disable_tqdm,
        teacher=fitting.teacher,
        options=RunOptions(
            drop_leaks=reading.drop_leaks,
            without_labels=fitting.without_labels,
            unlabelled_queries=fitting.unlabelled_queries,
            allow_other_vectors=reading.allow_other_vectors,
            paraphrase_threshold=reading.paraphrase_threshold,
            resume_from_checkpoint=options.gradient.resume_from_checkpoint,
            save_base=options.output.save_base,
            onnx=options.output.onnx,
            base_model=None if options.model == NO_MODEL else model_path(options.model),
            opened_with=embedding.opened_with(),
            non_inferior=querying.non_inferior,
            reference_run=querying.reference_run,
        ),
    )


def _refuse_unused(gradient: GradientOptions, method: Method) -> None:
    unused = gradient.given()
    if unused and method != "gradient":
        raise ValueError(
            f"{', '.join(unused)} came with --method {method}, which takes no training settings. "
            "Add --method gradient, or leave them out."
        )


def _push_trained(folder: Path, options: TrainOptions) -> None:
    output = options.output
    repo_id = str(output.push_to_hub)
    alone = is_adapter_alone(folder)
    upload = push_adapter_folder if alone else push_folder
    try:
        url = upload(folder, repo_id, private=output.private or None, token=output.token, overwrite=output.overwrite)
    except (ValueError, OSError) as error:
        words = error.for_command_line if isinstance(error, InputError) else str(error)
        again = f"st-adapter push {options.output_dir} {repo_id}"
        raise ValueError(f"{words} The model is saved: `{again}` uploads it without training.") from error
    print_uploaded(url, "adapter" if alone else "model")
