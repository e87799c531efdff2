"""The trainer on a problem with a known answer, and the promises it makes about the base model."""

import json
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.integrations import TensorBoardCallback

from problems import DIM, dataset_of, rotated_problem, unit_rows, with_wrong_labels
from st_adapter.adapter import QueryAdapter
from st_adapter.embeddings import embedding as embeddings
from st_adapter.embeddings.corpus import MemoryCorpus
from st_adapter.embeddings.identity import identity_of
from st_adapter.errors import InputError
from st_adapter.evaluation.evaluation import evaluate
from st_adapter.fitting.arguments import AdapterTrainingArguments
from st_adapter.saving.folder import read_saved
from st_adapter.trainer import AdapterTrainer

DEFAULTS = {
    "disable_tqdm": True,
    "num_train_epochs": 20,
    "learning_rate": 0.02,
    "start": "identity",
    "per_device_train_batch_size": 64,
}


def of_32_dimensions():
    """As many dimensions as the tiny models have."""
    pairs = [(row, row, 1.0) for row in range(60)]
    return dataset_of(unit_rows(60, 32), unit_rows(60, 32, seed=1), {"train": pairs[:40], "dev": pairs[40:]})


def arguments(**changes):
    return AdapterTrainingArguments(**{**DEFAULTS, **changes})


def full_rank(kind):
    return {"kind": kind, **({"rank": DIM} if kind == "low_rank" else {})}


@pytest.mark.parametrize("kind", ["linear", "low_rank", "mlp"])
def test_training_helps_on_queries_it_never_saw(kind):
    embedded = rotated_problem()
    trainer = AdapterTrainer(None, arguments(**full_rank(kind)), train_dataset=embedded)
    trainer.train()
    result = evaluate(embedded["test"], trainer.best_adapter)
    assert result.adapted_means["ndcg@10"] > result.base_means["ndcg@10"] + 0.1
    assert trainer.best_adapter.kind == kind


def test_the_base_model_is_step_zero_and_is_kept_when_nothing_helps():
    embedded = rotated_problem()
    misled = with_wrong_labels(embedded, seed=5, splits=["train"])
    trainer = AdapterTrainer(None, arguments(early_stopping_patience=3), train_dataset=misled)
    trainer.train()
    assert trainer.state.best_global_step == 0 and trainer.best_adapter is None
    assert trainer.state.best_metric == pytest.approx(evaluate(embedded["dev"]).base_means["ndcg@10"], abs=1e-12)
    assert trainer.state.epoch == 3, "stopped after three evaluations without a new best"
    assert torch.equal(trainer.adapter.transform(torch.eye(DIM)), torch.eye(DIM)), "put back to the identity"


@pytest.mark.parametrize("kind", ["linear", "low_rank", "mlp"])
def test_step_zero_is_the_base_model_wherever_training_starts(kind):
    embedded = rotated_problem()
    queries = embedded.corpus.embeddings[torch.cat([q.corpus_index for q in embedded.qrels.values()])]
    perfect = replace(embedded, query_embeddings=queries)
    trainer = AdapterTrainer(
        None, arguments(**full_rank(kind), start="closed_form", num_train_epochs=2), train_dataset=perfect
    )
    trainer.train()
    assert trainer.state.best_global_step == 0 and trainer.best_adapter is None
    assert torch.equal(trainer.adapter.transform(queries), queries)


def test_the_kept_adapter_is_the_one_that_was_measured_best():
    embedded = rotated_problem(noise=0.3)
    args = arguments(num_train_epochs=200, early_stopping_patience=4, learning_rate=0.5)
    trainer = AdapterTrainer(None, args, train_dataset=embedded)
    trainer.train()
    measured = [log["eval_ndcg@10"] for log in trainer.state.log_history if "eval_ndcg@10" in log]
    assert trainer.state.best_metric == max(measured) and measured[-1] < max(measured)
    dev = evaluate(embedded["dev"], trainer.best_adapter).adapted_means["ndcg@10"]
    assert dev == pytest.approx(max(measured), abs=1e-12)
    assert trainer.evaluate()["eval_ndcg@10"] == pytest.approx(max(measured), abs=1e-12)


