"""Cards that the test server accepts, and cards that it refuses."""

from __future__ import annotations

import re

import pytest

from hub_double.card import validate_card

RESULT = """\
model-index:
- name: My model
  results:
  - task: {type: information-retrieval, name: Information Retrieval}
    dataset: {type: org/data, name: Data, split: test}
    metrics:
    - {type: cosine_ndcg@10, value: 0.5, name: Cosine Ndcg@10}
"""


@pytest.mark.parametrize(
    "metadata",
    [
        "{}",
        "base_model: org/base",
        "base_model: [org/base, base]\nbase_model_relation: adapter",
        "library_name: sentence-transformers\npipeline_tag: sentence-similarity\ntags: [a, b]\ndatasets: [org/data]",
        "language: [en, zh-Hans, code]\nlicense: apache-2.0",
        RESULT,
        RESULT.replace("0.5", '"0.5 ± 0.1"'),
    ],
)
def test_valid_cards(metadata):
    assert validate_card(f"---\n{metadata}\n---\n# Title\n") == ([], [])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("a: [", "Invalid YAML"),
        ("- a", "must be a mapping"),
        ("tags: [a]\ntags: [b]", "duplicated mapping key"),
        ("tags: a", '"tags" with value "a"'),
        ("tags: [a, null]", r'"tags\[1\]" with value null'),
        ("base_model: {name: base}", '"base_model" with value'),
        ("base_model: /home/alice/base", '"base_model.0." with value "/home/alice/base" is not valid'),
        ("base_model: org/base\nbase_model_relation: adapters", '"base_model_relation" with value "adapters"'),
        ("datasets: My data", '"datasets.0." with value "My data"'),
        ("datasets: 3", '"datasets" with value 3'),
        ("language: English", '"language.0." with value "English"'),
        ("license: [mit]", '"license" with value'),
        ("pipeline_tag: [a]", '"pipeline_tag" with value'),
        ("library_name: null", '"library_name" with value null'),
        ("model-index: []", "model-index"),
        ("model-index: {}", "model-index"),
        (RESULT.replace("name: My model", "title: My model"), "KeyError 'name'"),
        (RESULT.replace("name: My model", "name: 3"), '"model-index.name" must be a string'),
        (RESULT.replace("type: org/data, ", ""), "KeyError 'type'"),
        (RESULT.replace("org/data", "My data"), "dataset_type"),
        (RESULT.replace("split: test", "split: [test]"), "dataset_split"),
        (RESULT.replace("value: 0.5, ", ""), "KeyError 'value'"),
        (RESULT.replace("0.5", ".nan"), "metric_value"),
        (RESULT.replace("metrics:", "metrics: []\n    other:"), "no results"),
    ],
)
def test_invalid_cards(metadata, message):
    errors, _ = validate_card(f"---\n{metadata}\n---\n# Title\n")
    assert re.search(message, "\n".join(errors))
