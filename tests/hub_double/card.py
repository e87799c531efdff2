"""What the Hub checks in the metadata of a model card, as far as is known: types, ids, allowed values, results."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils import HFValidationError, validate_repo_id

RELATIONS = ("adapter", "merge", "quantized", "finetune")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]+)?|code|multilingual")
_DATASET_TYPE = re.compile(r"(?:[\w-]+/)?[\w.-]+")


def validate_card(content: str) -> tuple[list[str], list[str]]:
    """Errors and warnings for the metadata of a README.md: its types, ids, allowed values and the model index."""
    block = REGEX_YAML_BLOCK.search(content)
    if block is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        # PyYAML keeps the last of two equal keys; the Hub's parser refuses them.
        node = yaml.compose(block.group(2), Loader=yaml.SafeLoader)
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        keys = [key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)]
        card = yaml.safe_load(block.group(2))
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"], []
    if not isinstance(card, dict):
        return ["the metadata must be a mapping"], []
    errors = [f'duplicated mapping key "{key}"' for key in {key for key in keys if keys.count(key) > 1}]

    def check(name: str, value: Any, is_valid: Callable[[Any], bool], expected: str) -> bool:
        if not is_valid(value):
            errors.append(
                f'"{name}" with value {json.dumps(value, default=str, ensure_ascii=False)} is not valid: {expected}'
            )
        return is_valid(value)

    for name in ("license", "license_name", "license_link", "library_name", "pipeline_tag"):
        check(name, card.get(name, ""), lambda value: isinstance(value, str), "must be a string")
    check("base_model_relation", card.get("base_model_relation", "adapter"), RELATIONS.__contains__, f"{RELATIONS}")
    for name in ("base_model", "datasets", "language", "metrics", "tags"):
        values = card.get(name, [])
        if isinstance(values, str) and name != "tags":
            values = [values]
        if check(name, values, lambda value: isinstance(value, list), "must be an array"):
            for index, value in enumerate(values):
                is_text = check(f"{name}[{index}]", value, lambda x: isinstance(x, str), "must be a string")
                if is_text and name in ("base_model", "datasets"):
                    check(f"{name}[{index}]", value, _is_repo_id, "use an id from the Hub")
                elif is_text and name == "language":
                    check(f"{name}[{index}]", value, _LANGUAGE.fullmatch, "must be an ISO 639 code in lower case")
    errors += _validate_model_index(card["model-index"]) if "model-index" in card else []
    return errors, []


def _is_repo_id(value: str) -> bool:
    try:
        validate_repo_id(value)
    except HFValidationError:
        return False
    return True


def _validate_model_index(model_index: Any) -> list[str]:
    try:
        _, results = model_index_to_eval_results(model_index)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return [f'"model-index" cannot be read: {type(error).__name__} {error}']
    errors = [] if results else ['"model-index" has no results']
    errors += ['"model-index.name" must be a string' for entry in model_index if not isinstance(entry.get("name"), str)]
    for index, result in enumerate(results):
        for name in ("task_type", "dataset_type", "dataset_name", "metric_type"):
            if not isinstance(getattr(result, name), str) or not getattr(result, name):
                errors.append(f'"model-index", result {index}: "{name}" must be a string')
        for name in ("task_name", "dataset_config", "dataset_split", "dataset_revision", "metric_name", "source_url"):
            if not isinstance(getattr(result, name), str | None):
                errors.append(f'"model-index", result {index}: "{name}" must be a string')
        if not _DATASET_TYPE.fullmatch(str(result.dataset_type)):
            errors.append(f'"model-index", result {index}: "dataset_type" does not match {_DATASET_TYPE.pattern}')
        value = result.metric_value
        if value is None or isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
            errors.append(f'"model-index", result {index}: "metric_value" {value} is not a finite number or a text')
    return errors