def test_seeds_repeat_a_run_and_differ_from_each_other():
    def weights(seed):
        trainer = AdapterTrainer(None, arguments(seed=seed, num_train_epochs=2), train_dataset=rotated_problem())
        trainer.train()
        return trainer.adapter.transform(torch.eye(DIM))

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_documents_and_queries_are_left_as_they_are():
    embedded = rotated_problem()
    documents, queries = embedded.corpus.embeddings.clone(), embedded.query_embeddings.clone()
    AdapterTrainer(None, arguments(num_train_epochs=1), train_dataset=embedded).train()
    assert torch.equal(embedded.corpus.embeddings, documents) and torch.equal(embedded.query_embeddings, queries)


@pytest.mark.parametrize(
    ("through", "error", "words"),
    [
        (lambda matrix: matrix, ValueError, "vectors were written into after the corpus was made"),
        (lambda matrix: matrix.numpy(), RuntimeError, "document embeddings changed while training"),
    ],
)
def test_a_callback_that_writes_to_the_documents_is_found_out(through, error, words):
    embedded = rotated_problem()

    class Vandal(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            through(embedded.corpus.embeddings)[0, 0] += 1e-3

    trainer = AdapterTrainer(None, arguments(num_train_epochs=1), train_dataset=embedded, callbacks=[Vandal()])
    with pytest.raises(error, match=words):
        trainer.train()


def test_a_loss_that_is_no_number_keeps_the_best_step():
    embedded = rotated_problem()

    class Poison(TrainerCallback):
        def on_epoch_end(self, args, state, control, model, **kwargs):
            if state.epoch == 2:
                with torch.no_grad():
                    next(model.parameters()).fill_(float("nan"))

    trainer = AdapterTrainer(None, arguments(eval_strategy="steps", eval_steps=3), embedded, callbacks=[Poison()])
    with pytest.raises(FloatingPointError, match=r"Step \d+: The loss is nan. The adapter of step \d+ is kept"):
        trainer.train()
    kept = evaluate(embedded["dev"], trainer.adapter).adapted_means["ndcg@10"]
    assert trainer.state.best_global_step > 0 and kept == pytest.approx(trainer.state.best_metric, abs=1e-12)


def test_callbacks_see_every_event_in_order():
    events = []

    class Recorder(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            events.append("train_begin")

        def on_evaluate(self, args, state, control, metrics, **kwargs):
            events.append(("evaluate", state.global_step, set(metrics) >= {"eval_ndcg@10", "eval_mrr@10"}))

        def on_epoch_end(self, args, state, control, **kwargs):
            events.append(("epoch_end", state.epoch))

        def on_train_end(self, args, state, control, **kwargs):
            events.append("train_end")

    trainer = AdapterTrainer(None, arguments(num_train_epochs=2), rotated_problem(), callbacks=[Recorder()])
    trainer.train()
    steps = 144 // 64
    assert events == [
        "train_begin",
        ("evaluate", 0, True),
        ("epoch_end", 1.0),
        ("evaluate", steps, True),
        ("epoch_end", 2.0),
        ("evaluate", 2 * steps, True),
        "train_end",
    ]


@pytest.mark.parametrize("start", ["identity", "closed_form"])
def test_starts(start):
    embedded = rotated_problem()
    trainer = AdapterTrainer(None, arguments(start=start), train_dataset=embedded)
    trainer.train()
    result = evaluate(embedded["test"], trainer.best_adapter)
    assert result.adapted_means["ndcg@10"] > result.base_means["ndcg@10"] + 0.1


class Interrupt(TrainerCallback):
    """Stop as a killed process would."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "changes",
    [
        {"num_negatives": 20},
        {"kind": "mlp"},
        {"kind": "low_rank", "rank": DIM, "ema_decay": 0.0},
        {"start": "closed_form"},
    ],
)
def test_a_resumed_run_ends_with_the_very_same_weights(changes, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 6, **changes}
    embedded = rotated_problem(noise=0.3)
    whole = AdapterTrainer(None, arguments(**settings, output_dir=str(tmp_path / "whole")), train_dataset=embedded)
    whole.train()

    args = arguments(**settings, output_dir=str(tmp_path / "cut"))
    with pytest.raises(KeyboardInterrupt):
        AdapterTrainer(None, args, train_dataset=embedded, callbacks=[Interrupt(8)]).train()
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["checkpoint-3", "checkpoint-6"]
    resumed = AdapterTrainer(None, args, train_dataset=embedded)
    resumed.train(resume_from_checkpoint=True)

    assert resumed.state.best_global_step == whole.state.best_global_step
    losses = [[log["loss"] for log in trainer.state.log_history if "loss" in log] for trainer in (whole, resumed)]
    assert losses[0] == losses[1]
    for name, value in whole.adapter.state_dict().items():
        assert torch.equal(value, resumed.adapter.state_dict()[name])
    for name, value in whole._fit.state_dict().items():
        assert torch.equal(value, resumed._fit.state_dict()[name]), name


def test_a_checkpoint_holds_no_pickle_and_refuses_another_run(tmp_path):
    embedded = rotated_problem()
    args = arguments(save_strategy="epoch", num_train_epochs=2, output_dir=str(tmp_path))
    AdapterTrainer(None, args, train_dataset=embedded).train()
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"training_state.safetensors", "trainer_state.json", "training_args.json"}
    other = arguments(save_strategy="epoch", num_train_epochs=2, output_dir=str(tmp_path), penalty=0.5)
    with pytest.raises(ValueError, match=r"written with other settings: penalty"):
        AdapterTrainer(None, other, train_dataset=embedded).train(resume_from_checkpoint=True)
    written = tmp_path / "checkpoint-4" / "training_args.json"
    settings = json.loads(written.read_text())
    assert "loss" not in settings
    for name, value, refused in (("loss", "softmax", False), ("loss", "pairwise", True), ("num_seeds", 3, True)):
        written.write_text(json.dumps({**settings, name: value}))  # as version 0.1 wrote it
        trainer = AdapterTrainer(None, args, train_dataset=embedded)
        if refused:
            with pytest.raises(ValueError, match=rf"written with other settings: {name}"):
                trainer.train(resume_from_checkpoint=True)
        else:
            assert trainer.train(resume_from_checkpoint=True).global_step == 4
    with pytest.raises(ValueError, match=r"no readable checkpoint"):
        AdapterTrainer(None, args, train_dataset=embedded).train(resume_from_checkpoint=str(tmp_path / "checkpoint-99"))
    with pytest.raises(ValueError, match=r"written with other data"):
        AdapterTrainer(None, args, train_dataset=rotated_problem(seed=1)).train(resume_from_checkpoint=True)
    empty = arguments(output_dir=str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"There is no checkpoint in .*empty"):
        AdapterTrainer(None, empty, train_dataset=embedded).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("settings", "python", "flags"),
    [
        ({"rank": 4}, "rank is 4, but only kind='low_rank' has a use for it. Pass", "only --kind low_rank"),
        ({"kind": "mlp", "rank": 4}, "rank is 4, but only kind='low_rank'", "--rank is 4"),
        ({"kind": "low_rank", "hidden_dim": 4}, "hidden_dim is 4, but only kind='mlp'", "leave --hidden-dim out"),
        ({"negatives": "given", "num_negatives": 4}, "only negatives='corpus'", "--num-negatives is 4"),
        ({"negatives": "given", "unlabelled_weight": 1.0}, "only negatives='corpus'", "--unlabelled-weight is 1.0"),
        ({"eval_steps": 4}, "only eval_strategy='steps'", "Add --eval-strategy steps"),
        ({"save_strategy": "epoch", "save_steps": 4}, "only save_strategy='steps'", "Add --save-strategy steps"),
    ],
)
def test_a_setting_that_nothing_heeds_is_refused(settings, python, flags):
    with pytest.raises(InputError, match=python) as error:
        AdapterTrainingArguments(**settings)
    assert flags in error.value.for_command_line
    heeded = AdapterTrainingArguments(kind="low_rank", rank=4, eval_strategy="steps", eval_steps=4)
    assert AdapterTrainingArguments(**heeded.to_dict()) == heeded
    with pytest.raises(InputError, match="rank is 4"):
        replace(heeded, kind="linear")


def test_a_checkpoint_with_a_setting_that_nothing_heeded_is_gone_on_from(tmp_path):
    embedded = rotated_problem()
    args = arguments(save_strategy="epoch", num_train_epochs=2, output_dir=str(tmp_path))
    AdapterTrainer(None, args, train_dataset=embedded).train()
    for written in tmp_path.rglob("training_args.json"):
        settings = json.loads(written.read_text())
        adapter = {**settings["adapter"], "rank": 4, "hidden_dim": 7}
        written.write_text(json.dumps({**settings, "rank": 4, "hidden_dim": 7, "save_steps": 3, "adapter": adapter}))
    assert AdapterTrainer(None, args, train_dataset=embedded).train(resume_from_checkpoint=True).global_step == 4
    other = replace(args, kind="low_rank", rank=8)
    with pytest.raises(ValueError, match="written with other settings: adapter, kind, rank"):
        AdapterTrainer(None, other, train_dataset=embedded).train(resume_from_checkpoint=True)


def test_transformers_own_callbacks_work_unmodified(tmp_path):
    args = arguments(num_train_epochs=3, output_dir=str(tmp_path), logging_steps=1)
    callbacks = [TensorBoardCallback(), EarlyStoppingCallback(2, 0.001)]
    trainer = AdapterTrainer(None, args, train_dataset=rotated_problem(), callbacks=callbacks)
    trainer.train()
    events = EventAccumulator(str(next(tmp_path.rglob("events.out.tfevents.*")).parent))
    events.Reload()
    scalars = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars["eval/ndcg@10"] == [0, 2, 4, 6]
    assert scalars["train/loss"] == [1, 2, 3, 4, 5, 6]
    best = max(event.value for event in events.Scalars("eval/ndcg@10"))
    assert best == pytest.approx(trainer.state.best_metric, abs=1e-6)


def test_pairs_as_sentence_transformers_users_have_them(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "HF_HOME", str(tmp_path))
    pairs = [
        (f"which {color} thing {i}", f"the {color} thing number {i}") for i, color in enumerate(["red", "blue"] * 4)
    ]
    train = Dataset.from_dict({"anchor": [a for a, _ in pairs[:5]], "positive": [p for _, p in pairs[:5]]})
    dev = Dataset.from_dict({"anchor": [a for a, _ in pairs[5:]], "positive": [p for _, p in pairs[5:]]})
    trainer = AdapterTrainer(tiny_model, arguments(num_train_epochs=1), train_dataset=train, eval_dataset=dev)
    assert len(trainer.train_dataset.query_ids) == 5 and len(trainer.eval_dataset.query_ids) == 3
    assert len(trainer.train_dataset.corpus) == 8, "documents of both are one corpus"
    calls = []
    monkeypatch.setattr(type(tiny_model), "encode", lambda self, *a, **k: calls.append(a))
    trainer.train()
    assert not calls, "the base model must not be called inside the loop"


def test_what_cannot_be_trained_on_is_refused():
    embedded = rotated_problem()
    with pytest.raises(ValueError, match=r"train_dataset is NoneType and eval_dataset is NoneType"):
        AdapterTrainer(None, arguments())
    with pytest.raises(ValueError, match=r"The adapter takes 8 dimensions, but the embeddings have 16"):
        AdapterTrainer(None, arguments(), embedded, adapter=QueryAdapter(8))
    with pytest.raises(ValueError, match=r"search different corpora"):
        other = rotated_problem(num_documents=150)
        AdapterTrainer(None, arguments(), embedded["train"], other["dev"])
    turned = MemoryCorpus(list(embedded.corpus.ids), embedded.corpus.embeddings.flip(1))
    with pytest.raises(ValueError, match=r"search different corpora"):
        AdapterTrainer(None, arguments(), embedded["train"], replace(embedded["dev"], corpus=turned))


def test_vectors_of_two_models_are_refused_before_anything_is_trained(tiny_model, tiny_flat_model_path):
    here = identity_of(tiny_model)
    other = replace(identity_of(SentenceTransformer(str(tiny_flat_model_path), device="cpu")), name="another")
    embedded = replace(of_32_dimensions(), base_model=other)
    with pytest.raises(ValueError, match=r"train_dataset holds vectors of .*another.* and eval_dataset of"):
        AdapterTrainer(None, arguments(), embedded["train"], replace(embedded["dev"], base_model=here))
    with pytest.raises(ValueError, match=r"The embeddings are of .*another.*, but the model is of .*tiny"):
        AdapterTrainer(tiny_model, arguments(), embedded)
    with pytest.raises(ValueError, match=r"The embeddings are of .*another.*, but the model is of .*tiny"):
        AdapterTrainer(tiny_model, arguments(), embedded, adapter=QueryAdapter(32))
    compared = MemoryCorpus(list(embedded.corpus.ids), embedded.corpus.embeddings, "dot")
    with pytest.raises(ValueError, match=r"search different corpora"):
        AdapterTrainer(None, arguments(), embedded["train"], replace(embedded["dev"], corpus=compared))
    bound = QueryAdapter(32, base_model=here)
    with pytest.raises(ValueError, match=r"The embeddings are of .*another.*, but the adapter is of"):
        AdapterTrainer(None, arguments(), embedded, adapter=bound)
    with pytest.raises(ValueError, match=r"The trainer has no model to save the adapter with"):
        AdapterTrainer(None, arguments(), embedded).save_model()
    with pytest.raises(ValueError, match=r"The trainer has no model to save the adapter with"):
        AdapterTrainer(None, arguments(), embedded).push_to_hub("user/name")
    with pytest.raises(ValueError, match=r"eval_dataset is Dataset"):
        AdapterTrainer(None, arguments(), embedded, Dataset.from_dict({"anchor": ["a"], "positive": ["b"]}))


def test_queries_that_are_no_numbers_end_a_run_with_the_best_step():
    embedded = rotated_problem()

    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            if state.global_step == 7:
                with torch.no_grad():
                    next(model.parameters()).fill_(3e38)  # finite, but what it gives is not

    settings = {"eval_strategy": "steps", "eval_steps": 1, "logging_steps": 1000}
    trainer = AdapterTrainer(None, arguments(**settings, ema_decay=0.0), embedded, callbacks=[Poison()])
    with pytest.raises(FloatingPointError, match=r"Step 7: The adapter gives NaN or infinite values .*step \d is kept"):
        trainer.train()
    assert evaluate(embedded["dev"], trainer.adapter).adapted_means["ndcg@10"] == pytest.approx(
        trainer.state.best_metric
    )


@pytest.mark.parametrize("change", [{"kind": "mlp"}, {"bias": True}, {"normalize": False}])
def test_a_run_goes_on_with_an_adapter_of_the_same_form(change, tmp_path):
    embedded, args = rotated_problem(), arguments(save_strategy="epoch", num_train_epochs=2, output_dir=str(tmp_path))
    AdapterTrainer(None, args, embedded, adapter=QueryAdapter(16)).train()
    AdapterTrainer(None, args, embedded, adapter=QueryAdapter(16)).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="written with other settings: adapter"):
        AdapterTrainer(None, args, embedded, adapter=QueryAdapter(16, **change)).train(resume_from_checkpoint=True)


def test_a_run_that_had_stopped_does_not_go_on(tmp_path):
    settings = {"save_strategy": "epoch", "early_stopping_patience": 1, "num_train_epochs": 30, "learning_rate": 0.3}
    args, embedded = arguments(**settings, output_dir=str(tmp_path)), rotated_problem(noise=0.5)
    first = AdapterTrainer(None, args, embedded)
    first.train()
    assert first.state.global_step < first.state.max_steps
    again = AdapterTrainer(None, args, embedded)
    metrics = again.train(resume_from_checkpoint=True).metrics
    assert again.state.global_step == first.state.global_step
    assert metrics["train_steps_per_second"] == metrics["train_samples_per_second"] == 0, "none were taken"
    torch.testing.assert_close(again.adapter.state_dict(), first.adapter.state_dict(), rtol=0, atol=0)
    once_more = AdapterTrainer(None, args, embedded, adapter=QueryAdapter(16))
    once_more.train()
    epoch = once_more._fit.sampler.steps_per_epoch
    assert once_more.train().global_step > epoch, "the count of evaluations without a new best begins anew"


def test_callbacks_may_stop_a_run_and_what_they_raise_is_theirs(tmp_path):
    class StopAtOnce(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            control.should_training_stop = True

    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            trainer.eval_dataset.corpus.embeddings.mul_(1)

    assert AdapterTrainer(None, arguments(), rotated_problem(), callbacks=[StopAtOnce()]).train().global_step == 0
    trainer = AdapterTrainer(None, arguments(), rotated_problem(), callbacks=[Break()])
    with pytest.raises(ValueError, match="written into"):
        trainer.train()
    # Patience of a user's own: a run that it had stopped does not go on either.
    args = arguments(save_strategy="epoch", num_train_epochs=30, learning_rate=0.3, output_dir=str(tmp_path))
    first = AdapterTrainer(None, args, rotated_problem(noise=0.5), callbacks=[EarlyStoppingCallback(1)])
    first.train()
    again = AdapterTrainer(None, args, rotated_problem(noise=0.5), callbacks=[EarlyStoppingCallback(1)])
    assert again.train(resume_from_checkpoint=True).global_step == first.state.global_step < first.state.max_steps


def test_the_record_tells_of_the_adapter_that_was_given(tiny_model, tmp_path):
    given = QueryAdapter(32, kind="low_rank", rank=3)
    trainer = AdapterTrainer(tiny_model, arguments(num_train_epochs=1), of_32_dimensions(), adapter=given)
    trainer.train()
    trainer.save_model(tmp_path / "model")
    said = read_saved(tmp_path / "model").training.arguments
    assert (said["kind"], said["rank"], said["start"]) == ("low_rank", 3, "given")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": -1.0}, r"learning_rate is -1.0, but has to be a number above 0"),
        ({"num_train_epochs": 0}, r"num_train_epochs is 0, but has to be a whole number of at least 1"),
        ({"ema_decay": 1.0}, r"ema_decay is 1.0"),
        ({"negatives": "all"}, r"negatives is 'all', but has to be one of corpus, given"),
        ({"kind": "conv"}, r"kind is 'conv'"),
        ({"num_train_epochs": 1.5}, r"num_train_epochs is 1.5, but has to be a whole number"),
        ({"learning_rate": "1e-3"}, r"learning_rate is '1e-3', but has to be a number above 0"),
        ({"ema_decay": "0.9"}, r"ema_decay is '0.9', but has to be a number of at least 0 and below 1"),
        ({"penalty": True}, r"penalty is True, but has to be a number"),
        ({"seed": -1}, r"seed is -1, but has to be a whole number of at least 0"),
        ({"torch_compile": "yes"}, r"torch_compile is 'yes', but has to be True or False"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        AdapterTrainingArguments(**change)


def test_pairs_alone_are_train_and_dev(tiny_model):
    rows = [{"query": f"What is {n}?", "document": f"It is the number {n}."} for n in range(60)]
    trainer = AdapterTrainer(tiny_model, arguments(num_train_epochs=1), train_dataset=Dataset.from_list(rows))
    num_train, num_dev = len(trainer.train_dataset.query_ids), len(trainer.eval_dataset.query_ids)
    assert num_train + num_dev == 60 and 0 < num_dev < 20
