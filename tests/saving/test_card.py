from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from problems import ROOT
from st_adapter.embeddings.identity import EncoderIdentity
from st_adapter.saving.card import adapter_card, base_metadata, model_card
from st_adapter.saving.record import SplitScores, TrainingRecord, installed_versions
from st_adapter.storage.records import built

BASE = EncoderIdentity("org/model", "a" * 40, "b" * 64, "float32", 384, "", True)
SCORES = SplitScores(
    split="test",
    num_queries=1300,
    num_documents=5000,
    similarity="cosine",
    base={"ndcg@10": 0.5, "mrr@10": 0.4},
    adapted={"ndcg@10": 0.61234, "mrr@10": 0.45},
    intervals={"ndcg@10": [0.08, 0.14], "mrr@10": [0.01, 0.09]},
    summary="Better on 500 of 1,300 queries.",
)
RECORD = TrainingRecord(
    data="org/questions",
    dataset_id="org/questions",
    num_documents=5000,
    num_queries={"train": 4000, "test": 1300},
    method="auto",
    chosen="closed form, ridge 1",
    reason="Better than the base model: +0.100 nDCG@10.",
    seed=0,
    fitted_on=["train", "dev"],
    scores=SCORES,
    script="scripts/build.py",
    versions={"torch": "2.13.0"},
)


def card(**changes: object) -> ModelCard:
    options = {"inherited": {"license": "mit", "language": ["en"]}, "training": RECORD, **changes}
    return ModelCard(model_card("user/adapted", BASE, **options))


def test_the_whole_card_is_the_golden_one() -> None:
    golden = ROOT / "tests" / "golden" / "model_card.md"
    assert model_card("user/adapted", BASE, inherited={"license": "mit"}, training=RECORD) == (
        golden.read_text(encoding="utf-8")
    )


def test_the_card_says_which_onnx_file_is_for_which_client() -> None:
    few = ["model.onnx", "model_query.onnx"]
    assert "take `onnx/model_query.onnx` for queries, whose finished" in str(card(onnx_files=few))
    assert "and `onnx/model.onnx` for documents." in str(card(onnx_files=few))
    all_three = ["model.onnx", "model_document.onnx", "model_query.onnx"]
    assert "`onnx/model_query.onnx` for queries and `onnx/model_document.onnx` for documents;" in str(
        card(onnx_files=all_three)
    )
    assert "ONNX" not in str(card())


def test_what_the_base_model_was_opened_with_is_on_the_card() -> None:
    opened = replace(RECORD, opened_with={"truncate_dim": 256, "query_prompt": "q | "})
    assert "- Base model opened with: `truncate_dim=256`, `query_prompt=q |`" in str(card(training=opened))


def test_metadata_is_what_the_hub_reads() -> None:
    data = card().data
    assert (data.base_model, data["base_model_relation"]) == ("org/model", "adapter")
    assert (data.library_name, data.pipeline_tag) == ("sentence-transformers", "sentence-similarity")
    assert (data.license, data.language, data.datasets) == ("mit", ["en"], ["org/questions"])
    assert {"sentence-transformers", "sentence-similarity", "feature-extraction", "st-adapter"} <= set(data.tags)
    results = {result.metric_type: result for result in data.eval_results}
    assert results["cosine_ndcg@10"].metric_value == 0.61234
    assert results["cosine_ndcg@10"].dataset_type == "org/questions"
    assert results["cosine_ndcg@10"].dataset_split == "test"
    assert data.model_name == "user/adapted"


def test_the_code_is_right_in_every_layout() -> None:
    twin, query, local = card(layout="twin").text, card(layout="query").text, model_card("m", BASE)
    assert 'SentenceTransformer("user/adapted", revision="twin")' in twin and "encode_document" not in twin
    assert 'SentenceTransformer("user/adapted", revision="query")' in query
    assert "revision=" not in local and "plain `encode` gives document embeddings" in local


def test_a_local_base_is_not_linked_as_if_it_were_on_the_hub() -> None:
    local = ModelCard(model_card("adapted", replace(BASE, name="my-model")))
    assert local.data.base_model is None
    assert "base_model_relation" not in local.data.to_dict()
    assert "huggingface.co/my-model" not in local.text


@pytest.mark.parametrize(
    "record",
    [None, TrainingRecord(), TrainingRecord(data="pairs"), replace(RECORD, scores=None), RECORD],
    ids=["nothing", "empty", "only data", "no figures", "all"],
)
def test_no_heading_is_empty(record: TrainingRecord | None) -> None:
    config = {"kind": "linear", "embedding_dimension": 3}
    for text in (card(training=record).text, ModelCard(adapter_card("user/a", config, BASE, record)).text):
        sections = re.split(r"^#+ .*$", text, flags=re.MULTILINE)[1:]
        assert all(section.strip() for section in sections)
        assert "None" not in text


def test_figures_are_those_of_the_record() -> None:
    text = card().text
    assert "| ndcg@10 | 0.5000 | 0.6123 | +0.1123 | +0.0800 to +0.1400 |" in text
    assert "1,300 queries" in text and "Better on 500 of 1,300 queries." in text
    assert "scripts/build.py" in text


def test_texts_from_outside_stay_in_their_line() -> None:
    evil = "x\n\n# Heading\n| a | <script>alert(1)</script>"
    text = card(training=replace(RECORD, data=evil, dataset_id="", chosen=evil, reason=evil)).text
    assert "\n# Heading" not in text
    assert "<script>" not in text
    yaml.safe_load(model_card("t", BASE, training=replace(RECORD, data=evil, dataset_id="")).split("---")[1])


def test_names_from_outside_stay_names_and_secrets_are_not_told() -> None:
    evil = "x`\n---\n# Heading [a](b) \x1b[31m https://me:secretword@host/?token=secretword"
    base = replace(BASE, name=evil)
    scores = replace(RECORD.scores, split=evil)
    record = replace(
        RECORD, script=evil, versions={evil: evil}, fitted_on=[evil], arguments={evil: evil}, scores=scores
    )
    text = model_card(evil, base, training=record)
    assert "secretword" not in text and "\x1b" not in text
    assert "\n# Heading" not in text.split("\n---\n\n", 1)[1]
    assert text.count("\n---\n") == 1 and yaml.safe_load(text.split("\n---\n")[0][4:])


def test_a_record_survives_json() -> None:
    plain = json.loads(json.dumps(asdict(RECORD)))
    assert built(TrainingRecord, plain, "the record") == RECORD
    scores = plain["scores"]
    for bad in (
        {"scores": 3},
        {"scores": {"split": "test"}},
        {"scores": {**scores, "adapted": {}}},
        {"scores": {**scores, "intervals": {"ndcg@10": [0.1]}}},
    ):
        with pytest.raises(ValueError, match="the record|The scores of base and adapted|An interval of the scores"):
            built(TrainingRecord, bad, "the record")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}),
        ("# No metadata\n", {}),
        ("---\n: :\n- broken\n---\n", {}),
        ("---\nlicense: mit\nlanguage: en\ntags: [a]\n---\n# T\n", {"license": "mit", "language": "en"}),
    ],
)
def test_license_and_language_are_those_of_the_base(text: str | None, expected: dict, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert base_metadata(tmp_path) == expected


def test_versions_are_named() -> None:
    assert {"python", "st-adapter", "sentence-transformers", "torch"} <= set(installed_versions())
